"""The baselines agree with the same formulas over dictionaries, and with results that are known exactly."""

from __future__ import annotations

import bz2
import lzma
import math
import sys
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from charlm.data.holdout import Part, split_at_end
from charlm.evaluation import baselines as module
from charlm.evaluation.baselines import baselines, kneser_ney
from charlm.vocab import Vocabulary

YARDSTICK = Path(__file__).parents[3] / "shared" / "corpora" / "tinyshakespeare.txt"


def by_dictionary(stretches: list[list[int]], texts: list[list[int]], num_symbols: int, order: int) -> float:
    """Score texts with modified Kneser-Ney, one n-gram at a time."""
    grams = {
        n: Counter(tuple(train[i : i + n]) for train in stretches for i in range(len(train) - n + 1))
        for n in range(1, order + 2)
    }
    counts: dict[int, dict[tuple[int, ...], int]] = {order: dict(grams[order])}
    for n in range(1, order):
        before = defaultdict(set)
        for gram in grams[n + 1]:
            before[gram[1:]].add(gram[0])
        counts[n] = {gram: len(before[gram]) for gram in grams[n]}

    discounts = {}
    for n in range(1, order + 1):
        occur = Counter(counts[n].values())
        n1, n2, n3, n4 = (max(1, occur[k]) for k in (1, 2, 3, 4))
        y = n1 / (n1 + 2 * n2)
        raw = [1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3]
        discounts[n] = [0.0, *(min(max(d, 0.1), k - 0.1) for k, d in enumerate(raw, start=1))]

    def probability(context: tuple[int, ...], symbol: int) -> float:
        n = len(context) + 1
        lower = probability(context[1:], symbol) if context else 1 / num_symbols
        followers = {gram[-1]: count for gram, count in counts[n].items() if gram[:-1] == context}
        total = sum(followers.values())
        if not total:
            return lower
        spared = sum(discounts[n][min(count, 3)] for count in followers.values())
        count = followers.get(symbol, 0)
        return (count - discounts[n][min(count, 3)]) / total + spared / total * lower

    def of(text: list[int], i: int) -> float:
        return probability(tuple(text[max(0, i - order + 1) : i]), text[i])

    # A context shorter than the order, at the start of a text, is scored with shorter n-grams of the same model.
    return -sum(math.log(of(text, i)) for text in texts for i in range(len(text))) / sum(map(len, texts))


def part_of(stretches: list[list[int]]) -> Part:
    """Return stretches of a text with one other character between them."""
    ends = np.cumsum([1 + len(stretch) for stretch in stretches]).tolist()
    blocks = [(end - len(stretch), end) for end, stretch in zip(ends, stretches, strict=True)]
    return Part.between(np.array([index for stretch in stretches for index in [3, *stretch]], dtype=np.uint8), blocks)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.integers(0, 3), min_size=1, max_size=60),
    st.lists(st.integers(0, 3), min_size=1, max_size=20),
    st.integers(1, 4),
)
def test_kneser_ney_in_arrays_agrees_with_dictionaries(train: list[int], text: list[int], order: int) -> None:
    """Kneser-Ney over arrays and over dictionaries give the same nats, for any short text and any order."""
    found = kneser_ney(np.array(train, dtype=np.uint8), np.array(text, dtype=np.uint8), 4, order)
    expected = [by_dictionary([train], [text], 4, n) for n in range(1, order + 1)]
    assert found == pytest.approx(expected, rel=1e-9)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=20), min_size=2, max_size=5),
    st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=9), min_size=2, max_size=4),
    st.integers(1, 4),
)
def test_no_n_gram_reaches_over_a_gap(train: list[list[int]], text: list[list[int]], order: int) -> None:
    """In several stretches Kneser-Ney counts, and looks back, within each."""
    found = kneser_ney(part_of(train), part_of(text), 4, order)
    expected = [by_dictionary(train, text, 4, n) for n in range(1, order + 1)]
    assert found == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("order", [1, 3])
def test_kneser_ney_probabilities_sum_to_one(order: int) -> None:
    """After any context, seen or not, all symbols together have probability 1."""
    train = np.random.default_rng(0).integers(5, size=300).astype(np.uint8)
    for context in ([0, 1], [4, 4], []):
        total = 0.0
        for symbol in range(6):
            text = np.array([*context, symbol], dtype=np.uint8)
            nats = kneser_ney(train, text, 6, order)[-1] * len(text)
            before = kneser_ney(train, text[:-1], 6, order)[-1] * (len(text) - 1) if context else 0.0
            total += math.exp(before - nats)
        assert total == pytest.approx(1)


def test_kneser_ney_predicts_a_repeated_character() -> None:
    """A text of one repeated character costs almost nothing."""
    ids = np.zeros(500, dtype=np.uint8)
    assert kneser_ney(ids, ids, 4, 3)[-1] < 0.01


@pytest.mark.parametrize("length", [1, 2, 3])
def test_a_training_text_may_be_shorter_than_the_order(length: int) -> None:
    """Kneser-Ney falls back to shorter n-grams if there are no longer ones."""
    ids = np.zeros(length, dtype=np.uint8)
    assert all(math.isfinite(nats) for nats in kneser_ney(ids, ids, 2, 7))


