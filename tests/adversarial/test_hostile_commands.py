"""Hostile command lines: each succeeds or is one line of error, whatever is typed and whatever a shell takes away."""

from __future__ import annotations

import gc
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from typer.main import get_command

from charlm.cli.app import app
from tests.helpers.commands import ONE_STEP, answer, call, within
from tests.helpers.settings_files import NUMBERS, SMALL_NUMBERS

NOBODY = "~no-such-user/x"
# Large amounts are valid and would take long: these options get small ones.
AMOUNTS = {"--length", "--num", "--sample-length"}
# Larger files that command lines write are removed before the next one.
LARGE = 1 << 16
TIMES = ["0.01", "0.01s", "", "nan", "721h", "-1", "\u0663s", "9" * 400]
WORDS = ["small.safetensors", "abc.txt", "nowhere", ".", "", "abc.txt/x", "/dev/null", "*", NOBODY, "x" * 300]
WORDS += ["error", "skip", "replace=a", "replace=", "train", "test", "utf-16", "hex", "gru", "=", "model=3"]
WORDS += ["model.hidden_size=8", "data.corpus=abc.txt", "seed=1e999", "--", "--json", "--no", "-h", "-", "-x"]
WORDS += ["\x1b[31m\n", "\U0001f600"]
COMMANDS = {name: command for name, command in get_command(app).commands.items() if name != "bench"}  # type: ignore[attr-defined]


@st.composite
def command_lines(draw: st.DrawFn) -> list[str]:
    """Draw a command with options, whose values may be invalid or missing, and with settings that keep it short."""
    name = draw(st.sampled_from(sorted(COMMANDS)))
    arguments = [name]
    for parameter in draw(st.lists(st.sampled_from(COMMANDS[name].params), max_size=5)):
        option = draw(st.sampled_from([*parameter.opts, *parameter.secondary_opts]))
        if option.startswith("-"):
            arguments.append(option)
            if parameter.is_flag or draw(st.integers(0, 19)) == 0:
                continue
        values = SMALL_NUMBERS if AMOUNTS & {*parameter.opts} else TIMES if option == "--time" else [*NUMBERS, *WORDS]
        arguments.append(draw(st.sampled_from(values)))
    if name == "train":
        arguments += draw(
            st.sampled_from([[*ONE_STEP, "--set", "data.validation_fraction=0.01"], ["--resume", "nowhere"]])
        )
    # A server runs until it is ended. This address is refused after everything else.
    return [*arguments, "--host", "no such host"] if name == "serve" else arguments


@pytest.fixture
def tidy() -> Iterator[None]:
    """Collect what the command lines leave behind, so that no later test is blamed for it."""
    yield
    gc.collect()


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@given(arguments=command_lines())
@example(["sample", "-m", NOBODY])
@example(["train", "--out", NOBODY, *ONE_STEP])
@example(["train", "--resume", NOBODY])
@example(["train", "--set", "seed=!!int {!!value x: 1}", *ONE_STEP])
@example(["train", "--set", '"\\UFFFFFFFF"=1', "--set", 'vocab="\\UFFFFFFFF"', *ONE_STEP])
@example(["eval", "-m", "small.safetensors", "-c", "abc.txt", "--window", "9" * 30])
@example(["eval", "-m", "small.safetensors", "-c", "abc.txt", "--window", str(2**62)])
@example(["eval", "-m", "small.safetensors", "-c", "abc.txt", "--unknown", "skip", "--encoding", "utf-7"])
@example(["sample", "-m", "small.safetensors", "--top-k", "9" * 30, "--seed", "9" * 30, "--lines", "9" * 30])
@example(["predict-next", "a", "-m", "small.safetensors", "--top", "9" * 30])
@settings(
    max_examples=150,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_any_command_line_succeeds_or_is_refused(tidy: None, model: str, arguments: list[str]) -> None:
    """Every command line ends within ten seconds with exit code 0, 1 or 2, and no exception gets out."""
    Path("abc.txt").write_text("abc abc\nabc\n", encoding="utf-8")
    # What another command line has written may take long to compress.
    for file in Path().iterdir():
        if file.is_file() and file.stat().st_size > LARGE:
            file.unlink()
    with within(10):
        result = call(*arguments, stdin=b"ab\n")
    assert result.exit_code in (0, 1, 2)
    assert result.exit_code == 0 or re.search("^[eE]rror: ", result.stderr, re.MULTILINE)


@pytest.mark.parametrize("window", [12, 13, 2**20, 2**62, 2**63, 10**30])
def test_a_window_longer_than_the_text_is_the_whole_text(model: str, window: int) -> None:
    """A window of any size beyond the text takes no more time and gives the figure of the whole text."""
    Path("abc.txt").write_text("abc abc\nabc\n", encoding="utf-8")
    arguments = ["eval", "-m", model, "-c", "abc.txt", "--json"]
    with within(2):
        figures = answer(*arguments, "--window", str(window))
    assert figures["nats_per_character"] == pytest.approx(answer(*arguments)["nats_per_character"], rel=1e-6)


def test_an_invalid_cache_folder_is_reported(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A `CHARLM_CACHE` in the home of an unknown user gives a result, or an error that names the user."""
    monkeypatch.setenv("CHARLM_CACHE", NOBODY)
    Path("abc.txt").write_text("abc", encoding="utf-8")
    result = call("eval", "-m", model, "-c", "abc.txt")
    assert "bits" in result.stdout if result.exit_code == 0 else "no-such-user" in result.stderr


def shell(command: str) -> subprocess.CompletedProcess[bytes]:
    """Run a shell line in which `charlm` is the tested package and memory is limited."""
    line = f'ulimit -v 4000000; charlm() {{ {sys.executable} -m charlm "$@"; }}; {command}'
    return subprocess.run(["bash", "-c", line], capture_output=True, check=False, timeout=120)


@pytest.mark.parametrize(
    "command",
    [
        "charlm sample - -m small.safetensors <&-",
        "charlm predict-next -m small.safetensors <&-",
        "charlm sample -m small.safetensors --top-k 0 2>&-; test $? = 2 || exit 9",
        "charlm sample -n 3 -m small.safetensors >&-",
        pytest.param("charlm eval -c - -m small.safetensors <&-", marks=pytest.mark.slow),
        pytest.param("charlm sample -m /dev/zero", marks=pytest.mark.slow),
        pytest.param("charlm sample -m small.safetensors -n 1 --num 1000000000", marks=pytest.mark.slow),
        pytest.param("charlm train --set model.hidden_size=16384 --set train.steps=1", marks=pytest.mark.slow),
    ],
)
def test_closed_streams_and_little_memory_give_short_errors(model: str, command: str) -> None:
    """A closed stream or too little memory ends a command without a traceback."""
    result = shell(command)
    assert result.returncode in (0, 1, 2)
    assert result.stderr.count(b"\n") <= 6
    assert re.search(rb"Traceback|\w(Error|Exception)\b", result.stderr) is None


def test_json_is_alone_on_stdout_without_stderr(model: str) -> None:
    """`charlm sample --json 2>&-` prints JSON and nothing else."""
    json.loads(shell("charlm sample -n 3 -m small.safetensors --json 2>&-").stdout)
