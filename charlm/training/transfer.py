"""A run that starts from a trained model: the settings that it keeps, and the weights for a larger vocabulary.

Knows arrays, but not torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from charlm.checkpoint import Arrays, ModelFile, hash_of_file, load_checkpoint
from charlm.errors import RunError, counted
from charlm.run_folder import find_model, train_command
from charlm.settings.config import Inherited
from charlm.spec import ModelSpec
from charlm.vocab import Vocabulary, name_character

MAX_NAMED = 10


@dataclass(frozen=True)
class StartingModel:
    """The model that a run starts from.

    Attributes:
        path: its file.
        file: its content.
    """

    path: Path
    file: ModelFile

    @classmethod
    def load(cls, path: Path) -> StartingModel:
        """Load a model file, or the best model of a run folder.

        Raises:
            ModelFileError: there is none, or it is damaged.
        """
        found = find_model(path)
        return cls(found, load_checkpoint(found))

    @cached_property
    def sha256(self) -> str:
        """The hash of its file, as `sha256sum` prints it."""
        return hash_of_file(self.path)

    @property
    def inherited(self) -> Inherited:
        """The settings that a run from it keeps."""
        spec, vocabulary = self.file.spec, self.file.vocabulary
        names = ("cell", "embedding_size", "hidden_size", "num_layers", "direction", "initial_state")
        values = {f"model.{name}": getattr(spec, name) for name in names}
        return Inherited(str(self.path), values | {"vocab.kind": vocabulary.kind, "vocab.filter": vocabulary.filter})

    def weights_for(self, num_symbols: int, fresh: Arrays) -> Arrays:
        """Return its weights for a vocabulary that has further symbols after its own.

        The weights of its own symbols stay. A new symbol gets a new embedding, or new weights for its one-hot input.
        At the output, new symbols are together as probable as the geometric mean of the old ones, so that the
        model predicts its old text almost as before.

        Args:
            num_symbols: V of the larger vocabulary.
            fresh: newly initialised weights of a model with this vocabulary.
        """
        spec = self.file.spec
        before, num_new = spec.num_symbols, num_symbols - spec.num_symbols
        weights = dict(self.file.weights)
        if not num_new:
            return weights
        for name, axis in _input_weights(spec).items():
            # The last input is the start of a text.
            own, start = np.split(weights[name], [before], axis)
            new = np.take(fresh[name], range(before, num_symbols), axis)
            weights[name] = np.concatenate([own, new, start], axis)
        for name, offset in {"output.weight": 0.0, "output.bias": np.log(num_new)}.items():
            mean = weights[name].mean(0, keepdims=True) - np.float32(offset)
            weights[name] = np.concatenate([weights[name], np.repeat(mean, num_new, axis=0)])
        return weights


def _input_weights(spec: ModelSpec) -> dict[str, int]:
    """Return the weights with a row or a column for each symbol at the input, each with its axis of symbols."""
    if spec.embedding_size:
        return {"embedding.weight": 0}
    return {f"{stack}.0.weight_ih_l0": 1 for stack in spec.stacks}


def command_from(model: Path, corpus: Sequence[str] = (), out: Path | None = None) -> str:
    """Return the command that starts a new run from a model on a text, in backquotes for a message."""
    names = corpus if 0 < len(corpus) <= MAX_NAMED else ["TEXT"]
    texts = [word for name in names for word in ("--corpus", name)]
    return train_command("--from", str(model), *texts, *(["--out", str(out)] if out else []))


def text_has_changed(run: Path, corpus: Sequence[str], reason: str = "") -> RunError:
    """Return the error that the text is not the one that a run was started with."""
    return RunError(
        f"the text has changed since `{run}` was started{reason}",
        "resume with the same text, or `--new-text` to continue with this one; "
        f"{command_from(run, corpus)} starts a new run from its model",
    )


def note_on_new_symbols(before: Vocabulary, after: Vocabulary) -> str | None:
    """Return how many symbols a grown vocabulary has gained, and the first ones by name; None if there are none."""
    new = after.symbols[len(before) :]
    if not new:
        return None
    names = ", ".join(name_character(symbol) for symbol in new[:MAX_NAMED])
    more = f" and {len(new) - MAX_NAMED:,} more" if len(new) > MAX_NAMED else ""
    return f"{counted(len(new), 'new character')}: {names}{more}"
