"""The command that trains: it starts or resumes a run, follows it to its end and shows a sample."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from charlm.cli.family import family_settings, train_family
from charlm.cli.layout import screen_width, wrapped
from charlm.cli.options import SAMPLE_TEMPERATURE, CorpusNames, Encoding, Json, Seed, SkipUndecodable
from charlm.cli.render import print_json, print_lines, say
from charlm.errors import UsageError, counted
from charlm.files import bundled_configs
from charlm.machine import process_place
from charlm.run_folder import resume_command

if TYPE_CHECKING:
    from charlm.cli.preparation import Preparation
    from charlm.settings.config import Config
    from charlm.training.distributed import World
    from charlm.training.trainer import Trainer
    from charlm.training.transfer import StartingModel

# Of the sample at the end of a single run.
SAMPLE_LENGTH = 500

Base = Annotated[
    Path | None, typer.Option("--from", help="Start from the model in this file or run folder, on another text.")
]
Family = Annotated[
    str | None, typer.Option(help="Train these cells at equal size and compare them, as in lstm,gru,rnn.")
]
SettingsFile = Annotated[
    str | None, typer.Argument(help=f"A settings file, or {', '.join(bundled_configs())}; lstm by default.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", help="Override a setting, as in model.hidden_size=256; may be repeated."),
]
NewText = Annotated[bool, typer.Option("--new-text", help="With --resume: continue although the text is not the same.")]
SampleLength = Annotated[
    int | None, typer.Option(min=0, help="Characters of the sample at the end; 500, or 0 with --family.")
]
Track = Annotated[
    list[str] | None,
    typer.Option(help="Report also to tensorboard, wandb or mlflow, if that is installed; may be repeated."),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Print the settings, and what it would take, without training.")
]
HelpSettings = Annotated[
    bool, typer.Option("--help-settings", help="List every setting and exit; with --json for programs.")
]


def train(
    config: SettingsFile = None,
    corpus: CorpusNames = None,
    overrides: Overrides = None,
    time: Annotated[str | None, typer.Option(help="How long to train, as in 60s, 15m or 2h.")] = None,
    out: Annotated[Path | None, typer.Option(help="The run folder to make; runs/NAME-1 and so on by default.")] = None,
    family: Family = None,
    base: Base = None,
    resume: Annotated[Path | None, typer.Option(help="Continue the run in this folder.")] = None,
    new_text: NewText = False,
    encoding: Encoding = None,
    skip_undecodable: SkipUndecodable = False,
    seed: Seed = None,
    sample_length: SampleLength = None,
    track: Track = None,
    dry_run: DryRun = False,
    as_json: Json = False,
    help_settings: HelpSettings = False,
) -> None:
    """Train a model on a text and show a sample of it.

    With --family: several cells at equal size, one after the other, and a table and a picture of their curves.

    charlm train --corpus my-novel.txt --time 5m

    charlm train gru --corpus tinyshakespeare --set model.hidden_size=256

    charlm train --from runs/fables-lstm-1 --corpus my-novel.txt

    charlm train --family lstm,gru,rnn --corpus my-novel.txt --time 20s
    """
    if help_settings:
        _print_settings(as_json)
        return
    given = {"data.corpus": corpus, "data.encoding": encoding, "data.skip_undecodable": skip_undecodable or None}
    flags: dict[str, Any] = given | {"seed": seed, "train.time": time}
    flags = {key: value for key, value in flags.items() if value is not None}
    _check_together(resume, new_text, dry_run, family, bool(config or encoding or seed is not None))
    if resume:
        _check_new_run_in_place(resume, base, out, corpus)
    trackers = _check_trackers(track)
    if family is not None:
        settings = family_settings(family, config, overrides or [], flags, resume or base)
        _train_family(settings, out, dry_run, sample_length or 0, trackers, as_json)
        return
    from charlm.cli.preparation import LOADING, Preparation
    from charlm.training.load_torch import load_torch

    _note_on_name(config)
    with Preparation() as preparation:
        preparation.show(LOADING)
        # Read before torch is loaded, so that a mistake is reported at once.
        new, start = (None, None) if resume else _read_settings(config, overrides or [], flags, base)
        load_torch()
        if new and dry_run:
            _dry_run(new, start, preparation, as_json)
            return
        again = resume or Path(), overrides or [], flags, new_text
        open_run = _beginning(new, out, start, preparation) if new else _resuming(*again, preparation)
        _follow(open_run, preparation, SAMPLE_LENGTH if sample_length is None else sample_length, trackers, as_json)


def _beginning(
    config: Config, out: Path | None, start: StartingModel | None, preparation: Preparation
) -> Callable[[World], AbstractContextManager[Trainer]]:
    from charlm.training.lifecycle import begin_or_go_on

    return lambda world: begin_or_go_on(config, out, start, preparation.show, world)


def _resuming(
    path: Path, overrides: list[str], flags: dict[str, Any], new_text: bool, preparation: Preparation
) -> Callable[[World], AbstractContextManager[Trainer]]:
    from charlm.training.lifecycle import resume

    return lambda world: resume(path, overrides, flags, new_text, preparation.show, world)


def _follow(
    open_run: Callable[[World], AbstractContextManager[Trainer]],
    preparation: Preparation,
    sample_length: int,
    trackers: tuple[str, ...],
    as_json: bool,
) -> None:
    """Train to the end, and report what comes of it."""
    from charlm.cli.train_session import announce, learn, report_outcome
    from charlm.nn.runtime import keep_freed_memory
    from charlm.training.distributed import join

    keep_freed_memory()
    with join() as world, open_run(world) as trainer:
        preparation.stop()
        trainer.trackers = trackers
        announce(trainer)
        learn(trainer)
        if world.is_first:
            report_outcome(trainer, sample_length, SAMPLE_TEMPERATURE, as_json)


def _train_family(
    settings: Sequence[Config],
    out: Path | None,
    is_dry: bool,
    sample_length: int,
    trackers: tuple[str, ...],
    as_json: bool,
) -> None:
    """Train several cells, or print what each would take as a YAML document or a line of JSON."""
    from charlm.cli.preparation import LOADING, Preparation
    from charlm.training.load_torch import load_torch

    with Preparation() as preparation:
        preparation.show(LOADING)
        load_torch()
        if not is_dry:
            train_family(settings, out, preparation, sample_length, trackers, as_json)
            return
        from charlm.training.family import equal_members

        for index, (config, _) in enumerate(equal_members(settings, preparation.show)):
            if index and not as_json:
                print("---")
            _dry_run(config, None, preparation, as_json)


def _print_settings(as_json: bool) -> None:
    from charlm.settings.config_file import describe_settings, list_settings

    if as_json:
        print_json(list_settings())
    else:
        width = screen_width(sys.stdout)
        print_lines(line for setting in describe_settings().split("\n") for line in wrapped(setting, width))


def _check_trackers(names: Sequence[str] | None) -> tuple[str, ...]:
    """Check that the trackers that are asked for can be used."""
    if not names:
        return ()
    from charlm.training.trackers import check_trackers

    return check_trackers(names)


def _check_together(
    resume: Path | None, new_text: bool, dry_run: bool, family: str | None, is_of_new_run: bool
) -> None:
    """Refuse options that do not fit together."""
    if resume and is_of_new_run:
        raise UsageError(
            "`--resume` continues a run with the settings it was started with",
            "no settings file, --encoding or --seed",
        )
    if new_text and not resume:
        raise UsageError("`--new-text` is for `--resume`", "a new run takes any text")
    if dry_run and resume:
        raise UsageError("`--dry-run` is for a new run", "`config.yaml` in its folder has the settings of a run")
    if (size := process_place().size) > 1 and (dry_run or family is not None):
        # Each process would do all of it.
        option = "--dry-run" if dry_run else "--family"
        raise UsageError(f"`{option}` is for one process, and torchrun has started {size}", "without torchrun it works")


def _check_new_run_in_place(resume: Path, base: Path | None, out: Path | None, corpus: list[str] | None) -> None:
    """Refuse `--resume` with options of a run that starts from a model."""
    from charlm.training.transfer import command_from

    command = command_from(base or resume, corpus or (), out)
    if base:
        raise UsageError(
            "`--resume` and `--from` exclude each other: one continues a run, the other starts a new one from a model",
            f"{command}, or {resume_command(resume)}",
        )
    if out:
        raise UsageError(
            "`--resume` continues a run in its own folder, so it takes no `--out`",
            f"{command} starts a new run from its model",
        )


def _note_on_name(config: str | None) -> None:
    if config in bundled_configs() and os.path.lexists(config):
        say(f"note: `{config}` are settings that charlm knows by name; what is here is `.{os.sep}{config}`")


def _read_settings(
    config: str | None, overrides: list[str], flags: dict[str, Any], base: Path | None
) -> tuple[Config, StartingModel | None]:
    """Return the settings of a new run, and the model that it starts from."""
    from charlm.settings.config_file import load_config

    if base is None:
        return load_config(config, overrides, flags), None
    from charlm.training.transfer import StartingModel, command_from

    if not (config or "data.corpus" in flags or any(o.startswith(("data.corpus", "data=")) for o in overrides)):
        hint = f"{command_from(base)} does; {resume_command(Path('RUN'))} continues a run on its own text"
        raise UsageError("`--from` names a model to start from, but nothing names a text to train on", hint)
    start = StartingModel.load(base)
    return load_config(config, overrides, flags, start.inherited), start


def _dry_run(config: Config, base: StartingModel | None, preparation: Preparation, as_json: bool) -> None:
    """Print what a run would take, without training."""
    from charlm.nn.runtime import keep_freed_memory
    from charlm.settings.config_file import to_yaml
    from charlm.training.lifecycle import dry_run

    keep_freed_memory()
    expected = dry_run(config, base, preparation.show)
    preparation.stop()
    settings, values = to_yaml(expected.config), expected.config.model_dump()
    if not as_json:
        for note in expected.notes:
            say(f"note: {note}")
    print_dry_run(settings, values, str(expected.runtime), expected.reason, expected.expected.to_json(), as_json)


def print_dry_run(
    settings: str, values: dict[str, Any], runtime: str, reason: str, expected: dict[str, Any], as_json: bool
) -> None:
    """Print the settings of a run, as a settings file, and as remarks in it what the run will take."""
    if as_json:
        print_json({"settings": values, "runtime": runtime, "size": reason, **expected})
        return
    remarks = [
        reason,
        f"{expected['parameters']:,} parameters, a model file of {expected['model_bytes'] / 1e6:,.1f} MB",
        f"about {counted(number, 'kept model')}, {number * expected['model_bytes'] / 1e6:,.1f} MB"
        if (number := expected["kept_models"])
        else "",
        f"about {expected['memory_bytes'] / 1e6:,.0f} MB of memory on {runtime}",
        f"about {expected['seconds']:,.0f} s: {counted(expected['steps'], 'block')}, "
        f"{expected['epochs']:,.2f} epochs at {expected['characters_per_second']:,.0f} characters/s",
    ]
    width = screen_width(sys.stdout)
    print(settings, end="")
    print_lines(line for remark in remarks if remark for line in wrapped(f"# {remark}", width, "#   "))
