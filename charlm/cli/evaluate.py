"""The command that measures how well a model predicts a text."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Literal

import typer

from charlm.cli.options import (
    CorpusNames,
    Encoding,
    Json,
    Model,
    Unknown,
    model_file,
)
from charlm.cli.render import print_json
from charlm.errors import UsageError, one_line


def evaluate(
    model: Model = None,
    part: Annotated[
        Literal["train", "validation", "test"] | None, typer.Option(help="Which part of the run's own corpus.")
    ] = None,
    corpus: CorpusNames = None,
    window: Annotated[
        int | None, typer.Option(min=1, help="Forget all before each window of so many characters.")
    ] = None,
    encoding: Encoding = None,
    unknown: Unknown = "error",
    with_baselines: Annotated[
        bool,
        typer.Option("--baselines/--no-baselines", help="Beside a held-out part: what counting and compressing cost."),
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
    """
    if part and corpus:
        raise UsageError("`--part` and `--corpus` exclude each other", "`--corpus` is always scored as a whole")
    if encoding and not corpus:
        raise UsageError("`--encoding` is for `--corpus`", "the run's own text is read as it was in training")
    if dynamic and window is not None:
        raise UsageError("`--dynamic` and `--window` exclude each other", "what is learned on the way is remembered")
    from charlm.evaluation import evaluate as evaluation
    from charlm.evaluation.baselines import baselines
    from charlm.nn.model import CharModel
    from charlm.nn.runtime import use_threads
    from charlm.training import lifecycle as runs

    use_threads()
    file = model_file(model)
    is_masked = file.spec.sees_both_sides
    if is_masked and (dynamic or window is not None):
        raise UsageError(
            "`--window` and `--dynamic` are for models that read in one direction", "this one sees both sides"
        )
    name, ids, train_ids = runs.text_to_score(file, part, corpus, encoding, unknown)
    net = CharModel(file.spec)
    net.load_arrays(file.weights)
    scores = evaluation.evaluate(net, ids, window)
    adapted = evaluation.evaluate_dynamically(net, ids) if dynamic else None
    # What counts and compresses sees one side only: it is no measure for a model that sees both.
    with_baselines = with_baselines and not is_masked
    rows = list(baselines(train_ids, ids, file.vocabulary)) if with_baselines and train_ids is not None else []
    if as_json:
        in_units = partial(file.vocabulary.in_units, is_masked=is_masked)
        beside = [in_units(row.to_json()) for row in rows]
        learning = in_units(adapted.to_json()) if adapted else None
        figures = {**in_units(scores.to_json()), "dynamic": learning, "baselines": beside}
        print_json({"corpus": name, "window": window, **figures})
        return
    unit = file.vocabulary.unit
    context = "state carried through" if window is None else f"windows of {window} {unit}s, each from nothing"
    if is_masked:
        context = "each of them hidden in turn, all others read"
    print(f"{one_line(name)}, {scores.characters:,} {unit}s, {context}")
    unit = f"masked {unit}" if is_masked else unit
    print(f"{scores.bits_per_character:8.4f} bits per {unit} ({scores.nats_per_character:.4f} nats)")
    print(f"{scores.perplexity_per_character:8.3f} perplexity per {unit}")
    print(f"{scores.top1_accuracy:8.1%} of {unit}s were the likeliest, {scores.top5_accuracy:.1%} among the first five")
    if adapted:
        print(
            f"{adapted.bits_per_character:8.4f} bits per {unit} by dynamic evaluation: learning from each "
            f"{evaluation.SEGMENT_SIZE} {unit}s once they are scored ({adapted.nats_per_character:.4f} nats)"
        )
    if rows:
        print(f"beside it, in bits per {unit} of the same text:")
    for row in sorted(rows, key=lambda row: row.bits_per_character):
        seen = f", given {row.characters_seen:,} {unit}s of the training part" if row.characters_seen else ""
        print(f"{row.bits_per_character:8.4f} {row.name}{seen}")
