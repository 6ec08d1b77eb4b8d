"""Documents: where they begin, splits that do not divide them, and batches that start with them."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from charlm.data.batches import NO_TARGET, Batch, Batches, fit_batch
from charlm.data.corpus import Corpus, load_corpus
from charlm.data.documents import document_starts
from charlm.data.gaps import Gapped
from charlm.data.holdout import Part, hold_out, recorded_split
from charlm.errors import ConfigError, CorpusError
from charlm.settings.config import Config, DataConfig
from charlm.settings.config_file import override_config
from charlm.spec import Direction, ModelSpec
from tests.helpers.texts import write

# The start symbol where the symbols are the positions of a text.
START = 1000


def corpus_of(*texts: str, kind: str = "characters") -> Corpus:
    """Return a corpus of files with these texts."""
    return load_corpus([write(f"{index}.txt", text) for index, text in enumerate(texts)], kind=kind)  # type: ignore[arg-type]


def test_files_are_documents() -> None:
    """A document begins with each file but the first; an empty file is none."""
    assert document_starts(corpus_of("one", "", "two", "three"), "files").tolist() == [3, 6]


@pytest.mark.parametrize(
    ("text", "starts"),
    [
        ("a\nb\n\nc\n\n\n\nd\n", [5, 10]),
        ("a\r\n\r\nb\r\n\r\n\r\nc", [5, 12]),
        ("\n\na", [2]),
        ("no end", []),
        ("a\n\n", []),
    ],
)
def test_a_document_begins_after_blank_lines(text: str, starts: list[int]) -> None:
    """Several blank lines are one boundary, with LF or CR LF; none is at the end of the text."""
    assert document_starts(corpus_of(text), "blank-line").tolist() == starts


@settings(deadline=None, max_examples=60)
@given(st.lists(st.sampled_from(["\n", "ab\n", "= x\n", "=\u00e9=", "\n\n", "x" * 30]), min_size=1), st.integers(3, 40))
def test_a_document_begins_where_a_line_matches(lines: list[str], piece: int) -> None:
    """The places are those of `re` in the whole text, whatever the size of the pieces that are looked at."""
    text = "".join(lines)
    expected = [match.start() for match in re.finditer("^= |^=\u00e9", text, re.MULTILINE) if match.start()]
    # Each size has another name in the cache.
    assert document_starts(corpus_of(text), f"= |=\u00e9(?#{piece})", piece).tolist() == expected


def test_a_model_of_bytes_has_the_same_documents() -> None:
    """An expression is matched with the characters of a line, and places are counted in bytes."""
    text = "\u00e9\n\u00e9x\n"
    assert document_starts(corpus_of(text, kind="bytes"), "\u00e9x").tolist() == [3]


def test_damaged_places_are_found_again() -> None:
    """A file of places that is cut or changed is not used."""
    corpus = corpus_of("a\n\nb")
    assert document_starts(corpus, "blank-line").tolist() == [3]
    (path,) = corpus.path.parent.glob("*.documents")
    for damaged in (b"", b"\0" * 40, path.read_bytes()[8:]):
        path.write_bytes(damaged)
        assert document_starts(corpus, "blank-line").tolist() == [3]


PARAGRAPHS = "".join(f"{'word ' * (7 + number * 37 % 90)}{number}\n\n" for number in range(600))


@pytest.mark.parametrize("holdout", ["end", "spread"])
def test_no_document_is_divided(holdout: str) -> None:
    """Each edge of a part is where a document begins, and the parts have about the shares that were asked for."""
    corpus = corpus_of(PARAGRAPHS)
    options = {"documents": "blank-line", "holdout": holdout, "test_fraction": 0.05}
    data = DataConfig(**options)  # type: ignore[arg-type]
    parts = hold_out(corpus, data)
    starts = {0, len(corpus.ids), *document_starts(corpus, "blank-line").tolist()}
    assert {edge for part in parts for edge in part.bounds_S2.ravel().tolist()} <= starts
    assert [len(part) / len(corpus.ids) for part in parts] == pytest.approx([0.85, 0.1, 0.05], abs=0.01)
    edges = sorted(tuple(bounds) for part in parts for bounds in part.bounds_S2.tolist())
    assert edges[0][0] == 0
    assert edges[-1][1] == len(corpus.ids)
    assert all(end == start for (_, end), (start, _) in pairwise(edges))
    again = recorded_split(corpus.ids, data, parts.facts())
    assert [part.bounds_S2.tolist() for part in again] == [part.bounds_S2.tolist() for part in parts]
    assert again.facts() == parts.facts()


def test_one_document_cannot_be_held_out() -> None:
    """A text with too few documents is reported with the setting; without held-out text it is used."""
    corpus = corpus_of("a" * 1000)
    with pytest.raises(CorpusError, match=r"only 1 document .*files") as caught:
        hold_out(corpus, DataConfig(documents="files"))
    assert "blank-line" in caught.value.hint
    assert len(hold_out(corpus, DataConfig(documents="files", validation_fraction=0.0)).train) == 1000


@st.composite
def texts(draw: st.DrawFn) -> tuple[Part, list[int]]:
    """Draw a text in which each character is its own position, some of its stretches, and where documents begin."""
    size = draw(st.integers(1, 90))
    edges = sorted(draw(st.sets(st.integers(0, size), min_size=2, max_size=6)))
    starts = sorted(draw(st.sets(st.integers(1, size - 1))) if size > 1 else [])
    blocks = list(zip(edges[::2], edges[1::2], strict=False))
    part = Part.between(np.arange(size, dtype=np.uint16), blocks)
    return replace(part, documents_D=np.array(starts, dtype=np.int64)), starts


@settings(deadline=None, max_examples=150)
@given(texts(), st.sampled_from(["forward", "backward", "both"]), st.integers(1, 12), st.booleans())
def test_a_document_starts_anew_at_its_first_character(
    text: tuple[Part, list[int]], direction: Direction, size: int, resets_at_random: bool
) -> None:
    """Before it there is a gap with nothing to predict; each character is predicted from its own document alone."""
    part, starts = text
    spec, chance = ModelSpec("lstm", START, 0, 1, 1, direction), 0.3 * resets_at_random
    document = np.searchsorted(starts, np.arange(len(part.ids)), side="right")
    batches = Batches(part, spec, *fit_batch(part.lengths_S.tolist(), 3, size, chance), 0, chance)
    step_to_next = -1 if direction == "backward" else 1
    was_reset_B = None
    for step in range(2 * batches.batches_per_epoch):
        batch = batches.batch(step)
        is_gap_TB = batch.targets_TB == NO_TARGET
        resets_TB = np.zeros_like(is_gap_TB) if batch.resets_TB is None else batch.resets_TB
        assert (is_gap_TB == resets_TB).all()
        starts_anew_TB = np.vstack([batch.begins_B if was_reset_B is None else batch.begins_B | was_reset_B, resets_TB])
        for (t, b), target in np.ndenumerate(batch.targets_TB):
            before = batch.tokens_TB[t, b]
            if target == NO_TARGET:
                assert t + 1 == len(resets_TB) or batch.tokens_TB[t + 1, b] == START
            elif starts_anew_TB[t, b]:
                assert before == START
            else:
                assert before == target - step_to_next
                assert document[before] == document[target]
        if batch.right_SB is not None:
            assert_only_its_document_is_on_the_right(batch, document)
        was_reset_B = resets_TB[-1]


def assert_only_its_document_is_on_the_right(batch: Batch, document: NDArray[np.int64]) -> None:
    """Check what layers that read from the right have read since their last reset when they predict a character."""
    assert batch.right_SB is not None
    for b in range(batch.right_SB.shape[1]):
        read: list[int] = []
        for s in reversed(range(len(batch.right_SB))):
            read.append(int(batch.right_SB[s, b]))
            if s < len(batch.targets_TB) and (target := batch.targets_TB[s, b]) != NO_TARGET:
                inside = [place for place in read if place != START]
                assert inside == list(range(target + len(inside), target, -1))
                assert {int(document[place]) for place in inside} <= {int(document[target])}
                assert read[0] == START
            if batch.right_resets_SB is not None and batch.right_resets_SB[s, b]:
                read = []


def test_a_stretch_has_a_gap_before_each_document_inside_it() -> None:
    """Places count gaps; the characters of an epoch are those of the text."""
    part = replace(
        Part.between(np.arange(20, dtype=np.uint8), [(2, 9), (12, 20)]), documents_D=np.array([2, 5, 12, 19])
    )
    gapped = Gapped(part)
    assert (len(gapped), gapped.num_characters) == (17, 15)
    first_S, last_S = gapped.bounds_S2.T
    assert gapped.num_characters_of(first_S, last_S).tolist() == [7, 8]
    ids_TB, is_gap_TB = gapped.read(first_S + np.arange(9)[:, None])
    assert ids_TB[~is_gap_TB[:, 0], 0].tolist() == [2, 3, 4, 5, 6, 7, 8, 9]
    assert ids_TB[~is_gap_TB[:, 1], 1].tolist() == [12, 13, 14, 15, 16, 17, 18, 19]
    assert [stretch.tolist() for stretch in part.divided().stretches] == [
        [2, 3, 4], [5, 6, 7, 8], [12, 13, 14, 15, 16, 17, 18], [19],
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("expression", "problem"),
    [
        ("(a+)+$", "too many ways"),
        ("(a|a)*$", "too many ways"),
        ("a?" * 30 + "a" * 30, "too many ways"),
        (".*.*.*.*x", "too many ways"),
        ("(?:(?:x{1,9}){1,9}){1,9}y", "too many ways"),
        ("(", "not a regular expression"),
        ("blank-lines", "did you mean `blank-line`"),
        ("file", "did you mean `files`"),
    ],
)
def test_an_expression_that_may_hang_is_refused(expression: str, problem: str) -> None:
    """Whatever takes exponential time is refused when the settings are read, and so is a misspelt word."""
    with pytest.raises(ConfigError, match=re.escape(problem)):
        override_config({}, [], {"data.documents": expression})


@pytest.mark.parametrize(
    "expression", ["^(CHAPTER|BOOK) [IVXLC]+", r"<\|endoftext\|>", r"= [^=]+ =$", r"\d+\.\s", "def "]
)
def test_usual_expressions_are_taken(expression: str) -> None:
    """Expressions for titles, separators and numbers are allowed."""
    assert DataConfig(documents=expression).documents == expression


def test_a_state_is_reset_at_documents_only_if_there_are_some() -> None:
    """`reset_state_at_documents` alone is an error that names the other setting."""
    with pytest.raises(ConfigError, match="needs `documents`"):
        override_config(Config().model_dump(), ["data.reset_state_at_documents=true"], {})
