"""Documents: where they begin, splits that do not divide them, and batches that start with them."""

from __future__ import annotations

import re
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from charlm.data.batches import Batches
from charlm.data.corpus import Corpus, load_corpus
from charlm.data.documents import document_starts
from charlm.data.holdout import hold_out, recorded_split
from charlm.errors import ConfigError, CorpusError
from charlm.settings.config import Config, DataConfig
from charlm.settings.config_file import override_config
from charlm.spec import ModelSpec
from tests.helpers.texts import write


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


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_a_stream_starts_at_the_block_nearest_to_a_document(direction: str) -> None:
    """The block nearest to the start of a document, in reading order to its end, begins with the start symbol."""
    ids, size = np.arange(200, dtype=np.uint8), 10
    starts = np.array([34, 77, 120])
    spec = ModelSpec("lstm", 256, 0, 1, 1, direction)  # type: ignore[arg-type]
    batches = Batches(ids, spec, 1, size, 0, 0.0, starts)
    places = [200 - start for start in starts.tolist()] if direction == "backward" else starts.tolist()
    first = [int(batches.batch(step).targets_TB[0, 0]) for step in range(batches.batches_per_epoch)]
    first = [199 - place for place in first] if direction == "backward" else first
    begins = [bool(batches.batch(step).begins_B[0]) for step in range(batches.batches_per_epoch)]
    expected = [any(-5 <= place - here < 5 for place in places) for here in first]
    assert begins == [True, *expected[1:]]
    assert sum(begins) == 4


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
