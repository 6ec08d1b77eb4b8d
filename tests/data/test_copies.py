"""The runs of a text that stand in a longer one are found exactly, whatever their lengths and wherever they stand."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import charlm.data.copies as copies_module
from charlm.data.copies import MAX_LENGTH, Matches, _Hashing, is_covered, longest_run, match
from charlm.data.holdout import Part
from charlm.vocab import Ids

# Few different characters, and a passage that comes again and again.
pieces = st.one_of(st.text("ab", max_size=8), st.just("abcabbaabcc" * 8), st.text("abcdef", max_size=90))
texts = st.lists(pieces, max_size=6).map("".join)


def ids_of(text: str, dtype: type = np.uint8) -> Ids:
    """Return the code points of a text as ids."""
    return np.array(list(map(ord, text)), dtype=dtype)


def part_of(stretches: list[str], dtype: type = np.uint8) -> Part:
    """Return a part with these stretches, each of which follows a passage that belongs to no part."""
    ends = np.cumsum([0, *(len(stretch) + 4 for stretch in stretches)]).tolist()
    ids = ids_of("".join(f"XYXY{stretch}" for stretch in stretches), dtype)
    return Part.between(ids, [(start + 4, end) for start, end in pairwise(ends)])


def lengths_by_looking(text: str, stretches: list[str]) -> list[int]:
    """Return how long the run is that begins at each character, found with `in`."""
    found = []
    for start in range(len(text)):
        length = 0
        while start + length < len(text) and any(text[start : start + length + 1] in each for each in stretches):
            length += 1
        found.append(length)
    return found


def check(text: str, matches: Matches, stretches: list[str], part: Part) -> None:
    """Compare what was found of a text with what a search for each run finds."""
    expected = lengths_by_looking(text, stretches)
    assert matches.lengths_T.tolist() == [min(length, MAX_LENGTH) for length in expected]
    everything = "".join(map(chr, part.ids))
    for start, (length, place) in enumerate(zip(*matches, strict=True)):
        assert everything[place : place + length] == text[start : start + length]
    longest = longest_run(ids_of(text, part.ids.dtype.type), matches, part)
    assert (longest.length if longest else 0) == max(expected, default=0)
    if longest:
        start, length, place = longest
        assert everything[place : place + length] == text[start : start + length]


@settings(deadline=None, max_examples=40)
@given(st.lists(texts, max_size=3), st.lists(texts.filter(bool), max_size=3), st.sampled_from([40, 90, 1 << 18]))
def test_all_runs_are_those_that_a_search_finds(written: list[str], learned: list[str], size: int) -> None:
    """The length at every character, its place, and the longest run, in pieces of any size."""
    part = part_of(learned)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(copies_module, "CHUNK_SIZE", size)
        patch.setattr(copies_module, "BATCH_SIZE", size)
        found = match([ids_of(text) for text in written], part)
        for text, matches in zip(written, found, strict=True):
            check(text, matches, learned, part)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32, np.int32])
def test_ids_have_any_type(dtype: type) -> None:
    """Large vocabularies have larger ids."""
    part = part_of(["the quick brown fox"], dtype)
    (matches,) = match([ids_of("a quick fox", dtype)], part)
    check("a quick fox", matches, ["the quick brown fox"], part)


@pytest.mark.parametrize("text", ["a" * 300, "one sentence, again and again. " * 12, "b" * 120 + "a" * 130])
def test_a_text_of_one_passage_is_searched(text: str) -> None:
    """Every window occurs at most places of the long text."""
    learned = "a" * 250 + "b" * 100 + "one sentence, again and again. " * 40
    part = part_of([learned])
    (matches,) = match([ids_of(text)], part)
    check(text, matches, [learned], part)


def test_the_longest_run_is_not_where_its_first_window_is() -> None:
    """The windows of a long text all stand in short passages; only one of these passages goes on for longer."""
    text = "".join(map(chr, np.random.default_rng(0).integers(97, 123, 200)))
    learned = [text[start : start + 60] for start in range(0, 200, 5)] + [text[70:150]]
    part = part_of(learned)
    (matches,) = match([ids_of(text)], part)
    assert matches.lengths_T[:140].tolist() == [MAX_LENGTH] * 140
    longest = longest_run(ids_of(text), matches, part)
    assert longest is not None
    assert longest[:2] == (70, 80)


def test_no_run_is_made_of_two_stretches() -> None:
    """Held-out text lies between two stretches of a training part."""
    part = part_of(["to be or", "not to be"])
    (matches,) = match([ids_of("to be ornot")], part)
    assert matches.lengths_T.tolist() == lengths_by_looking("to be ornot", ["to be or", "not to be"])
    assert max(matches.lengths_T) == 8


def test_windows_with_equal_hashes_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hash that mistakes one character for another is found out, and another hash is tried."""
    draw = _Hashing.draw
    seeds: list[int] = []

    def poor(seed: int, num_ids: int) -> _Hashing:
        seeds.append(seed)
        hashing = draw(seed, num_ids)
        return hashing if seed else hashing._replace(numbers=np.zeros_like(hashing.numbers))

    monkeypatch.setattr(_Hashing, "draw", poor)
    part = part_of(["the quick brown fox"])
    (matches,) = match([ids_of("a quick dog")], part)
    check("a quick dog", matches, ["the quick brown fox"], part)
    assert seeds == [0, 1]


def thue_morse(length: int) -> str:
    """Return the text whose two halves have the same polynomial hash, modulo a power of two."""
    return "".join("ab"[index.bit_count() % 2] for index in range(length))


def test_long_windows_of_thue_and_morse_are_told_apart() -> None:
    """For 2,048 characters and more, polynomials modulo 2**64 have the same value for a text and its negative."""
    text = thue_morse(4096)
    other = text.translate(str.maketrans("ab", "ba"))
    part = part_of([other])
    (matches,) = match([ids_of(text)], part)
    longest = longest_run(ids_of(text), matches, part)
    assert longest is not None
    assert text[longest.start : longest.start + longest.length] in other
    assert not any(text[start : start + longest.length + 1] in other for start in range(4096 - longest.length))


def test_the_memory_does_not_grow_with_the_long_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is allocated at any time is less than one hash for each character."""
    tracemalloc = pytest.importorskip("tracemalloc")
    monkeypatch.setattr(copies_module, "CHUNK_SIZE", 1 << 13)
    part = Part.of(np.zeros(1 << 19, dtype=np.uint8))
    tracemalloc.start()
    (matches,) = match([np.array([0] * 60 + [1], dtype=np.uint8)], part)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert matches.lengths_T[:12].tolist() == [MAX_LENGTH] * 11 + [49]
    assert peak < 8 * len(part) / 4


@pytest.mark.parametrize(("length", "covered"), [(1, "1111111"), (3, "1110111"), (4, "0000000")])
def test_a_character_is_covered_by_any_run_over_it(length: int, covered: str) -> None:
    """A character lies in a run of three if one begins at it or at one of the two before."""
    lengths_T: NDArray[np.int64] = np.array([3, 2, 1, 1, 3, 2, 1])
    assert "".join(map(str, is_covered(lengths_T, length).astype(int))) == covered
