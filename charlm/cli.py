"""The commands: parse, call, print. What they need is imported when they run, so that `--help` is instant."""

from __future__ import annotations

import itertools
import json
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.core import TyperGroup

from charlm import __version__
from charlm.errors import CharlmError, UsageError

if TYPE_CHECKING:
    from charlm.checkpoint import ModelFile
    from charlm.corpus import Corpus
    from charlm.train import Training


class _Commands(TyperGroup):
    """Tells every known error in one line with a hint, and ends quietly when nobody reads on."""

    def invoke(self, ctx: Any) -> Any:
        for stream in (sys.stdout, sys.stderr):
            # A console that cannot print a character shows its escape instead of failing.
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="backslashreplace")
        try:
            return super().invoke(ctx)
        except CharlmError as error:
            raise typer.Exit(_report(str(error), error.hint, error.exit_code)) from None
        except BrokenPipeError:
            # Whoever read the output has enough. Python must not find out again when it flushes at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(0) from None
        except OSError as error:
            place = f"`{error.filename}`: " if error.filename else ""
            raise typer.Exit(_report(f"{place}{error.strerror or error}", "", 1)) from None


SAMPLE_TEMPERATURE = 0.8

app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Train, sample and probe character-level recurrent language models.",
)

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
        str | None, typer.Argument(help="A settings file, or lstm, gru, rnn, quick; lstm by default.")
    ] = None,
    corpus: CorpusNames = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", help="Override a setting, as in model.hidden_size=256; may be repeated."),
    ] = None,
    time: Annotated[str | None, typer.Option(help="How long to train, as in 60s, 15m or 2h.")] = None,
    out: Annotated[Path | None, typer.Option(help="The run folder to make; runs/NAME-1 and so on by default.")] = None,
    resume: Annotated[Path | None, typer.Option(help="Go on with the run in this folder.")] = None,
    encoding: Encoding = None,
    seed: Seed = None,
    sample_length: Annotated[int, typer.Option(min=0, help="Characters of the sample at the end.")] = 500,
    as_json: Json = False,
) -> None:
    """Train a model on a text and show a sample of it.

    charlm train --corpus my-novel.txt --time 5m

    charlm train gru --corpus tinyshakespeare --set model.hidden_size=256
    """
    flags = {"data.corpus": corpus, "data.encoding": encoding, "seed": seed, "train.time": time}
    flags = {key: value for key, value in flags.items() if value is not None}
    if resume is None:
        training = _begun(config, overrides or [], flags, out)
    elif config or out or encoding or seed is not None:
        raise UsageError("`--resume` goes on with a run as it was begun", "of its settings only `train` can be changed")
    else:
        training = _resumed(resume, overrides or [], flags)
    _learn(training)
    _conclude(training, sample_length, as_json)


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
    num: Annotated[int, typer.Option(min=1, help="How many samples; text k has the seed plus k.")] = 1,
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
    text = sys.stdin.read() if prompt == "-" else prompt
    choice = sampling.Choice(temperature, top_k, top_p, min_p)
    logits_BV, state = sampling.start(stepper, text, unknown)
    first_seed = sampling.draw_seed() if seed is None else seed
    if seed is None:
        _say(f"seed {first_seed}")
    seeds = [first_seed + index for index in range(num)]
    pieces = sampling.stream(
        stepper, logits_BV, state, length=length, choice=choice, seeds=seeds, stop=stop or (), lines=lines
    )
    shown = "" if hide_prompt else text
    if as_json:
        texts = [[shown] for _ in seeds]
        for index, grown in pieces:
            texts[index].append(grown)
        _print_json([{"seed": seed, "text": "".join(text)} for seed, text in zip(seeds, texts, strict=True)])
    else:
        _write_texts(pieces, shown, seeds)


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
    reader = repl.Reader(stepper, unknown)
    if text is not None:
        reader.read(sys.stdin.read() if text == "-" else text)
    for prediction in repl.answer_lines(reader, top) if text is None else [reader.predict(top)]:
        if as_json:
            _print_json(prediction.to_json())
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
    as_json: Json = False,
) -> None:
    """Measure how well a model predicts a text it has not learned, in bits per character.

    charlm eval --part test

    charlm eval --corpus another.txt --json
    """
    if part and corpus:
        raise UsageError("`--part` and `--corpus` exclude each other", "`--corpus` is always scored as a whole")
    from charlm import evaluate as evaluation
    from charlm.model import build

    file = _model_file(model)
    name, ids = _text_to_score(file, part, corpus, encoding, unknown)
    net = build(file.config["model"], len(file.vocabulary))
    net.load_arrays(file.weights)
    scores = evaluation.evaluate(net, ids, window)
    context = "state carried through" if window is None else f"windows of {window} characters, each from nothing"
    if as_json:
        _print_json({"corpus": name, "window": window, **scores.to_json()})
        return
    print(f"{name}, {scores.characters:,} characters, {context}")
    print(f"{scores.bits_per_character:8.4f} bits per character ({scores.nats_per_character:.4f} nats)")
    print(f"{scores.perplexity_per_character:8.3f} perplexity per character")
    print(
        f"{scores.top1_accuracy:8.1%} of characters were the likeliest, {scores.top5_accuracy:.1%} among the first five"
    )


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
        entries()[name].sources(_progress)
    rows = []
    for name, entry in entries().items():
        row: dict[str, Any] = {"name": name, "language": entry.language, "licence": entry.licence, "about": entry.about}
        if entry.is_here:
            text = texts.load([name])
            row |= {"bytes": text.num_bytes, "characters": len(text.ids), "vocabulary": len(text.vocabulary)}
        else:
            row |= {"bytes": entry.member_bytes or entry.bytes, "address": entry.address}
        rows.append(row)
    if as_json:
        _print_json(rows)
    else:
        _print_corpora(rows)


