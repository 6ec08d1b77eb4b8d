"""No dead options: every setting and every flag changes something."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from charlm.checkpoint import ModelFile
from charlm.cli.app import app
from charlm.data.corpus import load_corpus
from charlm.errors import DeviceError
from charlm.nn.runtime import Runtime
from charlm.run_folder import RunFolder
from charlm.settings.config import GROUPS
from charlm.settings.config_file import load_config
from charlm.training.trainer import Trainer
from tests.helpers.commands import assert_refused, call
from tests.helpers.evaluation import TINY_WORKLOAD
from tests.helpers.training import needs_bf16, records_of

ACCENTED_TEXT = "caf\u00e9 na\u00efve d\u00e9j\u00e0 vu; the cat sat on the mat, and the dog on the log. " * 16
SETTINGS: dict[str, Any] = {
    "model.hidden_size": 12,
    "model.embedding_size": 6,
    "model.dropout": 0.0,
    "model.weight_dropout": 0.0,
    "data.corpus": "text.txt",
    "train.steps": 24,
    "train.batch_size": 3,
    "train.block_size": 8,
    "train.evaluations": 6,
    "train.evaluation_characters": 60,
    "train.clip_norm": 0.5,
    "train.precision": "fp32",
    "train.threads": 1,
    "seed": 1,
}
# For every setting a value that is not the one above or the default.
CHANGES: dict[str, Any] = {
    "vocab.kind": "bytes",
    "vocab.filter": "letters",
    "seed": 2,
    "model.cell": "gru",
    "model.embedding_size": 7,
    "model.hidden_size": 13,
    "model.num_layers": 2,
    "model.direction": "backward",
    "model.initial_state": "learned",
    "model.initialiser": "glorot",
    "model.dropout": 0.5,
    "model.weight_dropout": 0.5,
    "model.ngram_order": 3,
    "data.corpus": "other.txt",
    "data.encoding": "latin-1",
    "data.validation_fraction": 0.2,
    "data.test_fraction": 0.1,
    "train.steps": 23,
    "train.epochs": 1.5,
    "train.time": 0.2,
    "train.batch_size": 2,
    "train.block_size": 7,
    "train.optimizer": "adamw",
    "train.clip_value": 1e-4,
    "train.schedule": "cosine",
    "train.step_factor": 0.5,
    "train.step_after_epochs": 2,
    "train.learning_rate": 1e-3,
    "train.matrix_learning_rate": 1e-2,
    "train.weight_decay": 0.0,
    "train.warmup_fraction": 0.3,
    "train.decay_fraction": 0.9,
    "train.clip_norm": 0.01,
    "train.reset_probability": 0.5,
    "train.evaluations": 5,
    "train.evaluation_characters": 30,
    "train.patience": 1,
    "train.precision": "bf16",
    "train.threads": 2,
}
# What a run learns does not depend on these; they have tests of their own.
ELSEWHERE = {"model.ngram_weight", "data.holdout", "data.skip_undecodable"}
ELSEWHERE |= {
    "data.documents",
    "data.reset_state_at_documents",
    "train.accumulate",
    "train.device",
    "train.sample_every",
    "train.keep_every",
}


def outcome(flags: dict[str, Any]) -> dict[str, Any]:
    """Train a small model and return all that can be seen of it, but for the clock."""
    config = load_config("lstm", (), flags)
    run = RunFolder.create(None, "run")
    text = load_corpus(
        config.data.corpus, encoding=config.data.encoding, kind=config.vocab.kind, filter=config.vocab.filter
    )
    runtime = Runtime.choose(config.train.device, config.train.precision, config.train.threads)
    training = Trainer(config, text, run, runtime)
    records = [record.to_json() for record in records_of(training)]
    for record in records:
        del record["seconds"], record["characters_per_second"]
    return {
        "records": records,
        "weights": {name: array.tobytes() for name, array in training.learner.model.arrays().items()},
        "threads": runtime.threads,
        "finished": training.state.finished,
        "parts": [len(part) for part in training.learner.parts],
        "model": sorted(training.model_now().arrays),
    }


@functools.cache
def outcome_once(settings: str) -> dict[str, Any]:
    """Return the outcome of a run that many tests compare with."""
    return outcome(json.loads(settings))


@pytest.fixture
def texts() -> None:
    """Two texts that differ."""
    Path("text.txt").write_text(ACCENTED_TEXT, encoding="utf-8")
    Path("other.txt").write_text(ACCENTED_TEXT.replace("cat", "bat"), encoding="utf-8")


def test_every_setting_has_a_change_to_test() -> None:
    """The table of changes names every setting, so that each is shown to matter."""
    fields = {f"{group}.{name}" for group, model in GROUPS.items() for name in model.model_fields}
    assert fields | {"seed"} == set(CHANGES) | ELSEWHERE


@pytest.mark.parametrize(
    "key", [pytest.param(key, marks=needs_bf16 if key == "train.precision" else ()) for key in CHANGES]
)
def test_every_setting_changes_what_a_run_does(texts: None, key: str) -> None:
    """Weights, records, parts or threads differ from those of the same run without the change."""
    # With a validation after every block and a high rate, one is soon no better than the last.
    restless = {"train.evaluations": 24, "train.learning_rate": 0.5, "train.matrix_learning_rate": 0.5}
    base = SETTINGS | (restless if key == "train.patience" else {})
    if key == "train.threads":
        # Where other processes use the cores, threads wait for one another.
        base |= {"train.steps": 1}
    if key.startswith("train.step_"):
        base |= {"train.schedule": "step", "train.step_after_epochs": 1, "train.epochs": 4.0, "train.steps": None}
    assert outcome_once(json.dumps(base)) != outcome(base | {key: CHANGES[key]})


def test_a_run_without_a_change_has_the_same_outcome(texts: None) -> None:
    """Two runs of the same settings agree; otherwise a difference would prove nothing."""
    assert outcome(SETTINGS) == outcome_once(json.dumps(SETTINGS))


def test_a_missing_device_is_refused() -> None:
    """A device that this machine lacks is a `DeviceError`; `cpu` is always there."""
    assert Runtime.choose("cpu", "fp32", 1).device.type == "cpu"
    with pytest.raises(DeviceError, match="no device"):
        Runtime.choose("mps", "fp32", 1)


SAMPLE = ["sample", "ab", "-m", "small.safetensors", "--length", "40", "--seed", "1"]
PREDICT = ["predict-next", "ab", "-m", "small.safetensors"]
SCORE = ["score", "abcabc abc", "-m", "small.safetensors"]
FILL = ["fill", "a_c", "-m", "both.safetensors"]
EXPLAIN = ["explain", "--model", "small.safetensors"]
INSPECT = ["inspect", "abc abc", "-m", "small.safetensors"]
SEARCH = ["inspect", "abc\nabd " * 20, "-m", "small.safetensors", "--find"]
REACH = ["reach", "small.safetensors", "-c", "abc.txt"]
EVALUATE = ["eval", "-m", "small.safetensors", "-c", "abc.txt"]
BENCH = ["bench", "--only", "sampling", "--rounds", "1"]
FLAGS = [
    (SAMPLE, ["--length", "41"]),
    (SAMPLE, ["--temperature", "0.3"]),
    (SAMPLE, ["--top-k", "1"]),
    (SAMPLE, ["--top-p", "0.1"]),
    (SAMPLE, ["--min-p", "1"]),
    (SAMPLE, ["--num", "2"]),
    (SAMPLE, ["--stop", "a"]),
    (SAMPLE, ["--lines", "1"]),
    (SAMPLE, ["--hide-prompt"]),
    (SAMPLE, ["--seed", "2"]),
    (SAMPLE, ["--json"]),
    ([*SAMPLE, "--num", "2"], ["--separator", "|"]),
    (SAMPLE, ["--clamp", "1.0=1"]),
    (SAMPLE, ["--out", "texts"]),
    (SAMPLE, ["--model", "other.safetensors"]),
    (["sample", "aXb", *SAMPLE[2:]], ["--unknown", "skip"]),
    (PREDICT, ["--top", "2"]),
    (PREDICT, ["--words", "2"]),
    (PREDICT, ["--compare", "other.safetensors"]),
    (PREDICT, ["--json"]),
    (PREDICT, ["--model", "other.safetensors"]),
    (["predict-next", "abcabcabcabcab", *PREDICT[2:]], ["--recent"]),
    (["predict-next", "aXb", *PREDICT[2:]], ["--unknown", "replace=c"]),
    (FILL, ["--blank", "c", "--unknown", "skip"]),
    (FILL, ["--top", "2"]),
    (FILL, ["--json"]),
    (FILL[:2], ["--model", "other both.safetensors"]),
    (["fill", "aX_", *FILL[2:]], ["--unknown", "replace=c"]),
    (SCORE, ["--top", "2"]),
    (SCORE, ["--json"]),
    (SCORE, ["--model", "other.safetensors"]),
    (SCORE, ["--diff", "other.safetensors"]),
    (["score", "aXb", *SCORE[2:]], ["--unknown", "skip"]),
    (["score", *SCORE[2:]], ["--file", "abc.txt"]),
    (["explain", "gru"], ["--hidden-size", "8"]),
    (["explain", "gru"], ["--embedding-size", "8"]),
    (["explain", "gru"], ["--layers", "2"]),
    (["explain", "gru"], ["--symbols", "8"]),
    (["explain", "gru"], ["--json"]),
    (["explain"], ["--model", "small.safetensors"]),
    (EXPLAIN, ["--text", "ab"]),
    ([*EXPLAIN, "--text", "aXb"], ["--unknown", "skip"]),
    (INSPECT, ["--unit", "1.2"]),
    (INSPECT, ["--gate", "forget"]),
    (["inspect", "abc abc", "-m", "deep.safetensors"], ["--layer", "1"]),
    (INSPECT, ["--units", "3"]),
    (SEARCH[:-1], ["--find"]),
    (SEARCH, ["--hypothesis", "b=b"]),
    (INSPECT, ["--json"]),
    (INSPECT[:2], ["--model", "other.safetensors"]),
    (["inspect", "aXb", *INSPECT[2:]], ["--unknown", "skip"]),
    ([*EXPLAIN, "--text", "ab"], ["--step", "1"]),
    ([*EXPLAIN, "--text", "ab"], ["--unit", "1"]),
    (["explain", "--model", "deep.safetensors", "--text", "ab"], ["--layer", "1"]),
    (REACH, ["--model", "other.safetensors"]),
    (REACH, ["--context", "2"]),
    (REACH, ["--targets", "2"]),
    (REACH, ["--seed", "3"]),
    (REACH, ["--gradient"]),
    (REACH, ["--json"]),
    (REACH, ["--corpus", "abc.txt"]),
    (["reach", "small.safetensors", "-c", "utf16.txt"], ["--encoding", "utf-16"]),
    (["reach", "small.safetensors", "-c", "abc.txt", "-c", "utf16.txt"], ["--skip-undecodable"]),
    (["reach", "small.safetensors", "-c", "unknown.txt"], ["--unknown", "skip"]),
    (EVALUATE, ["--window", "2"]),
    (EVALUATE, ["--dynamic"]),
    (EVALUATE, ["--json"]),
    (EVALUATE, ["--model", "other.safetensors"]),
    (EVALUATE, ["-c", "abc.txt"]),
    (["eval", "-m", "small.safetensors", "-c", "utf16.txt"], ["--encoding", "utf-16"]),
    (["eval", "-m", "small.safetensors", "-c", "abc.txt", "-c", "utf16.txt"], ["--skip-undecodable"]),
    (["eval", "-m", "small.safetensors", "-c", "unknown.txt"], ["--unknown", "skip"]),
    (["corpora"], ["--json"]),
    (BENCH, ["--only", "texts"]),
    (BENCH, ["--rounds", "2"]),
    (BENCH, ["--json"]),
]


@pytest.mark.parametrize(("command", "flag"), FLAGS, ids=lambda value: " ".join(value[-2:]))
def test_every_flag_changes_what_a_command_prints(
    make_model: Callable[..., ModelFile], command: list[str], flag: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Standard output differs from that of the same command without the flag."""
    monkeypatch.setattr("charlm.evaluation.bench.WORKLOAD", TINY_WORKLOAD)
    make_model().save(Path("small.safetensors"))
    make_model(seed=5).save(Path("other.safetensors"))
    make_model(num_layers=2).save(Path("deep.safetensors"))
    make_model(direction="both").save(Path("both.safetensors"))
    make_model(direction="both", seed=5).save(Path("other both.safetensors"))
    Path("runs/one").mkdir(parents=True)
    make_model(direction="both").save(Path("runs/one/best.safetensors"))
    Path("abc.txt").write_text("abcabc abc\n", encoding="utf-8")
    Path("utf16.txt").write_text("abcabc", encoding="utf-16")
    Path("unknown.txt").write_text("abXc", encoding="utf-8")
    without, with_flag = (CliRunner().invoke(app, arguments) for arguments in (command, [*command, *flag]))
    assert with_flag.exit_code == 0, with_flag.stderr
    assert without.stdout != with_flag.stdout


