"""Untrusted runs: `eval` and `--resume` check their settings, metrics, arrays and all other files."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load as load_arrays
from typer.testing import Result

from tests.helpers.commands import assert_refused, call, within
from tests.helpers.untrusted import REMOVED, change_metadata, forge, interrupted_run, replace_symbols, split_file

NAN, INF, HUGE = float("nan"), float("inf"), 10**4000
Floats = np.ndarray[Any, np.dtype[Any]]


def short(value: Any) -> str:
    """Name a value in the id of a test, as some values have thousands of digits."""
    return "absent" if value is REMOVED else f"{value!s:.40}"


def pairs(values: dict[str, list[Any]]) -> list[tuple[str, Any]]:
    """List each key with each of its values."""
    return [(key, value) for key, several in values.items() for value in several]


@pytest.fixture(scope="module")
def interrupted_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small interrupted run and the text that it learns."""
    folder = tmp_path_factory.mktemp("interrupted")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CHARLM_CACHE", str(folder / "cache"))
        patch.chdir(folder)
        interrupted_run()
    return folder


@pytest.fixture
def run(interrupted_once: Path, own_folders: Path) -> Path:
    """A copy of both in the current folder: `run` and `text.txt`."""
    shutil.copy(interrupted_once / "text.txt", "text.txt")
    shutil.copytree(interrupted_once / "run", "run")
    return Path("run")


@pytest.fixture
def best(run: Path) -> bytes:
    """The best model file of the run."""
    return (run / "best.safetensors").read_bytes()


@pytest.fixture
def last(run: Path) -> bytes:
    """The state that the run resumes from."""
    return (run / "last.safetensors").read_bytes()


def evaluate(data: bytes) -> Result:
    """Score a model on its own text."""
    Path("m").write_bytes(data)
    with within(10):
        return call("eval", "-m", "m", "--no-baselines", stdin="the cat")


def resume(data: bytes | None = None) -> Result:
    """Resume the run, perhaps from another state than its own."""
    if data is not None:
        Path("run/last.safetensors").write_bytes(data)
    with within(10):
        return call("train", "--resume", "run", "--sample-length", "0", stdin="the cat")


def test_an_unchanged_run_is_scored_and_resumed(best: bytes, last: bytes) -> None:
    """The run works, also with its files rewritten, so that what the tests below refuse is refused for a reason."""
    assert evaluate(change_metadata(best, {})).exit_code == 0
    assert resume(change_metadata(last, {})).exit_code == 0
    assert evaluate(Path("run/last.safetensors").read_bytes()).exit_code == 0


# The model's own text


OWN_TEXT: dict[str, list[Any]] = {
    "config.data": [REMOVED, None, [], {}, 5],
    "config.data.corpus": [
        *[REMOVED, None, 5, [], [5], [None], [["text.txt"]], {"text.txt": 1}, ["text.txt", "-"]],
        *[["a\nb"], ["\0"], ["\ud800"], ["~nobody-at-all"], ["["], ["absent"]],
    ],
    "config.data.encoding": [None, 5, ["utf-8"], "hex", "\n\x1b", "undefined"],
    "config.data.validation_fraction": [None, "x", "1/0", [0.1], NAN, INF, -3, 7, HUGE, True],
    "config.data.test_fraction": [None, "x", "1/0", [0.1], NAN, INF, -3, 7, HUGE, True],
    "config.data.holdout": [None, 5, "x", [], True],
    "corpus.sha256": [REMOVED, None, 5, []],
    "corpus.held_out": [None, 5, {}, {"validation": [[0, HUGE]], "test": []}, {"validation": [[5, NAN]], "test": []}],
}


@pytest.mark.parametrize(("key", "value"), pairs(OWN_TEXT), ids=short)
def test_eval_refuses_invalid_settings_in_a_model(best: bytes, key: str, value: Any) -> None:
    """Invalid names, encodings and fractions are reported in one line, and standard input is not read."""
    assert_refused(evaluate(change_metadata(best, {key: value})))


