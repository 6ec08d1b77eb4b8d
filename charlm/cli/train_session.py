"""A training run in a terminal: its announcement, its display, its interruption and its end."""

from __future__ import annotations

import math
import shlex
from collections import Counter
from dataclasses import replace
from typing import Any

import typer

from charlm.checkpoint import ModelFile
from charlm.cli.cockpit import Judged
from charlm.cli.live import ScoringDisplay
from charlm.cli.render import print_json, report_error, say, tell_next, write_texts
from charlm.cli.watching import watch
from charlm.errors import RunError, counted, one_line
from charlm.evaluation.evaluate import Scores
from charlm.evaluation.judgement import judge_records
from charlm.inference.fill import Filler
from charlm.inference.generate import generate
from charlm.inference.sampling import Sampling
from charlm.inference.stepper import Stepper
from charlm.run_folder import resume_command
from charlm.training.interrupt import Interrupt
from charlm.training.lifecycle import Outcome, finish, write_all
from charlm.training.trainer import Trainer
from charlm.vocab import Vocabulary

# The passage whose blanks a model fills at the end of its training.
PASSAGE_LENGTH, BLANK_EVERY = 160, 16
EXAMPLE = "a te_t with bl_nks"
# The longest text of which a run says how low its loss can get.
MAX_MEMORISED = 10_000


def announce(trainer: Trainer) -> None:
    """Report the model, the text and the folder."""
    corpus, model = trainer.corpus, trainer.config.model
    say(f"run {one_line(str(trainer.run.path))}, seed {trainer.config.seed}, {trainer.runtime.described}")
    say(
        f"text {one_line(corpus.name)}: {counted(len(corpus.ids), corpus.vocabulary.unit)}, "
        f"{len(corpus.vocabulary):,} different"
    )
    num_parameters = trainer.learner.model.spec.num_parameters
    order = trainer.learner.counting.order
    beside = f"; counted beside it: up to {order} {corpus.vocabulary.unit}s in a row" if order else ""
    say(f"model {model.num_layers}x{model.hidden_size} {model.cell}, {num_parameters:,} parameters{beside}")
    for note in [*trainer.notes, *_notes_on_floor(trainer)]:
        say(f"note: {note}")


def _notes_on_floor(trainer: Trainer) -> list[str]:
    """Return a note on how low the loss can get, if the run memorises a short text without any context.

    A block that is read from an empty state is as unpredictable as the choice among all blocks of the text.
    """
    part, size = trainer.learner.parts.train, trainer.learner.block_size
    if trainer.config.train.reset_probability < 1 or trainer.validation.can_tell_best or len(part) > MAX_MEMORISED:
        return []
    ids = part.joined()
    counts = Counter(ids[start : start + size].tobytes() for start in range(len(ids) - size + 1))
    bits = sum(count * math.log2(counts.total() / count) for count in counts.values()) / counts.total()
    unit = trainer.corpus.vocabulary.unit
    return [
        f"each block of {size} {unit}s starts from the empty state, and nothing predicts its beginning: "
        f"train stays near {bits / size:.2f} bits per {unit} when the text is memorised"
    ]


def learn(trainer: Trainer) -> None:
    """Train to the end, or to the first Ctrl-C or SIGTERM; the process then exits with the code of that signal."""
    with watch(trainer, judged) as display:

        def stop() -> None:
            trainer.stop()
            display.notify("finishing this block and saving; again to quit at once")

        with Interrupt(stop) as interrupt:
            trainer.learn(display.show)
    if interrupt.signal is not None:
        _leave(trainer, write_all(trainer), interrupt.exit_code)


def report_outcome(trainer: Trainer, sample_length: int, temperature: float, as_json: bool) -> None:
    """Measure the best model, show a sample of it, and report its path.

    Raises:
        RunError: something of the run could not be written to the end.
    """
    error = report_best(trainer)
    best, file = trainer.run.best, trainer.logbook.best
    figures = {
        name: value for name, value in file.metrics.items() if type(value) in (int, float) and math.isfinite(value)
    }
    figures |= {"run": str(trainer.run.path), "model": str(best)}
    command = "sample"
    if file.spec.sees_both_sides:
        asked = _show_filling(trainer, file, figures, as_json)
        command = f"fill {shlex.quote(_example(asked, file.vocabulary))}"
    else:
        _show_sample(trainer, file, sample_length, temperature, figures, as_json)
    if error:
        raise error
    if not as_json:
        say("")
        tell_next(trainer.run.path, command)


def report_best(trainer: Trainer) -> RunError | None:
    """Measure the best model and report it; return the error if something could not be written to the end."""
    outcome = _finish(trainer)
    best, file = trainer.run.best, trainer.logbook.best
    measured = "" if outcome.scores is None else f": {_as_measured(trainer, outcome.scores)}"
    if trainer.state.finished not in ("", "done"):
        say(f"ended early: {trainer.state.finished}")
    say(f"best model, of step {file.step:,}, in {one_line(str(best))}{measured}")
    if outcome.forgetting:
        say(outcome.forgetting)
    say(verdict(trainer))
    return outcome.error


