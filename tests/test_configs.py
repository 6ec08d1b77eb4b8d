"""Every shipped settings file trains."""

from __future__ import annotations

from pathlib import Path

import pytest
from prompt_toolkit.application import create_app_session
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput

from charlm.checkpoint import load_checkpoint
from charlm.cli.repl import converse
from charlm.data.catalog import catalog_entries
from charlm.data.corpus import load_corpus
from charlm.files import bundled_folder
from charlm.inference.incremental import IncrementalReader
from charlm.inference.stepper import Stepper
from charlm.run_folder import RunFolder
from charlm.settings.config_file import DEFAULT_CONFIG, load_config
from charlm.training.sizing import fit_to_machine
from charlm.training.trainer import Trainer
from tests.helpers.commands import answer, call
from tests.helpers.training import records_of

NAMES = sorted(path.stem for path in bundled_folder("configs").glob("*.yaml"))


def test_the_documented_settings_files_are_shipped() -> None:
    """The documented settings files are shipped, and the default is one of them."""
    assert {"lstm", "gru", "rnn", "quick", "best"} <= set(NAMES)
    assert {"min-char-rnn", "char-rnn", "time-machine", "hello"} <= set(NAMES)
    assert DEFAULT_CONFIG in NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_file_trains_two_steps(name: str) -> None:
    """A shipped file trains at its own sizes, on its corpus or `fables`, to a model file that loads."""
    overrides = ["train.steps=2", "train.evaluation_characters=100", "train.evaluations=2"]
    own = load_config(name).data.corpus
    is_here = all(catalog_entries()[corpus].is_here for corpus in own)
    config = load_config(name, overrides, {"seed": 1, "data.corpus": own if is_here else ["fables"]})
    text = load_corpus(config.data.corpus, kind=config.vocab.kind, filter=config.vocab.filter)
    config, runtime, _ = fit_to_machine(config, text)
    training = Trainer(config, text, RunFolder.create(Path("run"), ""), runtime)
    records = records_of(training)
    assert [record.step for record in records] == [1, 2]
    assert load_checkpoint(training.run.best).config == config.model_dump()


@pytest.mark.parametrize("name", NAMES)
def test_the_name_of_a_cell_selects_it(name: str) -> None:
    """The settings file `gru` trains a GRU, and so for each file named after a cell."""
    if name in ("lstm", "gru", "rnn"):
        assert load_config(name).model.cell == name


def learn_hello(seed: int) -> str:
    """Train the first exercise and return the folder."""
    result = call("train", "hello", "--seed", str(seed), "--out", "hello", "--sample-length", "0")
    assert result.exit_code == 0, result.stderr
    return "hello"


@pytest.fixture(scope="module")
def hello(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model of the first exercise."""
    folder = tmp_path_factory.mktemp("hello")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CHARLM_CACHE", str(folder / "cache"))
        patch.chdir(folder)
        return str(folder / learn_hello(seed=1))


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_first_exercise_recites_its_text(seed: int, hello: str) -> None:
    """A model of `hello` recites its text from the first word, by taking the most probable character."""
    text = (bundled_folder("corpora") / "hello.txt").read_text(encoding="utf-8")
    assert len(text) == 100
    model = hello if seed == 1 else learn_hello(seed)
    recited = call("sample", "hello", "-m", model, "-t", "0", "-n", "95", "--seed", "0").stdout
    assert recited == f"{text}\n"
    first = answer("predict-next", "hell", "-m", model, "--json")["candidates"][0]
    assert first["character"] == "o"
    assert first["probability"] > 0.5


def test_the_first_exercise_ends_with_exit(hello: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The prompt shows the next character of a typed string, and `exit` ends it."""
    stepper = Stepper(load_checkpoint(Path(hello) / "best.safetensors"))
    with create_pipe_input() as typed, create_app_session(input=typed, output=DummyOutput()):
        typed.send_text("hello, little ne\rexit\r")
        converse(IncrementalReader(stepper), top=3)
    first = capsys.readouterr().out.splitlines()[1]
    assert first.startswith("'t'")
