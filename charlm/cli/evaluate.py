"""The command that measures how well a model predicts a text."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from charlm.cli.evaluate_together import measure_together, note_on_learned, open_models
from charlm.cli.evaluation_phrases import about_baseline, about_reading
from charlm.cli.layout import Column, screen_width, table_lines, wrapped
from charlm.cli.options import CorpusNames, Encoding, Json, Models, Part, SkipUndecodable, Unknown, model_file
from charlm.cli.render import print_json, print_lines
from charlm.cli.texts import how_to_read, load_text
from charlm.errors import UsageError, counted, one_line

if TYPE_CHECKING:
    from charlm.checkpoint import ModelFile
    from charlm.evaluation.baselines import Baseline
    from charlm.evaluation.evaluate import Scores
    from charlm.evaluation.scored_text import TextToScore
    from charlm.vocab import Vocabulary


def evaluate_model(
    model: Models = None,
    part: Part = None,
    corpus: CorpusNames = None,
    window: Annotated[
        int | None, typer.Option(min=1, help="Start anew before each window of this many characters.")
    ] = None,
    encoding: Encoding = None,
    skip_undecodable: SkipUndecodable = False,
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

    charlm eval -m runs/one-1 -m runs/other-1
    """
    reading = how_to_read(corpus, encoding, skip_undecodable)
    if dynamic and window is not None:
        raise UsageError("`--dynamic` and `--window` exclude each other", "dynamic evaluation has no windows")
    command = shlex.join(["charlm", "eval", *(word for path in model or () for word in ("--model", str(path)))])
    if model and len(model) > 1:
        if dynamic:
            raise UsageError("`--dynamic` is for one model, and there are several", "omit it, or give one `--model`")
        models = open_models(model)
        text = load_text(models[0].file, part, corpus, unknown, command, reading)
        if part or not corpus:
            note_on_learned(models)
        together = measure_together(models, text, window, with_baselines)
        if as_json:
            print_json(together.to_json())
        else:
            print_lines(together.to_lines(screen_width(sys.stdout)))
        return
    file = model_file(model[0] if model else None)
    if file.spec.sees_both_sides and (dynamic or window is not None):
        raise UsageError(
            "`--window` and `--dynamic` are for models that read in one direction", "this one sees both sides"
        )
    text = load_text(file, part, corpus, unknown, command, reading)
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
        num_blocks: the number of blocks of it that are scored, each as a text of its own.
        window: the number of characters after which the model started anew; None if the state was carried through.
        scores: those of the model.
        dynamic: those of a copy that learned from the text; None without dynamic evaluation.
        ngram_order: the length of the longest n-grams of the model; 0 if it has none.
        baselines: scores of the same text without a model.
    """

    vocabulary: Vocabulary
    sees_both_sides: bool
    text: str
    num_blocks: int
    window: int | None
    scores: Scores
    dynamic: Scores | None
    ngram_order: int
    baselines: list[Baseline]

    @property
    def parts(self) -> dict[str, Scores | None]:
        """The scores of a net and of its n-grams, each alone."""
        return {"net": self.scores.net, "ngrams": self.scores.ngrams}

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values, named by the units of the vocabulary."""
        in_units = partial(self.vocabulary.in_units, sees_both_sides=self.sees_both_sides)
        return {
            "corpus": self.text,
            "window": self.window,
            **in_units(self.scores.to_json()),
            **{name: in_units(part.to_json()) for name, part in self.parts.items() if part},
            "dynamic": in_units(self.dynamic.net.to_json()) if self.dynamic and self.dynamic.net else None,
            "dynamic_counting": in_units(self.dynamic.to_json()) if self.dynamic else None,
            "baselines": [in_units(row.to_json()) for row in self.baselines],
        }


def measure(
    file: ModelFile, text: TextToScore, window: int | None, is_dynamic: bool, with_baselines: bool
) -> Evaluation:
    """Score a text with a model and with the baselines."""
    from charlm.evaluation.baselines import baselines

    scores, dynamic, ngram_order = _score(file, text, window, is_dynamic)
    # Baselines read in one direction, so they are no measure for a model that sees both sides.
    learned = text.training_ids if with_baselines and not file.spec.sees_both_sides else None
    return Evaluation(
        file.vocabulary,
        file.spec.sees_both_sides,
        text.name,
        len(text.ids.bounds_S2),
        window,
        scores,
        dynamic,
        ngram_order,
        [] if learned is None else list(baselines(learned, text.ids, file.vocabulary)),
    )


def _score(
    file: ModelFile, text: TextToScore, window: int | None, is_dynamic: bool
) -> tuple[Scores, Scores | None, int]:
    """Score a text with a model and with a copy that learns from it; return also the length of its longest n-grams."""
    from charlm.training.load_torch import load_torch

    load_torch()
    from charlm.evaluation.dynamic import evaluate_dynamically
    from charlm.evaluation.evaluate import evaluate
    from charlm.inference.mixture import Mixture
    from charlm.nn.model import CharModel
    from charlm.nn.runtime import use_threads

    use_threads()
    model = CharModel(file.spec)
    model.load_arrays(file.weights)
    mixture = Mixture.of(file)
    scores = evaluate(model, text.ids, window, mixture=mixture)
    dynamic = evaluate_dynamically(model, text.ids, mixture=mixture) if is_dynamic else None
    return scores, dynamic, mixture.ngrams.order if mixture else 0


