"""The commands: parse, call, print. What they need is imported when they run, so that `--help` is instant."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from charlm import __version__
from charlm.console import Commands
from charlm.errors import UsageError, one_line
from charlm.output import print_bench, print_corpora, print_json, print_rehearsal, say, show_download, write_texts

if TYPE_CHECKING:
    from charlm.checkpoint import ModelFile


# A little below 1: what is improbable is mostly a mistake of the model's.
SAMPLE_TEMPERATURE = 0.7

app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Train, sample and probe character-level recurrent language models.",
)


def _as_given(text: str) -> str:
    """Undo a locale that could not read an argument: the bytes a shell passes are UTF-8 today."""
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8")
    except UnicodeError:
        return text


Model = Annotated[
    Path | None, typer.Option("--model", "-m", help="A model file or a run folder; by default the newest run in runs/.")
]
CorpusNames = Annotated[
    list[str] | None,
    typer.Option("--corpus", "-c", help="A corpus by name, a file, a folder, a glob, or - ; may be repeated."),
]
Encoding = Annotated[str | None, typer.Option(help="How the text's bytes spell characters; UTF-8 by default.")]
Unknown = Annotated[
    str, typer.Option(help="What to do about characters the model does not know: error, skip, or replace=C.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Seed = Annotated[int | None, typer.Option(min=0, help="Makes it repeatable; drawn and told where absent.")]


@app.callback(invoke_without_command=True)
def main(version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    """Train, sample and probe character-level recurrent language models."""
    if version:
        print(f"charlm {__version__}")
        raise typer.Exit


@app.command()
def train(
    config: Annotated[
        str | None, typer.Argument(help="A settings file, or lstm, gru, rnn, quick, best; lstm by default.")
    ] = None,
    corpus: CorpusNames = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", help="Override a setting, as in model.hidden_size=256; may be repeated."),
    ] = None,
    time: Annotated[str | None, typer.Option(help="How long to train, as in 60s, 15m or 2h.")] = None,
    out: Annotated[Path | None, typer.Option(help="The run folder to make; runs/NAME-1 and so on by default.")] = None,
    resume: Annotated[Path | None, typer.Option(help="Go on with the run in this folder.")] = None,
    new_text: Annotated[
        bool, typer.Option("--new-text", help="With --resume: go on although the text is not, or no longer, the same.")
    ] = False,
    encoding: Encoding = None,
    seed: Seed = None,
    sample_length: Annotated[int, typer.Option(min=0, help="Characters of the sample at the end.")] = 500,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the settings, and what it would take, without training.")
    ] = False,
    as_json: Json = False,
    help_settings: Annotated[bool, typer.Option("--help-settings", help="List every setting and exit.")] = False,
) -> None:
    """Train a model on a text and show a sample of it.

    charlm train --corpus my-novel.txt --time 5m

    charlm train gru --corpus tinyshakespeare --set model.hidden_size=256
    """
    if help_settings:
        from charlm.config import describe

        print(describe())
        return
    from charlm import config as settings

    flags = {"data.corpus": corpus, "data.encoding": encoding, "seed": seed, "train.time": time}
    flags = {key: value for key, value in flags.items() if value is not None}
    if resume and (config or out or encoding or seed is not None):
        raise UsageError(
            "`--resume` goes on with a run as it was begun", "no settings file, --out, --encoding or --seed"
        )
    if new_text and not resume:
        raise UsageError("`--new-text` is for `--resume`", "a new run takes any text")
    if dry_run and resume:
        raise UsageError("`--dry-run` is for a new run", "`config.yaml` in its folder has the settings of a run")
    # Read before torch is loaded, so that a mistake is told at once.
    effective = None if resume else settings.load(config, overrides or [], flags)
    from charlm import runs

    if effective and dry_run:
        runtime, expected = runs.rehearse(effective)
        print_rehearsal(effective.to_yaml(), effective.model_dump(), runtime, expected.to_json(), as_json)
        return
    run = runs.begin(effective, out) if effective else runs.resume(resume or Path(), overrides or [], flags, new_text)
    with run as training:
        runs.learn(training)
        runs.conclude(training, sample_length, SAMPLE_TEMPERATURE, as_json)


@app.command()
def sample(
    prompt: Annotated[str, typer.Argument(help="The text to go on from; - reads it from standard input.")] = "",
    model: Model = None,
    length: Annotated[int, typer.Option("--length", "-n", min=0, help="New characters, the prompt not counted.")] = 500,
    temperature: Annotated[
        float, typer.Option("--temperature", "-t", help="0 takes the likeliest; 1 draws as learned.")
    ] = (SAMPLE_TEMPERATURE),
    top_k: Annotated[int | None, typer.Option(help="Draw from the K likeliest characters only.")] = None,
    top_p: Annotated[float, typer.Option(help="Draw from the likeliest that reach this probability together.")] = 1.0,
    min_p: Annotated[
        float, typer.Option(help="Leave out what is less than this share as likely as the likeliest.")
    ] = 0.0,
    num: Annotated[int, typer.Option(min=1, max=10_000, help="How many samples; text k has the seed plus k.")] = 1,
    stop: Annotated[list[str] | None, typer.Option(help="End at this text, which is kept; may be repeated.")] = None,
    lines: Annotated[int | None, typer.Option(min=1, help="End after so many lines.")] = None,
    hide_prompt: Annotated[bool, typer.Option("--hide-prompt", help="Print the new text alone.")] = False,
    seed: Seed = None,
    unknown: Unknown = "error",
    as_json: Json = False,
) -> None:
    """Write text with a model.

    charlm sample "Once upon a time" --temperature 0.7

    charlm sample --num 5 --lines 1 --seed 1
    """
    from charlm import sample as sampling

    stepper = _stepper(model)
    text = sys.stdin.read() if prompt == "-" else _as_given(prompt)
    choice = sampling.Choice(temperature, top_k, top_p, min_p)
    logits_BV, state = sampling.start(stepper, text, _as_given(unknown))
    stops = [_as_given(end) for end in stop or ()]
    if "" in stops:
        raise UsageError("an empty stop text would end every text at once", "leave `--stop` away for none")
    first_seed = sampling.draw_seed() if seed is None else seed
    if seed is None:
        say(f"seed {first_seed}")
    seeds = [first_seed + index for index in range(num)]
    pieces = sampling.stream(
        stepper, logits_BV, state, length=length, choice=choice, seeds=seeds, stop=stops, lines=lines
    )
    shown = "" if hide_prompt else text
    if as_json:
        texts = [[shown] for _ in seeds]
        for index, grown in pieces:
            texts[index].append(grown)
        print_json([{"seed": seed, "text": "".join(text)} for seed, text in zip(seeds, texts, strict=True)])
    else:
        write_texts(pieces, shown, seeds)


@app.command()
def predict_next(
    text: Annotated[str | None, typer.Argument(help="The text so far; - reads it from standard input.")] = None,
    model: Model = None,
    top: Annotated[int, typer.Option(min=1, help="How many characters to list.")] = 10,
    unknown: Unknown = "error",
    as_json: Json = False,
) -> None:
    """Show which character may come next; without TEXT, at every keystroke.

    charlm predict-next "To be or not to b"

    charlm predict-next
    """
    from charlm import repl

    stepper = _stepper(model)
    if text is None and sys.stdin.isatty() and not as_json:
        repl.converse(repl.Reader(stepper), top)
        return
    if text is None:
        predictions = repl.answer_lines(stepper, top, unknown)
    else:
        given = sys.stdin.read() if text == "-" else _as_given(text)
        predictions = iter([repl.predict(stepper, given, top, unknown)])
    for prediction in predictions:
        if as_json:
            print_json(prediction.to_json())
        else:
            print("\n".join(prediction.lines(repl.bar_character())), flush=True)


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
    """Measure how well a model predicts a text it has not learned, in bits per character.

    charlm eval --part test

    charlm eval --corpus another.txt --json
    """
    if part and corpus:
        raise UsageError("`--part` and `--corpus` exclude each other", "`--corpus` is always scored as a whole")
    if encoding and not corpus:
        raise UsageError("`--encoding` is for `--corpus`", "the run's own text is read as it was in training")
    if dynamic and window is not None:
        raise UsageError("`--dynamic` and `--window` exclude each other", "what is learned on the way is remembered")
    from charlm import evaluate as evaluation
    from charlm import runs
    from charlm.baselines import baselines
    from charlm.model import build

    file = _model_file(model)
    name, ids, train_ids = runs.text_to_score(file, part, corpus, encoding, unknown)
    net = build(file.config["model"], len(file.vocabulary))
    net.load_arrays(file.weights)
    scores = evaluation.evaluate(net, ids, window)
    adapted = evaluation.evaluate_dynamically(net, ids) if dynamic else None
    rows = list(baselines(train_ids, ids, file.vocabulary)) if with_baselines and train_ids is not None else []
    if as_json:
        in_units = file.vocabulary.in_units
        beside = [in_units(row.to_json()) for row in rows]
        learning = in_units(adapted.to_json()) if adapted else None
        figures = {**in_units(scores.to_json()), "dynamic": learning, "baselines": beside}
        print_json({"corpus": name, "window": window, **figures})
        return
    unit = file.vocabulary.unit
    context = "state carried through" if window is None else f"windows of {window} {unit}s, each from nothing"
    print(f"{one_line(name)}, {scores.characters:,} {unit}s, {context}")
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
    """List the corpora that are known by name, with size, characters and vocabulary.

    charlm corpora

    charlm corpora --fetch enwik8
    """
    from charlm import corpus as texts
    from charlm.catalog import entries

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
    """Measure how fast charlm is on this machine, beside torch as one would write it, in turns.

    charlm bench

    charlm bench --only sampling --json
    """
    from charlm import bench as benchmark
    from charlm.runtime import Runtime

    runtime = Runtime.choose("auto", "auto", None)
    machine = benchmark.machine(runtime)
    rows = benchmark.rows(runtime, [only] if only else benchmark.PARTS, rounds)
    command = f"charlm bench {f'--only {only} ' if only else ''}--rounds {rounds}"
    if as_json:
        print_json({"machine": machine, "command": command, "rows": [row.to_json() for row in rows]})
    else:
        print_bench(machine, command, (row.to_json() for row in rows))


def _model_file(path: Path | None) -> ModelFile:
    """Load the model that is meant, and say which it is where nobody said."""
    from charlm.checkpoint import load
    from charlm.run_folder import find_model

    found = find_model(path)
    if path is None:
        say(f"model {found}")
    return load(found)


def _stepper(path: Path | None) -> Any:
    from charlm.stepper import Stepper

    return Stepper(_model_file(path))
