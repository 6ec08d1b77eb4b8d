"""What `charlm score` prints: the text with its shades or marks, its lines, its worst places and its totals."""

from __future__ import annotations

import itertools
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.cells import cell_len

import charlm
from charlm.checkpoint import ModelFile
from charlm.cli.score import difference_lines, score_lines
from charlm.cli.shades import Style
from charlm.inference.kneser_ney import count, smooth, trie
from charlm.inference.language_model import LanguageModel
from charlm.inference.mixture import Mixture
from charlm.inference.surprisal_difference import SurprisalDifference
from charlm.ramps import DIVERGING, SEQUENTIAL
from tests.helpers.commands import answer, assert_refused, call
from tests.helpers.terminal import Terminal, on_a_terminal

SYMBOLS = "\n abcdefgh\u72d0"
TEXT = "had a bad cab\nfade ha gag hedge\n\u72d0\u72d0 beach\n"
ESCAPE = re.compile(r"\x1b\[[\d;]*m")


@pytest.fixture(autouse=True)
def models(make_model: Callable[..., ModelFile]) -> None:
    """Two models of one direction, and one of both."""
    make_model("gru", symbols=SYMBOLS, seed=1).save(Path("first"))
    make_model("lstm", symbols=SYMBOLS, seed=2).save(Path("second"))
    make_model(symbols=SYMBOLS, direction="both").save(Path("both"))
    make_model(symbols=SYMBOLS, direction="backward").save(Path("backward"))
    Path("text.txt").write_text(TEXT, encoding="utf-8")


def printed(*arguments: str, stdin: bytes | None = None) -> list[str]:
    """Run the command, which must succeed, and return the lines of its result."""
    result = call("score", *arguments, stdin=stdin)
    assert result.exit_code == 0, result.stderr
    return result.stdout.split("\n")


def test_a_text_that_is_too_long_is_refused() -> None:
    """Each character that is shown takes memory; the hint is the command that scores a text of any length."""
    Path("long.txt").write_bytes(b"a" * 1_000_001)
    with Path("huge.txt").open("wb") as file:
        file.truncate(1 << 40)
    for name in ("long.txt", "huge.txt"):
        result = call("score", "--file", name, "-m", "first")
        assert "1,000,000 at most" in assert_refused(result)
        assert f"`charlm eval --corpus {name}`" in result.stderr
    assert "1,000,001" in assert_refused(call("score", "-", "-m", "first", stdin=b"a" * 1_000_001))


def test_a_pipe_gets_marks_that_are_the_rounded_bits() -> None:
    """Beneath each character stands the whole number that is nearest to its bits, 9 at most, in each of its cells."""
    lines = printed("--file", "text.txt", "-m", "first")
    bits = charlm.load("first").score(TEXT)
    marks = ["" if round(b) < 1 else str(min(round(b), 9)) for b in bits]
    cells = [(mark or " ") * cell_len(c) for mark, c in zip(marks, TEXT.replace("\n", "\u21b5"), strict=True)]
    first = lines.index("") + 1
    shown = lines[first : first + 6]
    assert shown[::2] == TEXT.replace("\n", "\u21b5\n").splitlines()
    starts = [0, 14, 32, 41]
    assert shown[1::2] == ["".join(cells[a:b]).rstrip() for a, b in itertools.pairwise(starts)]


def test_json_is_what_the_library_returns() -> None:
    """A text in a file, as an argument and from standard input has the same figures."""
    expected = charlm.load("first").surprisal("bad cab").to_json()
    assert expected["bits_of_characters"] == charlm.load("first").score("bad cab").tolist()
    assert answer("score", "bad cab", "-m", "first", "--json") == expected
    assert answer("score", "-m", "first", "--json", stdin="bad cab\n") == expected
    assert answer("score", "-", "-m", "first", "--json", stdin=b"\xef\xbb\xbfbad cab") == expected
    assert answer("score", "-f", "-", "-m", "first", "--json", stdin="bad cab\n") == expected
    Path("bad.txt").write_bytes(b"\xef\xbb\xbfbad cab")
    assert answer("score", "-f", "bad.txt", "-m", "first", "--json") == expected
    assert len(answer("score", "-f", "text.txt", "-m", "first", "--json", "--top", "3")["worst_places"]) == 3


@pytest.mark.parametrize("model", ["first", "backward", "both"])
def test_the_printed_totals_have_their_names(model: str) -> None:
    """Figures of characters, bytes and words are named; of masked characters there are no others."""
    text = "\n".join(printed("bad cab\nhad", "-m", model))
    figures = charlm.load(model).surprisal("bad cab\nhad").totals()
    unit = "masked character" if model == "both" else "character"
    assert f"{figures[f'bits_per_{unit}'.replace(' ', '_')]:.4f} bits per {unit};" in text
    assert f"{figures[f'perplexity_per_{unit}'.replace(' ', '_')]:.3f} perplexity per {unit}:" in text
    assert "11 characters, 11 bytes" in text
    assert "as unsure as between so many characters" in text
    if model == "both":
        assert not re.search("per byte|per word|words", text)
    else:
        assert f"{figures['bits_per_byte']:.4f} bits per byte" in text
        assert f"{figures['perplexity_per_word']:,.1f} perplexity per word" in text
        assert "3 words" in text
        assert ("the last one from the end" if model == "backward" else "the first one from the start") in text