def print_evaluation(found: Evaluation) -> None:
    """Print the results for people."""
    print_lines(evaluation_lines(found, screen_width(sys.stdout)))


def evaluation_lines(found: Evaluation, width: int | None) -> list[str]:
    """Lay out the results: the figures of the model, and its place among the baselines."""
    scores, unit = found.scores, found.vocabulary.unit
    context = about_reading(found.num_blocks, found.window, unit)
    if found.sees_both_sides:
        context = "each of them hidden in turn, all others read"
    title = f"{one_line(found.text)}, {counted(scores.characters, unit)}, {context}"
    per = found.vocabulary.scored_unit(found.sees_both_sides)
    figures = [
        f"{scores.bits_per_character:8.4f} bits per {per} ({scores.nats_per_character:.4f} nats); lower is better",
        f"{scores.perplexity_per_character:8.3f} perplexity per {per}: "
        f"as unsure as between so many equally probable {unit}s",
        f"{scores.top1_accuracy:8.1%} of {per}s were the most probable, "
        f"{scores.top5_accuracy:.1%} among the five most probable",
    ]
    if found.dynamic and found.dynamic.net:
        net, counting = found.dynamic.net, found.dynamic
        figures += [
            f"{net.bits_per_character:8.4f} bits per {per} by dynamic evaluation ({net.nats_per_character:.4f} nats)",
            f"{counting.bits_per_character:8.4f} bits per {per} with counts of what was just read "
            f"({counting.nats_per_character:.4f} nats)",
        ]
    laid_out = wrapped(title, width) + [line for part in figures for line in wrapped(part, width, " " * 9)]
    return laid_out + (ranking_lines(found, width) if found.baselines else [])


def ranking_lines(found: Evaluation, width: int | None) -> list[str]:
    """Lay out the model and the baselines, the best one first, and say which of them won."""
    unit = found.vocabulary.unit
    entries = [(scores.bits_per_character, name, "", about) for name, scores, about in own_entries(found)]
    for row in found.baselines:
        seen = f"{row.characters_seen:,}" if row.characters_seen else "0"
        entries.append((row.bits_per_character, row.name, seen, about_baseline(row.name, unit)))
    entries.sort(key=lambda entry: entry[0])
    columns = [
        Column("    bits", is_number=True),
        Column("by"),
        Column(f"{unit}s read before", is_number=True, rank=2),
        Column("what it is", rank=1, least=36),
    ]
    rows = [(f"{bits:8.4f}", name, seen, about) for bits, name, seen, about in entries]
    heading = f"beside others that have read the training part, in bits per {unit}, the best first"
    num_scored = min(row.characters_scored for row in found.baselines)
    if num_scored < found.scores.characters:
        where = "the beginning of each block" if found.num_blocks > 1 else "the beginning of the text"
        heading += f"; these others score only {where}, {counted(num_scored, unit)}"
    return [
        "",
        *wrapped(f"{heading}:", width),
        *table_lines(columns, rows, width),
        *wrapped(winner([(bits, name) for bits, name, _, _ in entries], unit), width),
    ]


def own_entries(found: Evaluation) -> list[tuple[str, Scores, str]]:
    """Return the names and scores of the model, of its parts, and of those that learn as they read."""
    from charlm.evaluation.dynamic import SEGMENT_SIZE

    net, ngrams, dynamic, unit = found.scores.net, found.scores.ngrams, found.dynamic, found.vocabulary.unit
    about = "its net and its n-grams together" if net else "the model that is evaluated"
    learning = f"learns from each {SEGMENT_SIZE} {unit}s after they are scored"
    entries = [
        ("this model", found.scores, about),
        ("its net", net, "the net alone"),
        (
            "its n-grams",
            ngrams,
            f"the counts of up to {found.ngram_order} {unit}s in a row that matter most",
        ),
        ("dynamic", dynamic and dynamic.net, f"a copy of the net that {learning}"),
        ("dynamic counting", dynamic, f"that copy{', its n-grams' if net else ''}, and counts of what was just read"),
    ]
    return [(name, scores, about) for name, scores, about in entries if scores]


def winner(ranking: Sequence[tuple[float, str]], unit: str) -> str:
    """Say which entry of a ranking needs the fewest bits, and how far the model is from its best rival."""
    own = {"this model", "its net", "its n-grams", "dynamic", "dynamic counting"}
    (bits, best), *_ = ranking
    if best in own:
        rival_bits, rival = next(entry for entry in ranking if entry[1] not in own)
        by = "this model by dynamic evaluation" if best.startswith("dynamic") else best
        return f"{by} wins: {rival_bits - bits:.4f} bits per {unit} fewer than {rival}"
    behind = min(entry[0] for entry in ranking if entry[1] in own) - bits
    return f"{best} wins: this model needs {behind:.4f} bits per {unit} more"
