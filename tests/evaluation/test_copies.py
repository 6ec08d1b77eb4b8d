"""What of a text stands in the text that a model learned: how much, where, and beside what held-out text has of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from charlm.checkpoint import ModelFile
from charlm.data.copies import Matches, match
from charlm.data.corpus import load_corpus
from charlm.errors import CharlmError, CorpusError, UsageError
from charlm.evaluation.copies import LENGTHS, LearnedText, find_copies
from charlm.vocab import Ids, Kind

OWN = "the old fox sat by the river and thought.\n" + "no one came to see him, and he was glad of it.\n" * 4
LAST = "a hare ran over the hill."
HELD_OUT = 0.1

Learned = Callable[..., ModelFile]


@pytest.fixture
def learned(make_model: Callable[..., ModelFile]) -> Learned:
    """Return a function that makes a model of a text in this folder, of which the end is held out."""

    def make(texts: dict[str, str] | None = None, validation: float = HELD_OUT, **vocabulary: Any) -> ModelFile:
        for name, text in (texts or {"own.txt": OWN + LAST}).items():
            Path(name).write_text(text, encoding="utf-8", newline="")
        names = list(texts or ["own.txt"])
        corpus = load_corpus(names, **vocabulary)
        data = {"corpus": names, "validation_fraction": validation, "test_fraction": 0.0, "holdout": "end"}
        file = make_model(symbols=corpus.vocabulary)
        return replace(file, corpus=corpus.facts(), config=file.config | {"data": data})

    return make


def test_the_longest_copy_is_told_with_its_place(learned: Learned) -> None:
    """Its length, text, position, line and surroundings are those of the text that was learned."""
    written = "he old fox was glad of it.\nno one"
    (found,) = LearnedText.of(learned()).copies([written])
    longest = found.longest
    assert longest is not None
    text = "was glad of it.\nno one"
    assert longest.text == written[longest.start :] == f" {text}"
    place = OWN.index(f" {text}")
    assert (longest.length, longest.position, longest.line, longest.source) == (23, place, 2, "own.txt")
    assert (longest.before, longest.after) == (OWN[place - 20 : place], OWN[place + 23 : place + 43])


def test_shares_count_the_characters_in_copies(learned: Learned) -> None:
    """Of 20 characters, 10 lie in a copy of 10, and the 10 others in none of five."""
    (found,) = LearnedText.of(learned()).copies(["the old fotttttttttt"])
    assert {length: found.share_by_length[length] for length in (5, 10, 11)} == {5: 0.5, 10: 0.5, 11: 0.0}
    assert list(found.share_by_length) == list(LENGTHS) == list(range(5, 51))
    assert found.spans(10) == [(0, 10)]
    assert found.spans(11) == []


def test_held_out_text_is_no_training_text(learned: Learned) -> None:
    """What stands only in the held-out part is no copy; that part is measured against the training part."""
    file = learned({"own.txt": OWN + LAST}, (len(LAST) - 0.5) / len(OWN + LAST))
    (found,) = LearnedText.of(file).copies([LAST])
    assert found.longest is not None
    assert found.longest.length < 8
    assert found.held_out_lengths_T is not None
    assert found.held_out_lengths_T.tolist() == found.lengths_T.tolist()
    assert found.held_out_share_by_length == found.share_by_length


def test_the_held_out_text_is_measured_once(learned: Learned, monkeypatch: pytest.MonkeyPatch) -> None:
    """Later texts have the same held-out shares, and are the only ones that are looked for."""
    text = LearnedText.of(learned())
    (first,) = text.copies(["the fox"])
    sizes: list[int] = []

    def counting(texts: Sequence[Ids], *rest: Any) -> list[Matches]:
        sizes.append(len(texts))
        return match(texts, *rest)

    monkeypatch.setattr("charlm.evaluation.copies.match", counting)
    second, third = text.copies(["no one", ""])
    assert sizes == [2]
    assert first.held_out_share_by_length == second.held_out_share_by_length
    assert (third.longest, set(third.share_by_length.values()), third.spans()) == (None, {0.0}, [])


def test_without_held_out_text_there_is_nothing_beside(learned: Learned) -> None:
    """Copies of 20 characters are marked."""
    (found,) = LearnedText.of(learned(validation=0.0)).copies(["the old fox sat by the"])
    assert (found.held_out_share_by_length, found.marked_length) == (None, 20)
    assert found.to_json()["held_out_share_by_length"] is None


def test_copies_that_held_out_text_hardly_has_are_marked(learned: Learned) -> None:
    """The marked length is the least at which a twentieth of the held-out text lies in copies."""
    (found,) = LearnedText.of(learned()).copies(["the old fox"])
    held_out = found.held_out_share_by_length
    assert held_out is not None
    assert held_out[found.marked_length] <= 0.05
    assert found.marked_length == 5 or held_out[found.marked_length - 1] > 0.05


def test_a_place_in_several_files_names_the_file(learned: Learned) -> None:
    """The position counts all files, the line only those of the file."""
    texts = {"a.txt": "one\ntwo\n", "b.txt": "\n\nthree four\n", "c.txt": "five six"}
    (found,) = LearnedText.of(learned(texts, 0.0)).copies(["three fo"])
    assert found.longest is not None
    assert (found.longest.position, found.longest.line, found.longest.source) == (10, 3, "b.txt")


@pytest.mark.parametrize(("end", "line"), [("\r\n", 2), ("\r", 2), (" ", None)])
def test_lines_are_counted_by_their_ends(learned: Learned, end: str, line: int | None) -> None:
    """A text of any line ends has lines; a text of none has no line."""
    (found,) = LearnedText.of(learned({"own.txt": f"one two{end}three"}, 0.0)).copies(["three"])
    assert found.longest is not None
    assert found.longest.line == line


@pytest.mark.parametrize(("kind", "length", "position"), [("characters", 5, 1), ("bytes", 11, 2)])
def test_a_model_of_bytes_counts_bytes(learned: Learned, kind: Kind, length: int, position: int) -> None:
    """Spans are those of whole characters, and so is the text of a copy, whose first byte may match alone."""
    (found,) = LearnedText.of(learned({"own.txt": "äöüßéèà"}, 0.0, kind=kind)).copies(["öüßéèö"])
    assert found.longest is not None
    assert found.to_json()["unit"] == kind.removesuffix("s")
    # The first byte of the letter after the copy is that of all of these letters.
    assert (found.longest.length, found.longest.position) == (length, position)
    assert found.longest.text == "öüßéè"
    assert found.spans(5) == [(0, 5)]


def test_a_filtered_text_is_compared_as_it_is_read(learned: Learned) -> None:
    """A text in capitals stands in a text that is learned in lower case."""
    learned({"own.txt": "The Fox, and the Hare!"}, 0.0, filter="letters").save(Path("m.safetensors"))
    found = find_copies("m.safetensors", "THE FOX -- AND THE")
    assert found.longest is not None
    assert (found.longest.text, found.longest.line) == ("the fox and the", None)


def test_copies_are_plain_values(learned: Learned) -> None:
    """The figures survive JSON, with lengths as names."""
    learned().save(Path("m.safetensors"))
    found = find_copies("m.safetensors", "the old fox, and he was glad of it")
    values = json.loads(json.dumps(found.to_json()))
    assert values == found.to_json()
    assert values["share_by_length"].keys() == {str(length) for length in range(5, 51)}
    assert values["longest"]["text"] == ", and he was glad of it"
    assert values["spans"] == [list(span) for span in found.spans()]


def test_a_text_that_is_gone_or_changed_is_an_error(learned: Learned) -> None:
    """The hint is the command that names its place; another text is refused."""
    file = learned()
    Path("own.txt").rename("moved.txt")
    with pytest.raises(CorpusError, match=r"own\.txt") as raised:
        LearnedText.of(file)
    assert "`charlm sample --check-copies --corpus FILE`" in raised.value.hint
    assert LearnedText.of(file, ["moved.txt"]).copies(["fox"])[0].longest is not None
    Path("own.txt").write_text(OWN.upper(), encoding="utf-8")
    with pytest.raises(CharlmError, match="no longer"):
        LearnedText.of(file)
    with pytest.raises(UsageError, match="not the one that this model learned") as refused:
        LearnedText.of(file, ["own.txt"])
    assert "own.txt" in refused.value.hint
