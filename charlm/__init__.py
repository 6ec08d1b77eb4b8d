"""charlm: character-level recurrent language models.

    import charlm

    run = charlm.train("fables", cell="gru", time="30s")
    model = charlm.load(run.path)
    text = model.generate("To be", length=50, seed=1)

Importing this loads neither NumPy nor torch, and changes nothing in the process.
"""

from __future__ import annotations

import os

# True for type checkers. Importing `typing` takes time, in which a Ctrl-C would print a traceback.
TYPE_CHECKING = False

if TYPE_CHECKING:
    from typing import Any, overload

    from charlm.inference.ensemble_model import EnsembleModel
    from charlm.inference.language_model import LanguageModel
    from charlm.training.run import train as train

__all__ = ["__version__", "load", "train"]
__version__ = "0.1.0"


if TYPE_CHECKING:

    @overload
    def load(path: str | os.PathLike[str] | None = None) -> LanguageModel: ...

    @overload
    def load(
        path: str | os.PathLike[str], second: str | os.PathLike[str], /, *others: str | os.PathLike[str]
    ) -> EnsembleModel: ...


def load(path: str | os.PathLike[str] | None = None, *others: str | os.PathLike[str]) -> LanguageModel | EnsembleModel:
    """Load a trained model that writes, predicts, scores and fills blanks; torch is not needed.

    Args:
        path: a model file, a run folder, or None for the newest run in `runs/`.
        others: more models: then all of them predict together, with the mean of their probabilities.

    Raises:
        ModelFileError: there is no model, or its file is damaged.
        UsageError: several models do not know the same symbols, or do not read from the same side.
    """
    # Imported here, so that `import charlm` loads nothing.
    from charlm.inference.language_model import LanguageModel

    if not others:
        return LanguageModel.load(path)
    if path is None:
        raise TypeError("each of several models has a path")
    from charlm.inference.ensemble_model import EnsembleModel

    return EnsembleModel.load([path, *others])


def __getattr__(name: str) -> Any:
    """Load `train`, which needs torch, when it is first used.

    Raises:
        TorchError: torch is missing, or its installation is broken.
    """
    if name == "train":
        from charlm.training.load_torch import load_torch

        load_torch()
        from charlm.training.run import train

        return train
    raise AttributeError(f"module `charlm` has no attribute `{name}`")


def __dir__() -> list[str]:
    """Return the public names."""
    return sorted(__all__)
