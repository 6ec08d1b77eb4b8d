"""The filter `letters`: what is left of texts, corpora and prompts, and how a model keeps it."""

from __future__ import annotations

import itertools
import json
import unicodedata
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from charlm.checkpoint import ModelFile, load_checkpoint
from charlm.data import sources
from charlm.data.corpus import Corpus, load_corpus
from charlm.errors import CharlmError, UnknownCharacterError
from charlm.inference.stepper import Stepper
from charlm.vocab import TextFilter, Vocabulary
from tests.helpers.commands import ONE_STEP, SHORT, answer, call
from tests.helpers.model_files import load_error, tiny_model
from tests.helpers.texts import cached_ids, text_of, write
from tests.helpers.untrusted import change_metadata, forge

# Letters of several scripts; the lower case of some is longer, or depends on the letters beside them.
LETTERS = "aZéßẞİ\u0131Σ\u03c3ςǅשи日ﬁ"
OTHERS = " \n\t.,;'-_0189٣½²Ⅷ\u0301\u00a0\u2028\u200d😀\0"
TEXTS = st.text(max_size=30) | st.text(LETTERS + OTHERS, max_size=30)


def filtered_ascii(text: str) -> str:
    """Filter ASCII text character by character."""
    found = ""
    for character in text:
        if "A" <= character <= "Z":
            found += chr(ord(character) + 32)
        elif "a" <= character <= "z":
            found += character
        elif not found.endswith(" "):
            found += " "
    return found


def filtered(text: str) -> str:
    """Filter a whole text."""
    return TextFilter("letters")(text)


def read(*names: str, **options: Any) -> Corpus:
    """Load texts through the filter."""
    return load_corpus(names, filter="letters", **options)


# Texts


@given(text=TEXTS)
@settings(max_examples=300, deadline=None)
@example("İ")
@example("ΑΣ")
def test_a_filtered_text_is_not_changed_by_its_filter(text: str) -> None:
    """Filtering a text twice gives the same as filtering it once."""
    once = filtered(text)
    assert filtered(once) == once


@given(text=st.text(st.characters(max_codepoint=127), max_size=60))
@settings(max_examples=300, deadline=None)
@example("Don't stop_me 2 times.\r\n\r\nNOW")
def test_filtered_ascii_has_small_letters_and_single_spaces(text: str) -> None:
    """A filtered ASCII text is that of a program which looks at one character at a time."""
    found = filtered(text)
    assert found == filtered_ascii(text)
    assert set(found) <= set("abcdefghijklmnopqrstuvwxyz ")


@given(text=TEXTS)
@settings(max_examples=300, deadline=None)
@example("x² ½ Ⅷ")
def test_a_filtered_text_has_letters_and_single_spaces(text: str) -> None:
    """All but spaces are letters or marks by their Unicode category, and no two spaces are together."""
    found = filtered(text)
    assert "  " not in found
    assert {unicodedata.category(character)[0] for character in found.replace(" ", "")} <= {"L", "M"}


@given(text=TEXTS)
@settings(max_examples=100, deadline=None)
def test_no_filter_changes_no_text(text: str) -> None:
    """The filter `none` returns a text unchanged, whatever it read before."""
    no_filter = TextFilter("none")
    assert no_filter(" ") + no_filter(text) == " " + text


@given(text=TEXTS, cuts=st.lists(st.integers(0, 30), max_size=6))
@settings(max_examples=500, deadline=None)
@example("a. b", [2])
@example("a.. b", [1, 2, 3])
@example("ΟΔΟΣΑ", [4])
def test_a_text_in_pieces_is_filtered_as_a_whole(text: str, cuts: list[int]) -> None:
    """The filter gives the same text wherever it is cut, because it remembers whether it wrote a space last."""
    borders = [0, *sorted(cuts), len(text)]
    pieces = map(TextFilter("letters"), (text[start:end] for start, end in itertools.pairwise(borders)))
    assert "".join(pieces) == filtered(text)


# Corpora

STORY = "The Fox -- and the hare... \n\n 'Run!', said he;  1,000 times. É\u00e9! Straße  ??"


