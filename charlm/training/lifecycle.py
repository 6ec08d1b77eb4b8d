"""The life of a run: try it, start it or resume it, finish it. It prints nothing."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from charlm.checkpoint import ModelFile, load_checkpoint
from charlm.data.corpus import Corpus
from charlm.data.holdout import recorded_split
from charlm.data.sources import catalog_name
from charlm.errors import (
    ConfigError,
    CorpusError,
    ModelFileError,
    RunError,
    TooLargeError,
    UnknownCharacterError,
    UsageError,
    one_line,
)
from charlm.evaluation.evaluate import Scores
from charlm.files import expanded, write_atomic
from charlm.inference.generate import draw_seed
from charlm.inference.mixture import Mixture
from charlm.nn.runtime import Runtime
from charlm.run_folder import RunFolder, resume_command
from charlm.settings.config import DURATIONS, FIXED_OF_TRAIN, Config, TrainConfig
from charlm.settings.config_file import override_config, to_yaml, validate_settings
from charlm.training.distributed import ALONE, World
from charlm.training.dry_run import Estimate, check_memory, estimate_run
from charlm.training.events import Listener, Preparing, ignore
from charlm.training.final_evaluation import measure_best
from charlm.training.forgetting import Base, load_old_text, measure_forgetting, start_from
from charlm.training.notes import notes_on_changes, notes_on_lock
from charlm.training.schedule import awake_clock
from charlm.training.sizing import choose_runtime, fit_to_machine
from charlm.training.state import TrainState
from charlm.training.text import load_once, load_text
from charlm.training.trainer import Trainer
from charlm.training.transfer import StartingModel, command_from, note_on_new_symbols, text_has_changed

# What is prepared, for a person.
MEASURING = "measuring what is fast on this machine"


class DryRun(NamedTuple):
    """The description of a run that has not started.

    Attributes:
        config: the settings, with a size.
        runtime: where it would train.
        reason: why the model has that size.
        expected: the estimate of its time and memory.
        notes: what a person should know of its text.
    """

    config: Config
    runtime: Runtime
    reason: str
    expected: Estimate
    notes: tuple[str, ...]


class Outcome(NamedTuple):
    """How a run ended.

    Attributes:
        scores: those of the best model; None if nothing is held out or the scoring was stopped.
        error: which files could not be written, and where they are instead; None if everything is on disk.
        forgetting: of a run that started from a model, how well that model's text is predicted before and after.
    """

    scores: Scores | None
    error: RunError | None
    forgetting: str = ""


def dry_run(
    config: Config,
    base: StartingModel | None = None,
    listener: Listener = ignore,
) -> DryRun:
    """Estimate what a run will take. Nothing is written, and there is no run folder.

    Args:
        config: the settings.
        base: the model that the run would start from.
        listener: called with what is prepared.
    """
    text = _load_new_text(config, base, listener)
    config, runtime, reason = _fit(config, text, base, listener)
    check_memory(config, text, runtime)
    seeded = config if config.seed is not None else config.model_copy(update={"seed": 0})
    return DryRun(config, runtime, reason, estimate_run(seeded, text, runtime), text.notes)


@contextmanager
def begin(
    config: Config,
    out: Path | None,
    base: StartingModel | None = None,
    listener: Listener = ignore,
    world: World = ALONE,
) -> Iterator[Trainer]:
    """Set up a new run, write its settings, and hold its folder until the context ends.

    Args:
        config: the settings.
        out: the folder to make; None for the first free one in `runs`.
        base: the model to start from; the settings are those that it hands down.
        listener: called with what is prepared.
        world: the processes that train together; the first one holds the folder.
    """
    if config.seed is None:
        config = config.model_copy(update={"seed": world.from_first(draw_seed)})
    named = config.data.model_copy(update={"corpus": [catalog_name(name) for name in config.data.corpus]})
    config = config.model_copy(update={"data": named})
    text = load_once(world, config, lambda: _load_new_text(config, base, listener))
    old_text = load_old_text(base) if base else ""
    with awake_clock(config.train.time is not None) as clock:
        config, runtime, reason = _fit(config, text, base, listener, world)
        check_memory(config, text, runtime)
        name = f"{_name_of(config.data.corpus[0])}-{config.model.cell}"
        run = world.from_first(lambda: RunFolder.create(out, name))
        with world.on_run(run.path), run.locked() if world.is_first else nullcontext(True) as is_held:
            listener(Preparing("making the model"))
            trainer = Trainer(config, text, run, runtime, clock, world=world)
            trainer.notes[:0] = [*([reason] if reason else []), *notes_on_lock(is_held)]
            if base:
                start_from(trainer, base, old_text)
            world.from_first(lambda: _write_settings(trainer))
            yield trainer


@contextmanager
def resume(
    path: Path,
    overrides: list[str],
    flags: dict[str, Any],
    is_new_text: bool,
    listener: Listener = ignore,
    world: World = ALONE,
) -> Iterator[Trainer]:
    """Resume a run from its last save, and hold its folder until the context ends.

    Args:
        path: the run folder.
        overrides: settings of `train` to change, as `key=value`.
        flags: values by dotted key, which win over the overrides.
        is_new_text: whether the text may be another one.
        listener: called with what is prepared.
        world: the processes that train together; the first one reads the folder and holds it.

    Raises:
        RunError: the run cannot be resumed.
        UsageError: an option does not fit the run.
    """
    run = world.from_first(lambda: RunFolder.open(path))
    with world.on_run(run.path), run.locked() if world.is_first else nullcontext(True) as is_held:
        listener(Preparing("reading the last state of the run"))
        last = world.from_first(lambda: load_checkpoint(run.last))
        started = validate_settings(last.config, {}, str(run.last))
        if started.seed is None:
            raise RunError(f"`{run.last}` does not say which seed the run was started with", "start a new run")
        config = _resumed_config(started, last, overrides, flags)
        if config.data.corpus == ["-"] and "data.corpus" not in flags and sys.stdin.isatty():
            raise UsageError(f"the text of `{path}` came through standard input", "give it again with `--corpus`")
        listener(Preparing(MEASURING))
        runtime = choose_runtime(config.model, config.train, last.runtime, world)
        text = load_once(world, config, lambda: _resumed_text(path, config, started, last, is_new_text, listener))
        check_memory(config, text, runtime)
        is_same_text = text.sha256 == last.corpus.get("sha256")
        parts = recorded_split(text.ids, config.data, last.corpus) if is_same_text else None
        with awake_clock(config.train.time is not None) as clock:
            trainer = Trainer(config, text, run, runtime, clock, parts, world)
            trainer.base = Base.from_json(last.base).to_json() if last.base else {}
            trainer.restore(last, is_new_text)
            trainer.notes += [*notes_on_lock(is_held), *notes_on_changes(last.runtime, runtime.facts())]
            _reopen(trainer, started, path)
            trainer.state = world.from_first(lambda: _check_best(trainer))
            trainer.logbook.rewind(trainer.state.step)
            # `config.yaml` is for people. Only `last.safetensors` is read back, so a full disk does not end the run.
            if world.is_first:
                with suppress(OSError):
                    _write_settings(trainer)
            yield trainer


def begin_or_go_on(
    config: Config,
    out: Path | None,
    base: StartingModel | None = None,
    listener: Listener = ignore,
    world: World = ALONE,
) -> AbstractContextManager[Trainer]:
    """Set up a new run as `begin` does, or resume it if torchrun has restarted the processes since it began."""
    path = world.noted_run()
    if path and world.from_first(lambda: RunFolder(path).last.is_file()):
        return resume(path, [], {}, False, listener, world)
    if path:
        world.from_first(RunFolder(path).forget_start)
    return begin(config, path or out, base, listener, world)


def finish(trainer: Trainer, listener: Listener = ignore) -> Outcome:
    """Score the best model of a run that has ended, and write everything that is not on disk yet.

    Args:
        trainer: of the run.
        listener: called with the share that is scored.
    """
    scores, forgetting = measure_best(trainer, listener), measure_forgetting(trainer, listener)
    return Outcome(scores, write_all(trainer), forgetting)


def write_all(trainer: Trainer) -> RunError | None:
    """Write everything that is not on disk yet, to another place if the run folder cannot be written.

    Returns:
        the error that names the files and where they are instead; None if everything is on disk.
    """
    logbook = trainer.logbook
    if logbook.write():
        return None
    trouble = logbook.trouble
    if path := logbook.move_to_safety():
        return RunError(f"{trouble}; all of the run is in `{path}` instead", f"{resume_command(path)} continues it")
    return RunError(trouble, "what was saved before is still there")


def _load_new_text(config: Config, base: StartingModel | None, listener: Listener) -> Corpus:
    text = load_text(config, listener, base.file.vocabulary if base else None, grows=True)
    note = note_on_new_symbols(base.file.vocabulary, text.vocabulary) if base else None
    return replace(text, notes=(*text.notes, note)) if note else text


def _fit(
    config: Config, text: Corpus, base: StartingModel | None, listener: Listener, world: World = ALONE
) -> tuple[Config, Runtime, str]:
    """Choose the size of a run and its device; a run that starts from a model has its size."""
    listener(Preparing(MEASURING))
    if base:
        return config, choose_runtime(config.model, config.train, world=world), ""
    return fit_to_machine(config, text, world)


def _write_settings(trainer: Trainer) -> None:
    """Write `config.yaml`, with the model that the run started from in a comment."""
    base = trainer.base
    comment = f"# from {one_line(base['name'])}, sha256 {base['sha256']}\n" if base else ""
    write_atomic(trainer.run.config, (comment + to_yaml(trainer.config)).encode())


def _resumed_config(started: Config, last: ModelFile, overrides: list[str], flags: dict[str, Any]) -> Config:
    """Return the settings of a resumed run; only settings of `train` and the name of the text may change."""
    others = {key: value for key, value in flags.items() if key != "data.corpus"}
    config = override_config(last.config, overrides, others)
    if _fixed(config) != _fixed(started):
        raise UsageError(
            "`--resume` continues a run with the settings it was started with",
            f"only settings of `train` can be changed, except {', '.join(sorted(FIXED_OF_TRAIN))}",
        )
    corpus = flags.get("data.corpus", started.data.corpus)
    return config.model_copy(update={"data": config.data.model_copy(update={"corpus": corpus})})


def _resumed_text(
    path: Path, config: Config, started: Config, last: ModelFile, is_new_text: bool, listener: Listener
) -> Corpus:
    # Names that were not given now come from the model file, which is untrusted: its size limits what is read.
    is_given = is_new_text or config.data.corpus != started.data.corpus
    max_bytes = None if is_given else last.corpus_bytes
    try:
        # A run that started from a model has that model's symbols too.
        vocabulary = last.vocabulary if is_new_text or last.base else None
        return load_text(config, listener, vocabulary, max_bytes, grows=not is_new_text)
    except UnknownCharacterError as error:
        hint = f"{command_from(path, config.data.corpus)} starts a new run that learns them too"
        raise UnknownCharacterError(str(error), hint) from error
    except TooLargeError as error:
        raise text_has_changed(path, config.data.corpus, f": {error}") from error
    except CorpusError as error:
        if is_given:
            raise
        hint = f"if the text is elsewhere now: {resume_command(path, '--corpus', 'FILE')}"
        raise CorpusError(f"the run's own text: {error}", hint) from error


def _reopen(trainer: Trainer, started: Config, path: Path) -> None:
    """Let a finished run that has become longer continue, and refuse a duration that has passed already."""
    now, before = trainer.config.train, started.train
    if now != before:
        trainer.reopen()
    is_changed = any(getattr(now, name) != getattr(before, name) for name in DURATIONS)
    state = trainer.state
    if trainer.share >= 1 and (is_changed or not state.finished):
        raise UsageError(
            f"`{path}` is past that already: step {state.step:,}, {state.seconds:.0f} s",
            f"a duration counts from the beginning of the run: {_longer(trainer, path)} is longer",
        )
    if state.finished:
        trainer.notes.append(f"this run ended at step {state.step:,}; {_longer(trainer, path)} continues it")


def _longer(trainer: Trainer, path: Path) -> str:
    """Return the command, in backquotes, that makes a run longer, by the setting that ended it."""
    train, state = trainer.config.train, trainer.state
    if train.steps is not None:
        options = "--set", f"train.steps={2 * max(train.steps, state.step)}"
    elif train.epochs is not None:
        options = "--set", f"train.epochs={2 * max(math.ceil(trainer.epoch), train.epochs):g}"
    else:
        options = "--time", f"{2 * math.ceil(max(train.time or 0.0, state.seconds))}s"
    if state.finished not in ("", "done") and train.patience and trainer.share < 1:
        options = "--set", f"train.patience={2 * train.patience}"
    return resume_command(path, *options)


def _check_best(trainer: Trainer) -> TrainState:
    """Check that the best model is one of this run; a run that continues makes another if it is not.

    Returns:
        the state of the run, which has forgotten its best validation in the second case.
    """
    path, state = trainer.run.best, trainer.state
    if state.best.best_bits is None and not state.finished and not path.exists():
        return state
    reason = f"`{path}` is not a model of this run"
    try:
        best = load_checkpoint(path)
        model = validate_settings(best.config, {}, str(path)).model
        is_of_run = (best.vocabulary, model) == (trainer.corpus.vocabulary, trainer.config.model)
        if is_of_run and best.step is not None:
            trainer.learner.counting.reuse(Mixture.of(best))
            return state
    except (ModelFileError, ConfigError) as error:
        reason = str(error)
    if state.finished:
        raise RunError(reason, f"`{trainer.run.last}` holds the last model; a longer run makes a new best one")
    trainer.notes.append(f"{reason}; the next model that is validated replaces it")
    state.best.forget()
    return state


def _fixed(config: Config) -> dict[str, Any]:
    changeable = set(TrainConfig.model_fields) - FIXED_OF_TRAIN
    return config.model_dump(exclude={"train": changeable, "data": {"corpus", "skip_undecodable"}})


def _name_of(corpus: str) -> str:
    """Return the name of a run on this corpus, as a safe folder name."""
    if corpus == "-":
        return "stdin"
    path = expanded(corpus).resolve()
    return re.sub(r"[^\w.-]+", "", path.stem if path.is_file() else path.name).strip(".-")[:60] or "text"
