"""What is in a text is counted as plain Python counts it."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from charlm.data import survey as module
from charlm.data.corpus import Corpus, load_corpus
from charlm.data.holdout import Part, Split, hold_out, split_at_end
from charlm.data.survey import Survey, survey
from charlm.settings.config import DataConfig
from tests.helpers.texts import write


def survey_of(text: str) -> Survey:
    """Survey a text with the usual split."""
    corpus = load_corpus([write("a.txt", text)])
    return survey(corpus, hold_out(corpus, DataConfig()))


LINES = st.sampled_from(
    ["short", "  a line of some length, first", "a line of some length, \u00e9 second", "\t\t", "x" * 45]
)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(LINES, st.sampled_from(["\n", "\r\n"])), min_size=1), st.integers(60, 120), st.booleans())
def test_lines_are_those_that_python_finds(lines: list[tuple[str, str]], piece: int, has_end: bool) -> None:
    """Long lines, repeated ones and those in both parts are counted as with sets, whatever the size of the pieces."""
    text = "".join(line + end for line, end in lines) + ("" if has_end else "the last line has no end")
    corpus = load_corpus([write("a.txt", text)])
    # A part starts where a line does.
    edge = text.find("\n", len(text) // 2) + 1
    parts = Split(*(Part.between(corpus.ids, [block]) for block in ((0, edge), (edge, len(text)), (0, 0))))
    found = survey(corpus, parts, piece)
    stripped = [[line.strip() for line in some.split("\n")] for some in (text[:edge], text[edge:])]
    train, held_out = ([line for line in some if len(line) >= 20] for some in stripped)
    counts = Counter(train + held_out)
    assert found.lines == found.lines_compared == counts.total()
    assert found.duplicate_lines == counts.total() - len(counts)
    assert {line.text for line in found.duplicates} == {line for line, count in counts.items() if count > 1}
    assert found.held_out_lines == len(held_out)
    assert found.lines_in_both == sum(line in train for line in held_out)
    pairs = text.count("\r\n")
    assert found.line_ends == {"LF": text.count("\n") - pairs, "CR LF": pairs, "CR": 0}


def test_control_and_rare_characters_are_shown_with_their_place() -> None:
    """A control character and the rarest characters come with their number, first place and context."""
    found = survey_of("ab" * 200_000 + "\x07\u20ac" + "ab\u20ac\r")
    (bell,) = found.control
    assert (bell.count, bell.place) == (1, 400_000)
    assert "b\x07\u20aca" in bell.context
    assert {(symbol.name, symbol.count) for symbol in found.rarest} >= {("'\u20ac'", 2)}
    assert found.line_ends == {"LF": 0, "CR LF": 0, "CR": 1}


def test_of_very_many_lines_some_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """If there are too many lines, those that are compared keep all of their copies."""
    monkeypatch.setattr(module, "MAX_LINES", 100)
    found = survey_of("".join(f"a line with the number {number}\n" * 2 for number in range(400)))
    assert found.lines == 800
    assert 20 <= found.lines_compared <= 100
    assert 2 * found.duplicate_lines == found.lines_compared
    assert {line.count for line in found.duplicates} == {2}


def test_a_text_with_nothing_held_out_has_no_lines_in_both() -> None:
    """Without held-out text nothing stands in both."""
    corpus: Corpus = load_corpus([write("a.txt", "the same line of text\n" * 3)])
    found = survey(corpus, split_at_end(corpus.ids, 0.0, 0.0))
    assert (found.held_out_lines, found.lines_in_both, found.duplicate_lines) == (0, 0, 2)


def test_a_line_longer_than_a_piece_is_one_line() -> None:
    """It is compared with other long lines as a whole, not in pieces that look alike."""
    long, other = "ab " * 100 + "\n", "ab " * 99 + "ac \n"
    corpus = load_corpus([write("a.txt", f"{long}a line of some length\n{other}{long}{long}")])
    edge = len(corpus.ids) - len(long)
    parts = Split(*(Part.between(corpus.ids, [block]) for block in ((0, edge), (edge, len(corpus.ids)), (0, 0))))
    found = survey(corpus, parts, 40)
    assert (found.lines, found.duplicate_lines, found.held_out_lines, found.lines_in_both) == (5, 2, 1, 1)
    assert [line.count for line in found.duplicates] == [3]


def test_the_survey_says_how_far_it_is() -> None:
    """Both passes together are the whole."""
    seen: list[tuple[int, int]] = []
    corpus = load_corpus([write("a.txt", "a line of some length\n" * 9)])
    survey(corpus, hold_out(corpus, DataConfig()), 50, lambda *progress: seen.append(progress))
    assert seen == sorted(seen)
    # White space at the end of the last line is not hashed.
    assert seen[-1][0] >= 2 * len(corpus.ids) - 1
