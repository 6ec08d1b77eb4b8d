"""The n-grams of a model file are read back, and a damaged or hostile table is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from charlm.errors import ModelFileError
from charlm.inference.kneser_ney import count, smooth, trie
from charlm.inference.ngrams import Ngrams

V = 4
TEXT = np.array([0, 1, 2, 0, 1, 3, 0, 1, 2, 2, 0, 1, 2, 0, 3, 3, 1, 0, 1, 2] * 3, dtype=np.uint8)


def counted() -> Ngrams:
    """Return the trigrams of a short text."""
    levels = count([TEXT], V, 3)
    return trie(levels, smooth(levels, V), V)


def test_the_arrays_of_a_file_give_the_same_distributions() -> None:
    """Half precision changes a probability by less than a thousandth, and the table is small."""
    before = counted()
    arrays = before.arrays()
    after = Ngrams.from_arrays(arrays, V)
    assert after.order == before.order
    assert sum(array.nbytes for array in arrays.values()) < 5 * before.num_ngrams + 8
    assert after.score(TEXT) == pytest.approx(before.score(TEXT), rel=2e-3)


def test_one_stream_is_bit_for_bit_one_of_many() -> None:
    """A vocabulary of bytes and long contexts, read by one stream and by three."""
    text = np.random.default_rng(0).choice(np.array([10, 32, 97, 101, 116, 200]), 4000).astype(np.uint8)
    levels = count([text], 256, 6)
    found = Ngrams.from_arrays(trie(levels, smooth(levels, 256), 256, 0.1).arrays(), 256)
    one, many = found.start(1), found.start(3)
    for symbol in text[:200]:
        one, many = found.step(np.array([symbol]), one), found.step(np.full(3, symbol), many)
        assert found.probabilities(one)[0].tobytes() == found.probabilities(many)[1].tobytes()


def test_a_text_of_one_character_can_be_counted() -> None:
    """The only n-gram is that character."""
    levels = count([TEXT[:1]], V, 3)
    alone = trie(levels, smooth(levels, V), V)
    assert (alone.num_ngrams, alone.order) == (1, 1)
    assert alone.probabilities(alone.step(TEXT[:1], alone.start(1))).argmax() == 0


@pytest.mark.parametrize(
    ("name", "place", "value"),
    [
        ("symbols", 0, V),
        ("symbols", 1, 0),
        ("p", 3, 0.0),
        ("p", 3, 1.5),
        ("p", 3, np.nan),
        ("backoff", 0, np.inf),
        ("backoff", 1, -1.0),
        ("children", 0, 0),
        ("children", 0, 200),
        ("children", -1, 3),
    ],
)
def test_a_damaged_table_is_refused(name: str, place: int, value: float) -> None:
    """A number that no trie has is an error of the model file."""
    arrays = counted().arrays()
    arrays[f"ngrams.{name}"][place] = value
    with pytest.raises(ModelFileError, match="n-grams"):
        Ngrams.from_arrays(arrays, V)


@pytest.mark.parametrize("name", ["symbols", "p", "backoff", "children"])
def test_a_table_with_a_missing_or_short_array_is_refused(name: str) -> None:
    """Each array is needed, at its length."""
    arrays = counted().arrays()
    for damaged in (
        {key: array for key, array in arrays.items() if key != f"ngrams.{name}"},
        arrays | {f"ngrams.{name}": arrays[f"ngrams.{name}"][:-1]},
        arrays | {f"ngrams.{name}": arrays[f"ngrams.{name}"][:0]},
    ):
        with pytest.raises(ModelFileError, match="n-grams"):
            Ngrams.from_arrays(damaged, V)


@given(st.lists(st.tuples(st.sampled_from(["symbols", "children"]), st.integers(0, 60), st.integers(0, 9)), max_size=4))
def test_any_table_is_refused_or_gives_distributions(changes: list[tuple[str, int, int]]) -> None:
    """Whatever the integers of a table are, walking through it never fails."""
    arrays: dict[str, Any] = counted().arrays()
    for name, place, value in changes:
        array = arrays[f"ngrams.{name}"]
        array[place % len(array)] = value
    try:
        found = Ngrams.from_arrays(arrays, V)
    except ModelFileError:
        return
    contexts = found.start(1)
    for symbol in TEXT[:20]:
        contexts = found.step(np.array([symbol]), contexts)
        p_V = found.probabilities(contexts)
        assert p_V.min() >= 0
        assert p_V.sum() == pytest.approx(1, abs=1e-3)