@pytest.mark.parametrize("chunk", [1, 2, 3, 5, 7, 8, 16, 1000])
def test_a_corpus_is_filtered_across_chunks(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    """Spaces, punctuation and letters of several bytes may lie on the border of a chunk."""
    monkeypatch.setattr(sources, "CHUNK_BYTES", chunk)
    loaded = read(write("a.txt", STORY))
    assert text_of(loaded) == filtered(STORY)
    assert loaded.vocabulary.symbols == "".join(sorted(set(filtered(STORY))))


@given(text=st.text(LETTERS + OTHERS, min_size=1, max_size=60), chunk=st.integers(1, 12))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example("ΟΔΟΣΑ", 8)
def test_any_corpus_is_filtered_across_chunks(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, chunk: int
) -> None:
    """A text of any script is filtered as a whole, read in chunks of any size."""
    monkeypatch.setenv("CHARLM_CACHE", str(tmp_path / "caches" / str(len(list(tmp_path.glob("caches/*"))))))
    monkeypatch.setattr(sources, "CHUNK_BYTES", chunk)
    assert text_of(read(write("a.txt", text))) == filtered(text)


@pytest.mark.parametrize(
    "texts", [("One.", "Two"), ("one", "two"), ("One. ", " Two!", "\n3\n", "FOUR"), ("a", "1", "b")]
)
def test_several_sources_are_filtered_as_one_text(texts: tuple[str, ...]) -> None:
    """One space replaces all between two letters, even if they are in two files."""
    names = [write(f"{index}.txt", text) for index, text in enumerate(texts)]
    assert text_of(read(*names)) == filtered("".join(texts))


def test_a_filtered_corpus_notes_how_much_is_left() -> None:
    """The note has the number of characters before and after the filter, also from the cache."""
    name = write("a.txt", STORY)
    for _ in range(2):
        (note,) = read(name).notes
        assert f"of {len(STORY):,} characters {len(filtered(STORY)):,} are left" in note
    assert load_corpus([name]).notes == ()


def test_filtered_and_unfiltered_texts_are_cached_apart(tmp_path: Path) -> None:
    """A text and the same text with a filter have separate cache entries, in any order."""
    name = write("a.txt", STORY)
    for _ in range(2):
        assert text_of(read(name)) == filtered(STORY)
        assert text_of(load_corpus([name])) == STORY
    assert len(cached_ids(tmp_path)) == 2


def test_a_byte_order_mark_is_dropped_before_the_filter() -> None:
    """A byte order mark leaves no space in a filtered text, and is noted."""
    loaded = read(write("a.txt", "\ufeffAb, c"))
    assert text_of(loaded) == "ab c"
    assert any("byte order mark" in note for note in loaded.notes)


@pytest.mark.parametrize("text", ["1, 2, 3!", " ", "\n\n\n", "1984", "...", "_", "😀"])
def test_a_text_without_letters_is_filtered_to_one_space(text: str) -> None:
    """A run on a text without letters is trained, or is an error without a traceback."""
    name = write("a.txt", text)
    loaded = read(name)
    assert (text_of(loaded), loaded.vocabulary.symbols) == (" ", " ")
    result = call("train", "-c", name, "--set", "vocab.filter=letters", *ONE_STEP)
    assert result.exit_code in (0, 1), result.stderr
    assert result.exit_code == 0 or "error: " in result.stderr


def test_a_given_vocabulary_brings_its_filter() -> None:
    """A text that a model scores is filtered as the model's vocabulary demands."""
    vocabulary = Vocabulary("characters", " abc", "letters")
    loaded = load_corpus([write("a.txt", "A--B, c!")], vocabulary=vocabulary)
    assert (text_of(loaded), loaded.vocabulary) == ("a b c ", vocabulary)
    assert any("vocab.filter letters" in note for note in loaded.notes)
    with pytest.raises(UnknownCharacterError, match="'d'"):
        load_corpus([write("b.txt", "A--B, D!")], vocabulary=vocabulary)


# Models


def with_filter(symbols: str = " abc") -> ModelFile:
    """Make a small model with the filter `letters`."""
    return replace(tiny_model(symbols=symbols), vocabulary=Vocabulary("characters", symbols, "letters"))


def test_a_model_file_keeps_its_filter() -> None:
    """A model has the same filter after it is saved, loaded, saved and loaded again."""
    path = Path("m.safetensors")
    with_filter().save(path)
    for _ in range(2):
        loaded = load_checkpoint(path)
        assert loaded.vocabulary.filter == "letters"
        assert loaded.vocabulary == with_filter().vocabulary != tiny_model(symbols=" abc").vocabulary
        loaded.save(path)


@pytest.mark.parametrize("make", [with_filter, lambda: tiny_model(symbols=" abc")])
def test_a_model_file_without_a_filter_field_has_no_filter(make: Callable[[], ModelFile]) -> None:
    """A model file from before there were filters reads its text unchanged."""
    path = Path("m.safetensors")
    make().save(path)
    fields = {"kind": "characters", "symbols": list(" abc")}
    path.write_bytes(forge(path.read_bytes(), vocabulary=json.dumps(fields)))
    assert load_checkpoint(path).vocabulary == Vocabulary("characters", " abc")


@pytest.mark.parametrize("filter", ["digits", "", None, 5, ["letters"], {}, True, "LETTERS", "letters\n"])
def test_a_model_file_with_an_unknown_filter_is_refused(filter: Any) -> None:
    """A model is refused if charlm does not know how it reads."""
    path = Path("m.safetensors")
    with_filter().save(path)
    path.write_bytes(change_metadata(path.read_bytes(), {"vocabulary.filter": filter}))
    load_error(path)


def test_a_model_of_bytes_has_no_filter() -> None:
    """A vocabulary of bytes with a filter is refused, also in a model file."""
    with pytest.raises(ValueError, match="no vocabulary"):
        Vocabulary("bytes", "".join(map(chr, range(256))), "letters")
    path = Path("m.safetensors")
    tiny_model(symbols="".join(map(chr, range(256)))).save(path)
    path.write_bytes(change_metadata(path.read_bytes(), {"vocabulary.kind": "bytes"}))
    assert load_checkpoint(path).vocabulary.kind == "bytes"
    path.write_bytes(change_metadata(path.read_bytes(), {"vocabulary.filter": "letters"}))
    load_error(path)


def test_a_prompt_is_filtered() -> None:
    """Capitals and punctuation in a prompt are not unknown characters."""
    vocabulary = with_filter().vocabulary
    np.testing.assert_array_equal(vocabulary.encode("A, B--c!"), vocabulary.encode("a b c "))
    with pytest.raises(UnknownCharacterError, match="'d'"):
        vocabulary.encode("A, D")


def test_commands_filter_prompts_and_texts() -> None:
    """`predict-next`, `sample` and `eval` take unfiltered text."""
    with_filter().save(Path("m.safetensors"))
    assert Stepper(load_checkpoint(Path("m.safetensors"))).vocabulary.filter == "letters"
    shouted = answer("predict-next", "A -- B,", "-m", "m.safetensors", "--json")
    plain = answer("predict-next", "a b ", "-m", "m.safetensors", "--json")
    for key in ("entropy_bits", "characters", "predictions"):
        assert shouted.get(key) == plain.get(key)
    assert call("sample", "A--", "-m", "m.safetensors", "-n", "5", "--seed", "1").exit_code == 0
    shouting, quiet = write("A.txt", "A, B? C!"), write("b.txt", "a b c ")
    scores = [
        answer("eval", "-m", "m.safetensors", "-c", name, "--json")["nats_per_character"] for name in (shouting, quiet)
    ]
    assert scores[0] == scores[1]


def test_a_run_with_a_filter_can_be_scored_and_resumed() -> None:
    """`eval` and `--resume` read the text of a run through its filter."""
    name = write("a.txt", STORY * 40)
    options = ["--set", "vocab.filter=letters", *SHORT, "--seed", "3", "--sample-length", "5"]
    trained = call("train", "-c", name, *options, "--out", "run")
    assert trained.exit_code == 0, trained.stderr
    assert "vocab.filter letters" in trained.stderr
    assert load_checkpoint(Path("run/best.safetensors")).vocabulary.filter == "letters"
    assert answer("eval", "-m", "run", "--json")["characters"] > 0
    resumed = call("train", "--resume", "run", "--set", "train.steps=8", "--sample-length", "0")
    assert resumed.exit_code == 0, resumed.stderr
    refused = call("train", "--resume", "run", "--set", "vocab.filter=none")
    assert refused.exit_code == 2
    other = call("train", "--resume", "run", "--set", "train.steps=9", "-c", write("b.txt", "THE hare!"), "--new-text")
    assert other.exit_code == 0, other.stderr


@given(text=TEXTS)
@settings(max_examples=100, deadline=None)
def test_a_vocabulary_with_a_filter_encodes_filtered_text(text: str) -> None:
    """Any text has the ids of its filtered text, or is refused if a character of that is unknown."""
    left = filtered(text)
    vocabulary = Vocabulary("characters", "".join(sorted(set(left))), "letters")
    assert vocabulary.decode(vocabulary.encode(text)) == left
    if left:
        with pytest.raises(CharlmError):
            Vocabulary("characters", "".join(sorted(set(left)))[1:] or "\n", "letters").encode(text)


def test_a_filter_leaves_a_blank_that_is_a_letter_or_space(make_model: Callable[..., ModelFile]) -> None:
    """Only the given mark is a blank, and what the filter makes of the text beside it is not."""
    vocabulary = Vocabulary("characters", " abcx", "letters")
    make_model(symbols=vocabulary, direction="both").save(Path("letters.safetensors"))
    for text, blank in (("X x", "x"), ("a1b c", " ")):
        found = answer("fill", text, "--blank", blank, "-m", "letters.safetensors", "--json")
        assert len(found["blanks"]) == 1
