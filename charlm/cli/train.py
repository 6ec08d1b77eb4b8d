"""The command that trains: it begins a run or resumes one, sees it through and shows what it writes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from charlm.cli.options import (
    SAMPLE_TEMPERATURE,
    CorpusNames,
    Encoding,
    Json,
    Seed,
)
from charlm.cli.render import print_json
from charlm.errors import UsageError


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
        from charlm.config_file import describe_settings

        print(describe_settings())
        return
    from charlm.config_file import load_config, to_yaml

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
    effective = None if resume else load_config(config, overrides or [], flags)
    from charlm.training import lifecycle as runs

    if effective and dry_run:
        would_be = runs.rehearse(effective)
        settings_of, expected = would_be.config, would_be.expected.to_json()
        texts = (str(would_be.runtime), would_be.reason)
        print_rehearsal(to_yaml(settings_of), settings_of.model_dump(), *texts, expected, as_json)
        return
    run = runs.begin(effective, out) if effective else runs.resume(resume or Path(), overrides or [], flags, new_text)
    with run as training:
        runs.learn(training)
        runs.conclude(training, sample_length, SAMPLE_TEMPERATURE, as_json)


def print_rehearsal(
    settings: str, values: dict[str, Any], runtime: str, reason: str, expected: dict[str, Any], as_json: bool
) -> None:
    """Print the settings of a run, as a settings file, and as remarks in it what the run will take."""
    if as_json:
        print_json({"settings": values, "runtime": runtime, "size": reason, **expected})
        return
    print(settings, end="")
    if reason:
        print(f"# {reason}")
    print(f"# {expected['parameters']:,} parameters, a model file of {expected['model_bytes'] / 1e6:,.1f} MB")
    print(f"# about {expected['memory_bytes'] / 1e6:,.0f} MB of memory on {runtime}")
    print(
        f"# about {expected['seconds']:,.0f} s: {expected['steps']:,} blocks, {expected['epochs']:,.2f} epochs "
        f"at {expected['characters_per_second']:,.0f} characters/s"
    )
