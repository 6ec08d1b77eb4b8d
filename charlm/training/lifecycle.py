"""A training run as a command: begin it or take it up again, see it through, show what it writes, score its text."""

from __future__ import annotations

import math
import re
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import typer

from charlm.checkpoint import ModelFile, load_checkpoint
from charlm.cli.live import ScoringDisplay, TrainingDisplay
from charlm.cli.render import print_json, report_error, say, show_download, write_texts
from charlm.config import DURATIONS, Config, TrainConfig
from charlm.config_file import override_config, to_yaml, validate_settings
from charlm.data.corpus import Corpus, load_corpus
from charlm.errors import ConfigError, ModelFileError, RunError, TooLargeError, UsageError, one_line
from charlm.evaluation.evaluate import Scores
from charlm.files import expanded, write_atomic
from charlm.inference.fill import Filler
from charlm.inference.generate import Sampling, draw_seed, generate
from charlm.inference.stepper import Stepper
from charlm.nn.runtime import Runtime
from charlm.run_folder import RunFolder
from charlm.training.dry_run import Forecast, check_memory, forecast
from charlm.training.interrupt import Interrupt
from charlm.training.learner import MIN_VALIDATION_CHARACTERS
from charlm.training.schedule import Clock
from charlm.training.sizing import choose_runtime, fit_to_machine
from charlm.training.trainer import Training
from charlm.vocab import Vocabulary

# Of what a model that fills blanks is shown at the end of its training.
PASSAGE_LENGTH, BLANK_EVERY = 160, 16
# What a run is made of besides its model and text: with another of these its state would mean something else.
FIXED_OF_TRAIN = {"batch_size", "block_size", "reset_probability", "optimizer", "evaluation_characters"}


class Rehearsal(NamedTuple):
    """What a run would be.

    Attributes:
        config: its settings, the size settled.
        runtime: where it would train.
        reason: why it is of that size.
        expected: what it would take.
    """

    config: Config
    runtime: Runtime
    reason: str
    expected: Forecast


def rehearse(effective: Config) -> Rehearsal:
    """Find out what a run will take, and write nothing down."""
    text = _load_text(effective)
    effective, runtime, reason = fit_to_machine(effective, text)
    check_memory(effective, text, runtime)
    seeded = effective if effective.seed is not None else effective.model_copy(update={"seed": 0})
    training = Training(seeded, text, RunFolder(Path()), runtime)
    return Rehearsal(effective, runtime, reason, forecast(training))


@contextmanager
def begin(effective: Config, out: Path | None) -> Iterator[Training]:
    """Set up a new run, write down its settings, and hold its folder."""
    if effective.seed is None:
        effective = effective.model_copy(update={"seed": draw_seed()})
    text = _load_text(effective)
    clock = Clock()
    effective, runtime, reason = fit_to_machine(effective, text)
    check_memory(effective, text, runtime)
    run = RunFolder.create(out, f"{_name_of(effective.data.corpus[0])}-{effective.model.cell}")
    with run.locked():
        write_atomic(run.config, to_yaml(effective).encode())
        yield _set_up(effective, text, run, runtime, reason, clock)


@contextmanager
def resume(path: Path, overrides: list[str], flags: dict[str, Any], is_new_text: bool) -> Iterator[Training]:
    """Take up a run where it was left, and hold its folder."""
    run = RunFolder.open(path)
    with run.locked():
        last = load_checkpoint(run.last)
        begun = validate_settings(last.config, {}, str(run.last))
        if begun.seed is None:
            raise RunError(f"`{run.last}` does not say which seed the run was begun with", "begin a new run")
        is_given = "data.corpus" in flags
        corpus = flags.pop("data.corpus", begun.data.corpus)
        effective = override_config(last.config, overrides, flags)
        if _fixed(effective) != _fixed(begun):
            raise UsageError(
                "`--resume` goes on with a run as it was begun",
                f"only settings of `train` can be changed, except {', '.join(sorted(FIXED_OF_TRAIN))}",
            )
        effective = effective.model_copy(update={"data": effective.data.model_copy(update={"corpus": corpus})})
        if corpus == ["-"] and not is_given and sys.stdin.isatty():
            raise UsageError(f"the text of `{path}` came through standard input", "give it again with `--corpus`")
        runtime = choose_runtime(effective.model, effective.train, last.runtime)
        # Names that nobody has given now may be a stranger's.
        max_bytes = None if is_new_text or corpus != begun.data.corpus else _num_bytes(last)
        try:
            text = _load_text(effective, last.vocabulary if is_new_text else None, max_bytes)
        except TooLargeError as error:
            raise RunError(
                f"the text has changed since `{path}` was begun: {error}",
                "resume with the same text, or `--new-text` to go on with this one",
            ) from error
        check_memory(effective, text, runtime)
        training = _set_up(effective, text, run, runtime)
        training.restore(last, is_new_text)
        _warn_of_changes(last.runtime, runtime.facts())
        if effective.train != begun.train:
            training.reopen()
        is_changed = any(getattr(effective.train, name) != getattr(begun.train, name) for name in DURATIONS)
        if training.share >= 1 and (is_changed or not training.progress.finished):
            raise UsageError(
                f"`{path}` is past that already: step {training.progress.step:,}, {training.progress.seconds:.0f} s",
                "a duration counts from the beginning of the run",
            )
        if training.progress.finished:
            say(f"note: this run is over, at step {training.progress.step:,}; a longer duration makes it go on")
        _check_best(training)
        training.logbook.rewind(training.progress.step)
        # For people; what counts is in `last.safetensors`, and a full disk must not end here a run that can go on.
        with suppress(OSError):
            write_atomic(run.config, to_yaml(effective).encode())
        yield training


