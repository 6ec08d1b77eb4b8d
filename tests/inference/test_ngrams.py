"""The n-grams of a model file are read back, and a damaged or hostile table is refused."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from charlm.errors import ModelFileError
from charlm.inference.kneser_ney import count, smooth, trie
from charlm.inference.ngrams import Ngrams
from charlm.inference.packed_ngrams import MAX_NGRAMS, pack, unpack

V = 4
TEXT = np.array([0, 1, 2, 0, 1, 3, 0, 1, 2, 2, 0, 1, 2, 0, 3, 3, 1, 0, 1, 2] * 3, dtype=np.uint8)


def counted() -> Ngrams:
    """Return the trigrams of a short text."""
    levels = count([TEXT], V, 3)
    return trie(levels, smooth(levels, V), V)


def test_the_arrays_of_a_file_give_the_same_distributions() -> None:
    """Each probability and each backoff changes by at most a twentieth of a nat, and the table is small."""
    before = counted()
    arrays = pack(before)
    after = unpack(arrays, V)
    assert after.order == before.order
    assert after.symbols_N.tolist() == before.symbols_N.tolist()
    assert after.children_M.tolist() == before.children_M.tolist()
    np.testing.assert_allclose(np.log(after.p_N), np.log(before.p_N), rtol=0, atol=0.0501)
    has_children = before.children_M > 0
    backoffs = [np.log(table.backoff_M[has_children]) for table in (after, before)]
    np.testing.assert_allclose(backoffs[0], backoffs[1], rtol=0, atol=0.0501)
    assert sum(array.nbytes for array in arrays.values()) < 3 * before.num_ngrams + 24
    assert pack(after)["ngrams.packed"].tobytes() == arrays["ngrams.packed"].tobytes()


@pytest.mark.parametrize("num_symbols", [V, 255, 256, 70_000])
def test_any_vocabulary_can_be_packed(num_symbols: int) -> None:
    """The symbols and numbers of children are read back in one, two or four bytes."""
    text = (np.arange(600) * 7919 % num_symbols).astype(np.uint32)
    levels = count([text], num_symbols, 3)
    before = trie(levels, smooth(levels, num_symbols), num_symbols)
    after = unpack(pack(before), num_symbols)
    assert after.symbols_N.tolist() == before.symbols_N.tolist()
    assert after.children_M.tolist() == before.children_M.tolist()


def test_one_stream_is_bit_for_bit_one_of_many() -> None:
    """A vocabulary of bytes and long contexts, read by one stream and by three."""
    text = np.random.default_rng(0).choice(np.array([10, 32, 97, 101, 116, 200]), 4000).astype(np.uint8)
    levels = count([text], 256, 6)
    found = unpack(pack(trie(levels, smooth(levels, 256), 256, 0.1)), 256)
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


def columns() -> dict[str, Any]:
    """Return the arrays of a trie."""
    table = counted()
    arrays = {"symbols_N": table.symbols_N, "p_N": table.p_N, "backoff_M": table.backoff_M}
    return {name: array.copy() for name, array in arrays.items()} | {"children_M": table.children_M.copy()}


@pytest.mark.parametrize(
    ("name", "place", "value"),
    [
        ("symbols_N", 0, V),
        ("symbols_N", 1, 0),
        ("p_N", 3, 0.0),
        ("p_N", 3, 1.5),
        ("p_N", 3, np.nan),
        ("backoff_M", 0, np.inf),
        ("backoff_M", 1, -1.0),
        ("children_M", 0, 0),
        ("children_M", 0, 200),
        ("children_M", -1, 3),
    ],
)
def test_a_table_that_is_no_trie_is_refused(name: str, place: int, value: float) -> None:
    """A number that no trie has."""
    arrays = columns()
    arrays[name][place] = value
    with pytest.raises(ValueError, match="n-grams"):
        Ngrams(**arrays, num_symbols=V)


@pytest.mark.parametrize("name", ["symbols_N", "p_N", "backoff_M", "children_M"])
def test_a_table_with_a_short_array_is_refused(name: str) -> None:
    """Each array is needed, at its length."""
    arrays = columns()
    for length in (-1, 0):
        with pytest.raises(ValueError, match="n-grams"):
            Ngrams(**arrays | {name: arrays[name][:length]}, num_symbols=V)


def packed_bytes(data: bytes) -> np.ndarray[Any, Any]:
    """Return deflated bytes as an array."""
    return np.frombuffer(zlib.compress(data), np.uint8)


@pytest.mark.parametrize(
    "changed",
    [
        {"packed": None},
        {"sizes": None},
        {"packed": np.zeros(0, np.uint8)},
        {"packed": packed_bytes(b"")},
        {"packed": packed_bytes(bytes(10_000_000))},
        {"packed": pack(counted())["ngrams.packed"][:-4]},
        {"packed": np.append(pack(counted())["ngrams.packed"], np.uint8(0))},
        {"sizes": np.array([5])},
        {"sizes": np.array([5, 4, 3])},
        {"sizes": np.array([-1, 1])},
        {"sizes": np.array([1, 3])},
        {"sizes": np.array([40, 0])},
        {"sizes": np.array([MAX_NGRAMS + 1, 1])},
        {"sizes": np.array([1 << 62, 1 << 62])},
    ],
    ids=str,
)
def test_a_damaged_table_of_a_file_is_refused(changed: dict[str, Any]) -> None:
    """An error of the model file, whose table is not inflated beyond the size that its numbers need."""
    arrays = pack(counted()) | {f"ngrams.{name}": array for name, array in changed.items()}
    with pytest.raises(ModelFileError, match="n-grams"):
        unpack({name: array for name, array in arrays.items() if array is not None}, V)


@given(st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=4))
def test_any_table_is_refused_or_gives_distributions(changes: list[tuple[int, int]]) -> None:
    """Whatever the bytes of a table are, walking through it never fails."""
    arrays = pack(counted())
    data = bytearray(zlib.decompress(arrays["ngrams.packed"].tobytes()))
    for place, value in changes:
        data[place % len(data)] = value
    try:
        found = unpack(arrays | {"ngrams.packed": packed_bytes(bytes(data))}, V)
    except ModelFileError:
        return
    contexts = found.start(1)
    for symbol in TEXT[:20]:
        contexts = found.step(np.array([symbol]), contexts)
        p_V = found.probabilities(contexts)
        assert p_V.min() >= 0
        assert p_V.sum() == pytest.approx(1, abs=1e-3)
