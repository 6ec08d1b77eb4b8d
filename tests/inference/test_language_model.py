"""The interface for programs: what `charlm.load` returns."""

from __future__ import annotations

import doctest
import inspect
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import charlm
from charlm.checkpoint import ModelFile
from charlm.errors import CharlmError, ModelFileError, UnknownCharacterError, UsageError
from charlm.inference import ensemble_model, inspectable_model, language_model
from charlm.inference.inspectable_model import InspectableModel
from charlm.inference.language_model import GenerateOptions, LanguageModel, TextModel
from charlm.inference.sampling import softmax
from charlm.vocab import Vocabulary
from tests.helpers.commands import answer, answers, call

SYMBOLS = "\n Tabcdefghobe"


@pytest.fixture
def file(make_model: Callable[..., ModelFile]) -> ModelFile:
    """A model of a few characters, saved as the best of the run `run`, beside `other`, and `both`, of both sides."""
    symbols = "".join(sorted(set(SYMBOLS)))
    file = make_model(symbols=symbols)
    file.metrics["step"] = 20
    other = make_model("gru", symbols=symbols, seed=1)
    for name, model in (("run", file), ("other", other), ("both", make_model(symbols=symbols, direction="both"))):
        Path(name).mkdir()
        model.save(Path(name) / "best.safetensors")
    return file


@pytest.fixture
def model(file: ModelFile) -> LanguageModel:
    """The same, loaded."""
    return charlm.load("run")


def test_the_examples_of_the_documentation_are_true(file: ModelFile) -> None:
    """The examples in each docstring are run and print what they show."""
    finder, runner = doctest.DocTestFinder(), doctest.DocTestRunner()
    names = {"charlm": charlm, "model": charlm.load("run")}
    modules = (language_model, inspectable_model, ensemble_model)
    tests = [test for module in modules for test in finder.find(module, globs=dict(names)) if test.examples]
    for test in tests:
        runner.run(test)
    assert (len(tests) > 0, runner.summarize(verbose=False).failed) == (True, 0)


def test_every_public_method_is_documented_with_an_example() -> None:
    """Each public method but `load` has an example in its docstring."""
    members = vars(TextModel) | vars(InspectableModel) | vars(LanguageModel)
    public = {name: member for name, member in members.items() if not name.startswith("_")}
    assert {"generate", "stream", "predict_next", "score", "step", "fill"} <= public.keys()
    assert {"vocabulary", "spec", "metrics", "loss_by_context", "change_effect"} <= public.keys()
    without = [name for name, member in public.items() if ">>>" not in (inspect.getdoc(member) or "")]
    assert without == ["load"]


def test_a_model_is_used_where_torch_cannot_be_imported(file: ModelFile) -> None:
    """Every method works in a process that has no torch."""
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "import charlm; m = charlm.load('run'); print(m.generate('To be', length=50, seed=1), end='')\n"
        "m.predict_next('To'), m.score('To be'), m.surprisal('To be'), m.step('T'), charlm.load('both').fill('T_ be')\n"
        "charlm.load('both').score('To be'), next(m.stream('To', seed=1))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == charlm.load("run").generate("To be", length=50, seed=1)


def test_load_takes_a_file_a_run_or_the_newest_run(file: ModelFile) -> None:
    """A path may be a string or a `Path`; without a model there is an error."""
    with pytest.raises(ModelFileError, match="no run"):
        charlm.load()
    Path("runs").mkdir()
    Path("run").rename("runs/old-1")
    for path in (None, "runs/old-1", Path("runs/old-1/best.safetensors")):
        assert charlm.load(path).generate("a", length=9, seed=1) == LanguageModel(file).generate("a", length=9, seed=1)
    with pytest.raises(ModelFileError, match="nowhere"):
        charlm.load("nowhere")


