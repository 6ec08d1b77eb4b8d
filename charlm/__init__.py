"""charlm: character-level recurrent language models.

>>> import charlm
>>> model = charlm.load("run")
>>> text = model.generate("To be", length=50, seed=1)
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from charlm.inference.language_model import LanguageModel

__all__ = ["load"]

__version__ = "0.1.0"

# Torch's threads wait for each other a thousand times in a training step. By default GNU OpenMP spins for long, and
# where any other program wants a core, a step of 0.08 s becomes one of several seconds. After so few spins they sleep
# instead, which costs next to nothing on a quiet machine. The library reads this once, when torch is loaded.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")


def load(path: str | os.PathLike[str] | None = None) -> LanguageModel:
    """Load a trained model that writes, predicts, scores and fills blanks; torch is not needed.

    Args:
        path: a model file, a run folder, or None for the newest run in `runs/`.

    Raises:
        ModelFileError: there is no model, or its file is damaged.
    """
    # Imported here, so that `import charlm` loads nothing.
    from charlm.inference.language_model import LanguageModel

    return LanguageModel.load(path)