def verdict(trainer: Trainer) -> str:
    """Return what the validations so far say about more training."""
    return judged(trainer).sentence


def judged(trainer: Trainer) -> Judged:
    """Return the same with the state of the curve."""
    num_held_out = len(trainer.learner.parts.validation)
    if not trainer.validation.can_tell_best:
        how_much = "too little" if num_held_out else "nothing"
        return Judged("unclear", f"{how_much} was held out to tell whether more time would help")
    of_net = " of the net" if trainer.learner.counting.order else ""
    judgement = judge_records(trainer.logbook.records)
    if judgement.state == "overfitting" and "validation" in trainer.unlike:
        meaning = "this may say more about the validation part, which is unlike the rest, than about the training"
        judgement = replace(judgement, meaning=meaning)
    return Judged(judgement.state, judgement.sentence(f"validation{of_net}"))


def _leave(trainer: Trainer, error: RunError | None, exit_code: int) -> None:
    """End the process with the exit code of a signal, and report where the run is."""
    step, path = trainer.state.step, trainer.run.path
    if error:
        report_error(str(error), error.hint, exit_code)
    elif trainer.state.finished:
        say(f"saved at step {step:,}: the run is complete; `charlm eval --model {path}` scores its best model")
    else:
        say(f"saved at step {step:,}; {resume_command(path)} continues it")
    raise typer.Exit(exit_code)


def _finish(trainer: Trainer) -> Outcome:
    """Score the best model. A signal ends the scoring and the process; the run is already saved."""
    with ScoringDisplay() as display:

        def stop() -> None:
            trainer.stop()
            display.say("ending the scoring; again to quit at once")

        with Interrupt(stop) as interrupt:
            outcome = finish(trainer, display.show)
    if interrupt.signal is not None:
        _leave(trainer, outcome.error, interrupt.exit_code)
    return outcome


def _as_measured(trainer: Trainer, scores: Scores) -> str:
    """Return the scores of the best model, and how much text they were measured on."""
    num_held_out, sees_both_sides = len(trainer.learner.parts.validation), trainer.learner.model.spec.sees_both_sides
    per = trainer.corpus.vocabulary.scored_unit(sees_both_sides)
    accuracy = f", {scores.top1_accuracy:.1%} of them the most probable" if sees_both_sides else ""
    before, measured = trainer.state.best.best_bits, trainer.validation.described(trainer.state.evaluation_characters)
    # Without both figures, the one at the end seems to contradict the lines during training.
    if measured and before is not None:
        accuracy += f"; while training {before:.3f} on {measured} of them"
    if scores.net and scores.ngrams:
        accuracy += (
            f"; its net alone {scores.net.bits_per_character:.3f}, its n-grams alone "
            f"{scores.ngrams.bits_per_character:.3f}"
        )
    if scores.characters == num_held_out:
        return f"{scores.bits_per_character:.3f} bits per {per} on all {scores.characters:,} held out{accuracy}"
    error = "" if scores.standard_error_bits is None else f" (standard error {scores.standard_error_bits:.3f})"
    return (
        f"{scores.bits_per_character:.3f}{error} bits per {per} on {scores.characters:,} of the "
        f"{num_held_out:,} held out, in segments spread over them{accuracy}; `charlm eval` scores all"
    )


def _show_sample(
    trainer: Trainer, file: ModelFile, length: int, temperature: float, figures: dict[str, Any], as_json: bool
) -> None:
    seed = trainer.config.seed or 0
    generation = generate(Stepper(file), "", length=length, sampling=Sampling(temperature), seeds=[seed])
    if as_json:
        print_json({**figures, "sample": generation.texts()[0], "seed": seed})
        return
    if not length:
        return
    say(f"it writes, at temperature {temperature}:\n")
    write_texts(generation.in_reading_order(), [seed])


def _example(asked: str, vocabulary: Vocabulary) -> str:
    """Return a text with blanks that a model can read: an English one, or the beginning of what it was asked."""
    if all(character in vocabulary for character in EXAMPLE.replace("_", "")):
        return EXAMPLE
    return "".join(character for character in asked[:BLANK_EVERY] if character == "_" or character in vocabulary)


def _show_filling(trainer: Trainer, file: ModelFile, figures: dict[str, Any], as_json: bool) -> str:
    """Hide some characters of a held-out passage, or of the text's beginning if nothing is held out, and return it."""
    parts = trainer.learner.parts
    part = parts.validation if len(parts.validation) else parts.train
    passage = file.vocabulary.decode(part.stretches[0][:PASSAGE_LENGTH]).replace("\n", " ")
    every = min(BLANK_EVERY, len(passage))
    pieces = [passage[start : start + every - 1] for start in range(0, len(passage), every)]
    pieces = [*pieces, ""] if len(pieces) == 1 else pieces
    asked = "_".join(pieces)
    filled = Filler(file).fill(pieces, 1, f"replace={file.vocabulary.symbols[0]}").text
    if as_json:
        print_json({**figures, "asked": asked, "text": filled})
    else:
        say("it reads a text with blanks, and fills them:\n")
        write_texts([(0, f"{asked}\n{filled}\n")], [0])
    return asked
