"""Where words begin and end, one symbol of a model at a time. Knows no probabilities."""

from __future__ import annotations

import re
import unicodedata
from enum import IntEnum
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from charlm.errors import UsageError
from charlm.vocab import Vocabulary

WITHOUT_WORDS = "`charlm predict-next` without `--words` ranks its characters"
# They belong to a word between two of its letters: don't, well-known, col·lecció.
JOINERS = "'\u2019-\u2010\u2011\u00ad\u00b7"
# Letters of scripts that put no spaces between words: Thai and Lao, Tibetan, Burmese, Khmer, Tai, kana and Han.
UNSPACED = [(0x0E00, 0x0FFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x1950, 0x19DF), (0x1A20, 0x1AAF)]
UNSPACED += [(0x2E80, 0x2FFF), (0x3005, 0x3007), (0x3021, 0x30FF), (0x31F0, 0x31FF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF)]
UNSPACED += [(0xAA60, 0xAA7F), (0xF900, 0xFAFF), (0xFF66, 0xFF9D), (0x1B000, 0x1B16F), (0x20000, 0x3FFFF)]
# There, so many letters stand for a word: most words of Chinese have two.
PHRASE_LENGTH = 2
# The part of a word at the end of a text, and of one that is read backward, in initials of the kinds of characters.
ENDS_TEXT, BEGINS_TEXT = re.compile("L[LM]*(JL[LM]*)*J?$"), re.compile("^J?L[LM]*(JL[LM]*)*")
# The end of a text, which says whether a word was started. Longer words count as so long.
MAX_WORD_SO_FAR = 100


class Kind(IntEnum):
    """What a symbol is for words."""

    OTHER = 0
    LETTER = 1
    UNSPACED = 2
    MARK = 3
    JOINER = 4
    # A byte that begins a character of several bytes.
    PART = 5


class Effect(IntEnum):
    """What a symbol does to a word."""

    GROWS = 0
    ENDS = 1
    # What follows the symbol decides: a joiner, or a part of a character.
    HANGS = 2


class Place(NamedTuple):
    """Where a text stands in a word.

    Attributes:
        kind: `LETTER` in a word, `UNSPACED` in one of a script without spaces, and `OTHER` before both.
        num_letters: of a word of such a script.
        is_joined: whether a joiner was the last character.
        part: the bytes of a character that is not complete.
    """

    kind: Kind = Kind.OTHER
    num_letters: int = 0
    is_joined: bool = False
    part: bytes = b""


