"""Hypotheses about a text, character by character, as a person marks them."""

from __future__ import annotations

import numpy as np
import pytest

from charlm.errors import UsageError
from charlm.inference.hypotheses import BUILT_IN, bracket_depth, hypotheses
from tests.helpers.commands import within

BY_NAME = {hypothesis.name: hypothesis for hypothesis in BUILT_IN}


def marks(name: str, text: str, reads_backward: bool = False) -> str:
    """Return a digit for each character."""
    return "".join(f"{value:.0f}" for value in BY_NAME[name].seen(text, reads_backward))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('a "bc" d', "00111000"),
        ("don't 'tis the dogs' 'bone'", "0" * 21 + "111110"),
        ("'don't go,' he", "11111111110000"),
        ("in the '90s, the boys' room", "0" * 27),
        ("'Run,\nnow,' he", "11111111110000"),
        ("x = 'a' + 'b'", "0000110000110"),
        (r's = "a\"b" c', "000011111000"),
        ("c = '\"' + d", "00001100000"),
        ('"open\nstill\n\nnew', "1" * 11 + "0" * 5),
        ('"""a\n\nb""" c', "1" * 9 + "000"),
        ("\u201cyes\u201d no", "11110000"),
        ("\u2018I don\u2019t,\u2019 the dogs\u2019", "1" * 9 + "0" * 11),
        ("\u300c好\u300d\u300e他\u300f《书》", "110110000"),
        ("\u201eja\u201c n", "111000"),
        ("fn f<'a>(x: &'a str)", "0" * 20),
        ('"', "1"),
        ("", ""),
    ],
)
def test_quotes_are_marked_without_apostrophes(text: str, expected: str) -> None:
    """The mark that opens is inside and the one that closes is outside; an apostrophe is no mark."""
    assert marks("inside quotes", text) == expected


def test_brackets_are_counted() -> None:
    """Depth rises and falls; what does not match is no bracket; an empty line closes what prose left open."""
    assert marks("depth of brackets", "a(b[c]{})d") == "0112212100"
    assert marks("inside brackets", "a(b[c]{})d") == "0111111100"
    assert marks("depth of brackets", ":) (a] b)") == "000111110"
    assert marks("depth of brackets", "([)a") == "1200"
    assert marks("depth of brackets", "(a\n\nb") == "11100"
    assert marks("depth of brackets", "{a\n\nb}") == "111110"
    assert marks("depth of brackets", "《书》\uff08x\uff09") == "110110"


def test_places_in_lines_are_counted() -> None:
    """A line end has position 0, the first character 1; indentation counts a tab as four."""
    assert marks("position in line", "ab\n\ncd") == "120012"
    assert marks("after newline", "ab\n\ncd") == "000110"
    assert marks("inside indentation", "  a b\n\tc") == "11000010"
    assert marks("indentation", "  a b\n\tc\nd") == "122220440" + "0"
    assert marks("indentation", " \t\n") == "150"


def test_brackets_that_nobody_closes_are_read_once() -> None:
    """A text of nothing else takes no longer for each of its characters."""
    with within(10):
        assert bracket_depth("[\n\n" * 60_000)[-1] == 60_000
        assert bracket_depth("([" * 60_000 + ")" * 60_000 + "x\n\n]")[-1] == 0


def test_letters_are_marked() -> None:
    """First letters, letters inside a word, capitals and digits, of any script."""
    assert marks("first letter", "An ox-é 1b") == "1001001001"
    assert marks("inside a word", "An ox-é 1b") == "0100100000"
    assert marks("capital", "An ÖX") == "10011"
    assert marks("digit", "a12 b") == "01100"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a # b\nc", "0011100"),
        ("# a", "111"),
        ("#include <x>", "0" * 12),
        ("a // b", "001111"),
        ("http://b", "0" * 8),
        ("a/*b*/c", "0111100"),
        ("/*b\n\nc", "1" * 6),
        ("-- a\nb", "111100"),
        ("he -- no", "0" * 8),
        ("--i;", "0000"),
    ],
)
def test_comments_are_marked(text: str, expected: str) -> None:
    """The signs of several languages begin a comment; an address, a directive and a dash do not."""
    assert marks("comment", text) == expected


def test_addresses_are_marked() -> None:
    """An address ends at white space or a bracket."""
    assert marks("URL", "see https://a.b/c?d, <www.x.y> e") == "0" * 4 + "1" * 16 + "0" * 2 + "1" * 7 + "0" * 3


def test_what_is_between_characters_is_the_same_from_the_right() -> None:
    """A reader from the right enters a quote at its closing mark, and leaves it at its opening mark."""
    assert marks("inside quotes", 'a "bc" d', reads_backward=True) == "00011100"
    reverse = marks("inside quotes", 'd "cb" a')[::-1]
    assert marks("inside quotes", 'a "bc" d', reads_backward=True) == reverse
    assert marks("capital", "aBc", reads_backward=True) == "010"


def test_regular_expressions_become_hypotheses() -> None:
    """They are true inside their matches, and ^ and $ match at each line."""
    *built_in, vowel, start = hypotheses({"vowel": "[aeiou]", "start": "^.."})
    assert built_in == BUILT_IN
    np.testing.assert_array_equal(vowel.track("fox a"), [0, 1, 0, 0, 1])
    np.testing.assert_array_equal(start.track("fox\nan"), [1, 1, 0, 0, 1, 1])


@pytest.mark.parametrize("own", [{"x": "("}, {"": "a"}, {" ": "a"}, {"digit": "a"}, {"x": "a{99999999999}"}, {"x": ""}])
def test_wrong_hypotheses_are_refused(own: dict[str, str]) -> None:
    """An expression or a name that cannot be used is an error of the user."""
    with pytest.raises(UsageError):
        hypotheses(own)


@pytest.mark.parametrize("hypothesis", BUILT_IN, ids=lambda hypothesis: hypothesis.name)
def test_each_hypothesis_has_a_value_for_each_character(hypothesis: object) -> None:
    """Texts of odd characters, line ends and open quotes are no error."""
    for text in ("", "\n", "'", '"' * 7, "\r\n\t ", "\udc80\0", "\u2018" * 3, "'a" * 3000, "(" * 300, "/*"):
        for reads_backward in (False, True):
            track_T = hypothesis.seen(text, reads_backward)  # type: ignore[attr-defined]
            assert track_T.shape == (len(text),)
            assert np.isfinite(track_T).all()