def test_a_text_of_one_character_is_scored() -> None:
    """It has a mark, a place and totals."""
    assert f"{charlm.load('first').score('a')[0]:.4f} bits per character" in "\n".join(printed("a", "-m", "first"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("",), "the text is empty"),
        (("xyz", "--unknown", "skip"), "no known character"),
        (("a", "--file", "text.txt"), "given twice"),
        (("xa",), "not in the model's vocabulary"),
        (("--file", "nowhere.txt"), "nowhere.txt"),
        (("--file", "."), "directory"),
        (("--file", "latin.txt"), "not UTF-8"),
        (("a", "--top", "0"), "top"),
        (("a", "--diff", "nowhere"), "nowhere"),
        (("a", "--diff", "small"), "`small`: not in the model's vocabulary"),
        (("a", "--diff", "both"), "masked character"),
        (("x\u72d0", "--diff", "small", "--unknown", "skip"), "both models know"),
        (("a\nb", "--diff", "cr"), "line ends"),
    ],
)
def test_what_cannot_be_scored_is_refused(
    make_model: Callable[..., ModelFile], arguments: tuple[str, ...], message: str
) -> None:
    """Each is one line, with a hint that can be followed, and nothing is printed."""
    Path("latin.txt").write_bytes(b"caf\xe9")
    make_model(symbols="x").save(Path("small"))
    make_model(symbols="\rab").save(Path("cr"))
    result = call("score", *arguments, "-m", "first")
    assert message in assert_refused(result)
    assert result.stdout == ""


def test_standard_input_that_is_empty_is_refused() -> None:
    """So is a text that consists of a line end alone, which is taken off."""
    for stdin in (b"", b"\n"):
        assert "empty" in assert_refused(call("score", "-m", "first", stdin=stdin))


def test_the_name_of_a_file_is_read_as_a_text_with_a_note() -> None:
    """The note names the option that reads the file."""
    Path("bad").write_text("a", encoding="utf-8")
    result = call("score", "bad", "-m", "first")
    assert "`--file bad` reads the file" in result.stderr
    assert result.stdout.split("\n")[2] == "bad"


@pytest.mark.parametrize("columns", [20, 40, 80, 200])
@pytest.mark.parametrize("colours", [0, 256])
def test_screens_fit_their_width(make_model: Callable[..., ModelFile], columns: int, colours: int) -> None:
    """No line is longer than the terminal from 40 columns on, and what is too long is bounded."""
    text = TEXT * 10 + "\u72d0" * 100 + "abcdefgh" * 30
    scored = LanguageModel(make_model("gru", symbols=SYMBOLS)).surprisal(text)
    other = LanguageModel(make_model("lstm", symbols=SYMBOLS)).surprisal(text)
    lines = score_lines(scored, "each is predicted", 10, columns, Style(SEQUENTIAL, colours))
    both = SurprisalDifference(scored, other)
    lines += difference_lines(both, "runs/other", 10, columns, Style(DIVERGING, colours))
    assert all(cell_len(ESCAPE.sub("", line)) <= max(columns, 40) for line in lines)
    in_a_pipe = score_lines(scored, "", 10, None, Style(SEQUENTIAL, 0))
    assert len([line for line in in_a_pipe if re.fullmatch(r" *[\d.]+ +\d+ +\d+  .*", line)]) == 31
    assert any("and 21 other lines" in line for line in lines)


def test_a_place_shows_its_surroundings() -> None:
    """The character that was found is in brackets, with what stands before and after it."""
    lines = printed("had a bad cab", "-m", "first", "--top", "1")
    place = charlm.load("first").surprisal("had a bad cab").worst_places(1)[0]
    expected, found = place.expected, place.found
    row = lines[lines.index("the places with the most bits, and what was expected:") + 2]
    around = "had a bad cab"[: place.position] + f"[{found.character}]" + "had a bad cab"[place.position + 1 :]
    assert row.split("  ")[-1].strip() == around
    for candidate in (expected, found):
        assert f"{candidate.name} {candidate.probability:.1%}" in row
    assert f"{place.bits:.1f}" in row
    assert f"1:{place.position + 1}" in row


def test_a_combining_character_is_shown_alone_in_its_place(make_model: Callable[..., ModelFile]) -> None:
    """In a context the accent of a letter stands on a circle, not on the bracket."""
    make_model(symbols="ae\u0301").save(Path("accents"))
    text = "\n".join(printed("ae\u0301a", "-m", "accents", "--top", "4"))
    assert "ae[\u25cc\u0301]a" in text
    assert "a[e]\u25cc\u0301a" in text