@pytest.mark.parametrize("symbols", ["abc", "reversed", "many"])
def test_eval_refuses_a_model_with_symbols_unlike_its_text(best: bytes, symbols: str) -> None:
    """A model with fewer, more or reordered symbols is not scored, because its ids mean other characters."""
    own = json.loads(split_file(best)[0]["__metadata__"]["vocabulary"])["symbols"]
    given = {"reversed": "".join(reversed(own)), "many": "".join(own) + "ABCDEFGH"}
    assert_refused(evaluate(replace_symbols(best, given.get(symbols, symbols))))


# The state that a run resumes from


METRICS: dict[str, list[Any]] = {
    "step": [REMOVED, None, "x", [], -1, 1.5, NAN, INF, HUGE],
    "seconds": [REMOVED, None, "x", [], -1e300, NAN, INF, HUGE],
    "best_bits": ["x", [], NAN, -INF],
    "evaluations_without_gain": [None, "x", [], -1, 1.5],
    "nats": [None, "x", [], NAN, INF, HUGE],
    "num_losses": [None, "x", [], -1, 1.5, HUGE],
    "smoothed_nats": [None, "x", [], -1, NAN, INF, HUGE],
    "skipped": [None, "x", [], -1],
    "skipped_in_a_row": [None, "x", [], -1],
    "rollbacks": [None, "x", [], -5000, 1.5, NAN, INF, HUGE],
    "dropout": [None, "x", [], -1, 1, 1e308, NAN, HUGE],
    "weight_dropout": [None, "x", [], -1, 1, 1e308, NAN],
    "weight_decay": [None, "x", [], -1, 1e308, NAN, HUGE],
    "settled": [None, "x", [], 1.5],
    "finished": [None, [], 5],
    "unknown": [1],
}


@pytest.mark.parametrize(("key", "value"), pairs(METRICS), ids=short)
def test_resume_refuses_invalid_metrics(last: bytes, key: str, value: Any) -> None:
    """The metrics that say where a run stopped are numbers within bounds, all of them and no others."""
    assert_refused(resume(change_metadata(last, {f"metrics.{key}": value})))


@pytest.mark.parametrize("field", ["config", "metrics", "corpus", "vocabulary"])
@pytest.mark.parametrize("text", ["null", "[]", "5", '"x"', "{}"])
def test_resume_refuses_a_state_without_metadata(last: bytes, field: str, text: str) -> None:
    """A state without settings, metrics, corpus or vocabulary is refused."""
    assert_refused(resume(forge(last, **{field: text})))


SETTINGS: dict[str, list[Any]] = {
    "seed": [None, REMOVED, -1],
    "vocab": ["bytes", 5, [], {"kind": "bytes"}, {"filter": "letters"}, {"kind": "bytes", "filter": "letters"}],
    "model.initialiser": ["normal(0)", 5],
    "data.corpus": [["text.txt", "-"], [5]],
    "data.encoding": ["\n\x1b"],
    "train": [5],
    "train.batch_size": [8, 2],
    "train.optimizer": ["adamw"],
    "train.steps": [HUGE],
    "train.device": ["tpu"],
    "model.num_layers": [2],
    "model.dropout": [NAN, [0.1, 0.2], [5], []],
    "a\nb\x1b[2J": [1],
    "key" * 10**5: [1],
}


@pytest.mark.parametrize(("key", "value"), pairs(SETTINGS), ids=short)
def test_resume_refuses_invalid_settings(last: bytes, key: str, value: Any) -> None:
    """Invalid settings, and settings that change the meaning of the state, are reported in one line."""
    assert_refused(resume(change_metadata(last, {f"config.{key}": value})))


@pytest.mark.parametrize("symbols", ["abc", "reversed"])
def test_resume_needs_the_symbols_of_the_text(last: bytes, symbols: str) -> None:
    """A state with other or reordered symbols is refused, because its weights belong to other characters."""
    own = json.loads(split_file(last)[0]["__metadata__"]["vocabulary"])["symbols"]
    assert_refused(resume(replace_symbols(last, "".join(reversed(own)) if symbols == "reversed" else symbols)))


