"""The command that measures how well a model predicts a text."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from charlm.cli.options import CorpusNames, Encoding, Json, Model, Unknown, model_file
from charlm.cli.render import print_json, say, show_download
from charlm.errors import UsageError, one_line

if TYPE_CHECKING:
    from charlm.checkpoint import ModelFile
    from charlm.evaluation.baselines import Baseline
    from charlm.evaluation.evaluate import Scores
    from charlm.evaluation.scored_text import TextToScore
    from charlm.vocab import Vocabulary

Part = Literal["train", "validation", "test"]


def evaluate_model(
    model: Model = None,
    part: Annotated[
        Part | None, typer.Option(help="Which part of the text that was learned; `--corpus` says where it is now.")
    ] = None,
    corpus: CorpusNames = None,
    window: Annotated[
        int | None, typer.Option(min=1, help="Start anew before each window of this many characters.")
    ] = None,
    encoding: Encoding = None,
    unknown: Unknown = "error",
    with_baselines: Annotated[
        bool,
        typer.Option("--baselines/--no-baselines", help="Compare with counting and compressing, on a held-out part."),
    ] = True,
    dynamic: Annotated[
        bool, typer.Option("--dynamic", help="Also score it with a copy that learns from the text as it goes; slow.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Measure how well a model predicts a text.

    In bits per character, on the part of its own text that was held out or on another text.

    charlm eval --part test

    charlm eval --corpus another.txt --json

    charlm eval --part validation --corpus moved.txt
    """
    if encoding and not corpus:
        raise UsageError("`--encoding` is for `--corpus`", "the run's own text is read as it was in training")
    if dynamic and window is not None:
        raise UsageError("`--dynamic` and `--window` exclude each other", "dynamic evaluation has no windows")
    file = model_file(model)
    if file.spec.sees_both_sides and (dynamic or window is not None):
        raise UsageError(
            "`--window` and `--dynamic` are for models that read in one direction", "this one sees both sides"
        )
    command = f"charlm eval --model {shlex.quote(str(model))}" if model else "charlm eval"
    text = load_text(file, part, corpus, encoding, unknown, command)
    found = measure(file, text, window, dynamic, with_baselines)
    if as_json:
        print_json(found.to_json())
    else:
        print_evaluation(found)


@dataclass(frozen=True)
class Evaluation:
    """The results of an evaluation.

    Attributes:
        vocabulary: that of the model; it gives the unit of the figures.
        sees_both_sides: whether the model predicts a character from both sides.
        text: the name of the text.
        window: the number of characters after which the model started anew; None if the state was carried through.
        scores: those of the model.
        dynamic: those of a copy that learned from the text; None without dynamic evaluation.
        baselines: scores of the same text without a model.
    """

    vocabulary: Vocabulary
    sees_both_sides: bool
    text: str
    window: int | None
    scores: Scores
    dynamic: Scores | None
    baselines: list[Baseline]

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values, named by the units of the vocabulary."""
        in_units = partial(self.vocabulary.in_units, sees_both_sides=self.sees_both_sides)
        return {
            "corpus": self.text,
            "window": self.window,
            **in_units(self.scores.to_json()),
            "dynamic": in_units(self.dynamic.to_json()) if self.dynamic else None,
            "baselines": [in_units(row.to_json()) for row in self.baselines],
        }


def load_text(
    file: ModelFile, part: Part | None, corpus: list[str] | None, encoding: str | None, unknown: str, command: str
) -> TextToScore:
    """Read the text to score: another corpus, or a part of the model's own."""
    from charlm.evaluation.scored_text import load_other_text, load_own_text

    if part or not corpus:
        return load_own_text(file, part or "validation", corpus, encoding, command, show_download)
    text = load_other_text(file, corpus, encoding or "utf-8", unknown, show_download)
    for note in text.notes:
        say(f"note: {note}")
    return text


def measure(
    file: ModelFile, text: TextToScore, window: int | None, is_dynamic: bool, with_baselines: bool
) -> Evaluation:
    """Score a text with a model and with the baselines."""
    from charlm.evaluation.baselines import baselines
    from charlm.evaluation.dynamic import evaluate_dynamically
    from charlm.evaluation.evaluate import evaluate
    from charlm.nn.model import CharModel
    from charlm.nn.runtime import use_threads

    use_threads()
    model = CharModel(file.spec)
    model.load_arrays(file.weights)
    # Baselines read in one direction, so they are no measure for a model that sees both sides.
    learned = text.training_ids if with_baselines and not file.spec.sees_both_sides else None
    return Evaluation(
        file.vocabulary,
        file.spec.sees_both_sides,
        text.name,
        window,
        evaluate(model, text.ids, window),
        evaluate_dynamically(model, text.ids) if is_dynamic else None,
        [] if learned is None else list(baselines(learned, text.ids, file.vocabulary)),
    )


def print_evaluation(found: Evaluation) -> None:
    """Print the results for people."""
    scores, unit = found.scores, found.vocabulary.unit
    context = "state carried through"
    if found.window is not None:
        context = f"windows of {found.window} {unit}s, each from the initial state"
    if found.sees_both_sides:
        context = "each of them hidden in turn, all others read"
    print(f"{one_line(found.text)}, {scores.characters:,} {unit}s, {context}")
    unit = f"masked {unit}" if found.sees_both_sides else unit
    print(f"{scores.bits_per_character:8.4f} bits per {unit} ({scores.nats_per_character:.4f} nats)")
    print(f"{scores.perplexity_per_character:8.3f} perplexity per {unit}")
    print(
        f"{scores.top1_accuracy:8.1%} of {unit}s were the most probable, "
        f"{scores.top5_accuracy:.1%} among the five most probable"
    )
    if found.dynamic:
        print_dynamic(found.dynamic, unit)
    if found.baselines:
        print(f"baselines, in bits per {unit} of the same text:")
    for row in sorted(found.baselines, key=lambda row: row.bits_per_character):
        seen = f", given {row.characters_seen:,} {unit}s of the training part" if row.characters_seen else ""
        print(f"{row.bits_per_character:8.4f} {row.name}{seen}")


def print_dynamic(scores: Scores, unit: str) -> None:
    """Print the result of dynamic evaluation."""
    from charlm.evaluation.dynamic import SEGMENT_SIZE

    print(
        f"{scores.bits_per_character:8.4f} bits per {unit} by dynamic evaluation: learning from each "
        f"{SEGMENT_SIZE} {unit}s after they are scored ({scores.nats_per_character:.4f} nats)"
    )
