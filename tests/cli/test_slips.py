"""Slips on the command line: the error is one line, and the hint is the command line that works."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

import charlm
from charlm.checkpoint import ModelFile
from charlm.cli.app import COMMANDS, app
from charlm.cli.slips import meant_option
from charlm.settings.config import GROUPS
from charlm.settings.names import USUAL_SETTINGS, all_settings
from tests.helpers.commands import HARE_AND_FOX, OPTIONS, assert_can_be_followed, assert_refused, call
from tests.helpers.model_files import random_model

FOLDER = Path(charlm.__file__).parent
COMMANDS_OF_TYPER: dict[str, Any] = get_command(app).commands  # type: ignore[attr-defined]


def hint_on(*arguments: str) -> str:
    """Run a command line that must be refused with exit code 2, an error and a hint, and return the hint."""
    result = call(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert_refused(result)
    *_, hint = result.stderr.splitlines()
    return hint.removeprefix("hint: ")


@pytest.mark.parametrize(
    ("given", "works"),
    [
        ("train --epochs 3", "train --set train.epochs=3"),
        ("train --steps 100", "train --set train.steps=100"),
        ("train --hidden-size 128", "train --set model.hidden_size=128"),
        ("train --hidden_size=128", "train --set model.hidden_size=128"),
        ("train --HiddenSize 128", "train --set model.hidden_size=128"),
        ("train --model.hidden_size 128", "train --set model.hidden_size=128"),
        ("train --train.learning-rate=1e-3", "train --set train.learning_rate=1e-3"),
        ("train --lr 0.01", "train --set train.learning_rate=0.01"),
        ("train -lr 0.01", "train --set train.learning_rate=0.01"),
        ("train --rnn_size 9 --seq_length 5 --max-iters 7", "train --set model.hidden_size=9 --set train.block_size=5 "
         "--set train.steps=7"),
        ("train gru -c a.txt --layers 2 --time 5s", "train gru -c a.txt --set model.num_layers=2 --time 5s"),
        ("train --model GRU", "train --set model.cell=GRU"),
        ("train --data a.txt --random-seed 1", "train --corpus a.txt --seed 1"),
        ("train --dropuot 0.1", "train --set model.dropout=0.1"),
        ("train --sample_length 5", "train --sample-length 5"),
        ("train --dry_run", "train --dry-run"),
        ("train --set model.hidden_size 128", "train --set model.hidden_size=128"),
        ("train gru --set model.hidden_size 128", "train gru --set model.hidden_size=128"),
        ("train --set model.hidden_size = 128", "train --set model.hidden_size=128"),
        ("train --set model.hidden_size:128", "train --set model.hidden_size=128"),
        ("train --set 'model.hidden_size: 128'", "train --set model.hidden_size=128"),
        ("train --set hidden_size=128", "train --set model.hidden_size=128"),
        ("train --set units=128", "train --set model.hidden_size=128"),
        ("train --set data.file=a.txt", "train --set data.corpus=a.txt"),
        ("train --time 20 secs", "train --time 20secs"),
        ("train --time 1h 30m -c a.txt", "train --time 1h30m -c a.txt"),
        ("train lstm a.txt", "train lstm --corpus a.txt"),
        ("train --json=3", "train --json"),
        ("sample --tempreature 1 To", "sample --temperature 1 To"),
        ("sample --prompt 'To be' --max-new-tokens 5", "sample 'To be' --length 5"),
        ("sample To be or -n 5", "sample 'To be or' -n 5"),
        ("predict-next To b --checkpoint m", "predict-next 'To b' --model m"),
        ("eval a.txt --json", "eval --json --corpus a.txt"),
        ("eval m.safetensors", "eval --model m.safetensors"),
        ("eval --no-baseline", "eval --no-baselines"),
        ("corpora enwik8", "corpora --fetch enwik8"),
        ("corpora shwo a.txt", "corpora show a.txt"),
        ("corpora a.txt --json", "corpora show a.txt --json"),
        ("train fables", "train --corpus fables"),
        ("train Fables --time 5s", "train --time 5s --corpus Fables"),
        ("train novel.txt", "train --corpus novel.txt"),
        ("train hidden_size=128", "train --set model.hidden_size=128"),
        ("train gru model.hidden_size=128 train.steps=3", "train gru --set model.hidden_size=128 --set train.steps=3"),
        ("train --set model.hidden_size=128 train.steps=3", "train --set model.hidden_size=128 --set train.steps=3"),
        ("train --config gru.yaml -c a.txt", "train gru.yaml -c a.txt"),
        ("train --cell LTSM", "train --set model.cell=lstm"),
        ("explain --cell gru", "explain gru"),
        ("compare --runs a b", "compare a b"),
        ("compare -m a --model=b --curves", "compare a b --curves"),
        ("average -m a -m b --weights 1,2", "average a b --weights 1,2"),
        ("report -m runs/gru -o gru.html", "report runs/gru -o gru.html"),
        ("report --checkpoint 'my runs/gru'", "report 'my runs/gru'"),
        ("import --model net.safetensors -v bytes", "import net.safetensors -v bytes"),
        ("sample -- '- said he' -m M -n 5", "sample -m M -n 5 -- '- said he'"),
        ("predict-next -- - said he", "predict-next -- '- said he'"),
        ("help", "--help"),
        ("help train", "train --help"),
        ("-V", "--version"),
        ("version", "--version"),
        ("trian --epochs 3", "train --set train.epochs=3"),
        ("Train", "train"),
        ("generate -n 5", "sample -n 5"),
        ("predict x", "predict-next x"),
        ("evaluate", "eval"),
        ("--model m sample", "sample --model m"),
    ],
)  # fmt: skip
def test_the_hint_on_a_slip_is_the_command_line_that_works(given: str, works: str) -> None:
    """The hint is a command line that Typer can read, with the values that were given."""
    hint = hint_on(*shlex.split(given))
    assert f"`charlm {works}`" in hint
    name, *arguments = shlex.split(works)
    if not {"--help", "--version"} & {name, *arguments}:
        COMMANDS_OF_TYPER[name].make_context(name, arguments)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("train --temperature 1", "`charlm sample --temperature`"),
        ("eval --seed 1", "`charlm train --seed`"),
        ("eval --batch-size 1", "`charlm train --set train.batch_size=VALUE`"),
        ("train --model runs/a", "`charlm sample --model`"),
        ("train --bidirectional", "`--set model.direction=VALUE`"),
        ("train --time", "as in 60s, 15m or 2h"),
        ("train --frobnicate", "`charlm train --help`"),
        ("train --epochs 3 --frobnicate", "`--set train.epochs=VALUE`"),
        ("train -x", "`charlm train --help`"),
        ("sample --num 0", "how many texts"),
        ("sample --num abc", "how many texts"),
        ("sample -n", "how many new characters"),
        ("fill", "the text with its blanks"),
        ("eval --part some", "which part"),
        ("explain gru 128", "`charlm explain gru`"),
        ("--verison", "`charlm --version`"),
        ("--frobnicate", "predict-next"),
        ("nosuch", "predict-next"),
        ("train --help=3", "`charlm train --help`"),
        ("'' x", "predict-next"),
        ("x" * 5000, "predict-next"),
        ("eval " + "x" * 5000, "--corpus"),
        ("train --set '' x", "`charlm train --help"),
        ("train --time=", "`charlm train --help-settings`"),
        ("train --time=1:30", "`charlm train --help-settings`"),
        ("sample -- -m M -n 5", "`charlm sample --help`"),
        ("explain --cell", "`charlm explain CELL`"),
        ("report -m", "`charlm report RUN`"),
    ],
)
def test_the_hint_on_another_slip_can_be_followed(given: str, words: str) -> None:
    """The hint names the command that has the option, what an option takes, or where to read about it."""
    assert words in hint_on(*shlex.split(given))


def test_choices_and_cells_are_named_in_any_case() -> None:
    """`explain GRU` is `explain gru`, and a part is named in any case."""
    assert call("explain", "GRU").stdout == call("explain", "gru").stdout
    COMMANDS_OF_TYPER["eval"].make_context("eval", ["--part", "Test"])


def test_a_text_in_place_of_a_command_is_for_training(text: str) -> None:
    """`charlm my-novel.txt` gets the command that trains on it."""
    assert f"`charlm train --corpus {text}`" in hint_on(text)


@pytest.mark.parametrize("setting", all_settings())
def test_an_option_with_the_name_of_a_setting_is_meant(setting: str) -> None:
    """Every setting is found by its own name, with dashes or underscores, unless `train` has the option."""
    name = setting.rpartition(".")[2]
    if f"--{name.replace('_', '-')}" not in OPTIONS["train"] and name not in ("corpus", "encoding", "time", "seed"):
        train = COMMANDS_OF_TYPER["train"]
        assert meant_option(f"--{name}", train) == meant_option(f"--{name.replace('_', '-')}", train) == setting


def test_the_usual_names_are_of_settings_and_unique() -> None:
    """A name in other tools stands for one setting, and is not the name of another."""
    assert USUAL_SETTINGS.keys() <= all_settings().keys()
    words = [word for words in USUAL_SETTINGS.values() for word in words.split()]
    assert len(words) == len(set(words))
    assert not {name.replace("_", "") for name in all_settings().values()} & set(words)


# Hints


def texts_of(file: Path) -> list[str]:
    """Return the strings of a module; a value in an f-string is shown as VALUE."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    inside = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            parts = [part.value if isinstance(part, ast.Constant) else "VALUE" for part in node.values]
            found.append("".join(map(str, parts)))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inside:
            found.append(node.value)
    return found