def test_every_flag_of_a_command_has_a_test() -> None:
    """The table has every flag, except those of `train` and a few that are tested with their commands."""
    tested = {(command[0], flag[0]) for command, flag in FLAGS}
    elsewhere = {("eval", "--part"), ("eval", "--baselines"), ("eval", "--corpus"), ("corpora", "--fetch")}
    elsewhere |= {("compare", "--json"), ("compare", "--curves"), ("sample", "--prompts"), ("reach", "--part")}
    elsewhere |= {("score", "--html"), ("corpora", "--prune"), ("corpora", "--encoding"), ("bench", "--distributed")}
    elsewhere |= {("compare", "--html"), ("report", "--out"), ("report", "--corpus")}
    elsewhere |= {("sample", "--check-copies"), ("sample", "--corpus")}
    elsewhere |= {("average", "--weights"), ("average", "--out"), ("average", "--json")}
    elsewhere |= {("export", option) for option in ("--format", "--model", "--out", "--net-only", "--corpus")}
    elsewhere |= {("import", option) for option in ("--vocabulary", "--cell", "--out")}
    elsewhere |= {("serve", option) for option in ("--model", "--host", "--port", "--token")}
    elsewhere |= {("compress", option) for option in ("--model", "--out", "--no-verify", "--json")}
    elsewhere |= {("decompress", option) for option in ("--model", "--out")}
    for name, command in get_command(app).commands.items():  # type: ignore[attr-defined]
        if name == "train":
            continue
        for parameter in command.params:
            options = set(parameter.opts)
            if any(option.startswith("--") for option in options) and not parameter.is_eager:
                assert any((name, option) in tested | elsewhere for option in options), f"{name} {options}"