def test_a_model_knows_its_vocabulary_spec_and_metrics(file: ModelFile, model: LanguageModel) -> None:
    """Vocabulary, spec and metrics of a model are those of its file."""
    assert model.vocabulary == file.vocabulary
    assert model.spec == file.spec
    assert model.metrics == file.metrics


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_generate_writes_what_the_command_writes(make_model: Callable[..., ModelFile], direction: str) -> None:
    """`generate` and `charlm sample` agree by default and with all options, for one text and for several."""
    file = make_model("gru", direction=direction)
    file.save(Path("m.safetensors"))
    model = LanguageModel(file)
    written = call("sample", "bad", "-m", "m.safetensors", "--seed", "3", "--separator", "").stdout
    assert model.generate("bad", seed=3) == written
    options = ["-t", "1.2", "--top-k", "6", "--top-p", "0.9", "--min-p", "0.01", "--stop", "ab", "--stop", "\n"]
    rows = answers("sample", "", "-m", "m.safetensors", "--seed", "3", "--num", "4", "-n", "80", *options, "--json")
    texts = model.generate(
        length=80, temperature=1.2, top_k=6, top_p=0.9, min_p=0.01, stop=["ab", "\n"], seed=3, num=4
    )  # fmt: skip
    assert texts == [row["text"] for row in rows]


def test_generate_returns_a_list_if_a_number_is_given(model: LanguageModel) -> None:
    """`num=1` gives a list of one text, and no `num` gives a string."""
    text = model.generate("To", length=9, seed=1)
    assert model.generate("To", length=9, seed=1, num=1) == [text]
    assert model.generate("To", length=9, seed=1, num=3)[0] == text
    assert model.generate("To", length=0) == "To"


def test_generate_continues_each_prompt_of_a_list(model: LanguageModel) -> None:
    """Prompt k has the text of the seed plus k; a list excludes a number."""
    prompts = ["To", "", "bed ab", "To"]
    alone = [model.generate(prompt, length=9, seed=7 + index) for index, prompt in enumerate(prompts)]
    assert model.generate(prompts, length=9, seed=7) == alone
    assert model.generate([]) == []
    with pytest.raises(UsageError, match="list"):
        model.generate(prompts, num=2)  # type: ignore[call-overload]


def test_without_a_seed_each_text_is_another(model: LanguageModel) -> None:
    """Twenty texts of 60 characters are twenty different texts."""
    assert len({model.generate(length=60, temperature=2) for _ in range(20)}) == 20


def test_stream_and_generate_take_the_same_options() -> None:
    """Both have the same defaults, but for the prompt, and `GenerateOptions` names each option."""
    generate, stream = (dict(inspect.signature(f).parameters) for f in (LanguageModel.generate, LanguageModel.stream))
    assert generate.pop("prompt").default == stream.pop("prompt").default == ""
    del generate["num"]
    assert generate == stream
    assert set(stream) - {"self"} == set(GenerateOptions.__annotations__)


def test_stream_yields_the_new_characters_one_by_one(make_model: Callable[..., ModelFile]) -> None:
    """Pieces join to the text without the prompt; those of a backward model come from its end."""
    for direction in ("forward", "backward"):
        model = LanguageModel(make_model(direction=direction))
        pieces = list(model.stream("bad", length=30, seed=2))
        assert [len(piece) for piece in pieces] == [1] * 30
        text = model.generate("bad", length=30, seed=2)
        assert text == ("bad" + "".join(pieces) if direction == "forward" else "".join(reversed(pieces)) + "bad")


def test_predict_next_is_what_the_command_predicts(file: ModelFile, model: LanguageModel) -> None:
    """`predict_next` has the candidates, the remaining probability and the entropy of the command."""
    expected = answer("predict-next", "To b", "-m", "run", "--top", "4", "--json")
    assert {"text": "To b", **model.predict_next("To b", top=4).to_json()} == expected


def test_fill_is_what_the_command_fills(file: ModelFile) -> None:
    """`fill` and `charlm fill` agree, with any mark of a blank."""
    found = charlm.load("both").fill("T?b?", blank="?", top=3).to_json()
    assert found == answer("fill", "T?b?", "-m", "both", "--blank", "?", "--top", "3", "--json")


