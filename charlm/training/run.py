"""Training for programs: `charlm.train` and the run that it returns."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from charlm.checkpoint import load_checkpoint
from charlm.inference.language_model import LanguageModel
from charlm.run_folder import RunFolder
from charlm.settings.config import DURATIONS, GROUPS, Config, Inherited
from charlm.settings.config_file import load_config, validate_settings
from charlm.settings.names import meant_setting
from charlm.training.events import Listener, Note, ignore
from charlm.training.lifecycle import begin, finish
from charlm.training.trackers import check_trackers
from charlm.training.transfer import StartingModel

# The group of each setting, by the setting's name alone; no two groups have a setting of the same name.
GROUP_OF = {name: group for group, settings in GROUPS.items() for name in settings.model_fields}


class Run:
    """A run on disk that has ended.

    Attributes:
        path: the run folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    @property
    def best(self) -> Path:
        """The model file to share."""
        return RunFolder(self.path).best

    @property
    def metrics(self) -> dict[str, Any]:
        """The facts about the best model: its step, its validation in bits per character, and others."""
        return load_checkpoint(self.best).metrics

    @property
    def records(self) -> list[dict[str, Any]]:
        """All records of the run: the lines of `metrics.jsonl` but that of the baseline."""
        lines = RunFolder(self.path).metrics.read_text(encoding="utf-8").splitlines()
        return [record for record in map(json.loads, lines) if "baseline" not in record]

    def load(self) -> LanguageModel:
        """Load the best model, as `charlm.load` does."""
        return LanguageModel.load(self.path)


def train(
    corpus: str | Path | Sequence[str | Path],
    *,
    config: str | Path | None = None,
    base: str | Path | None = None,
    out: str | Path | None = None,
    seed: int | None = None,
    on_event: Listener = ignore,
    track: str | Sequence[str] = (),
    **settings: Any,
) -> Run:
    """Train a model on a text and return the run.

    Nothing is printed and no signal is handled. An exception in `on_event`, or a Ctrl-C, ends the run where it is; its
    folder holds the last save, which `charlm train --resume` continues.

    >>> run = charlm.train("fables", cell="gru", hidden_size=16, steps=20, seed=1, threads=1)
    >>> run.path.name, run.best.name
    ('fables-gru-1', 'best.safetensors')
    >>> sorted(run.metrics)[:2]
    ['epoch', 'seconds']
    >>> [record["step"] for record in run.records][-1]
    20

    Args:
        corpus: a corpus by its name, a file, a folder, a glob, or a list of these.
        config: a settings file or the name of a bundled one, such as `quick`; `lstm` by default.
        base: a model file or a run folder whose model to start from; the run keeps its cell, sizes and symbols.
        out: the run folder to make; the first free `runs/NAME-1` and so on by default.
        seed: makes the run repeatable; drawn by default.
        on_event: called with every event of `charlm.training.events`, for example to move a progress bar.
        track: trackers of the run: `tensorboard`, `wandb`, `mlflow`, or several.
        settings: every other setting by its own name, such as `hidden_size=256` or `time="30s"`;
            `charlm train --help-settings` lists them.

    Raises:
        ConfigError: a setting is unknown, or its value is not allowed.
        CharlmError: a text or a package is missing, or the run does not fit into memory or could not be written.
    """
    trackers = check_trackers([track] if isinstance(track, str) else track)
    texts = [corpus] if isinstance(corpus, str | Path) else list(corpus)
    asked = settings | {"corpus": [str(text) for text in texts]}
    start = None if base is None else StartingModel.load(Path(base))
    inherited = start.inherited if start else None
    effective = _with_settings(load_config(config, inherited=inherited), _without_inherited(asked, inherited), seed)
    folder = None if out is None else Path(out)
    threads = torch.get_num_threads()
    try:
        # Making a model draws numbers from torch's own generator, which belongs to the program.
        with torch.random.fork_rng(devices=[]), begin(effective, folder, start, on_event) as trainer:
            trainer.trackers = trackers
            for note in trainer.notes:
                on_event(Note(note))
            trainer.learn(on_event)
            outcome = finish(trainer, on_event)
            if outcome.error:
                raise outcome.error
            return Run(trainer.run.path)
    finally:
        torch.set_num_threads(threads)


def _with_settings(config: Config, settings: dict[str, Any], seed: int | None) -> Config:
    """Return the settings with replacements, which are given by their own names."""
    values = config.model_dump()
    unknown = [_unknown(name) for name in settings if name not in GROUP_OF]
    if settings.keys() & set(DURATIONS):
        values["train"] |= dict.fromkeys(DURATIONS)
    for name, value in settings.items():
        if name in GROUP_OF:
            values[GROUP_OF[name]][name] = value
    if seed is not None:
        values["seed"] = seed
    places = {f"{GROUP_OF[name]}.{name}": "charlm.train" for name in settings if name in GROUP_OF}
    return validate_settings(values, places, "charlm.train", unknown)


def _without_inherited(settings: dict[str, Any], inherited: Inherited | None) -> dict[str, Any]:
    """Return the settings that a model leaves open, after checking that the others agree with it."""
    if inherited is None:
        return settings
    keys = {name: f"{GROUP_OF[name]}.{name}" for name in settings if name in GROUP_OF}
    fixed = {name: key for name, key in keys.items() if key in inherited.values}
    found = [inherited.contradiction(key, settings[name], "charlm.train") for name, key in fixed.items()]
    inherited.refuse([problem for problem in found if problem])
    return {name: value for name, value in settings.items() if name not in fixed}


def _unknown(name: str) -> str:
    setting = meant_setting(name)
    suggestion = f", did you mean `{setting.rpartition('.')[2]}`?" if setting else ""
    return f"charlm.train: `{name}` is not a setting{suggestion}"