@pytest.mark.parametrize("file", sorted(FOLDER.rglob("*.py")), ids=lambda path: path.relative_to(FOLDER).as_posix())
def test_options_and_settings_in_messages_exist(file: Path) -> None:
    """An option in backquotes belongs to the command beside it, or to some command, and a setting exists."""
    every = set().union(*OPTIONS.values())
    for text in texts_of(file):
        for part in re.findall("`((?!pip )[^`]+)`", text):
            named = re.match("charlm ([a-z-]+)", part)
            options = OPTIONS.get(named[1], every) if named else every
            assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", part)) <= options | {"--version"}, text
            if key := re.fullmatch(rf"(?:--set )?((?:{'|'.join(GROUPS)})\.[a-z_]+)(?:=.*)?", part):
                assert key[1] in all_settings(), text


@pytest.mark.parametrize("name", COMMANDS)
def test_a_hint_on_unknown_characters_has_an_option(name: str, model: str) -> None:
    """Each command that reads a text with a model names its own option for characters that the model lacks."""
    Path("zh.txt").write_text("\u4e2d", encoding="utf-8")
    arguments = {
        "sample": ["\u4e2d"],
        "predict-next": ["\u4e2d"],
        "score": ["\u4e2d"],
        "inspect": ["\u4e2d"],
        "explain": ["--text", "\u4e2d"],
        "eval": ["--corpus", "zh.txt"],
        "reach": ["--corpus", "zh.txt"],
    }
    if name in arguments:
        result = call(name, *arguments[name], "--model", model)
        assert "U+4E2D" in assert_refused(result)
        assert "hint: `--unknown skip`" in result.stderr
    else:
        assert name == "fill" or "--unknown" not in OPTIONS[name]