def test_steps_and_predictions_agree(model: LanguageModel) -> None:
    """Characters, ids and several characters at once lead to the same logits and change no state."""
    logits_V, start = model.step()
    _, state = model.step("T", start)
    _, state = model.step(int(model.vocabulary.encode("o")[0]), state)
    logits_V, state = model.step(" b", state)
    assert softmax(logits_V).max() == model.predict_next("To b").candidates[0].probability
    np.testing.assert_array_equal(model.step("To b")[0], logits_V)
    np.testing.assert_array_equal(model.step("To b", start)[0], logits_V)
    np.testing.assert_array_equal(model.step(None, state)[0], logits_V)
    np.testing.assert_array_equal(model.step(logits_V.argmax(), state)[0], model.step(logits_V.argmax(), state)[0])


def test_a_score_is_the_surprise_at_each_step(model: LanguageModel) -> None:
    """The bits of a character are the negative base-2 logarithm of its probability at that step."""
    logits_V, state = model.step()
    expected = []
    for index in model.vocabulary.encode("To be"):
        expected.append(-np.log2(softmax(logits_V)[index]))
        logits_V, state = model.step(index, state)
    np.testing.assert_allclose(model.score("To be"), expected, rtol=1e-12)


def test_a_score_has_a_number_for_each_id(make_model: Callable[..., ModelFile]) -> None:
    """A skipped character has no number, and each byte of a model of bytes has one."""
    model = LanguageModel(make_model())
    np.testing.assert_array_equal(model.score("aXb", unknown="skip"), model.score("ab"))
    assert len(LanguageModel(make_model(symbols=Vocabulary.of_bytes())).score("é狐")) == 5


@pytest.mark.parametrize(
    "options",
    [{"length": -1}, {"temperature": -1.0}, {"top_k": 0}, {"top_p": 0.0}, {"min_p": 2.0}, {"stop": ""},
     {"stop": ["a", ""]}, {"seed": -1}, {"num": 0}, {"unknown": "maybe"}],
    ids=str,
)  # fmt: skip
def test_generate_refuses_options_out_of_bounds(model: LanguageModel, options: dict[str, Any]) -> None:
    """An option out of bounds is a `UsageError` at the call, not at the first piece."""
    with pytest.raises(UsageError):
        model.generate("To", **options)
    if "num" not in options:
        with pytest.raises(UsageError):
            model.stream("To", **options)


@pytest.mark.parametrize(
    "ask",
    [lambda m: m.generate("X"), lambda m: m.stream("X"), lambda m: m.predict_next("X"), lambda m: m.score("X"),
     lambda m: m.step("X"), lambda m: m.predict_words("X")],
)  # fmt: skip
def test_a_model_names_a_character_it_does_not_know(model: LanguageModel, ask: Callable[[LanguageModel], Any]) -> None:
    """Every method refuses an unknown character by default."""
    with pytest.raises(UnknownCharacterError, match=r"U\+0058"):
        ask(model)


@pytest.mark.parametrize(
    ("name", "ask"),
    [("run", lambda m: m.fill("T_")), ("run", lambda m: m.step(99)), ("run", lambda m: m.step(-1)),
     ("run", lambda m: m.predict_next(top=0)), ("both", lambda m: m.generate()), ("both", lambda m: m.stream()),
     ("both", lambda m: m.predict_next("T")), ("both", lambda m: m.step("T")), ("both", lambda m: m.fill("T")),
     ("both", lambda m: m.fill("T__", blank="__")), ("both", lambda m: m.fill("T_", top=0))],
)  # fmt: skip
def test_a_model_refuses_what_it_cannot_do(file: ModelFile, name: str, ask: Callable[[LanguageModel], Any]) -> None:
    """A call that the model cannot answer is a `UsageError`."""
    with pytest.raises(CharlmError) as raised:
        ask(charlm.load(name))
    assert isinstance(raised.value, UsageError)


@pytest.mark.parametrize("hidden_size", [3, 50])
def test_step_refuses_the_state_of_another_model(
    model: LanguageModel, make_model: Callable[..., ModelFile], hidden_size: int
) -> None:
    """A state without layers is refused too."""
    other = LanguageModel(make_model(hidden_size=hidden_size))
    for state in (other.step()[1], ()):
        with pytest.raises(UsageError, match="not one of this model"):
            model.step("T", state)
