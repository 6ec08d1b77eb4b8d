"""The corpus `recall` follows its rule, and the documented figures follow from the rule."""

from __future__ import annotations

import doctest
import re
from collections import Counter
from math import log2

from charlm.data import recall
from charlm.data.catalog import catalog_entries
from charlm.data.recall import recall_text
from tests.helpers.reference import ROOT

LINE = re.compile(r"([a-h])([01]{10,17})\?\1\n")


def bundled() -> str:
    """Return the bundled text."""
    return catalog_entries()["recall"].path.read_bytes().decode("ascii")


def test_the_bundled_text_is_generated_byte_for_byte() -> None:
    """The generator with its own seed gives the file."""
    assert recall_text() == bundled()


def test_every_line_follows_the_rule() -> None:
    """A key, 10 to 17 bits, a question mark, the same key; every choice is about equally frequent."""
    lines = bundled().splitlines(keepends=True)
    found = [match for line in lines if (match := LINE.fullmatch(line))]
    assert len(found) == len(lines) == 16_000
    keys, distances = Counter(match[1] for match in found), Counter(len(match[2]) for match in found)
    bits = Counter("".join(match[2] for match in found))
    assert (len(keys), len(distances), len(bits)) == (8, 8, 2)
    for counts in (keys, distances, bits):
        expected = counts.total() / len(counts)
        # Five standard deviations of a binomial count.
        assert all(abs(count - expected) < 5 * expected**0.5 for count in counts.values())


def test_no_ngram_reaches_from_a_key_to_its_repetition() -> None:
    """Between the two keys of a line there are more characters than the longest n-grams have."""
    assert min(len(match[0]) - 3 for match in LINE.finditer(bundled())) > 9


def test_the_documented_optimum_follows_from_the_rule() -> None:
    """The entropy of a line over its length, with the repeated key for nothing and for 3 bits."""
    lengths = range(10, 18)
    mean = sum(lengths) / len(lengths)
    entropy, characters = log2(8) + log2(len(lengths)) + mean, mean + 4
    page = (ROOT / "docs" / "texts.md").read_text(encoding="utf-8")
    assert f"| {entropy} | {entropy / characters:.4f} |" in page
    assert f"| {entropy + 3} | {(entropy + 3) / characters:.4f} |" in page
    text = bundled()
    assert abs(len(text) / text.count("\n") - characters) < 0.05


def test_another_seed_gives_another_text() -> None:
    """A shorter text of a seed is the beginning of a longer one; another seed shares no lines with it."""
    assert recall_text().startswith(recall_text(50))
    assert not set(recall_text(50).split()) & set(recall_text(50, seed=2).split())


def test_the_example_of_the_generator_is_right() -> None:
    """The docstring shows what is returned."""
    results = doctest.testmod(recall)
    assert (results.failed, results.attempted) == (0, 1)
