"""Cells at equal size: the settings of runs that differ only in their cell, and in the units that make them equal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from charlm.inference.generate import draw_seed
from charlm.settings.config import Config
from charlm.training.events import Listener, Preparing, ignore
from charlm.training.lifecycle import MEASURING
from charlm.training.sizing import fit_to_machine, size_like, warm_up
from charlm.training.text import load_text


class Member(NamedTuple):
    """One run of several that are compared.

    Attributes:
        config: its settings, with a size and a seed.
        num_parameters: of its model.
    """

    config: Config
    num_parameters: int


def equal_members(configs: Sequence[Config], listener: Listener = ignore) -> list[Member]:
    """Give runs one seed, and their models about as many parameters as the first of them has.

    Args:
        configs: settings of runs that differ in nothing but the cell. If the size is `auto`, it is chosen for the
            first of them, as for a run alone.
        listener: called with what is prepared.
    """
    first = configs[0]
    seed = draw_seed() if first.seed is None else first.seed
    text = load_text(first, listener)
    listener(Preparing(MEASURING))
    if first.model.hidden_size == "auto":
        first, _, _ = fit_to_machine(first, text)
    warm_up(first, len(text.vocabulary))
    members = []
    for config in configs:
        size = size_like(config.model, first.model, len(text.vocabulary))
        model = config.model.model_copy(update={"hidden_size": size})
        sized = config.model_copy(update={"seed": seed, "model": model})
        members.append(Member(sized, model.spec(len(text.vocabulary)).num_parameters))
    return members