def test_baselines_are_uniform_unigram_counts_and_compressors() -> None:
    """Uniform is log2 V, unigram is near the entropy of the counts, a compressor counts the bytes the text adds."""
    text = " ".join(np.random.default_rng(0).choice(["the", "cat", "sat", "on", "mat", "and", "dog", "log"], 600))[
        :2040
    ]
    vocabulary = Vocabulary.of_characters(text)
    ids = vocabulary.encode(text)
    train, held_out = ids[:1800], ids[1800:]
    rows = {row.name: row for row in baselines(train, held_out, vocabulary)}
    assert rows["uniform"].bits_per_character == math.log2(len(vocabulary))
    p = np.bincount(train, minlength=len(vocabulary)) / len(train)
    assert rows["unigram"].bits_per_character == pytest.approx(-np.log2(p[held_out]).mean(), rel=0.05)
    added = len(bz2.compress(text.encode(), 9)) - len(bz2.compress(text[:1800].encode(), 9))
    assert rows["bz2"].bits_per_character == 8 * added / len(held_out)
    (counting,) = (row for name, row in rows.items() if "Kneser-Ney" in name)
    assert counting.bits_per_character < rows["unigram"].bits_per_character


def test_a_dictionary_of_the_size_of_the_data_loses_nothing() -> None:
    """What xz makes of a text is as short as with the dictionary of 64 MB of its strongest preset."""
    data = np.random.default_rng(0).integers(97, 105, 70_000).astype(np.uint8).tobytes()
    for text in (b"", data[:1], data[:4095], data[:4096], data[:4097], data, data + data):
        strongest = len(lzma.compress(text, preset=9 | lzma.PRESET_EXTREME))
        assert module.compressed_size("xz", [text], len(text)) == strongest


def test_the_beginning_of_a_long_text_is_scored(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every row says how many characters that is, and its figure is the one of that beginning alone."""
    vocabulary = Vocabulary.of_characters("abcd")
    ids = np.random.default_rng(0).integers(4, size=3000).astype(np.uint8)
    train, text = ids[:2000], ids[2000:]
    expected = list(baselines(train, text[:400], vocabulary))
    assert {row.characters_scored for row in baselines(train, text, vocabulary)} == {1000}
    monkeypatch.setattr(module, "MAX_SCORED", 400)
    found = list(baselines(train, text, vocabulary))
    assert found == expected
    assert {row.to_json()["characters_scored"] for row in found} == {400}


def test_less_is_counted_of_many_symbols(monkeypatch: pytest.MonkeyPatch) -> None:
    """The n-grams of a text with many different characters are nearly all different."""
    monkeypatch.setattr(module, "MAX_COUNTED_OF_MANY", 100)
    seen = {}
    for number in (1024, 1025):
        vocabulary = Vocabulary.of_characters("".join(map(chr, range(0x4E00, 0x4E00 + number))))
        ids = np.arange(900).astype(vocabulary.dtype)
        seen[number] = {row.characters_seen for row in baselines(ids, ids[:9], vocabulary) if "gram" in row.name}
    assert seen == {1024: {900}, 1025: {100}}


def test_a_compressor_that_python_lacks_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Python that was built without the library of a compressor has no row for it."""
    monkeypatch.setitem(sys.modules, "lzma", None)
    vocabulary = Vocabulary.of_characters("ab")
    names = [row.name for row in baselines(vocabulary.encode("ab" * 90), vocabulary.encode("abba"), vocabulary)]
    assert "xz" not in names
    assert "bz2" in names


def test_a_compressor_with_a_negative_size_is_dropped() -> None:
    """A longer text that is compressed to fewer bytes gives no row; no figure is negative or -0.0."""
    text = "the cat sat on the mat and the dog sat on the log. " * 40
    assert len(bz2.compress(text.encode(), 9)) <= len(bz2.compress(text[:1800].encode(), 9))
    vocabulary = Vocabulary.of_characters(text)
    ids = vocabulary.encode(text)
    rows = list(baselines(ids[:1800], ids[1800:], vocabulary))
    assert "bz2" not in [row.name for row in rows]
    assert all(row.bits_per_character > 0 for row in rows)
    alone = Vocabulary.of_characters("a")
    unigram = next(row for row in baselines(alone.encode("a" * 50), alone.encode("aa"), alone) if row.name == "unigram")
    assert str(unigram.bits_per_character) == "0.0"


@pytest.mark.skipif(not YARDSTICK.is_file(), reason="tiny Shakespeare is not beside this checkout")
def test_kneser_ney_on_tiny_shakespeare_agrees_with_others() -> None:
    """Contexts of 0 to 6 characters give the nats per character that others published for the same split."""
    text = YARDSTICK.read_text(encoding="utf-8")
    vocabulary = Vocabulary.of_characters(text)
    parts = split_at_end(vocabulary.encode(text), 0.1, 0.0)
    found = kneser_ney(parts.train, parts.validation, len(vocabulary), 7)
    assert found == pytest.approx([3.3473, 2.4835, 2.0381, 1.7191, 1.5612, 1.5226, 1.5165], abs=1e-4)