def _begun(config: str | None, overrides: list[str], flags: dict[str, Any], out: Path | None) -> Training:
    """Set up a new run and write down its settings."""
    from charlm import config as settings
    from charlm.checkpoint import RunFolder
    from charlm.files import write_atomic
    from charlm.sample import draw_seed

    effective = settings.load(config, overrides, flags)
    if effective.seed is None:
        effective = effective.model_copy(update={"seed": draw_seed()})
    text = _text_of(effective.data.model_dump(), effective.vocab)
    first = effective.data.corpus[0]
    name = "stdin" if first == "-" else Path(first).stem or "text"
    run = RunFolder.create(out, f"{name}-{effective.model.cell}")
    write_atomic(run.config, effective.to_yaml().encode())
    return _training(effective, text, run)


def _resumed(path: Path, overrides: list[str], flags: dict[str, Any]) -> Training:
    """Take up a run where it was left."""
    from charlm import config as settings
    from charlm.checkpoint import RunFolder, load
    from charlm.files import write_atomic

    run = RunFolder.open(path)
    last = load(run.last)
    begun = settings.validate(last.config, {}, str(run.last))
    corpus = flags.pop("data.corpus", begun.data.corpus)
    effective = settings.override(last.config, overrides, flags)
    if effective.model_dump(exclude={"train"}) != begun.model_dump(exclude={"train"}):
        raise UsageError("`--resume` goes on with a run as it was begun", "of its settings only `train` can be changed")
    text = _text_of(effective.data.model_dump() | {"corpus": corpus}, effective.vocab)
    training = _training(effective, text, run)
    training.restore(last)
    training.reopen()
    run.truncate_metrics(training.progress.step)
    write_atomic(run.config, effective.to_yaml().encode())
    return training


def _training(effective: Any, text: Corpus, run: Any) -> Training:
    from charlm.runtime import Runtime
    from charlm.train import Training

    runtime = Runtime.choose(effective.train.device, effective.train.precision, effective.train.threads)
    training = Training(effective, text, run, runtime)
    settings = effective.model
    _say(f"run {run.path}, seed {effective.seed}, {runtime}")
    _say(f"text {text.name}: {len(text.ids):,} characters, {len(text.vocabulary):,} different")
    _say(f"model {settings.num_layers}x{settings.hidden_size} {settings.cell}, {training.num_parameters:,} parameters")
    for note in training.notes:
        _say(f"note: {note}")
    return training


def _learn(training: Training) -> None:
    """Train to the end, or to the first Ctrl-C or SIGTERM, after which the process exits as those ask for."""
    from charlm.display import TrainingDisplay
    from charlm.signals import Interrupt

    with training.run.locked(), TrainingDisplay(training) as display:
        farewell = "finishing this block and saving; again to quit at once"
        with Interrupt(lambda: display.say(farewell)) as interrupt:

            def should_stop() -> bool:
                display.tick()
                return interrupt.signal is not None

            for record in training.learn(should_stop):
                display.show(record)
    if interrupt.signal is not None and not training.progress.finished:
        _say(f"saved at step {training.progress.step:,}; `charlm train --resume {training.run.path}` goes on")
        raise typer.Exit(interrupt.exit_code)


