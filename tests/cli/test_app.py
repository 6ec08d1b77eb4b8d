"""The commands as a user calls them, in this process or in one of their own."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
from collections.abc import Callable
from io import BytesIO, TextIOWrapper
from pathlib import Path
from typing import Any

import pytest

from charlm import __version__
from charlm.checkpoint import ModelFile, load_checkpoint
from charlm.cli.errors import _prepare_streams
from charlm.cli.screen import ENTER, LEAVE
from charlm.training.learner import Learner
from tests.helpers.commands import HARE_AND_FOX, SHORT, SMALL, answer, answers, call, spawn
from tests.helpers.terminal import on_a_terminal

ASCII_LOCALE = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


def test_a_trained_model_works_with_every_command(text: str) -> None:
    """Training writes four files, a sample on stdout and the rest on stderr; eval, sample, predict-next then work."""
    result = call("train", "-c", text, *SHORT, "--seed", "1", "--out", "run", "--sample-length", "40")
    assert result.exit_code == 0, result.stderr
    assert len(result.stdout.rstrip("\n")) in (39, 40)
    assert "bits per character" in result.stderr
    assert {path.name for path in Path("run").iterdir()} == {
        "config.yaml", "metrics.jsonl", "best.safetensors", "last.safetensors",
    }  # fmt: skip
    scores = answer("eval", "-m", "run", "--json")
    assert scores["characters"] == len(HARE_AND_FOX) - int(0.9 * len(HARE_AND_FOX))
    best = load_checkpoint(Path("run/best.safetensors")).metrics["validation_bits_per_character"]
    assert scores["bits_per_character"] == pytest.approx(best, abs=1e-6)
    assert [row["name"] for row in scores["baselines"]][:2] == ["uniform", "unigram"]
    assert answer("eval", "-m", "run", "--no-baselines", "--json")["baselines"] == []
    training = answer("eval", "-m", "run", "--part", "train", "--json")
    assert (training["characters"], training["baselines"]) == (int(0.9 * len(HARE_AND_FOX)), [])
    listing = call("eval", "-m", "run").stdout
    assert "Kneser-Ney" in listing
    assert f"{scores['bits_per_character']:.4f} bits per character" in listing
    assert answer("eval", "-m", "run", "--corpus", "-", "--json", stdin="a")["characters"] == 1
    assert answer("eval", "-m", "run", "--window", "8", "--json")["window"] == 8
    assert scores["dynamic"] is None
    adapted = answer("eval", "-m", "run", "--dynamic", "--json")
    assert adapted["nats_per_character"] == scores["nats_per_character"]
    assert adapted["dynamic"]["characters"] == scores["characters"]
    assert "dynamic evaluation" in call("eval", "-m", "run", "--dynamic").stdout
    assert len(answers("sample", "the", "-m", "run", "--length", "9", "--json")[0]["text"]) == 12
    assert answer("predict-next", "the ", "-m", "run", "--json")["candidates"][0]["probability"] > 0


def test_the_newest_run_is_the_default_and_is_named(text: str) -> None:
    """Runs are numbered, none is overwritten, and the name of the one that is used is on stderr."""
    for _ in range(2):
        assert call("train", "-c", text, *SHORT, "--sample-length", "0").exit_code == 0
    assert sorted(path.name for path in Path("runs").iterdir()) == ["hare-lstm-1", "hare-lstm-2"]
    result = call("sample", "--length", "1")
    assert "hare-lstm-2" in result.stderr


def test_a_folder_with_files_is_not_overwritten(text: str) -> None:
    """`--out` refuses a folder that is not empty, gives a hint, and changes nothing in it."""
    Path("run").mkdir()
    Path("run/mine.txt").write_text("mine", encoding="utf-8")
    result = call("train", "-c", text, *SHORT, "--out", "run")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "hint: choose another `--out`, or remove it" in result.stderr
    assert Path("run/mine.txt").read_text(encoding="utf-8") == "mine"


def test_a_run_can_be_resumed_and_extended(text: str) -> None:
    """A run resumes, also with a text that has moved; settings other than those of `train` are refused."""
    call("train", "-c", text, *SHORT, "--out", "run", "--sample-length", "0")
    again = call("train", "--resume", "run", "--set", "train.steps=9", "--sample-length", "0")
    assert again.exit_code == 0, again.stderr
    lines = [json.loads(line) for line in Path("run/metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["step"] for line in lines if line.get("by") != "clock"] == list(range(10))
    assert ["baseline" in line for line in lines].index(True) == 0
    Path("moved.txt").write_bytes(Path(text).read_bytes())
    Path(text).unlink()
    assert call("train", "--resume", "run").exit_code == 1
    assert call("train", "--resume", "run", "-c", "moved.txt", "--sample-length", "0").exit_code == 0
    assert call("train", "--resume", "run", "--set", "model.hidden_size=9").exit_code == 2
    assert call("train", "--resume", "run", "--seed", "3").exit_code == 2


def test_an_interrupted_run_is_saved_and_resumes(text: str) -> None:
    """Ctrl-C ends the run with its exit code and a file to resume from."""
    command = [sys.executable, "-m", "charlm", "train", "-c", text, *SMALL, "--set", "train.steps=1000000"]
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    command += ["--set", "train.evaluations=10000", "--out", "run"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, env=environment) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if b"step" in line:
                break
        process.send_signal(signal.SIGINT)
        message = process.stderr.read().decode()
    assert_saved_and_resumes(process.returncode, message, 130)


def test_a_terminated_run_is_saved_and_resumes(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same of the signal that a system sends before it ends a process."""
    learn = Learner.learn_block

    def terminate(self: Learner, step: int, *others: Any) -> float | None:
        if step == 3:
            signal.raise_signal(signal.SIGTERM)
        return learn(self, step, *others)

    with monkeypatch.context() as patch:
        patch.setattr(Learner, "learn_block", terminate)
        result = call("train", "-c", text, *SHORT, "--out", "run")
    # The block during which the signal came is learned and saved.
    assert assert_saved_and_resumes(result.exit_code, result.stderr, 143) == 4


