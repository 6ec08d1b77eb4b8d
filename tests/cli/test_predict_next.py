"""`charlm predict-next` for words, and for two models side by side."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import charlm
from charlm.checkpoint import ModelFile
from charlm.cli.predict_next import predict_next
from charlm.cli.prediction_table import comparison_table, word_table
from charlm.errors import UsageError
from charlm.inference.prediction_comparison import ComparedCandidate, ComparedCharacters, ComparedWord, ComparedWords
from charlm.inference.words import Word, WordPrediction
from tests.cli.test_prediction_table import cells
from tests.helpers.commands import answer, answers, assert_refused, call
from tests.helpers.terminal import Terminal


@pytest.fixture
def models(make_model: Callable[..., ModelFile]) -> tuple[str, str]:
    """Two models, one of which knows other characters."""
    make_model().save(Path("small.safetensors"))
    make_model(symbols="\n abxyz", seed=4).save(Path("other.safetensors"))
    return "small.safetensors", "other.safetensors"


def on_terminal(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    """Let standard output be a terminal of a width."""
    monkeypatch.setattr("sys.stdout", Terminal())
    monkeypatch.setenv("COLUMNS", str(width))


def test_words_are_those_of_the_interface(model: str) -> None:
    """The JSON is what `predict_words` returns, and the table shows the same words and figures."""
    expected = charlm.load(model).predict_words("bad f", 3).to_json()
    assert answer("predict-next", "bad f", "-m", model, "--words", "3", "--json") == {"text": "bad f", **expected}
    lines = call("predict-next", "bad f", "-m", model, "--words", "3").stdout.splitlines()
    for line, word in zip(lines, expected["words"], strict=False):
        assert line.split()[:2] == [word["word"], f"{word['probability']:.2%}"]
    assert lines[3].split() == ["others", f"{expected['remaining_probability']:.2%}"]
    assert len(lines) == 4


def test_each_line_of_a_pipe_has_its_words(model: str) -> None:
    """Also an empty line, and none at all gives nothing."""
    asked = ["predict-next", "-m", model, "--words", "2", "--json"]
    found = answers(*asked, stdin="bad f\r\n\nface \n")
    assert [each["text"] for each in found] == ["bad f", "", "face "]
    assert found[0] == answer("predict-next", "bad f", *asked[1:])
    assert answers(*asked, stdin="") == []


def test_two_models_stand_side_by_side(models: tuple[str, str]) -> None:
    """JSON and table have a column for each; what a model does not know is null or a dash."""
    asked = ["predict-next", "ab", "-m", models[0], "--compare", models[1], "--top", "3"]
    found = answer(*asked, "--json")
    assert found["models"] == list(models)
    alone: list[dict[str, Any]] = [answer(*asked[:2], "-m", model, "--json", "--top", "99") for model in models]
    shares = [{c["name"]: c["probability"] for c in each["candidates"]} for each in alone]
    for candidate in found["candidates"]:
        assert candidate["probabilities"] == [each.get(candidate["name"]) for each in shares]
    assert found["entropy_bits"] == [each["entropy_bits"] for each in alone]
    lines = call(*asked).stdout.splitlines()
    assert lines[:2] == [f"1: {models[0]}", f"2: {models[1]}"]
    assert lines[2].split() == ["1", "2"]
    for line, candidate in zip(lines[3:], found["candidates"], strict=False):
        assert line.startswith(candidate["name"])
        assert all((f" {p:.2%}" if p is not None else " - ") in f"{line} " for p in candidate["probabilities"])
    assert lines[-1] == f"entropy {found['entropy_bits'][0]:.2f} and {found['entropy_bits'][1]:.2f} bits"


def test_the_words_of_two_models_stand_side_by_side(models: tuple[str, str]) -> None:
    """Each line of a pipe has its own comparison, and the words are those of both models."""
    asked = ["predict-next", "-m", models[0], "--compare", models[1], "--words", "2", "--json"]
    first, second = answers(*asked, stdin="ab \na\n")
    assert (first["text"], second["text"]) == ("ab ", "a")
    listed = {word["text"] for word in first["words"]}
    for model in models:
        own = answer("predict-next", "ab ", "-m", model, "--words", "2", "--json")["words"]
        assert {word["text"] for word in own} <= listed


def test_the_newest_run_can_be_compared(model: str) -> None:
    """Without `--model`, the comparison names the model that was found."""
    run = Path("runs", "one")
    run.mkdir(parents=True)
    Path(model).rename(run / "best.safetensors")
    found = answer("predict-next", "ab", "--compare", str(run), "--json")
    assert found["models"] == [str(run / "best.safetensors"), str(run)]


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (["--words", "0"], "`--words`"),
        (["--words", "3", "--top", "3"], "`--top` counts characters"),
        (["--compare", "nowhere"], "`nowhere`"),
        (["--compare", "backward.safetensors"], "what comes next and the other what stands before"),
        (["--compare", "both.safetensors"], "`both.safetensors`: this model reads from both sides"),
        (["--compare", "xyz.safetensors"], "`xyz.safetensors`: not in the model's vocabulary"),
        (["--compare", "crlf.safetensors"], "different line ends"),
        (["-m", "both.safetensors", "--words", "2"], "both sides"),
        (["-m", "signs.safetensors", "--words", "2", "--unknown", "skip"], "no letters"),
    ],
)
def test_what_cannot_be_predicted_is_refused(
    make_model: Callable[..., ModelFile], options: list[str], error: str
) -> None:
    """Each mistake is one line that names it."""
    make_model().save(Path("small.safetensors"))
    make_model(direction="backward").save(Path("backward.safetensors"))
    make_model(direction="both").save(Path("both.safetensors"))
    make_model(symbols="xyz \n").save(Path("xyz.safetensors"))
    make_model(symbols="ab\r ").save(Path("crlf.safetensors"))
    make_model(symbols=".,").save(Path("signs.safetensors"))
    chosen = [] if "-m" in options else ["-m", "small.safetensors"]
    result = call("predict-next", "ab\nab", *chosen, *options)
    assert error in assert_refused(result)
    assert result.stdout == ""


def test_words_at_a_terminal_need_a_text(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The prompt has a key for words, so the option is refused there with an example."""
    monkeypatch.setattr("sys.stdin", Terminal())
    with pytest.raises(UsageError, match="needs a TEXT"):
        predict_next(model=[Path(model)], words=3)