def _conclude(training: Training, sample_length: int, as_json: bool) -> None:
    """Measure the best model, show what it writes, and say where it is."""
    from charlm import sample as sampling
    from charlm.checkpoint import load
    from charlm.stepper import Stepper

    scores = training.measure_best()
    best = training.run.best
    file = load(best)
    measured = "" if scores is None else f": {scores.bits_per_character:.3f} bits per character on validation text"
    _say(f"best model, of step {file.metrics['step']:,}, in {best}{measured}")
    stepper = Stepper(file)
    choice = sampling.Choice(temperature=SAMPLE_TEMPERATURE)
    seed = training.config.seed or 0
    pieces = sampling.stream(stepper, *sampling.start(stepper, ""), length=sample_length, choice=choice, seeds=[seed])
    if as_json:
        text = "".join(grown for _, grown in pieces)
        _print_json({"run": str(training.run.path), "model": str(best), **file.metrics, "sample": text, "seed": seed})
        return
    _say(f"it writes, at temperature {SAMPLE_TEMPERATURE}:\n")
    _write_texts(pieces, "", [seed])


def _text_of(data: dict[str, Any], kind: Any) -> Corpus:
    from charlm import corpus

    return corpus.load(data["corpus"], encoding=data["encoding"], kind=kind, progress=_progress)


def _text_to_score(
    file: ModelFile, part: str | None, names: list[str] | None, encoding: str | None, unknown: str
) -> tuple[str, Any]:
    """Return name and ids of what `eval` is asked to score."""
    from charlm import corpus

    data = file.config["data"]
    if names:
        options = {"encoding": encoding or "utf-8", "vocabulary": file.vocabulary, "unknown": unknown}
        text = corpus.load(names, progress=_progress, **options)  # type: ignore[arg-type]
        return text.name, text.ids
    text = _text_of(data, file.vocabulary.kind)
    if text.sha256 != file.corpus["sha256"]:
        raise UsageError(
            f"the text `{text.name}` is not, or no longer, what this model learned",
            "`--corpus` scores any text as a whole",
        )
    chosen = part or "validation"
    parts = corpus.split(text.ids, data["validation_fraction"], data["test_fraction"])
    return f"{chosen} part of {text.name}", getattr(parts, chosen)


def _model_file(path: Path | None) -> ModelFile:
    """Load the model that is meant, and say which it is where nobody said."""
    from charlm.checkpoint import find_model, load

    found = find_model(path)
    if path is None:
        _say(f"model {found}")
    return load(found)


def _stepper(path: Path | None) -> Any:
    from charlm.stepper import Stepper

    return Stepper(_model_file(path))


def _write_texts(pieces: Iterator[tuple[int, str]], shown: str, seeds: list[int]) -> None:
    """Write the first text as it grows and the others, which grow beside it, when it is done."""
    others: list[list[str]] = [[] for _ in seeds]

    def write(index: int, texts: Iterable[str]) -> None:
        if len(seeds) > 1:
            _say(f"--- seed {seeds[index]}")
        last = "\n"
        for text in itertools.chain([shown], texts):
            sys.stdout.write(text)
            sys.stdout.flush()
            last = text[-1:] or last
        # A text goes into a pipe as it is; on a terminal and between texts it ends its line.
        if last != "\n" and (len(seeds) > 1 or sys.stdout.isatty()):
            print(flush=True)

    def first() -> Iterator[str]:
        for index, grown in pieces:
            if index == 0:
                yield grown
            else:
                others[index].append(grown)

    write(0, first())
    for index in range(1, len(seeds)):
        write(index, others[index])


def _progress(here: int, total: int | None) -> None:
    """Show a download on a terminal, in place."""
    if sys.stderr.isatty():
        share = f" of {total / 1e6:,.1f}" if total else ""
        print(f"\r{here / 1e6:,.1f}{share} MB", end="\n" if here == total else "", file=sys.stderr, flush=True)


def _print_corpora(rows: list[dict[str, Any]]) -> None:
    print(f"{'name':<15} {'bytes':>11} {'characters':>11} {'different':>9}  about")
    for row in rows:
        bytes_, characters, different = (
            f"{row[key]:,}" if row.get(key) else "-" for key in ("bytes", "characters", "vocabulary")
        )
        print(f"{row['name']:<15} {bytes_:>11} {characters:>11} {different:>9}  {row['about']} ({row['licence']})")
    print("\nWhere the characters are missing the text is not here yet: it is downloaded when it is first used.")


def _print_json(value: Any) -> None:
    print(json.dumps(value), flush=True)


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def _report(message: str, hint: str, exit_code: int) -> int:
    typer.secho(f"error: {message}", fg="red", err=True)
    if hint:
        typer.echo(f"hint: {hint}", err=True)
    return exit_code
