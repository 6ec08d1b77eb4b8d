"""What a person should know of a run before it starts: facts about its text, its settings and its machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from charlm.data.corpus import Corpus
from charlm.data.likeness import notes_on_holdout
from charlm.errors import counted
from charlm.settings.config import Config, TrainConfig
from charlm.training.keeping import note_on_keeping
from charlm.training.learner import Learner
from charlm.training.validation import MIN_VALIDATION_CHARACTERS


def notes_on_run(config: Config, corpus: Corpus, learner: Learner, unlike: list[str], folder: Path) -> list[str]:
    """Return notes on the text of a run and on its settings.

    Args:
        config: the settings.
        corpus: the text.
        learner: of the run.
        unlike: the held-out parts that are unlike the training part.
        folder: of the run.
    """
    sizes = learner.model.spec.num_parameters, learner.batches.batches_per_epoch
    keeping = note_on_keeping(config.train, *sizes, folder)
    return [
        *corpus.notes,
        *notes_on_holdout(corpus, config.data, learner.parts, unlike),
        *_notes_on_sizes(config.train, learner),
        *_notes_on_idle_settings(config.train),
        *([keeping] if keeping else []),
    ]


def _notes_on_sizes(train: TrainConfig, learner: Learner) -> list[str]:
    """Return notes on a text that is short."""
    notes, parts = [], learner.parts
    if (learner.num_streams, learner.block_size) != (train.batch_size, train.block_size):
        notes.append(
            f"the text has {counted(len(parts.train), 'character')} to train on: "
            f"{learner.num_streams} x {learner.block_size} of them are read at a time"
        )
    if len(parts.validation) < MIN_VALIDATION_CHARACTERS:
        notes.append(
            f"only {counted(len(parts.validation), 'character')} held out, too few to tell which model is best: "
            "the last one is kept"
        )
    return notes


def _notes_on_idle_settings(train: TrainConfig) -> list[str]:
    """Return notes on settings that were given a value that has no effect."""
    return [
        f"train.{name} {getattr(train, name)} has no effect with train.{other} {getattr(train, other)}"
        for name, other, _ in train.idle_settings()
        if getattr(train, name) != TrainConfig.model_fields[name].default
    ]


def notes_on_lock(is_held: bool) -> list[str]:
    """Return a note on a run folder that cannot be locked."""
    return [] if is_held else ["the run folder cannot be locked here: do not train in it from two processes"]


def notes_on_changes(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Return a note on what has changed on the machine since a run was started.

    Args:
        before: the facts about the machine then.
        now: the same facts now.
    """
    changes = [f"{name} {before[name]}, now {now[name]}" for name in now if before.get(name, now[name]) != now[name]]
    end = ": the resumed run is not bit for bit the one without a break"
    return [f"started with {'; '.join(changes)}{end}"] if changes else []