def _check_best(training: Training) -> None:
    """Make sure that the best model is one of this run; a run that goes on makes another where it is not."""
    path = training.run.best
    if training.progress.best_bits is None and not training.progress.finished and not path.exists():
        return
    reason = f"`{path}` is not a model of this run"
    try:
        best = load_checkpoint(path)
        model = validate_settings(best.config, {}, str(path)).model
        is_of_run = (best.vocabulary, model) == (training.corpus.vocabulary, training.config.model)
        if is_of_run and best.step is not None:
            return
    except (ModelFileError, ConfigError) as error:
        reason = str(error)
    if training.progress.finished:
        raise RunError(reason, f"`{training.run.last}` holds the last model; a longer run makes a new best one")
    say(f"note: {reason}; the next model that is validated takes its place")
    training.forget_best()


def _fixed(config: Config) -> dict[str, Any]:
    changeable = set(TrainConfig.model_fields) - FIXED_OF_TRAIN
    return config.model_dump(exclude={"train": changeable, "data": {"corpus"}})


def _warn_of_changes(before: dict[str, Any], now: dict[str, Any]) -> None:
    changes = [f"{name} {before[name]}, now {now[name]}" for name in now if before.get(name, now[name]) != now[name]]
    if changes:
        say(f"note: begun with {'; '.join(changes)}: it goes on, but not bit for bit as it would have")


def _name_of(corpus: str) -> str:
    """Return what to call a run on this corpus, as a folder can be called."""
    if corpus == "-":
        return "stdin"
    path = expanded(corpus).resolve()
    return re.sub(r"[^\w.-]+", "", path.stem if path.is_file() else path.name).strip(".-")[:60] or "text"


def _num_bytes(file: ModelFile) -> int:
    """Return how large the text of a model is by its own account; none is read that is larger."""
    size = file.corpus.get("bytes")
    return size if type(size) is int else 0


def _load_text(effective: Config, vocabulary: Vocabulary | None = None, max_bytes: int | None = None) -> Corpus:
    data, vocab = effective.data, effective.vocab
    options: dict[str, Any] = {"encoding": data.encoding, "kind": vocab.kind, "filter": vocab.filter}
    options |= {"vocabulary": vocabulary, "max_bytes": max_bytes}
    return load_corpus(data.corpus, progress=show_download, **options)


def _set_up(
    effective: Config, text: Corpus, run: RunFolder, runtime: Runtime, reason: str = "", clock: Clock | None = None
) -> Training:
    training = Training(effective, text, run, runtime, clock)
    model = effective.model
    say(f"run {one_line(str(run.path))}, seed {effective.seed}, {runtime.described}")
    say(f"text {one_line(text.name)}: {len(text.ids):,} {text.vocabulary.unit}s, {len(text.vocabulary):,} different")
    say(f"model {model.num_layers}x{model.hidden_size} {model.cell}, {training.num_parameters:,} parameters")
    for note in [*([reason] if reason else []), *training.notes]:
        say(f"note: {note}")
    return training


def learn(training: Training) -> None:
    """Train to the end, or to the first Ctrl-C or SIGTERM, after which the process exits as those ask for."""
    with TrainingDisplay(training) as display:
        farewell = "finishing this block and saving; again to quit at once"
        with Interrupt(lambda: display.say(farewell)) as interrupt:

            def should_stop() -> bool:
                display.tick()
                return interrupt.signal is not None

            for record in training.learn(should_stop, display.say, display.watch):
                display.show(record)
    if interrupt.signal is not None:
        _leave(training, interrupt.exit_code)


def _leave(training: Training, exit_code: int) -> None:
    """End the process as a signal asked for, and say where the run is."""
    step, path = training.progress.step, training.run.path
    if not training.logbook.write():
        error = _moved_to_safety(training)
        report_error(str(error), error.hint, exit_code)
    elif training.progress.finished:
        say(f"saved at step {step:,}: the run is complete; `charlm eval --model {path}` scores its best model")
    else:
        say(f"saved at step {step:,}; `charlm train --resume {path}` goes on")
    raise typer.Exit(exit_code)


def _moved_to_safety(training: Training) -> RunError:
    """Write a run that its folder does not take to another place; return the error that says so."""
    trouble = training.logbook.trouble
    if path := training.logbook.move_to_safety():
        return RunError(f"{trouble}; all of the run is in `{path}` instead", f"`charlm train --resume {path}` goes on")
    return RunError(trouble, "what was saved before is still there")