def assert_saved_and_resumes(exit_code: int, message: str, expected: int) -> int:
    """Check the exit code of a run that was ended by a signal, its message and its file; return its last step."""
    assert exit_code == expected
    assert "--resume run" in message
    step: int = load_checkpoint(Path("run/last.safetensors")).metrics["step"]
    assert step > 0
    resumed = call("train", "--resume", "run", "--set", f"train.steps={step + 2}", "--sample-length", "0")
    assert resumed.exit_code == 0, resumed.stderr
    return step


def test_sampling_into_a_closed_pipe_ends_quietly(model: str) -> None:
    """`charlm sample --length 100000 | head -c 10` prints ten characters and succeeds."""
    command = (
        f"{sys.executable} -m charlm sample -m {model} --length 100000 --seed 1 | head -c 10; echo ${{PIPESTATUS[0]}}"
    )
    result = subprocess.run(["bash", "-c", command], capture_output=True, check=True)
    assert len(result.stdout) == 10 + len("0\n")
    assert result.stdout.endswith(b"0\n")
    assert result.stderr == b""


def test_a_drawn_seed_is_printed_and_repeats_the_text(model: str) -> None:
    """The seed on stderr gives the same text again, alone and in a batch."""
    first = call("sample", "-m", model, "--length", "50")
    seed = first.stderr.split("seed ")[1].split()[0]
    assert call("sample", "-m", model, "--length", "50", "--seed", seed).stdout == first.stdout
    batch = answers("sample", "-m", model, "--length", "50", "--seed", seed, "--num", "3", "--json")
    assert [sample["seed"] for sample in batch] == [int(seed), int(seed) + 1, int(seed) + 2]
    assert batch[0]["text"] in (first.stdout, first.stdout.removesuffix("\n"))
    alone = answers("sample", "-m", model, "--length", "50", "--seed", str(int(seed) + 2), "--json")
    assert alone[0]["text"] == batch[2]["text"]


def test_each_of_several_samples_starts_on_its_own_line(model: str) -> None:
    """Several samples are printed in the order of their seeds, each ending with a line end, with a line between."""
    texts = answers("sample", "-m", model, "--num", "3", "--length", "30", "--seed", "1", "--json")
    result = call("sample", "-m", model, "--num", "3", "--length", "30", "--seed", "1")
    assert result.stdout == "---\n".join(text["text"].removesuffix("\n") + "\n" for text in texts)


