"""The part of `charlm train` that trains several cells at equal size, one after the other, and compares them."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from charlm.cli.options import SAMPLE_TEMPERATURE
from charlm.cli.render import report_error, say
from charlm.errors import RunError, UsageError, did_you_mean
from charlm.run_folder import RunFolder, is_model

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from charlm.cli.preparation import Preparation
    from charlm.settings.config import Config
    from charlm.training.family import Member
    from charlm.training.trainer import Trainer


def cells_named(given: str) -> list[str]:
    """Return the cells that `--family` names.

    Raises:
        UsageError: one is unknown or named twice, or there are fewer than two.
    """
    from charlm.cells import CELLS

    names = [name.strip().lower() for name in given.split(",") if name.strip()]
    for name in names:
        if name not in CELLS:
            raise UsageError(
                f"`--family` names `{name}`, and there is no such cell",
                did_you_mean(name, CELLS) or f"there are {', '.join(CELLS)}",
            )
        if names.count(name) > 1:
            raise UsageError(f"`--family` names `{name}` twice", "each cell is trained once, with one seed")
    if len(names) < 2:
        raise UsageError(
            "`--family` compares two cells or more, with commas between them",
            "`--family lstm,gru,rnn` does; `--set model.cell=NAME` trains one",
        )
    return names


def family_settings(
    family: str, config: str | None, overrides: Sequence[str], flags: Mapping[str, Any], start: Path | None
) -> list[Config]:
    """Return the settings of the runs, which differ in the cell alone.

    Args:
        family: the cells, as they were given.
        config: a settings file, or the name of a bundled one.
        overrides: settings as `key=value`.
        flags: values by dotted key, which win over the overrides.
        start: the run or the model that `--resume` or `--from` names.

    Raises:
        UsageError: something does not fit `--family`.
        ConfigError: the settings do not fit one of the cells.
    """
    from charlm.settings.config_file import load_config

    cells = cells_named(family)
    if start:
        raise UsageError("`--family` starts new runs", "it takes no --resume and no --from")
    if any(override.partition("=")[0].strip().lower() == "model.cell" for override in overrides):
        raise UsageError("`--family` names the cells already", "it takes no --set model.cell")
    configs = [load_config(config, overrides, {**flags, "model.cell": cell}) for cell in cells]
    if "-" in configs[0].data.corpus:
        raise UsageError(
            "`--family` reads the text once for each cell, and standard input can be read only once",
            "`--corpus FILE` reads a file",
        )
    return configs


def train_family(
    configs: Sequence[Config],
    out: Path | None,
    preparation: Preparation,
    sample_length: int,
    trackers: tuple[str, ...],
    as_json: bool,
) -> None:
    """Train cells at equal size one after the other, and print a table and a picture of their curves.

    A run that fails is reported, and the others are trained; the command then ends with its exit code. A signal ends
    the run that is training, as usual, and the cells after it are not trained.

    Args:
        configs: settings of runs that differ in nothing but the cell.
        out: the folder of the run folders; None for the first free ones in `runs`.
        preparation: shows what is done before a run starts.
        sample_length: characters of a sample of each model; 0 for none.
        trackers: which trackers follow the runs.
        as_json: whether the comparison is printed as JSON.
    """
    from charlm.cli.compare import show_comparison
    from charlm.cli.errors import expected_error
    from charlm.evaluation.compare import compare_runs
    from charlm.nn.runtime import keep_freed_memory
    from charlm.training.family import equal_members
    from charlm.training.lifecycle import begin

    keep_freed_memory()
    if out:
        check_free(out, [config.model.cell for config in configs])
    members = equal_members(configs, preparation.show)
    preparation.stop()
    say(_announcement(members))
    paths: list[Path] = []
    exit_code = 0
    for index, (config, _) in enumerate(members):
        cell = config.model.cell
        say(f"\n{index + 1} of {len(members)}: {cell}")
        try:
            run = begin(config, out / cell if out else None, None, preparation.show)
            paths.append(_follow(run, preparation, 0 if as_json else sample_length, trackers))
        except (typer.Exit, KeyboardInterrupt) as error:
            preparation.stop()
            # The first is the end of a run that was saved; the second comes before there is something to save.
            left = members[index + 1 :] if isinstance(error, typer.Exit) else members[index:]
            _report_rest([member.config.model.cell for member in left], paths)
            raise
        except Exception as error:
            preparation.stop()
            if isinstance(error, BrokenPipeError) or (expected := expected_error(error)) is None:
                raise
            report_error(f"{cell}: {expected}", expected.hint, expected.exit_code)
            exit_code = exit_code or expected.exit_code
    if paths:
        say("")
        show_comparison(compare_runs(paths), draws_curves=True, as_json=as_json)
    if exit_code:
        raise typer.Exit(exit_code)


def check_free(out: Path, cells: Sequence[str]) -> None:
    """Check that there is room for the runs of a family, before the first of them is trained.

    Raises:
        RunError: the folder is that of a run, or has something where a run would be.
    """
    if is_model(str(out)):
        raise RunError(f"`{out}` is a run, and `--out` is for the folder of several", "choose another `--out`")
    for cell in cells:
        RunFolder.check_free(out / cell)


def _follow(
    run: AbstractContextManager[Trainer], preparation: Preparation, sample_length: int, trackers: tuple[str, ...]
) -> Path:
    """Train to the end, report what comes of it, and return the run folder."""
    from charlm.cli.train_session import announce, learn, report_best, report_outcome

    with run as trainer:
        preparation.stop()
        trainer.trackers = trackers
        announce(trainer)
        learn(trainer)
        if sample_length:
            report_outcome(trainer, sample_length, SAMPLE_TEMPERATURE, as_json=False)
        elif error := report_best(trainer):
            raise error
    return trainer.run.path


def _announcement(members: Sequence[Member]) -> str:
    models = [
        f"{member.config.model.cell} {member.config.model.num_layers}x{member.config.model.hidden_size} with "
        f"{member.num_parameters:,}"
        for member in members
    ]
    return f"cells at equal size, seed {members[0].config.seed}, parameters: {', '.join(models)}"


def _report_rest(cells: Sequence[str], paths: Sequence[Path]) -> None:
    """Report which cells are not trained, and how those that are can be compared."""
    if cells:
        say(f"not trained: {', '.join(cells)}")
    if len(paths) > 1:
        say(f"`{shlex.join(['charlm', 'compare', *map(str, paths), '--curves'])}` compares those that are finished")