@pytest.mark.parametrize("prompt", ["\U0001f600", "e\u0301", "\r\n", "\0", "", "a\tb", "\U0010ffff", "a\ufeff"])
def test_any_character_can_be_a_prompt(make_model: Callable[..., ModelFile], prompt: str) -> None:
    """Emoji, combining marks, Windows line ends and NUL come out unchanged, or are named as unknown."""
    make_model(symbols="\0\t\n\r abe\u0301\ufeff\U0001f600\U0010ffff").save(Path("all.safetensors"))
    arguments = ["-m", "all.safetensors", "--json"]
    sampled = json.loads(CliRunner().invoke(app, ["sample", prompt, "--length", "5", *arguments]).stdout)
    assert sampled["text"][: len(prompt)] == prompt
    through_pipe = CliRunner().invoke(app, ["sample", "-", "--length", "5", *arguments], input=f"{prompt}\n".encode())
    assert json.loads(through_pipe.stdout)["text"][: len(prompt)] == prompt
    make_model(symbols="xyz").save(Path("none.safetensors"))
    refused = CliRunner().invoke(app, ["predict-next", prompt, "-m", "none.safetensors"])
    assert refused.exit_code == (1 if prompt else 0)
    assert f"U+{ord(prompt[0]):04X}" in refused.stderr if prompt else refused.stdout


@pytest.mark.parametrize("option", ["--html", "--file", "--model", "--top"])
def test_an_option_without_its_value_is_refused(model: str, option: str) -> None:
    """The value of the last option is missing: nothing else is taken for it."""
    assert f"`{option}` needs a value" in assert_refused(call("score", "abc", "-m", model, option))
    assert not Path("--").exists()