def test_an_untrusted_model_name_is_shown_in_one_line() -> None:
    """A name with control characters obeys no terminal."""
    compared = ComparedCharacters([ComparedCandidate("a", "'a'", (0.5, None))], (0.5, 1.0), (1.0, 0.0))
    lines = comparison_table(compared, ["a\x1b[2J", "b\nc"]).splitlines()
    assert len(lines) == 6
    assert all(line.isprintable() for line in lines)


def test_white_space_in_words_can_be_seen() -> None:
    """A space before a word, a newline, and a mark without a letter are visible."""
    words = [Word(text, text, 0.25) for text in (" the", "\nAnd", "\x1b[2J", "\u0301x")]
    names = [line.split("  ")[0] for line in word_table(WordPrediction(words, 0.0, 0.0)).splitlines()]
    assert names[0] == "\u2423the"
    assert len(names) == 5
    assert all(name.isprintable() and " " not in name for name in names)


@pytest.mark.parametrize("width", [40, 80])
def test_tables_of_words_fit_into_a_terminal(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    """A long word loses its end before a percentage is lost, also where Chinese characters are wide."""
    on_terminal(monkeypatch, width)
    texts = ["the", "\u4e2d\u6587" * 15, "Donau" * 20]
    prediction = WordPrediction([Word(text, text, 0.3) for text in texts], 0.1, 0.1, is_complete=False)
    compared = ComparedWords([ComparedWord(text, text, (0.3, None)) for text in texts], (0.1, 1.0), is_complete=False)
    for table in (word_table(prediction), comparison_table(compared, ["one", "two"])):
        lines = table.splitlines()
        assert max(map(cells, lines)) <= width
        assert table.count("30.00%") == 3
        assert table.count("...") == 2
        assert "the search ended early" in " ".join(lines)


def test_a_console_without_unicode_gets_ascii(monkeypatch: pytest.MonkeyPatch) -> None:
    """Words, bars and the mark of a space are in ASCII if the console has no more."""
    monkeypatch.setattr("sys.stdout", SimpleNamespace(isatty=lambda: False, encoding="ascii"))
    text = " \u4e2d\u0301"
    assert word_table(WordPrediction([Word(text, text, 0.5)], 0.5, 0.5)).isascii()
    assert comparison_table(ComparedWords([ComparedWord(text, text, (0.5, 0.1))], (0.5, 0.9), True), "12").isascii()
