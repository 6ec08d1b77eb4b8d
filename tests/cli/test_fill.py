"""How `charlm fill` shows what it filled in."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest
from rich.cells import cell_len

from charlm.checkpoint import ModelFile
from charlm.cli.fill import print_filling
from charlm.inference.fill import Filler, Filling, split_at_blanks
from charlm.inference.predict import Candidate, Prediction
from charlm.vocab import Vocabulary

CHARACTERS, BYTES = Vocabulary.of_characters("ab"), Vocabulary.of_bytes()
ONE = Prediction([Candidate("a", "'a'", 0.5)], 0.5, 1, 1.0)


def shown(capsys: pytest.CaptureFixture[str], text: str, places: list[int], vocabulary: Vocabulary = CHARACTERS) -> str:
    """Print a filled text and return how it looks."""
    print_filling(Filling(text, places, [ONE] * len(places)), vocabulary)
    lines = capsys.readouterr().out.removesuffix("\n").split("\n")
    return "\n".join(lines[: -len(places)])


def make_terminal(monkeypatch: pytest.MonkeyPatch, **environment: str) -> None:
    """Make standard output a terminal of 80 columns with colours, but for what the environment says."""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.delenv("NO_COLOR", raising=False)
    for name, value in {"TERM": "xterm", "COLUMNS": "80", **environment}.items():
        monkeypatch.setenv(name, value)


def test_a_pipe_gets_the_text_without_marks(capsys: pytest.CaptureFixture[str]) -> None:
    """The text is the same as in JSON, control characters included."""
    assert shown(capsys, "a\x1bb\n\u56fd", [0, 4]) == "a\x1bb\n\u56fd"


def test_a_terminal_shows_what_was_filled_bold_and_underlined(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the filled characters are marked."""
    make_terminal(monkeypatch)
    assert shown(capsys, "the cloud", [6, 8]) == "the cl\x1b[1m\x1b[4mo\x1b[0mu\x1b[1m\x1b[4md\x1b[0m"


@pytest.mark.parametrize("environment", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
@pytest.mark.parametrize(
    ("text", "places", "vocabulary", "expected"),
    [
        ("the cloud", [6, 8], CHARACTERS, "the cl[o]u[d]"),
        ("aa", [0, 1], CHARACTERS, "[a][a]"),
        ("a b", [1], CHARACTERS, "a[ ]b"),
        ("a\nb\tc", [1, 3], CHARACTERS, "a[\\n]\nb[\\t]c"),
        ("a\x1bb\x1b", [1], CHARACTERS, "a[\\x1b]b\\x1b"),
        ("\u56fd\u738b", [1], CHARACTERS, "\u56fd[\u738b]"),
        ("\u56fda", [3], BYTES, "\u56fd[a]"),
        ("a\u56fdb", [2], BYTES, "a[\u56fd]b"),
        ("a\u56fdb", [1, 2, 3, 4], BYTES, "a[\u56fd][b]"),
        ("a\ufffdb", [1], BYTES, "a\ufffdb"),
    ],
)
def test_a_terminal_without_colours_shows_brackets(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    environment: dict[str, str],
    text: str,
    places: list[int],
    vocabulary: Vocabulary,
    expected: str,
) -> None:
    """White space is spelled out, the text is not obeyed by the terminal, and bytes mark their character."""
    make_terminal(monkeypatch, **environment)
    assert shown(capsys, text, places, vocabulary) == expected


@pytest.mark.parametrize("width", [40, 60, 80, 200])
def test_candidates_stand_in_columns_that_fit(
    make_model: Callable[..., ModelFile],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    width: int,
) -> None:
    """Each column is as wide as its widest name in cells; columns that do not fit are dropped as a whole."""
    make_terminal(monkeypatch, COLUMNS=str(width))
    filler = Filler(make_model(direction="both", symbols="\n abc\u0301\u56fd\u738b"))
    filling = filler.fill(split_at_blanks("a_b_\u56fd_c_", "_"), 8)
    print_filling(filling, filler.vocabulary)
    lines = capsys.readouterr().out.splitlines()[-4:]
    assert max(map(cell_len, lines)) <= width
    assert len({line.count("%") for line in lines}) == 1
    assert (lines[0].count("%") == 8) == (width == 200)
    for column in range(lines[0].count("%")):
        assert len({cell_len("%".join(line.split("%")[: column + 1])) for line in lines}) == 1
