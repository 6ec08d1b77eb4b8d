"""Two hundred kills and fifty signals at random moments of runs, most of them during saves, lose nothing."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from charlm.checkpoint import load_checkpoint
from charlm.run_folder import RunFolder
from tests.helpers.training import CAT_AND_DOG

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="waits as Linux can"),
]

NUM_KILLS = 200
NUM_SIGNALS = 50
STEPS = 600
RUN = [
    "--set", "model.hidden_size=48", "--set", "model.embedding_size=8", "--set", "train.batch_size=4",
    "--set", "train.block_size=10", "--set", "train.threads=1", "--set", "train.precision=fp32",
    "--set", f"train.steps={STEPS}", "--set", "train.evaluations=200", "--set", "train.evaluation_characters=100",
    "--set", "model.dropout=0.3", "--seed", "1", "--corpus", "text.txt",
]  # fmt: skip

# Runs charlm in forks of a process that has loaded it, which takes a hundredth of the time. Reads lines of JSON, with
# signals, the seconds to wait before each of them, and arguments; writes how the run ended.
RUNNER = """
import json, os, select, signal, sys, time
import torch
torch.set_num_threads(1)
import charlm.training.lifecycle
from charlm.__main__ import main
for line in sys.stdin:
    order = json.loads(line)
    child = os.fork()
    if not child:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        out = os.open(order["errors"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(out, 2)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        sys.stdin, sys.stderr = open(0, closefd=False), open(2, "w", buffering=1, closefd=False)
        sys.argv = ["charlm", *order["arguments"]]
        code = 0
        try:
            main()
        except SystemExit as end:
            code = end.code or 0
        except BaseException as error:
            import traceback; traceback.print_exc()
            code = 99
        os._exit(code)
    ended, end = 0, os.pidfd_open(child)
    for wait, number in order["signals"]:
        if not ended and select.select([end], [], [], wait)[0]:
            ended, status = os.waitpid(child, 0)
        if not ended:
            os.kill(child, number)
    asked = time.monotonic()
    if not ended:
        _, status = os.waitpid(child, 0)
    os.close(end)
    print(json.dumps({"code": os.waitstatus_to_exitcode(status), "seconds": time.monotonic() - asked}), flush=True)
"""


class Runner:
    """Starts runs, sends them signals, and reports how they ended."""

    def __init__(self) -> None:
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-c", RUNNER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def run(self, arguments: list[str], signals: list[tuple[float, int]]) -> tuple[int, float, str]:
        """Return exit code, seconds from the last signal to the end, and what was written to stderr."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        order = {"arguments": ["train", *arguments], "signals": signals, "errors": "errors.txt"}
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        return answer["code"], answer["seconds"], Path("errors.txt").read_text(encoding="utf-8")

    def close(self) -> None:
        """End the process that forks."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()


@pytest.fixture
def runner() -> Any:
    """A runner beside the text that its runs learn."""
    Path("text.txt").write_text(CAT_AND_DOG, encoding="utf-8")
    runner = Runner()
    yield runner
    runner.close()


def reported_step(errors: str) -> int:
    """Return the last step whose validation, and so whose save, a run has reported."""
    return max((int(step.replace(",", "")) for step in re.findall(r"step +([\d,]+)  epoch", errors)), default=0)


def content(run: RunFolder) -> tuple[Any, ...]:
    """Return all that a finished run has written, without what depends on the clock."""
    clocked = ("seconds", "characters_per_second")
    lines = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    lines = [line for line in lines if line.get("by") != "clock"]
    records = [{key: value for key, value in line.items() if key not in clocked} for line in lines]
    files = []
    for path in (run.best, run.last):
        file = load_checkpoint(path)
        metrics = {key: value for key, value in file.metrics.items() if key not in clocked}
        files.append((metrics, {name: array.tobytes() for name, array in file.arrays.items()}))
    return records, files


def test_a_killed_run_loses_no_reported_save(runner: Runner, capsys: pytest.CaptureFixture[str]) -> None:
    """A killed run resumes from its last reported save or later, and ends bit-identical to one never killed."""
    straight = RunFolder(Path("straight"))
    assert runner.run([*RUN, "--out", "straight"], [])[0] == 0
    expected = content(straight)
    random_ = random.Random(4)
    kills = finished = before_first_save = lost = 0
    while kills < NUM_KILLS:
        run = RunFolder(Path(f"killed-{finished}"))
        reported, is_over = 0, False
        while not is_over:
            if not run.last.exists():
                before_first_save += run.config.exists()
                for file in run.path.glob("*"):
                    file.unlink()
                arguments = [*RUN, "--out", str(run.path)]
            else:
                arguments = ["--resume", str(run.path)]
            wait = random_.uniform(0.0, 0.8)
            code, _, errors = runner.run(arguments, [(wait, signal.SIGKILL)])
            assert "Traceback" not in errors
            assert code in (0, -signal.SIGKILL), errors
            reported = max(reported, reported_step(errors))
            if run.last.exists():
                lost += max(0, reported - load_checkpoint(run.last).metrics["step"])
            else:
                lost += reported
            is_over = code == 0
            kills += not is_over
        assert content(run) == expected
        assert not list(run.path.glob(".*")), "leftovers of killed writers"
        finished += 1
    with capsys.disabled():
        print(f"\n{kills} kills, {finished} runs finished bit-identical, {lost} saved steps lost", end=" ")
        print(f"({before_first_save} kills before the first save)")
    assert lost == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_a_signal_saves_a_run_at_any_moment(
    runner: Runner, number: signal.Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run ends with the exit code of the signal, saved where it stopped, and resumes exactly."""
    assert runner.run([*RUN, "--out", "straight"], [])[0] == 0
    random_ = random.Random(int(number))
    signals, slowest, finished = 0, 0.0, 0
    while signals < NUM_SIGNALS // 2:
        run, is_over = RunFolder(Path(f"asked-{finished}")), False
        while not is_over:
            arguments = ["--resume", str(run.path)] if run.last.exists() else [*RUN, "--out", str(run.path)]
            if not run.last.exists():
                for file in run.path.glob("*"):
                    file.unlink()
            code, seconds, errors = runner.run(arguments, [(random_.uniform(0.0, 0.8), number)])
            assert "Traceback" not in errors
            assert code in (0, 128 + number, -number), errors
            if "finishing this block" in errors and code:
                step = re.search(r"saved at step ([\d,]+)", errors)
                assert step is not None
                assert load_checkpoint(run.last).metrics["step"] == int(step[1].replace(",", ""))
            is_over = code == 0
            signals += not is_over
            slowest = max(slowest, seconds if code > 0 else 0.0)
        assert content(run) == content(RunFolder(Path("straight")))
        finished += 1
    with capsys.disabled():
        print(f"\n{signals} x {number.name}, {finished} runs finished bit-identical, slowest answer {slowest:.2f} s")
    assert slowest < 2


def test_a_second_ctrl_c_ends_a_run_within_a_second(runner: Runner) -> None:
    """Two Ctrl-C at any of ten random moments end a run without a traceback."""
    random_ = random.Random(5)
    for index in range(10):
        waits = [(random_.uniform(0.2, 0.8), int(signal.SIGINT)), (0.005, int(signal.SIGINT))]
        code, seconds, errors = runner.run([*RUN, "--out", f"twice-{index}", "--set", "train.steps=100000"], waits)
        assert "Traceback" not in errors
        assert code in (130, -signal.SIGINT), errors
        assert seconds < 1
