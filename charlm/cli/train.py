"""The command that trains: it starts or resumes a run, follows it to its end and shows a sample."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from charlm.cli.options import SAMPLE_TEMPERATURE, CorpusNames, Encoding, Json, Seed
from charlm.cli.render import print_json, show_download
from charlm.errors import UsageError
from charlm.files import bundled_configs

if TYPE_CHECKING:
    from charlm.config import Config


SettingsFile = Annotated[
    str | None, typer.Argument(help=f"A settings file, or {', '.join(bundled_configs())}; lstm by default.")
]


def train(
    config: SettingsFile = None,
    corpus: CorpusNames = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", help="Override a setting, as in model.hidden_size=256; may be repeated."),
    ] = None,
    time: Annotated[str | None, typer.Option(help="How long to train, as in 60s, 15m or 2h.")] = None,
    out: Annotated[Path | None, typer.Option(help="The run folder to make; runs/NAME-1 and so on by default.")] = None,
    resume: Annotated[Path | None, typer.Option(help="Continue the run in this folder.")] = None,
    new_text: Annotated[
        bool, typer.Option("--new-text", help="With --resume: continue although the text is not the same.")
    ] = False,
    encoding: Encoding = None,
    seed: Seed = None,
    sample_length: Annotated[int, typer.Option(min=0, help="Characters of the sample at the end.")] = 500,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the settings, and what it would take, without training.")
    ] = False,
    as_json: Json = False,
    help_settings: Annotated[
        bool, typer.Option("--help-settings", help="List every setting and exit; with --json for programs.")
    ] = False,
) -> None:
    """Train a model on a text and show a sample of it.

    charlm train --corpus my-novel.txt --time 5m

    charlm train gru --corpus tinyshakespeare --set model.hidden_size=256
    """
    if help_settings:
        _print_settings(as_json)
        return
    flags = {"data.corpus": corpus, "data.encoding": encoding, "seed": seed, "train.time": time}
    flags = {key: value for key, value in flags.items() if value is not None}
    _check_together(resume, new_text, dry_run, bool(config or out or encoding or seed is not None))
    from charlm.config_file import load_config
    from charlm.training.load_torch import load_torch

    # Read before torch is loaded, so that a mistake is reported at once.
    settings = None if resume else load_config(config, overrides or [], flags)
    load_torch()
    if settings and dry_run:
        _dry_run(settings, as_json)
        return
    from charlm.cli.train_session import announce, learn, report_outcome
    from charlm.nn.runtime import keep_freed_memory
    from charlm.training import lifecycle

    keep_freed_memory()
    if settings:
        run = lifecycle.begin(settings, out, show_download)
    else:
        run = lifecycle.resume(resume or Path(), overrides or [], flags, new_text, show_download)
    with run as trainer:
        announce(trainer)
        learn(trainer)
        report_outcome(trainer, sample_length, SAMPLE_TEMPERATURE, as_json)


def _print_settings(as_json: bool) -> None:
    from charlm.config_file import describe_settings, list_settings

    if as_json:
        print_json(list_settings())
    else:
        print(describe_settings())


def _check_together(resume: Path | None, new_text: bool, dry_run: bool, is_of_new_run: bool) -> None:
    """Refuse options that do not fit together."""
    if resume and is_of_new_run:
        raise UsageError(
            "`--resume` continues a run with the settings it was started with",
            "no settings file, --out, --encoding or --seed",
        )
    if new_text and not resume:
        raise UsageError("`--new-text` is for `--resume`", "a new run takes any text")
    if dry_run and resume:
        raise UsageError("`--dry-run` is for a new run", "`config.yaml` in its folder has the settings of a run")


def _dry_run(config: Config, as_json: bool) -> None:
    """Print what a run would take, without training."""
    from charlm.config_file import to_yaml
    from charlm.nn.runtime import keep_freed_memory
    from charlm.training.lifecycle import dry_run

    keep_freed_memory()
    expected = dry_run(config, show_download)
    settings, values = to_yaml(expected.config), expected.config.model_dump()
    print_dry_run(settings, values, str(expected.runtime), expected.reason, expected.expected.to_json(), as_json)


def print_dry_run(
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