def verdict(training: Training) -> str:
    """Return what the validations say about training on."""
    progress, num_held_out = training.progress, len(training.parts.validation)
    if num_held_out < MIN_VALIDATION_CHARACTERS:
        return f"{'too little' if num_held_out else 'nothing'} was held out to tell whether more time would help"
    if not progress.evaluations_without_gain:
        return "the last validation was the best: more time may make it better yet"
    if progress.evaluations_without_gain == 1:
        return "the validation before the last was the best: too early to tell whether more time would help"
    since = training.logbook.best.step
    return f"no validation has been better since step {since:,}: it began to learn its text by heart"


class _Left(Exception):
    """A signal came during the scoring."""


def _score_best(training: Training) -> Scores | None:
    """Score the best model, which a signal ends together with the process; the run is saved already."""
    with ScoringDisplay() as display:
        farewell = "ending the scoring; again to quit at once"
        with Interrupt(lambda: display.say(farewell)) as interrupt:

            def watch(share: float) -> None:
                display.show(share)
                if interrupt.signal is not None:
                    raise _Left

            scores = None
            with suppress(_Left):
                scores = training.measure_best(watch)
    if interrupt.signal is not None:
        _leave(training, interrupt.exit_code)
    return scores


def _as_measured(training: Training, scores: Scores) -> str:
    """Return what the scores of the best model are, and of what."""
    unit = training.corpus.vocabulary.unit
    accuracy, per = "", unit
    if training.model.spec.sees_both_sides:
        per, accuracy = f"masked {unit}", f", {scores.top1_accuracy:.1%} of them the likeliest"
    if scores.characters == len(training.parts.validation):
        return f"{scores.bits_per_character:.3f} bits per {per} on all {scores.characters:,} held out{accuracy}"
    error = "" if scores.standard_error_bits is None else f" (standard error {scores.standard_error_bits:.3f})"
    return (
        f"{scores.bits_per_character:.3f}{error} bits per {per} on {scores.characters:,} of the "
        f"{len(training.parts.validation):,} held out, in segments spread over them{accuracy}; `charlm eval` scores all"
    )


def conclude(training: Training, sample_length: int, temperature: float, as_json: bool) -> None:
    """Measure the best model, show what it writes, and say where it is.

    Raises:
        RunError: something of the run could not be written to the end.
    """
    scores = _score_best(training)
    error = None if training.logbook.write() else _moved_to_safety(training)
    best, file = training.run.best, training.logbook.best
    measured = "" if scores is None else f": {_as_measured(training, scores)}"
    if training.progress.finished not in ("", "done"):
        say(f"ended early: {training.progress.finished}")
    say(f"best model, of step {file.step:,}, in {one_line(str(best))}{measured}")
    say(verdict(training))
    figures = {
        name: value for name, value in file.metrics.items() if type(value) in (int, float) and math.isfinite(value)
    }
    figures |= {"run": str(training.run.path), "model": str(best)}
    if training.model.spec.sees_both_sides:
        _show_filling(training, file, figures, as_json)
    else:
        _show_sample(training, file, sample_length, temperature, figures, as_json)
    if error:
        raise error
    if not as_json:
        command = "fill 'a te_t with bl_nks'" if training.model.spec.sees_both_sides else "sample"
        say(f"\nmore of it: charlm {command} --model {one_line(shlex.quote(str(training.run.path)))}")


def _show_sample(
    training: Training,
    file: ModelFile,
    length: int,
    temperature: float,
    figures: dict[str, Any],
    as_json: bool,
) -> None:
    stepper, seed = Stepper(file), training.config.seed or 0
    generation = generate(stepper, "", length=length, sampling=Sampling(temperature), seeds=[seed])
    if as_json:
        print_json({**figures, "sample": generation.texts()[0], "seed": seed})
        return
    say(f"it writes, at temperature {temperature}:\n")
    write_texts(generation.in_reading_order(), "", [seed])


def _show_filling(training: Training, file: ModelFile, figures: dict[str, Any], as_json: bool) -> None:
    """Hide some characters of a passage that was held out, or of the text's beginning where nothing was."""
    ids = training.parts.validation if len(training.parts.validation) else training.parts.train
    passage = file.vocabulary.decode(ids[:PASSAGE_LENGTH]).replace("\n", " ")
    every = min(BLANK_EVERY, len(passage))
    parts = [passage[start : start + every - 1] for start in range(0, len(passage), every)]
    parts = [*parts, ""] if len(parts) == 1 else parts
    filled = Filler(file).fill(parts, 1, f"replace={file.vocabulary.symbols[0]}").text
    if as_json:
        print_json({**figures, "asked": "_".join(parts), "text": filled})
        return
    say("it reads a text with blanks, and fills them:\n")
    write_texts(iter([(0, f"{'_'.join(parts)}\n{filled}\n")]), "", [0])
