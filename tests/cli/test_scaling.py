"""`charlm bench --distributed`: it starts torchrun by itself, and prints what was measured."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest
from typer.testing import CliRunner

from charlm.cli.app import app
from charlm.cli.scaling import _print
from charlm.training.scaling import LINKS, Scaling, estimate


def test_two_processes_are_started_if_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the same options; the exit code is that of torchrun."""
    started: list[list[str]] = []

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        started.append(command)
        return subprocess.CompletedProcess(command, 7)

    monkeypatch.setattr(subprocess, "run", run)
    assert CliRunner().invoke(app, ["bench", "--distributed", "--rounds", "3", "--json"]).exit_code == 7
    launcher = "-m torch.distributed.run --standalone --nproc-per-node 2"
    assert " ".join(started[0][1:]) == f"{launcher} -m charlm bench --distributed --rounds 3 --json"


def test_only_is_refused_beside_distributed() -> None:
    """It would have no effect."""
    done = CliRunner().invoke(app, ["bench", "--distributed", "--only", "texts"])
    assert (done.exit_code, done.stderr.splitlines()[-1]) == (2, "hint: leave out `--only`")


def test_the_table_has_the_figures(capsys: pytest.CaptureFixture[str]) -> None:
    """Milliseconds, the speed, and what limits GPUs."""
    row = Scaling(8, 1000, alone=0.01, together=0.02, share=0.015, exchange=0.001).to_json()
    _print(2, [row], [estimate(LINKS[0], 1000, 4096, 64) | {"units": 8}], {"one": 64, "other": None})
    shown = " ".join(capsys.readouterr().out.split())
    assert "1x8 10.0 20.0 15.0 1.0 0.50" in shown
    assert "the limit is one character after another" in shown
    assert "one are twice as fast as one from 1x64 on" in shown
    assert "other are twice as fast as one from no size on" in shown
