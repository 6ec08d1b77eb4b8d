"""A held-out part that is unlike the rest is named; one that is not, is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import charlm
from charlm.data.corpus import Corpus, load_corpus
from charlm.data.holdout import Part, hold_out
from charlm.data.likeness import notes_on_holdout, unlike_training
from charlm.files import bundled_folder
from charlm.settings.config import DataConfig
from charlm.vocab import Ids
from tests.helpers.texts import write

FABLES = (bundled_folder("corpora") / "fables.txt").read_text(encoding="utf-8")
CHINESE = (bundled_folder("corpora") / "fables-zh.txt").read_text(encoding="utf-8")
STEMS = {word.strip(".,!?\"'").lower() for word in FABLES.split()} - {""}
WORDS = sorted(stem + ending for stem in STEMS for ending in ("", "s", "ing", "ed", "ly"))
LICENCE = (
    "THE SOFTWARE IS PROVIDED (AS IS), WITHOUT WARRANTY OF ANY KIND; SEE SECTIONS 4(a), 4(b) AND 7 OF THIS LICENSE.\n"
    "   2.1  Grant of Copyright License. Subject to the terms and conditions of this License, each Contributor hereby\n"
    "        grants to You a perpetual, worldwide, non-exclusive, no-charge, royalty-free, irrevocable license.\n"
) * 60


def held_out(*names: str, **settings: Any) -> tuple[list[str], list[str]]:
    """Return which parts of these texts are unlike the rest, and the notes."""
    corpus, data = load_corpus(names), DataConfig(**settings)
    parts = hold_out(corpus, data)
    unlike = unlike_training(corpus, parts)
    return unlike, notes_on_holdout(corpus, data, parts, unlike)


TEXTS = {
    "chinese.txt": FABLES + CHINESE,
    "english.txt": CHINESE + FABLES,
    "licence.txt": FABLES[:165_000] + LICENCE,
    "words.txt": "\n".join(WORDS) + "\n",
    "falling.txt": "\n".join(reversed(WORDS)) + "\n",
    "code.txt": FABLES + Path(__file__).read_text(encoding="utf-8") * 3,
}


@pytest.mark.parametrize("name", TEXTS)
def test_an_end_that_is_another_text_is_noted(name: str) -> None:
    """The note names the part and a setting, and with that setting there is no such note."""
    write(name, TEXTS[name])
    unlike, notes = held_out(name)
    assert unlike == ["validation"]
    (note,) = notes
    assert "the validation part is unlike the training part" in note
    # A run that is resumed cannot change it.
    assert "a run with `--set data.holdout=spread`" in note
    assert ("shuffle" in note) == (name in ("words.txt", "falling.txt"))
    unlike, notes = held_out(name, holdout="spread")
    assert unlike == []
    assert len(notes) == 1
    assert "spread over the text" in notes[0]


def test_two_languages_are_noted_only_if_the_end_is_held_out() -> None:
    """By default they are spread."""
    assert held_out("fables", "fables-zh")[0] == []
    assert held_out("fables", "fables-zh", holdout="end")[0] == ["validation"]
    assert held_out("fables-zh", "fables", holdout="end")[0] == ["validation"]


def test_the_part_that_is_unlike_is_the_one_that_is_named() -> None:
    """A licence may make up the test part alone."""
    write("text.txt", FABLES[:165_000] + LICENCE)
    assert held_out("text.txt", validation_fraction=0.05, test_fraction=0.11)[0] == ["test"]


@pytest.mark.parametrize("name", ["fables", "fables-zh", "hello", "python-docs"])
def test_ordinary_texts_have_no_note(name: str) -> None:
    """The bundled texts, and one of the interpreter, are alike from start to end."""
    assert held_out(name)[0] == []


def test_a_source_tree_has_no_note() -> None:
    """Of a folder blocks are held out, so that they hold each kind of file."""
    unlike, notes = held_out(str(Path(charlm.__file__).parent))
    assert unlike == []
    assert len(notes) == 1


@pytest.mark.parametrize("share", [0.02, 0.05, 0.2, 0.5])
def test_no_share_of_an_ordinary_text_is_noted(share: float) -> None:
    """Whether little or much is held out, chance alone does not make a note."""
    assert held_out("fables", validation_fraction=share)[0] == []
    assert held_out("fables-zh", validation_fraction=share)[0] == []


def test_random_texts_have_no_note() -> None:
    """Of fifteen texts without any order, short and long, of few and of many symbols, none is noted."""
    random = np.random.default_rng(0)
    for number in range(15):
        length, num_symbols = int(random.integers(3_000, 60_000)), int(random.choice([2, 30, 2000]))
        write(f"{number}.txt", "".join(map(chr, 0x4E00 + random.integers(num_symbols, size=length))))
        assert held_out(f"{number}.txt")[0] == [], (length, num_symbols)


def test_a_short_text_that_cannot_be_spread_gets_another_hint() -> None:
    """A list of a thousand words has too few characters for blocks, so the note does not name them."""
    write("words.txt", "\n".join(WORDS[::12]))
    unlike, notes = held_out("words.txt")
    assert unlike == ["validation"]
    assert "shuffle" in notes[0]
    assert "data.holdout" not in notes[0]
    assert held_out("words.txt", holdout="spread")[1][0].startswith("the text is too short")


def test_the_check_reads_no_more_of_a_long_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of three million characters it looks at a few thousand in each of many places."""
    corpus = load_corpus([write("text.txt", "It was a dark and stormy night.\n" * 100_000)])
    parts, sizes, look = hold_out(corpus, DataConfig()), [], Part.at

    def counted(part: Part, places: np.ndarray) -> Ids:
        sizes.append(places.size)
        return look(part, places)

    monkeypatch.setattr(Part, "at", counted)
    assert unlike_training(corpus, parts) == []
    assert 100_000 < sum(sizes) < 400_000


def test_the_note_on_blocks_counts_them() -> None:
    """One block is not `blocks`; bytes are not characters."""
    write("a.txt", FABLES[:20_000])
    write("b.txt", FABLES[20_000:40_000])
    corpus: Corpus = load_corpus(["a.txt", "b.txt"], kind="bytes")
    parts = hold_out(corpus, DataConfig())
    (note,) = notes_on_holdout(corpus, DataConfig(), parts, [])
    assert note == f"held out: {len(parts.validation):,} bytes in 2 blocks spread over the text"
    (note,) = held_out("a.txt", holdout="spread")[1]
    assert note.endswith(" characters in 1 block within the text")