def test_a_hint_that_cannot_be_followed_fails_its_test() -> None:
    """The check of hints, which every test of a command makes, finds an option that the command lacks."""
    assert_can_be_followed("hint: `--set model.hidden_size=3`, or `charlm sample --unknown skip`", "train")
    for text in ("hint: `--unknown skip`", "hint: no --unknown", "`charlm eval --out x`", "`--set model.size=3`"):
        with pytest.raises(AssertionError):
            assert_can_be_followed(text, "train")


# Models and runs


@pytest.fixture
def run() -> ModelFile:
    """A run `runs/hello-1`, and an older one."""
    model = random_model()
    for name in ("fables-gru-1", "hello-1"):
        folder = Path("runs", name)
        folder.mkdir(parents=True)
        model.save(folder / "best.safetensors")
    return model


@pytest.mark.usefixtures("run")
@pytest.mark.parametrize("given", ["hello", "HELLO", "runs/hello", "helo-1", "runs", "hello-1/best.safetensors"])
def test_a_model_that_is_missing_gets_a_run_that_fits(given: str) -> None:
    """The hint names the newest run in a folder, or the one whose name fits."""
    result = call("sample", "--model", given)
    assert given in assert_refused(result)
    assert "did you mean" in result.stderr
    assert "`runs/hello-1`" in result.stderr


def test_a_run_with_exactly_this_name_is_meant() -> None:
    """A newer run whose name is longer is not suggested in its place."""
    for name in ("fables", "fables-zh"):
        Path("runs", name).mkdir(parents=True)
        random_model().save(Path("runs", name, "best.safetensors"))
    for arguments in (["sample", "-m", "fables"], ["compare", "fables"], ["compare", "FABLE"]):
        assert "did you mean `runs/fables`?" in call(*arguments).stderr


