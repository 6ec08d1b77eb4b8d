"""The commands that measure, compare and explain: parse, call, print. What they need is imported when they run."""

from __future__ import annotations

import difflib
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from charlm.cli.options import CorpusNames, Encoding, Json, Model, Unknown, as_given, as_read, model_file
from charlm.cli.render import print_bench, print_corpora, print_explanation, print_json, say, show_download
from charlm.errors import UsageError, one_line

app = typer.Typer()


@app.command("eval")
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


@app.command()
def corpora(
    fetch: Annotated[list[str] | None, typer.Option(help="Download this corpus now; may be repeated.")] = None,
    as_json: Json = False,
) -> None:
    """List the corpora that are known by name.

    charlm corpora

    charlm corpora --fetch enwik8
    """
    from charlm.data import corpus as texts
    from charlm.data.catalog import entries

    for name in fetch or []:
        if name not in entries():
            raise UsageError(f"there is no corpus `{name}`", f"there are {', '.join(entries())}")
        entries()[name].sources(show_download)
    rows = []
    for name, entry in entries().items():
        row: dict[str, Any] = {"name": name, "language": entry.language, "licence": entry.licence, "about": entry.about}
        if entry.is_here:
            text = texts.load([name])
            row |= {"bytes": text.num_bytes, "characters": len(text.ids), "vocabulary": len(text.vocabulary)}
        else:
            row |= {"bytes": entry.member_bytes or entry.bytes, "address": entry.address}
            row |= {"characters": entry.characters, "vocabulary": entry.vocabulary}
        rows.append(row)
    if as_json:
        print_json(rows)
    else:
        print_corpora(rows)


@app.command()
def bench(
    only: Annotated[
        Literal["training", "sampling", "texts", "starting"] | None, typer.Option(help="Measure this part alone.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Each figure is the median of so many.")] = 5,
    as_json: Json = False,
) -> None:
    """Measure how fast charlm is on this machine.

    Beside torch as one would write it, in turns.

    charlm bench

    charlm bench --only sampling --json
    """
    from charlm.evaluation import bench as benchmark
    from charlm.nn.runtime import Runtime

    runtime = Runtime.choose("auto", "auto", None)
    machine = benchmark.machine(runtime)
    rows = benchmark.rows(runtime, [only] if only else benchmark.PARTS, rounds)
    command = f"charlm bench {f'--only {only} ' if only else ''}--rounds {rounds}"
    if as_json:
        print_json({"machine": machine, "command": command, "rows": [row.to_json() for row in rows]})
    else:
        print_bench(machine, command, (row.to_json() for row in rows))


@app.command()
def compare(
    runs: Annotated[list[Path] | None, typer.Argument(help="Run folders; by default all in runs/.")] = None,
    as_json: Json = False,
) -> None:
    """Put runs side by side in a table.

    Parameters, speed, and validation after equal time and equal steps.

    charlm compare runs/fables-lstm-1 runs/fables-gru-1
    """
    from charlm.evaluation import compare as comparison

    compared = comparison.compare(runs or comparison.all_runs())
    for note in compared.notes:
        say(f"note: {note}")
    if as_json:
        print_json(compared.to_json())
    else:
        print(compared.to_markdown())
        say(f"validation in bits per {compared.per}; `best` as measured at the end, the others on the beginning")


@app.command()
def explain(
    cell: Annotated[str | None, typer.Argument(help="A cell by name; without one, all of them are listed.")] = None,
    hidden_size: Annotated[int | None, typer.Option(min=1, max=16384, help="Units of a layer; 512.")] = None,
    embedding_size: Annotated[
        int | None, typer.Option(min=0, max=4096, help="Numbers of an embedding, 0 for one-hot; 64.")
    ] = None,
    layers: Annotated[int | None, typer.Option(min=1, max=16, help="Layers; 1.")] = None,
    symbols: Annotated[int | None, typer.Option(min=1, max=0x110000, help="Different characters; 65.")] = None,
    model: Model = None,
    text: Annotated[str | None, typer.Option(help="Let a model read this, and show its last step in numbers.")] = None,
    unknown: Unknown = "error",
    as_json: Json = False,
) -> None:
    """Show a cell's equations, and a step in numbers.

    How many parameters a model of given sizes has, and for a trained model and a text every gate of one unit.

    charlm explain gru --hidden-size 128

    charlm explain --model runs/fables-lstm-1 --text "The old fo"
    """
    from charlm.inference import explain as explanation
    from charlm.spec import ModelSpec

    known = explanation.cells()
    if cell is not None and cell not in known:
        close = difflib.get_close_matches(cell.lower(), known, n=1)
        raise UsageError(
            f"there is no cell `{cell}`", f"did you mean `{close[0]}`?" if close else f"there are {', '.join(known)}"
        )
    is_of_model = model is not None or text is not None
    has_sizes = any(size is not None for size in (hidden_size, embedding_size, layers, symbols))
    if has_sizes and (cell is None or is_of_model):
        raise UsageError("sizes are for a cell without a model", "a model has its own; without one, name a cell")
    if cell is None and not is_of_model:
        if as_json:
            print_json(known)
        else:
            print("\n".join(f"{name:<18}{line}" for name, line in known.items()))
        return
    step = None
    if not is_of_model:
        embedding = 64 if embedding_size is None else embedding_size
        spec = ModelSpec(str(cell), symbols or 65, embedding, hidden_size or 512, layers or 1)
    else:
        file = model_file(model)
        spec = file.spec
        if cell not in (None, spec.cell):
            raise UsageError(f"this model is of the cell {spec.cell}, not {cell}", "leave the cell away")
        if text is not None:
            (given_text,) = as_read(file.vocabulary, as_given(text))
            step = explanation.take_step(file, given_text, unknown).to_json()
    description = explanation.describe(spec).to_json()
    if as_json:
        print_json({**description, "step": step})
    else:
        print_explanation(description, step)