ARRAYS = (
    "optimizer.layers.0.weight_hh_l0.momentum",
    "optimizer.output.bias.exp_avg",
    "optimizer.output.bias.exp_avg_sq",
    "optimizer.output.bias.step",
    "carried.0",
    "carried.1",
)
CHANGES: dict[str, Callable[[Floats], Floats]] = {
    "nan": lambda array: np.full_like(array, np.nan),
    "infinite": lambda array: np.full_like(array, np.inf),
    "float64": lambda array: array.astype(np.float64),
    "float16": lambda array: array.astype(np.float16),
    "int64": lambda array: array.astype(np.int64),
    "bool": lambda array: array.astype(np.bool_),
    "empty": lambda array: np.zeros(0, np.float32),
    "three": lambda array: np.zeros(3, np.float32),
    "nested": lambda array: array[None],
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", ARRAYS)
def test_resume_refuses_invalid_arrays(last: bytes, name: str, change: str) -> None:
    """An array of the state that has another shape, is not float32 or is not finite is refused."""
    arrays = load_arrays(last)
    assert_refused(resume(forge(last, arrays | {name: CHANGES[change](arrays[name])})))


@pytest.mark.parametrize("name", ["exp_avg_sq", "step"])
def test_resume_refuses_negative_moments(last: bytes, name: str) -> None:
    """A negative mean of squares and a negative count of steps are refused."""
    arrays = load_arrays(last)
    key = f"optimizer.output.bias.{name}"
    assert_refused(resume(forge(last, arrays | {key: -1 - np.abs(arrays[key])})))


def test_resume_refuses_a_state_of_fewer_streams(last: bytes) -> None:
    """The state of one stream is refused for four streams, although it could be broadcast to their shape."""
    arrays = load_arrays(last)
    carried = {name: array[:, :1] for name, array in arrays.items() if name.startswith("carried.")}
    assert_refused(resume(forge(last, arrays | carried)))


@pytest.mark.parametrize("prefix", [*ARRAYS, "optimizer.", "carried."])
def test_resume_needs_every_array(last: bytes, prefix: str) -> None:
    """A state that lacks one array, or all of a kind, is refused."""
    arrays = {name: array for name, array in load_arrays(last).items() if not name.startswith(prefix)}
    assert_refused(resume(forge(last, arrays)))


@pytest.mark.parametrize("name", ["carried.2", "carried.x", "optimizer.absent.exp_avg", "optimizer.output.bias.x"])
def test_resume_refuses_unknown_arrays(last: bytes, name: str) -> None:
    """An array that nothing would read is refused, because it is a sign of another model."""
    assert_refused(resume(forge(last, load_arrays(last) | {name: np.zeros(3, np.float32)})))


def test_resume_refuses_the_best_model_as_a_state(best: bytes) -> None:
    """`best.safetensors` in place of `last.safetensors` is refused."""
    assert_refused(resume(best))


# The other files of a run folder


@pytest.fixture
def over(last: bytes) -> None:
    """A finished run: resumed, it only measures its best model."""
    Path("run/last.safetensors").write_bytes(change_metadata(last, {"metrics.finished": "done", "metrics.step": 8}))


@pytest.mark.parametrize("as_json", [[], ["--json"]], ids=["text", "json"])
@pytest.mark.parametrize(
    "text", ["{}", *(f'{{"step": {step}}}' for step in ("null", '"x"', "[]", "NaN", "-1", "1e400"))]
)
def test_odd_metrics_of_the_best_model_are_shown_or_refused(
    over: None, best: bytes, text: str, as_json: list[str]
) -> None:
    """Metrics that no run writes are printed, or give an error and no output."""
    Path("run/best.safetensors").write_bytes(forge(best, metrics=text))
    result = call("train", "--resume", "run", *as_json)
    if result.exit_code:
        assert_refused(result)
    assert not result.exit_code or not result.stdout


@pytest.mark.parametrize("change", ["symbols", "cell"])
def test_a_best_model_of_another_run_is_refused(
    over: None, best: bytes, change: str, make_model: Callable[..., Any]
) -> None:
    """A best model with other symbols or another cell is not measured as the model of the run."""
    if change == "symbols":
        Path("run/best.safetensors").write_bytes(replace_symbols(best, "abc"))
    else:
        make_model("gru").save(Path("run/best.safetensors"))
    assert_refused(resume())


def test_metrics_of_a_file_replace_no_field_of_the_json(over: None, best: bytes) -> None:
    """The run, the model and the sample in the JSON are those of charlm, and the JSON is strictly valid."""
    figures = {"step": 4, "run": "/elsewhere", "model": "/elsewhere", "sample": "!", "unknown": NAN}
    Path("run/best.safetensors").write_bytes(forge(best, metrics=json.dumps(figures)))
    result = call("train", "--resume", "run", "--json", "--sample-length", "2")
    if result.exit_code:
        assert_refused(result)
        return
    assert "NaN" not in result.stdout
    values = json.loads(result.stdout)
    assert (values["run"], values["model"], len(values["sample"])) == ("run", "run/best.safetensors", 2)


def test_metadata_of_a_run_sends_no_control_sequences(run: Path, last: bytes) -> None:
    """The reason why a run ended, and the machine it was started on, are shown as printable text."""
    bell = "\x1b]0;untrusted\x07\n\x1b[2J"
    data = change_metadata(last, {"metrics.finished": f"no better {bell}", "metrics.step": 8})
    started_on = dict.fromkeys(("torch", "device", "precision", "threads", "cpu", "platform"), bell)
    for file in (data, forge(last, runtime=json.dumps(started_on))):
        result = resume(file)
        assert not {"\x1b", "\x07"} & set(result.stdout + result.stderr)


@pytest.mark.parametrize("target", ["absent", "empty", "text", "records"])
@pytest.mark.parametrize("name", ["metrics.jsonl", "config.yaml", "best.safetensors", "last.safetensors"])
def test_nothing_is_written_outside_a_run_folder(run: Path, name: str, target: str) -> None:
    """A link in a run folder to a file elsewhere is replaced or refused, and never written through."""
    texts = {"empty": b"", "text": b"mine\n", "records": b'{"step": 1}\n'}
    if name.endswith("safetensors"):
        texts = dict.fromkeys(texts, (run / name).read_bytes())
    if target in texts:
        Path("elsewhere").write_bytes(texts[target])
    (run / name).unlink(missing_ok=True)
    (run / name).symlink_to(Path("elsewhere").absolute())
    resume()
    assert Path("elsewhere").exists() == (target in texts)
    assert target == "absent" or Path("elsewhere").read_bytes() == texts[target]


LINES = {
    "deep": b'{"step": 1, "x": ' + b"[" * 10**5,
    "closed": b'{"step": 1, "x": ' + b"[" * 10**5 + b"]" * 10**5 + b"}",
    "number": b'{"step": ' + b"9" * 5000 + b"}",
    "bytes": b"\xff\0\xfe",
    "others": b"[]\nnull\n5\n{}\n" + b'{"step": null}\n{"step": "x"}\n{"step": [1]}\n{"step": NaN}',
}


@pytest.mark.parametrize("line", LINES)
def test_invalid_lines_of_metrics_are_dropped(run: Path, line: str) -> None:
    """`metrics.jsonl` keeps the lines that are records, and no other line prevents a run from resuming."""
    metrics = run / "metrics.jsonl"
    before = metrics.read_bytes()
    metrics.write_bytes(before + LINES[line] + b"\n")
    result = resume()
    assert result.exit_code == 0, result.stderr
    records = metrics.read_bytes().splitlines(keepends=True)
    assert before == b"".join(records[: before.count(b"\n")])
    assert all(isinstance(json.loads(record)["step"], int) for record in records)


@pytest.mark.parametrize("name", ["best.safetensors", "metrics.jsonl"])
def test_a_pipe_in_a_run_folder_is_refused_at_once(over: None, name: str) -> None:
    """A pipe in place of a file that resuming reads is refused without waiting for a writer."""
    Path("run", name).unlink()
    os.mkfifo(Path("run", name))
    assert_refused(resume())


@pytest.mark.parametrize("name", ["last.safetensors", "best.safetensors", "metrics.jsonl"])
def test_a_folder_in_place_of_a_run_file_is_refused(
    over: None, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder in place of a model file or of `metrics.jsonl` is reported in one line."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # a run that cannot be saved may be kept there
    Path("run", name).unlink()
    Path("run", name).mkdir()
    assert_refused(resume())


@pytest.mark.parametrize("path", ["absent", "text.txt", "loop", "~nobody-at-all", "/dev/zero"])
def test_resume_refuses_a_path_that_is_no_run_folder(run: Path, path: str) -> None:
    """A missing path, a file, a circular link, an unknown home and a device are refused."""
    Path("loop").symlink_to("loop")
    shutil.rmtree("run")
    assert_refused(call("train", "--resume", path))