def test_predict_next_ranks_characters(model: str) -> None:
    """Table and JSON agree, probabilities sum to 1, and white space has a name."""
    prediction = answer("predict-next", "ab", "-m", model, "--json", "--top", "3")
    probabilities = [candidate["probability"] for candidate in prediction["candidates"]]
    assert probabilities == sorted(probabilities, reverse=True)
    assert sum(probabilities) + prediction["remaining_probability"] == pytest.approx(1)
    assert prediction["entropy_bits"] > 0
    lines = call("predict-next", "ab", "-m", model, "--top", "3").stdout.splitlines()
    for line, candidate in zip(lines, prediction["candidates"], strict=False):
        assert line.startswith(candidate["name"])
        assert f"{candidate['probability']:.2%}" in line
    everything = call("predict-next", "-m", model, "ab", "--top", "99").stdout
    assert "newline" in everything
    assert "space" in everything


def test_predict_next_answers_each_line_of_a_pipe(model: str) -> None:
    """Each line of standard input gives one JSON object in a line; line ends are not part of the text."""
    result = call("predict-next", "-m", model, "--json", stdin="ab\r\n\nba\n")
    assert [json.loads(line)["text"] for line in result.stdout.splitlines()] == ["ab", "", "ba"]


@pytest.mark.parametrize("option", [["--top-p", "0"], ["--stop", ""], ["--top-k", "0"]])
def test_sample_refuses_an_option_before_it_loads_a_model(option: list[str]) -> None:
    """The refusal names the option, although this folder has no model."""
    result = call("sample", "-", *option)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "run" not in result.stderr


def test_predict_next_is_interactive_on_a_terminal(model: str) -> None:
    """On a terminal, typing shows candidates, Enter shows a table, and `exit` leaves."""
    keyboard, screen = pty.openpty()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "80", "LINES": "24"}
    command = [sys.executable, "-m", "charlm", "predict-next", "-m", model, "--top", "3"]
    process = subprocess.Popen(command, stdin=screen, stdout=screen, stderr=screen, env=environment)
    os.close(screen)
    seen = read_until(keyboard, b">")
    os.write(keyboard, b"bad\r")
    seen += read_until(keyboard, b"entropy")
    os.write(keyboard, b"exit\r")
    assert process.wait(timeout=30) == 0
    assert b"%" in seen
    os.close(keyboard)


def test_training_shows_samples_on_a_terminal(text: str) -> None:
    """The screen shows a sample after each validation; the lines, the verdict and the next command follow the run."""
    keyboard, screen = pty.openpty()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "100", "LINES": "24"}
    environment = {name: value for name, value in environment.items() if name not in ("CI", "NO_COLOR")}
    command = [sys.executable, "-m", "charlm", "train", "-c", text, *SHORT, "--out", "a run", "--seed", "1"]
    process = subprocess.Popen(command, stdin=screen, stdout=screen, stderr=screen, env=environment)
    os.close(screen)
    seen = read_until(keyboard, b"more of it: charlm sample --model 'a run'").decode()
    assert process.wait(timeout=30) == 0
    os.close(keyboard)
    before, _, rest = seen.partition(ENTER)
    during, _, after = rest.partition(LEAVE)
    assert "loading torch" in before.partition("\n")[0]
    assert "run a run, seed 1" in before
    assert "step " in during
    assert len(re.findall(r"  valid \d", after)) == 2
    assert "the last validation was the best" in after