def test_the_totals_say_that_ngrams_count(make_model: Callable[..., ModelFile]) -> None:
    """The figures of a model with n-grams are named as those of both, and of no other model."""
    file = make_model(symbols=SYMBOLS)
    levels = count([file.vocabulary.encode(TEXT)], len(file.vocabulary), 3)
    mixture = Mixture(trie(levels, smooth(levels, len(file.vocabulary)), len(file.vocabulary)), 0.5)
    replace(file, arrays=file.arrays | mixture.arrays()).save(Path("mixed"))
    assert printed("cab", "-m", "mixed")[-2] == "these are the figures of the net and its n-grams together"
    assert "n-grams" not in "\n".join(printed("cab", "-m", "first"))


def test_a_model_likes_nothing_more_than_itself() -> None:
    """All differences are zero: there is no mark and no passage, and both figures are the same."""
    for model in ("first", "backward", "both"):
        lines = printed("--file", "text.txt", "-m", model, "--diff", model)
        assert "\n".join(lines).count("needs fewer bits for no passage") == 2
        assert set(lines[3:8:2]) == {""}
        found = answer("score", "--file", "text.txt", "-m", model, "--diff", model, "--json")
        assert (found["liked_by_model"], found["liked_by_other"]) == ([], [])
        assert found["bits_of_characters"] == found["other_bits_of_characters"]


def test_a_difference_names_what_each_model_likes() -> None:
    """The lines of the text come below the model that needs fewer bits for them, with how many fewer."""
    text = "\n".join(printed("--file", "text.txt", "-m", "first", "--diff", "second"))
    first, second = (charlm.load(name).score(TEXT) for name in ("first", "second"))
    of_this, of_other = re.split("`second` needs fewer bits", text.partition("this model needs fewer bits")[2])
    for number, (start, end) in enumerate(((0, 14), (14, 32), (32, 41)), 1):
        gain = float(np.sum(second[start:end] - first[start:end]))
        rows = of_this if gain > 0 else of_other
        assert re.search(rf"(?m)^ *{abs(gain):.1f} +[\d.]+ +{number}  {TEXT[start : end - 1]}", rows)
    assert f"{first.mean():.4f} bits per character by this model" in text
    assert f"{second.mean():.4f} bits per character by `second`" in text


def test_models_that_read_differently_compare_the_same_text(make_model: Callable[..., ModelFile]) -> None:
    """A model of lower-case letters and one of bytes both score what the first one leaves of a text."""
    make_model(symbols=charlm.vocab.Vocabulary("characters", " abcdefgh", "letters")).save(Path("letters"))
    make_model(symbols=charlm.vocab.Vocabulary.of_bytes()).save(Path("bytes"))
    for pair in (("letters", "bytes"), ("bytes", "letters")):
        found = answer("score", "Bad, CAB!", "-m", pair[0], "--diff", pair[1], "--json")
        assert found["text"] == "bad cab "
        expected = [charlm.load(name).score("bad cab ").tolist() for name in pair]
        assert [found["bits_of_characters"], found["other_bits_of_characters"]] == expected


def test_a_long_text_shows_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal a line on standard error shows the share that is scored; elsewhere there is none."""
    monkeypatch.setattr("charlm.cli.progress.PATIENCE_SECONDS", 0)
    assert "scored" not in call("score", "--file", "text.txt", "-m", "first").stderr
    screen = Terminal()
    from charlm.checkpoint import load_checkpoint
    from charlm.cli.score import _measure
    from charlm.inference.stepper import Stepper

    monkeypatch.setattr(sys, "stderr", screen)
    _measure(Stepper(load_checkpoint(Path("first"))), TEXT, "error")
    assert screen.getvalue().startswith("\r100% of the text scored\r")


@pytest.mark.parametrize("environment", [{}, {"NO_COLOR": "1"}, {"TERM": "dumb"}], ids=str)
def test_a_terminal_gets_no_escape_of_the_text(
    make_model: Callable[..., ModelFile], environment: dict[str, str]
) -> None:
    """What the text holds is spelled out, in the text and in every table; the only escapes are those of shades."""
    make_model(symbols="\x1b\x9b\u202e[2Jm\nab").save(Path("hostile"))
    given = "a\x1b[2J\x9b2J\u202eb\nab"
    screen = on_a_terminal("score", "-", "-m", "hostile", env=environment, stdin=f"{given}\n".encode()).decode()
    plain = re.sub(r"\x1b\[(0|38;5;\d+;48;5;\d+)m", "", screen)
    assert (plain == screen) == bool(environment)
    assert all(line.isprintable() for line in plain.replace("\r\n", "\n").split("\n"))
    assert r"a\x1b[2J\x9b2J\u202eb" in plain