@pytest.mark.usefixtures("run")
@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("eval runs/hello-1", "`charlm eval --model runs/hello-1`"),
        ("eval runs/hello-1/best.safetensors", "`charlm eval --model runs/hello-1/best.safetensors`"),
        ("train runs/hello-1", "`charlm train --resume runs/hello-1`"),
        ("train gru runs/hello-1", "`charlm train gru --resume runs/hello-1`"),
        ("train --model runs/hello-1 -c a.txt", "`charlm train --from runs/hello-1 -c a.txt`"),
        ("train --init-from runs/hello-1", "`charlm train --from runs/hello-1`"),
        ("explain runs/hello-1", "`charlm explain --model runs/hello-1`"),
        ("compare --model runs/hello-1", "`charlm compare runs/hello-1`"),
    ],
)
def test_a_run_without_its_option_gets_it(given: str, words: str) -> None:
    """A run is neither a text nor settings; the hint has the option that takes it."""
    assert words in hint_on(*shlex.split(given))


@pytest.mark.usefixtures("run")
def test_a_run_in_place_of_a_text_is_noticed() -> None:
    """It may be meant as a text, so it is read, and a note names the option."""
    result = call("sample", "runs/hello-1", "-n", "2", "--unknown", "skip")
    assert result.exit_code == 0
    assert "note: `runs/hello-1` is read as a text; `--model runs/hello-1` names a model" in result.stderr
    assert "note" not in call("sample", "hello", "-n", "2", "--unknown", "skip").stderr


@pytest.mark.usefixtures("run")
def test_no_text_is_no_run_in_the_folder_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty text is not taken for the folder in which the command is used, though that is a run."""
    monkeypatch.chdir("runs/hello-1")
    result = call("sample", "-m", ".", "-n", "2")
    assert result.exit_code == 0
    assert "note" not in result.stderr


def test_a_folder_of_texts_is_no_settings_file() -> None:
    """The hint is the option that reads it."""
    Path("texts").mkdir()
    assert hint_on("train", "texts") == "`charlm train --corpus texts`"


@pytest.mark.parametrize(
    ("given", "words"),
    [("texts", "`charlm train --corpus texts`"), ("hare.txt", "`charlm train`"), ("nowhere", "a run folder")],
)
def test_what_is_no_model_gets_a_sensible_hint(text: str, given: str, words: str) -> None:
    """A folder of texts, a text and nothing at all are told apart."""
    Path("texts").mkdir()
    Path("texts", text).write_text(HARE_AND_FOX, encoding="utf-8")
    result = call("sample", "--model", given)
    assert given in assert_refused(result)
    assert words in result.stderr.splitlines()[1]


# Mistakes in a settings file


def test_mistakes_in_a_settings_file_are_one_line_each() -> None:
    """Unknown keys, wrong values, repeated keys and two durations come in the order of the file."""
    Path("s.yaml").write_text(
        "seed: x\nmodle: 3\nmodel:\n  cell: gru\n  hiden_size: 3\n  num_layers: 99\n  cell: lstm\n"
        "train:\n  lr: 0.1\n  time: soon\n  steps: 5\ndata:\n  file: a.txt\nzzzz: 1\n",
        encoding="utf-8",
    )
    *mistakes, hint = call("train", "s.yaml", "--set", "vocab=words").stderr.splitlines()
    places = [mistake.removeprefix("error: ").split(" ")[0] for mistake in mistakes]
    assert places == [f"s.yaml:{line}:" for line in (1, 2, 5, 6, 7, 8, 9, 10, 13, 14)] + ["--set"]
    assert "did you mean `data.corpus`?" in mistakes[-3]
    assert hint.startswith("hint: ")


def test_settings_are_named_in_any_case() -> None:
    """On the command line they are read; in a file, the error names the group that is meant."""
    assert call("train", "--set", "Model.Hidden_Size=0").stderr == call("train", "--set", "model.hidden_size=0").stderr
    Path("s.yaml").write_text("Model:\n  cell: gru\nTRAIN:\n  steps: 5\n", encoding="utf-8")
    first, second, _ = call("train", "s.yaml").stderr.splitlines()
    assert first.endswith("s.yaml:1: `Model` is not a setting, did you mean `model`?")
    assert second.endswith("s.yaml:3: `TRAIN` is not a setting, did you mean `train`?")


def test_many_mistakes_in_a_settings_file_are_counted() -> None:
    """The first twenty lines with a mistake are shown, and the rest are counted."""
    Path("s.yaml").write_text("".join(f"z{number}: 1\nz{number}: 2\n" for number in range(30)), encoding="utf-8")
    lines = call("train", "s.yaml").stderr.splitlines()
    assert len(lines) == 22
    assert lines[0].startswith("error: s.yaml:2: ")
    assert lines[20] == "error: and 40 more"
