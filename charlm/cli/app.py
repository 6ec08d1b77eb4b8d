"""The commands: parse, call, print. What they need is imported when they run, so that `--help` is instant."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from charlm import __version__
from charlm.cli import reports
from charlm.cli.errors import Commands
from charlm.cli.options import CorpusNames, Encoding, Json, Model, Seed, Unknown, as_given, as_read, model_file
from charlm.cli.render import print_filling, print_json, print_rehearsal, say, write_texts
from charlm.errors import UsageError

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


@app.callback(invoke_without_command=True)
def main(version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    """Train, sample and probe character-level recurrent language models."""
    if version:
        print(f"charlm {__version__}")
        raise typer.Exit


@app.command()
def train(
    config: Annotated[
        str | None, typer.Argument(help="A settings file, or lstm, gru, rnn, quick, best, hello; lstm by default.")
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
        from charlm.config_file import describe

        print(describe())
        return
    from charlm import config_file as settings

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
    from charlm.training import lifecycle as runs

    if effective and dry_run:
        would_be = runs.rehearse(effective)
        settings_of, expected = would_be.config, would_be.expected.to_json()
        texts = (str(would_be.runtime), would_be.reason)
        print_rehearsal(settings_of.to_yaml(), settings_of.model_dump(), *texts, expected, as_json)
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
    from charlm.inference import sample as sampling
    from charlm.inference.stepper import Stepper

    stepper = Stepper(model_file(model))
    (text,) = as_read(stepper.vocabulary, sys.stdin.read() if prompt == "-" else as_given(prompt))
    choice = sampling.Choice(temperature, top_k, top_p, min_p)
    logits_BV, state = sampling.start(stepper, text, unknown)
    stops = [as_given(end) for end in stop or ()]
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
        texts = sampling.joined(stepper, pieces, shown, num)
        print_json([{"seed": seed, "text": text} for seed, text in zip(seeds, texts, strict=True)])
    elif stepper.is_backward:
        # It grows from its end, and can be shown only when it has begun.
        write_texts(enumerate(sampling.joined(stepper, pieces, shown, num)), "", seeds)
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
    """Show which character may come next.

    Without TEXT at every keystroke; with a backward model, which character may come before.

    charlm predict-next "To be or not to b"

    charlm predict-next
    """
    from charlm.cli import repl
    from charlm.inference.stepper import Stepper

    stepper = Stepper(model_file(model))
    if text is None and sys.stdin.isatty() and not as_json:
        repl.converse(repl.Reader(stepper), top)
        return
    if text is None:
        predictions = repl.answer_lines(stepper, top, unknown)
    else:
        (given,) = as_read(stepper.vocabulary, sys.stdin.read() if text == "-" else as_given(text))
        predictions = iter([repl.predict(stepper, given, top, unknown)])
    for prediction in predictions:
        if as_json:
            print_json(prediction.to_json())
        else:
            print("\n".join(prediction.lines(repl.bar_character())), flush=True)


@app.command()
def fill(
    text: Annotated[str, typer.Argument(help="The text with its blanks; - reads it from standard input.")],
    model: Model = None,
    blank: Annotated[str, typer.Option(help="What stands for one character that is not known.")] = "_",
    top: Annotated[int, typer.Option(min=1, help="How many characters to list for each blank.")] = 5,
    unknown: Unknown = "error",
    as_json: Json = False,
) -> None:
    """Fill the blanks in a text.

    It takes a model that reads from both sides: charlm train --set model.direction=both

    charlm fill "the clo_ds are in the sk_"
    """
    from charlm.inference.fill import Filler

    filler = Filler(model_file(model))
    given, mark = sys.stdin.read() if text == "-" else as_given(text), as_given(blank)
    if len(mark) != 1:
        raise UsageError(f"`{mark}` is not one character", "`--blank` names what stands for one unknown character")
    if mark not in given:
        raise UsageError(f"there is no blank in this text, no `{mark}`", "`--blank` names another character for it")
    filling = filler.fill(as_read(filler.vocabulary, *given.split(mark)), top, unknown)
    if as_json:
        print_json(filling.to_json())
    else:
        print_filling(filling.to_json())


app.add_typer(reports.app)