def read_until(terminal: int, wanted: bytes) -> bytes:
    """Read a terminal until it has shown something; answer its question where the cursor is."""
    seen = b""
    while wanted not in seen:
        ready, _, _ = select.select([terminal], [], [], 30)
        assert ready, seen
        chunk = os.read(terminal, 65536)
        if b"\x1b[6n" in chunk:
            os.write(terminal, b"\x1b[1;1R")
        seen += chunk
    return seen


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["sample", "-m", "nowhere"], 1, "nowhere"),
        (["sample"], 1, "charlm train"),
        (["sample", "-m", "."], 1, "best.safetensors"),
        (["sample", "-m", "hare.txt"], 1, "not a charlm model file"),
        (["sample", "-m", "small.safetensors", "a\u00e9"], 1, "U+00E9"),
        (["sample", "-m", "small.safetensors", "-t", "-1"], 2, "-1"),
        (["sample", "-m", "small.safetensors", "--top-k", "0"], 2, "0"),
        (["sample", "-m", "small.safetensors", "--unknown", "maybe", "a"], 2, "maybe"),
        (["sample", "-m", "small.safetensors", "--num", "0"], 2, "--num"),
        (["sample", "-m", "small.safetensors", "--length", "many"], 2, "--length"),
        (["predict-next", "a\u00e9", "-m", "small.safetensors"], 1, "U+00E9"),
        (["eval", "-m", "small.safetensors", "--corpus", "nosuch.txt"], 1, "nosuch.txt"),
        (["eval", "-m", "small.safetensors", "--corpus", "hare.txt"], 1, "position 0"),
        (["eval", "-m", "small.safetensors", "--part", "test", "--corpus", "hare.txt"], 2, "--part"),
        (["train", "nosuch"], 2, "nosuch"),
        (["train", "lst"], 2, "lstm"),
        (["train", "-c", "nosuch.txt"], 1, "nosuch.txt"),
        (["train", "-c", "fabels"], 1, "fables"),
        (["train", "-c", "empty.txt"], 1, "empty"),
        (["train", "-c", "latin.txt"], 1, "offset 3"),
        (["train", "--set", "model.hiden_size=3"], 2, "model.hidden_size"),
        (["train", "--set", "model.hidden_size=big"], 2, "big"),
        (["train", "--set", "hidden_size=3"], 2, "model.hidden_size"),
        (["train", "--set", "train.steps"], 2, "key=value"),
        (["train", "--time", "soon"], 2, "soon"),
        (["train", "--set", "train.learning_rate=-1"], 2, "-1"),
        (["train", "--encoding", "klingon"], 2, "klingon"),
        (["train", "--resume", "nowhere"], 1, "nowhere"),
        (["train", "--resume", "nowhere", "--out", "there"], 2, "--out"),
        (["train", "--set", "train.device=mps"], 1, "mps"),
        (["train", "hare.txt"], 2, "--corpus hare.txt"),
        (["train", "--set", "data.corpus="], 2, "data.corpus"),
        (["eval", "-m", "small.safetensors", "--encoding", "utf-16"], 2, "--corpus"),
        (["eval", "-m", "small.safetensors", "-c", "hare.txt", "--dynamic", "--window", "9"], 2, "--window"),
        (["bench", "--only", "nothing"], 2, "nothing"),
        (["bench", "--rounds", "0"], 2, "--rounds"),
        (["eval", "-m", "small.safetensors", "-c", "hare.txt", "--unknown", "maybe"], 2, "maybe"),
        (["eval", "-m", "small.safetensors"], 2, "--corpus"),
        (["sample", "-m", "small.safetensors", "--unknown", "maybe"], 2, "maybe"),
        (["sample", "-m", "small.safetensors", "--stop", ""], 2, "stop"),
        (["corpora", "--fetch", "nosuch"], 2, "nosuch"),
        (["nosuch"], 2, "nosuch"),
    ],
)  # fmt: skip
def test_every_error_is_one_line_and_no_traceback(
    model: str, text: str, arguments: list[str], code: int, words: str
) -> None:
    """A mistake gives its exit code, one line and a hint on stderr, nothing on stdout, and no run folder."""
    Path("empty.txt").touch()
    Path("latin.txt").write_bytes(b"caf\xe9")
    result = call(*arguments)
    assert (result.exit_code, result.stdout) == (code, "")
    assert words in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stderr.startswith("error: ")
    assert len(result.stderr.splitlines()) <= 2
    assert not Path("runs").exists()


def test_a_console_without_unicode_shows_escapes(make_model: Callable[..., ModelFile]) -> None:
    """On a terminal with an ASCII locale, samples, tables and errors show escapes and do not fail."""
    make_model(symbols="\u4e00\u4e8c\u4e09").save(Path("zh.safetensors"))
    for arguments, stdin in (
        (["sample", "--length", "5"], b""),
        (["predict-next", "\u4e00"], b""),
        (["predict-next"], "\u4e00\n".encode()),
        (["sample", "\u4e01"], b""),
    ):
        shown = on_a_terminal(*arguments, "-m", "zh.safetensors", env=ASCII_LOCALE, stdin=stdin)
        assert b"Traceback" not in shown
        assert b"\\u4e" in shown
    assert b"U+4E01" in shown


