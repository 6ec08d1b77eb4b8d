"""The interface for programs to several models that predict together; torch is not needed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from charlm.checkpoint import load_checkpoint
from charlm.errors import UsageError
from charlm.inference.ensemble import Ensemble
from charlm.inference.language_model import TextModel
from charlm.inference.stepper import Predictor, Stepper
from charlm.run_folder import find_model
from charlm.vocab import Vocabulary


class EnsembleModel(TextModel):
    """Several models that predict together: each character has the mean of the probabilities that they give it.

    >>> together = charlm.load("run", "other")
    >>> together.vocabulary == model.vocabulary
    True
    >>> together.generate("To be", length=5, seed=1) == together.generate("To be", length=5, seed=1)
    True
    >>> each = [charlm.load(name).score("To be").mean() for name in ("run", "other")]
    >>> bool(together.score("To be").mean() <= sum(each) / 2)
    True

    Args:
        ensemble: the models.
    """

    def __init__(self, ensemble: Ensemble) -> None:
        self._ensemble = ensemble

    @classmethod
    def load(cls, paths: Sequence[str | os.PathLike[str]]) -> EnsembleModel:
        """Read several models, each as `LanguageModel.load` does.

        Raises:
            ModelFileError: there is no such model, or its file is damaged.
            UsageError: they do not know the same symbols, or do not read from the same side.
        """
        return cls(Ensemble([named_stepper(Path(path)) for path in paths]))

    @property
    def vocabulary(self) -> Vocabulary:
        """The symbols that the models read and write, in the order of the first model."""
        return self._ensemble.vocabulary

    @property
    def _stepper(self) -> Predictor:
        return self._ensemble


def named_stepper(path: Path) -> tuple[str, Stepper]:
    """Read a model, and name it as it was given.

    Raises:
        ModelFileError: there is no such model, or its file is damaged.
        UsageError: it reads from both sides.
    """
    file = load_checkpoint(find_model(path))
    try:
        return str(path), Stepper(file)
    except UsageError as error:
        raise UsageError(f"`{path}`: {error}", error.hint) from None