class Boundaries:
    """Says which symbols of a vocabulary end a word.

    A word has letters, digits and underscores of any script, their marks, and apostrophes and hyphens between two of
    them. In scripts without spaces it ends after `PHRASE_LENGTH` letters, or at a character that is no letter.

    Args:
        vocabulary: the symbols.
        is_backward: whether the symbols come from the end of a text.

    Raises:
        UsageError: the vocabulary has no words, or nothing that ends them.
    """

    def __init__(self, vocabulary: Vocabulary, is_backward: bool) -> None:
        self._vocabulary, self._is_backward = vocabulary, is_backward
        self._kinds: dict[bytes, NDArray[np.int8]] = {}
        self._effects: dict[Place, NDArray[np.int8]] = {}
        self._kinds[b""] = np.array([self._kind_of(index, b"") for index in range(len(vocabulary))], np.int8)
        present = set(self._kinds[b""].tolist())
        if not present & {Kind.LETTER, Kind.UNSPACED}:
            raise UsageError("this model knows no letters, and so no words", WITHOUT_WORDS)
        if not present & {Kind.OTHER, Kind.UNSPACED}:
            raise UsageError("this model knows no character that ends a word", WITHOUT_WORDS)

    def effects(self, place: Place) -> NDArray[np.int8]:
        """Return the `Effect` of each symbol at a place, shape (V,)."""
        if (found := self._effects.get(place)) is not None:
            return found
        kinds_V = self._kinds_after(place.part)
        effects_V = np.full(len(kinds_V), Effect.GROWS, np.int8)
        if place.kind != Kind.OTHER:
            is_full = place.num_letters >= PHRASE_LENGTH
            grows_V = (kinds_V == place.kind) & (not is_full)
            # In a text that is read backward a mark comes before its letter: it belongs to the next one.
            grows_V |= (kinds_V == Kind.MARK) & (not is_full or not self._is_backward)
            hangs_V = kinds_V == Kind.PART
            if place.kind == Kind.LETTER and not place.is_joined:
                hangs_V |= kinds_V == Kind.JOINER
            effects_V[~grows_V] = Effect.ENDS
            effects_V[hangs_V] = Effect.HANGS
        self._effects[place] = effects_V
        return effects_V

    def after(self, place: Place, index: int) -> Place:
        """Return the place after a symbol that does not end the word."""
        kind = Kind(self._kinds_after(place.part)[index])
        if kind == Kind.PART:
            return place._replace(part=self._joined(place.part, index))
        place = place._replace(part=b"", is_joined=kind == Kind.JOINER and place.kind != Kind.OTHER)
        if place.kind == Kind.OTHER and kind in (Kind.LETTER, Kind.UNSPACED):
            place = place._replace(kind=kind)
        return place._replace(num_letters=place.num_letters + 1) if kind == Kind.UNSPACED else place

    def word_so_far(self, text: str) -> str:
        """Return the part of a word that ends a text, or with a backward model begins it."""
        near = text[:MAX_WORD_SO_FAR] if self._is_backward else text[-MAX_WORD_SO_FAR:]
        kinds = "".join(kind_of(character).name[0] for character in near)
        found = BEGINS_TEXT.search(kinds) if self._is_backward else ENDS_TEXT.search(kinds)
        return near[slice(*found.span())] if found else ""

    def place_in(self, word_so_far: str) -> Place:
        """Return the place after the part of a word that `word_so_far` returned."""
        if not word_so_far:
            return Place()
        last = word_so_far[0 if self._is_backward else -1]
        return Place(Kind.LETTER, is_joined=kind_of(last) == Kind.JOINER)

    def _kinds_after(self, part: bytes) -> NDArray[np.int8]:
        """Return the kind of each symbol after the bytes of a character that is not complete, shape (V,)."""
        if part not in self._kinds:
            self._kinds[part] = np.array([self._kind_of(index, part) for index in range(256)], np.int8)
        return self._kinds[part]

    def _kind_of(self, index: int, part: bytes) -> Kind:
        if self._vocabulary.kind == "characters":
            return kind_of(self._vocabulary.symbols[index])
        encoded = self._joined(part, index)
        try:
            return kind_of(encoded.decode())
        except UnicodeDecodeError as error:
            # Bytes that no character begins with, or ends with, are no part of a word.
            is_continuation = 0x80 <= index < 0xC0
            is_start = is_continuation and len(encoded) <= 3 if self._is_backward else _is_start(encoded, error)
            return Kind.PART if is_start else Kind.OTHER

    def _joined(self, part: bytes, index: int) -> bytes:
        return bytes([index]) + part if self._is_backward else part + bytes([index])


@cache
def kind_of(character: str) -> Kind:
    """Return what a character is for words."""
    code, category = ord(character), unicodedata.category(character)
    # The joiner and the non-joiner of Persian and Indian scripts change the form of letters inside a word.
    if category.startswith("M") or character in "\u200c\u200d":
        return Kind.MARK
    if character in JOINERS:
        return Kind.JOINER
    if not (character.isalnum() or character == "_"):
        return Kind.OTHER
    is_unspaced = category in ("Lo", "Lm", "Nl") and any(first <= code <= last for first, last in UNSPACED)
    return Kind.UNSPACED if is_unspaced else Kind.LETTER


def _is_start(encoded: bytes, error: UnicodeDecodeError) -> bool:
    """Return whether bytes that are no text could become a character with more bytes."""
    return error.reason == "unexpected end of data" and error.start == 0 and error.end == len(encoded)