def test_a_pipe_gets_utf_8_under_any_locale(make_model: Callable[..., ModelFile]) -> None:
    """Under an ASCII locale, samples, tables, JSON and errors are UTF-8 in a pipe."""
    make_model(symbols="\u4e00\u4e8c\u4e09").save(Path("zh.safetensors"))
    for arguments, stdin in (
        (["sample", "\u4e00", "--length", "5"], b""),
        (["sample", "\u4e00", "--length", "5", "--json"], b""),
        (["predict-next", "\u4e00"], b""),
        (["predict-next", "--json"], "\u4e00\n".encode()),
        (["sample", "\u4e01"], b""),
    ):
        result = spawn(*arguments, "-m", "zh.safetensors", env=ASCII_LOCALE, input=stdin)
        written = (result.stdout + result.stderr).decode()
        assert set("\u4e00\u4e01\u4e8c\u4e09") & set(written), arguments
        assert "\\u4e" not in written, arguments


def test_line_ends_are_written_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream that would translate line ends, as on Windows, and that has another encoding, writes UTF-8 as it is."""
    written = BytesIO()
    monkeypatch.setattr(sys, "stdout", TextIOWrapper(written, encoding="cp1252", newline="\r\n"))
    _prepare_streams()
    print("a\n\u4e00", flush=True)
    assert written.getvalue() == "a\n\u4e00\n".encode()


def test_standard_input_that_is_not_utf_8_is_refused(model: str) -> None:
    """Standard input is not decoded by guessing: the invalid byte is named."""
    for command in (["sample", "-"], ["predict-next", "-"], ["predict-next"]):
        result = call(*command, "-m", model, stdin=b"ab\xff")
        assert (result.exit_code, result.stdout) == (1, "")
        assert "0xff" in result.stderr


def test_help_shows_an_example_of_every_command() -> None:
    """`--help` lists the commands, and each has an example in its own help."""
    top = call("--help").stdout
    for command in ("train", "sample", "predict-next", "eval", "corpora", "bench"):
        assert command in top
        result = call(command, "--help")
        assert result.exit_code == 0
        assert "charlm " + command in result.stdout


def test_help_settings_lists_every_setting() -> None:
    """`train --help-settings` names each setting with its default and meaning."""
    lines = call("train", "--help-settings").stdout.splitlines()
    assert any(line.startswith("model.hidden_size (default 512): ") for line in lines)
    assert len(lines) > 25


def test_version_prints_the_version_of_the_package() -> None:
    """`--version` prints the version that the package has."""
    assert call("--version").stdout == f"charlm {__version__}\n"


def test_corpora_lists_the_catalogue_without_a_network() -> None:
    """Bundled corpora have characters and vocabulary, the others an address."""
    rows = {row["name"]: row for row in answer("corpora", "--json")}
    assert rows["fables"]["characters"] > 150_000
    assert rows["fables-zh"]["vocabulary"] > 500
    assert rows["tinyshakespeare"]["bytes"] == 1_115_394
    assert rows["enwik8"]["address"].startswith("https://")
    listing = call("corpora").stdout
    assert all(name in listing for name in rows)


def test_a_model_of_bytes_reads_any_file_and_prompt(text: str) -> None:
    """With `vocab: bytes`, any file is a text and no prompt is unknown."""
    Path("any.bin").write_bytes(bytes(range(256)) * 4)
    result = call("train", "-c", "any.bin", *SHORT, "--set", "vocab=bytes", "--out", "run", "--sample-length", "9")
    assert result.exit_code == 0, result.stderr
    assert len(answers("sample", "\U0001f600", "-m", "run", "--length", "5", "--json")) == 1
    assert answer("eval", "-m", "run", "--corpus", text, "--json")["bytes"] == len(HARE_AND_FOX)


def test_a_model_trains_on_standard_input(text: str) -> None:
    """A model that was trained on `-` can be scored on the same text by name."""
    result = call("train", "-c", "-", *SHORT, "--out", "run", "--sample-length", "0", stdin=HARE_AND_FOX)
    assert result.exit_code == 0, result.stderr
    assert answer("eval", "-m", "run", "--corpus", text, "--json")["characters"] == len(HARE_AND_FOX)


def test_eval_refuses_a_text_that_has_changed(text: str) -> None:
    """`eval` refuses a changed text, since its validation part may have been trained on."""
    call("train", "-c", text, *SHORT, "--out", "run", "--sample-length", "0")
    Path(text).write_text(HARE_AND_FOX + "!", encoding="utf-8")
    result = call("eval", "-m", "run")
    assert result.exit_code == 2
    assert "--corpus" in result.stderr
