"""Blocks that are held out all over a text: where they are, how much they hold, and how a model file records them."""

from __future__ import annotations

import json
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from charlm.data.corpus import Corpus, load_corpus
from charlm.data.holdout import Part, Split, hold_out, recorded_split, split_at_end
from charlm.errors import ModelFileError
from charlm.settings.config import DataConfig
from tests.helpers.texts import write

SPREAD: dict[str, Any] = {"holdout": "spread"}


@cache
def paragraphs(length: int, end: str = "\n", letters: str = "abcdefgh", seed: int = 0) -> str:
    """Return a text of short lines, with a blank line after every few."""
    random = np.random.default_rng(seed)
    text = "".join(random.choice(list(letters), length))
    places = np.cumsum(random.integers(20, 60, size=length // 20)).tolist()
    lines = [text[start:stop] + end * (1 + (start % 5 == 0)) for start, stop in pairwise([0, *places])]
    return "".join(lines)[:length]


def corpus_of(*texts: str, prefix: str = "") -> Corpus:
    """Write texts into files, and read these as one corpus."""
    return load_corpus([write(f"{prefix}{index}.txt", text) for index, text in enumerate(texts)])


def split_of(corpus: Corpus, **settings: Any) -> Split:
    """Hold out by these settings of `data`."""
    return hold_out(corpus, DataConfig(**settings))


def blocks_of(split: Split) -> list[tuple[int, int]]:
    """Return all held-out blocks in order."""
    return sorted((start, end) for part in split[1:] for start, end in part.bounds_S2.tolist())


@pytest.mark.parametrize(
    ("validation", "test"), [(0.1, 0.0), (0.1, 0.1), (0.05, 0.0), (0.0, 0.2), (0.5, 0.0), (0.3, 0.3), (0.02, 0.1)]
)
def test_blocks_have_the_sizes_of_the_fractions(validation: float, test: float) -> None:
    """The parts are all of the text, close to their shares, in blocks and gaps of thousands of characters."""
    corpus = corpus_of(paragraphs(400_000))
    split = split_of(corpus, validation_fraction=validation, test_fraction=test, **SPREAD)
    stretches = sorted(bounds for part in split for bounds in part.bounds_S2.tolist())
    assert [0, *(end for _, end in stretches)] == [*(start for start, _ in stretches), 400_000]
    for part, fraction in zip(split, (1 - validation - test, validation, test), strict=True):
        assert len(part) == pytest.approx(400_000 * fraction, abs=1000)
    blocks = blocks_of(split)
    assert min(end - start for start, end in blocks) >= 2000
    assert min(after - end for (_, end), (after, _) in pairwise(blocks)) >= 1300
    assert blocks[0][0] >= 1000
    assert blocks[-1][1] <= 399_000


def test_a_text_of_usual_length_has_ten_blocks_or_more() -> None:
    """They lie evenly over the text: the distances between their middles differ by a few lines."""
    blocks = blocks_of(split_of(corpus_of(paragraphs(500_000)), **SPREAD))
    assert len(blocks) >= 10
    middles = [(start + end) / 2 for start, end in blocks]
    assert np.ptp(np.diff(middles)) < 2000
    assert all(end - start > 3000 for start, end in blocks)


def test_each_language_has_its_share_of_the_held_out_text() -> None:
    """Of the English and the Chinese fables, each is a tenth held out."""
    corpus = load_corpus(["fables", "fables-zh"])
    english_end = corpus.ends[0]
    blocks = blocks_of(split_of(corpus))
    held_out = sum(end - start for start, end in blocks if start >= english_end)
    assert not any(start < english_end < end for start, end in blocks)
    assert held_out == pytest.approx(0.1 * (len(corpus.ids) - english_end), rel=0.05)


def test_a_source_that_is_small_beside_others_has_its_share() -> None:
    """Thirty thousand characters after a million, before them or between them: a tenth of them is held out."""
    long, small = paragraphs(500_000), paragraphs(30_000, letters="xyz")
    for number, texts in enumerate(((long, long, small), (small, long, long), (long, small, long))):
        corpus = corpus_of(*texts, prefix=f"{number}-")
        held_out = corpus.vocabulary.decode(split_of(corpus).validation.joined())
        assert sum(map(held_out.count, "xyz")) == pytest.approx(2_930, abs=800)


def test_many_small_files_share_blocks() -> None:
    """Of two hundred files of two thousand characters a tenth is held out, in blocks that end where files end."""
    corpus = corpus_of(*(paragraphs(2000, seed=seed) for seed in range(200)))
    split = split_of(corpus)
    assert len(split.validation) == pytest.approx(40_000, abs=700)
    blocks = blocks_of(split)
    assert len(blocks) == 10
    assert np.mean([edge in corpus.ends for block in blocks for edge in block]) > 0.3


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_blocks_start_and_end_with_paragraphs(end: str) -> None:
    """Before every edge of a block stands a blank line, or at least the end of a line where CR alone ends lines."""
    corpus = corpus_of(paragraphs(200_000, end))
    for block in blocks_of(split_of(corpus, **SPREAD)):
        for edge in block:
            before = corpus.vocabulary.decode(corpus.ids[edge - 4 : edge])
            assert before.endswith(end * 2)


def test_blocks_without_paragraphs_end_with_lines_or_anywhere() -> None:
    """A list has no blank lines, and some texts have no lines."""
    listed = corpus_of("\n".join(f"{number:05}" for number in range(20_000)), prefix="list")
    for block in blocks_of(split_of(listed, **SPREAD)):
        assert all(edge % 6 == 0 for edge in block)
    endless = corpus_of("abcdefg" * 15_000, prefix="endless")
    assert len(split_of(endless, **SPREAD).validation) == 10_500


def test_only_the_text_and_the_settings_choose_the_blocks() -> None:
    """Other names, another vocabulary and another call give the same blocks."""
    texts = paragraphs(60_000), paragraphs(50_000, seed=1)
    one, other = corpus_of(*texts), corpus_of(*texts, prefix="other-")
    assert blocks_of(split_of(one)) == blocks_of(split_of(other)) == blocks_of(split_of(one))
    in_bytes = load_corpus(["0.txt", "1.txt"], kind="bytes")
    assert blocks_of(split_of(in_bytes)) == blocks_of(split_of(one))


def test_auto_cuts_one_text_at_its_end_and_spreads_several() -> None:
    """A file is one text. Two files, a folder and a glob are several, and one that is empty does not count."""
    write("folder/a.txt", paragraphs(30_000))
    write("folder/b.txt", paragraphs(30_000, seed=1))
    write("one/a.txt", paragraphs(60_000))
    write("one/b.txt", "")
    several = (["folder/a.txt", "folder/b.txt"], ["folder"], ["folder/*.txt"], ["fables", "folder/a.txt"])
    assert all(split_of(load_corpus(names)).is_spread for names in several)
    assert not any(split_of(load_corpus(names)).is_spread for names in (["folder/a.txt"], ["one"], ["one/*.txt"]))
    assert not any(split_of(load_corpus(names), holdout="end").is_spread for names in several)
    assert split_of(load_corpus(["folder/a.txt"]), **SPREAD).is_spread


@pytest.mark.parametrize("length", [1, 2, 500, 19_999])
@pytest.mark.parametrize("fractions", [(0.1, 0.0), (0.05, 0.05), (0.0, 0.0), (0.5, 0.5)])
def test_a_text_too_short_for_a_block_is_cut_at_its_end(length: int, fractions: tuple[float, float]) -> None:
    """Then the parts are those of `end`, for any fractions."""
    half = length // 2
    corpus = corpus_of("a" * half, "b" * (length - half))
    split = split_of(corpus, validation_fraction=fractions[0], test_fraction=fractions[1])
    for mine, yours in zip(split, split_at_end(corpus.ids, *fractions), strict=True):
        np.testing.assert_array_equal(mine.bounds_S2, yours.bounds_S2)


def test_a_part_is_a_view_of_the_whole_text() -> None:
    """Blocks copy nothing, so that a memory-mapped text stays on disk."""
    corpus = corpus_of(paragraphs(50_000), paragraphs(50_000, seed=1))
    assert all(np.shares_memory(ids, corpus.ids) for part in split_of(corpus) for ids in part.stretches)


# What a model file records


def test_recorded_blocks_come_back_from_the_text_in_one_piece() -> None:
    """Two files that come back as one are divided as they were, which their edges alone would not do."""
    texts = paragraphs(50_000), paragraphs(41_000, seed=1)
    corpus = corpus_of(*texts)
    split, joined = split_of(corpus), corpus_of("".join(texts), prefix="joined")
    facts = json.loads(json.dumps(split.facts()))
    again = recorded_split(joined.ids, DataConfig(), facts)
    for mine, yours in zip(split, again, strict=True):
        np.testing.assert_array_equal(mine.bounds_S2, yours.bounds_S2)
    assert blocks_of(split) != blocks_of(split_of(joined, **SPREAD))


def test_a_file_that_records_no_blocks_held_out_the_end() -> None:
    """So did every version before there were blocks, whatever its text was made of."""
    corpus = corpus_of(paragraphs(50_000), paragraphs(50_000, seed=1))
    split = recorded_split(corpus.ids, DataConfig(), corpus.facts())
    assert [part.bounds_S2.tolist() for part in split] == [[[0, 90_000]], [[90_000, 100_000]], []]
    assert split_of(corpus, holdout="end").facts() == {}


@pytest.mark.parametrize(
    "blocks",
    [
        None, [], "x", {}, {"validation": []}, {"validation": [[0, 5]], "test": [], "more": []},
        {"validation": 3, "test": []}, {"validation": [3], "test": []}, {"validation": [[0]], "test": []},
        {"validation": [[5, 5]], "test": []}, {"validation": [[7, 5]], "test": []},
        {"validation": [[-3, 5]], "test": []}, {"validation": [[90, 101]], "test": []},
        {"validation": [[0, 100]], "test": []},
        {"validation": [[0, 50]], "test": [[50, 100]]}, {"validation": [[0, 50]], "test": [[49, 60]]},
        {"validation": [[0, 5], [4, 9]], "test": []}, {"validation": [[0.0, 5]], "test": []},
        {"validation": [[True, 5]], "test": []}, {"validation": [["0", 5]], "test": []},
        {"validation": [[0, 10**30]], "test": []}, {"validation": [[2 * i, 2 * i + 1] for i in range(300)], "test": []},
    ],
)  # fmt: skip
def test_recorded_blocks_that_are_none_are_refused(blocks: Any) -> None:
    """A model file is untrusted: blocks outside the text, over one another, or of another type are an error."""
    with pytest.raises(ModelFileError, match="held-out blocks"):
        recorded_split(np.zeros(100, dtype=np.uint8), DataConfig(), {"held_out": blocks})


# Parts


def test_a_part_gives_the_beginnings_and_ends_of_its_stretches() -> None:
    """In proportion to their lengths, and as many characters as asked, or all."""
    part = Part.between(np.arange(100, dtype=np.uint8), [(10, 20), (30, 70)])
    assert [ids.tolist() for ids in part.beginnings(5).stretches] == [[10], [30, 31, 32, 33]]
    assert [ids.tolist() for ids in part.endings(5).stretches] == [[19], [66, 67, 68, 69]]
    assert part.endings(1).joined().tolist() == [69]
    for number in range(60):
        assert len(part.beginnings(number)) == len(part.endings(number)) == min(number, 50)
    assert [ids.tolist() for ids in part.backwards().stretches] == [[*range(69, 29, -1)], [*range(19, 9, -1)]]
    assert part.at(np.array([[0, 9], [10, 49]])).tolist() == [[10, 19], [30, 69]]


def test_the_beginning_of_one_stretch_is_its_beginning() -> None:
    """A text that is cut at its end is validated on the same characters as ever."""
    ids = np.arange(100, dtype=np.uint8)
    assert Part.of(ids).beginnings(7).joined().tolist() == ids[:7].tolist()
    assert Part.of(ids).endings(7).joined().tolist() == ids[-7:].tolist()
