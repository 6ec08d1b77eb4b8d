"""A training run as a command: begin it or take it up again, see it through, show what it writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from charlm import config as settings
from charlm import corpus as corpora
from charlm import sample as sampling
from charlm.checkpoint import RunFolder, load
from charlm.config import Config
from charlm.corpus import Corpus
from charlm.display import TrainingDisplay
from charlm.errors import UsageError
from charlm.files import write_atomic
from charlm.output import print_json, say, show_download, write_texts
from charlm.runtime import Runtime
from charlm.signals import Interrupt
from charlm.stepper import Stepper
from charlm.train import Training


def begin(config: str | None, overrides: list[str], flags: dict[str, Any], out: Path | None) -> Training:
    """Set up a new run and write down its settings."""
    effective = settings.load(config, overrides, flags)
    if effective.seed is None:
        effective = effective.model_copy(update={"seed": sampling.draw_seed()})
    text = _load_text(effective, effective.data.corpus)
    first = effective.data.corpus[0]
    name = "stdin" if first == "-" else Path(first).stem or "text"
    run = RunFolder.create(out, f"{name}-{effective.model.cell}")
    write_atomic(run.config, effective.to_yaml().encode())
    return _set_up(effective, text, run)


def resume(path: Path, overrides: list[str], flags: dict[str, Any]) -> Training:
    """Take up a run where it was left."""
    run = RunFolder.open(path)
    last = load(run.last)
    begun = settings.validate(last.config, {}, str(run.last))
    corpus = flags.pop("data.corpus", begun.data.corpus)
    effective = settings.override(last.config, overrides, flags)
    if effective.model_dump(exclude={"train"}) != begun.model_dump(exclude={"train"}):
        raise UsageError("`--resume` goes on with a run as it was begun", "of its settings only `train` can be changed")
    text = _load_text(effective, corpus)
    training = _set_up(effective, text, run)
    training.restore(last)
    training.reopen()
    run.truncate_metrics(training.progress.step)
    write_atomic(run.config, effective.to_yaml().encode())
    return training


def _load_text(effective: Config, names: list[str]) -> Corpus:
    return corpora.load(names, encoding=effective.data.encoding, kind=effective.vocab, progress=show_download)


def _set_up(effective: Config, text: Corpus, run: RunFolder) -> Training:
    runtime = Runtime.choose(effective.train.device, effective.train.precision, effective.train.threads)
    training = Training(effective, text, run, runtime)
    model = effective.model
    say(f"run {run.path}, seed {effective.seed}, {runtime}")
    say(f"text {text.name}: {len(text.ids):,} characters, {len(text.vocabulary):,} different")
    say(f"model {model.num_layers}x{model.hidden_size} {model.cell}, {training.num_parameters:,} parameters")
    for note in training.notes:
        say(f"note: {note}")
    return training


def learn(training: Training) -> None:
    """Train to the end, or to the first Ctrl-C or SIGTERM, after which the process exits as those ask for."""
    with training.run.locked(), TrainingDisplay(training) as display:
        farewell = "finishing this block and saving; again to quit at once"
        with Interrupt(lambda: display.say(farewell)) as interrupt:

            def should_stop() -> bool:
                display.tick()
                return interrupt.signal is not None

            for record in training.learn(should_stop):
                display.show(record)
    if interrupt.signal is not None and not training.progress.finished:
        say(f"saved at step {training.progress.step:,}; `charlm train --resume {training.run.path}` goes on")
        raise typer.Exit(interrupt.exit_code)


def conclude(training: Training, sample_length: int, temperature: float, as_json: bool) -> None:
    """Measure the best model, show what it writes, and say where it is."""
    scores = training.measure_best()
    best = training.run.best
    file = load(best)
    measured = "" if scores is None else f": {scores.bits_per_character:.3f} bits per character on validation text"
    say(f"best model, of step {file.metrics['step']:,}, in {best}{measured}")
    stepper = Stepper(file)
    choice = sampling.Choice(temperature)
    seed = training.config.seed or 0
    pieces = sampling.stream(stepper, *sampling.start(stepper, ""), length=sample_length, choice=choice, seeds=[seed])
    if as_json:
        text = "".join(grown for _, grown in pieces)
        print_json({"run": str(training.run.path), "model": str(best), **file.metrics, "sample": text, "seed": seed})
        return
    say(f"it writes, at temperature {temperature}:\n")
    write_texts(pieces, "", [seed])
