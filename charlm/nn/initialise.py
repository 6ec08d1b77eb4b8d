"""Fresh weights: how a matrix is drawn, by name. Knows no model.

Letters: `O` outputs, `I` inputs of a matrix.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from charlm.config import NAMED_INITIALISER


@torch.no_grad()
def draw_(weight_OI: Tensor, how: str, generator: torch.Generator, num_gates: int = 1) -> None:
    """Overwrite a matrix.

    Args:
        weight_OI: the matrix.
        how: `glorot` (Glorot and Bengio 2010, uniform), `orthogonal` (Saxe et al. 2014), `normal(S)` with standard
            deviation S, or `uniform(A)` from -A to A.
        generator: of the random numbers.
        num_gates: how many matrices lie in it one below the other, each to be drawn for itself.
    """
    if found := NAMED_INITIALISER.fullmatch(how):
        size = float(found[2])
        if found[1] == "normal":
            nn.init.normal_(weight_OI, std=size, generator=generator)
        else:
            nn.init.uniform_(weight_OI, -size, size, generator=generator)
        return
    fill_ = {"glorot": nn.init.xavier_uniform_, "orthogonal": nn.init.orthogonal_}[how]
    for gate in weight_OI.chunk(num_gates):
        fill_(gate, generator=generator)
