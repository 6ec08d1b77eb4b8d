"""Characters to ids and back. Knows text and arrays, but neither corpora nor models."""

from __future__ import annotations

import codecs
import re
import unicodedata
from collections.abc import Sequence
from typing import Any, Literal, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from charlm.errors import UnknownCharacterError, UsageError, counted

Ids = NDArray[np.unsignedinteger]
Kind = Literal["characters", "bytes"]
Filter = Literal["none", "letters"]

NUM_CODE_POINTS = 0x110000
# Look-alikes to suggest for an unknown character: word processors replace the typewriter's characters with these.
LOOK_ALIKES = [set("'`\u2018\u2019\u02bc"), set('"\u201c\u201d\u00ab\u00bb'), set("-\u2010\u2011\u2012\u2013\u2014")]


class Decoder(Protocol):
    """Turns ids into text piece by piece, and keeps the bytes of an unfinished character until the rest arrives."""

    def decode(self, ids: Sequence[int], final: bool = False) -> str:
        """Return the text that these ids complete."""
        ...


class Vocabulary:
    """The symbols of a model, in id order.

    Attributes:
        kind: `characters`, one symbol for each distinct character, sorted by code point, later ones at the end; or
            `bytes`, the 256 byte values of UTF-8, so that no character is unknown.
        symbols: each symbol as text, by id; a byte is the character with the same number.
        filter: how a text is changed before it is read, see `TextFilter`.
    """

    def __init__(self, kind: Kind, symbols: str, filter: Filter = "none") -> None:
        if (
            not isinstance(symbols, str)
            or kind not in ("characters", "bytes")
            or filter not in (("none", "letters") if kind == "characters" else ("none",))
            or len(set(symbols)) != len(symbols)
            or (kind == "bytes" and symbols != "".join(map(chr, range(256))))
        ):
            raise ValueError(f"no vocabulary: kind {kind!r}, {len(symbols)} symbols, {len(set(symbols))} distinct")
        self.kind: Kind = kind
        self.symbols = symbols
        self.filter: Filter = filter
        self._code_points = np.array([ord(symbol) for symbol in symbols], dtype=np.uint32)
        self._ids = {symbol: index for index, symbol in enumerate(symbols)}
        # A dense table makes encoding one gather; it ends at the largest code point in use.
        self._table = np.full(int(self._code_points.max(initial=0)) + 2, len(symbols), dtype=np.uint32)
        self._table[self._code_points] = np.arange(len(symbols), dtype=np.uint32)
        # The same for plain ASCII, where bytes.translate is many times faster than a gather.
        self._ascii_symbols = bytes(code for code in map(ord, symbols) if code < 0x80)
        self._ascii_ids = bytes(self._ids.get(chr(code), 0) & 0xFF for code in range(256))

    @classmethod
    def of_characters(cls, text: str) -> Self:
        """Collect the distinct characters of a text, sorted by code point."""
        return cls("characters", "".join(sorted(set(text))))

    @classmethod
    def of_bytes(cls) -> Self:
        """Return the 256 byte values."""
        return cls("bytes", "".join(map(chr, range(256))))

    def grown_by(self, other: Vocabulary) -> Vocabulary:
        """Return a vocabulary that also has the symbols of another one: they come last, so that every id stays."""
        new = [symbol for symbol in other.symbols if symbol not in self._ids]
        return Vocabulary(self.kind, self.symbols + "".join(new), self.filter)

    def unknown_in(self, text: str) -> str:
        """Return the characters of a text that a vocabulary of characters lacks, each once, sorted by code point."""
        code_points = code_points_of(text)
        unknown = code_points[~self._encode_code_points(code_points)[1]]
        return "".join(map(chr, np.unique(unknown).tolist()))

    @property
    def unit(self) -> str:
        """What one symbol is: `character` or `byte`."""
        return self.kind.removesuffix("s")

    def scored_unit(self, sees_both_sides: bool) -> str:
        """Return what a model predicts one by one: its unit, which is masked if the model sees both sides of it."""
        return f"masked {self.unit}" if sees_both_sides else self.unit

    def in_units(self, values: dict[str, Any], sees_both_sides: bool = False) -> dict[str, Any]:
        """Rename figures after the symbols they count.

        The bits per character of a model of bytes are bits per byte. Those of a model that sees both sides are bits
        per masked character.
        """
        per = "per_masked_character" if sees_both_sides else "per_character"
        names = (name.replace("per_character", per).replace("character", self.unit) for name in values)
        return dict(zip(names, values.values(), strict=True))

    def __len__(self) -> int:
        return len(self.symbols)

    def __contains__(self, character: str) -> bool:
        return self.kind == "bytes" or character in self._ids

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vocabulary) and self._identity == other._identity

    @property
    def _identity(self) -> tuple[str, str, str]:
        return self.kind, self.symbols, self.filter

    @property
    def dtype(self) -> np.dtype[np.unsignedinteger]:
        """The smallest unsigned integer type that holds every id."""
        if len(self) <= 1 << 8:
            return np.dtype(np.uint8)
        return np.dtype(np.uint16 if len(self) <= 1 << 16 else np.uint32)

    def encode(self, text: str, unknown: str = "error", position: int = 0, is_filtered: bool = False) -> Ids:
        """Turn text into ids, shape `(T,)`, in the smallest dtype that fits.

        Args:
            text: any text, lone surrogates and NUL included.
            unknown: what to do about a character the vocabulary lacks: `error`, `skip`, or `replace=C`.
            position: where this text starts in a longer one, for the message.
            is_filtered: whether the vocabulary's filter has already been applied to the text.

        Raises:
            UnknownCharacterError: under `error`; it names each character, its code point, its first position
                and what it is in characters of the vocabulary, if there are any.
            UsageError: `unknown` is not one of the three, or its C is not in the vocabulary.
        """
        if not is_filtered:
            text = TextFilter(self.filter)(text)
        replacement = self._replacement(unknown)
        if self.kind == "bytes":
            return np.frombuffer(text.encode("utf-8", "surrogatepass"), dtype=np.uint8)
        if self.dtype == np.uint8 and text.isascii():
            ascii_text = text.encode("ascii")
            if not ascii_text.translate(None, self._ascii_symbols):
                return np.frombuffer(ascii_text.translate(self._ascii_ids), dtype=np.uint8)
        ids, known = self._encode_code_points(code_points_of(text))
        if known.all():
            return ids
        if unknown == "error":
            raise UnknownCharacterError(self._describe_unknown(text, np.flatnonzero(~known), position))
        if replacement is None:
            return ids[known]
        ids[~known] = replacement
        return ids

    def _encode_code_points(self, code_points: NDArray[np.uint32]) -> tuple[Ids, NDArray[np.bool_]]:
        """Turn code points into ids and a mask of those that are known; unknown ones get id 0."""
        indices = self._table[np.minimum(code_points, len(self._table) - 1)]
        known = indices < len(self)
        return np.where(known, indices, 0).astype(self.dtype), known

    def decode(self, ids: Sequence[int] | Ids) -> str:
        """Turn ids back into text: the exact inverse of `encode`.

        With a vocabulary of bytes, bytes that are not UTF-8 become U+FFFD.
        """
        return self.decoder().decode([int(index) for index in ids], final=True)

    def decoder(self, is_backward: bool = False) -> Decoder:
        """Return a decoder that takes a few ids at a time; a backward one takes them from the end of the text."""
        if self.kind == "characters":
            return _CharacterDecoder(self.symbols)
        return _BackwardByteDecoder() if is_backward else _ByteDecoder()

    def name(self, index: int) -> str:
        """Return a visible name for a symbol."""
        symbol = self.symbols[index]
        if self.kind == "bytes" and index >= 0x80:
            return f"byte 0x{index:02x}"
        return name_character(symbol)

    def nearest(self, character: str) -> str | None:
        """Return known characters in place of an unknown one, or None if none mean the same.

        These are its other case or width, itself without the accent, a look-alike, or the characters it is composed of.
        """
        code = ord(character)
        wide = chr(code + 0xFEE0) if 0x21 <= code < 0x7F else "\u3000" if character == " " else ""
        candidates = [unicodedata.normalize("NFKC", character), character.swapcase(), wide]
        if character.isalpha():
            base = unicodedata.normalize("NFKD", character)[:1]
            candidates += [base, base.swapcase()]
        candidates += [other for group in LOOK_ALIKES if character in group for other in sorted(group)]
        if unicodedata.category(character) in ("Zs", "Zl", "Zp", "Cc"):
            candidates += [" ", "\n"]
        return next((other for other in candidates if other and self._ids.keys() >= set(other)), None)

    def _replacement(self, unknown: str) -> int | None:
        if unknown in ("error", "skip"):
            return None
        policy, _, character = unknown.partition("=")
        if policy != "replace" or len(character) != 1:
            raise UsageError(
                f"`{unknown}` is not a policy for unknown characters",
                "use `error`, `skip`, or `replace=C` with one character C",
            )
        if character not in self:
            raise UsageError(
                f"the replacement {name_character(character)} is itself not in the vocabulary",
                "choose a character the model knows",
            )
        return self._ids[character] if self.kind == "characters" else ord(character)

    def _describe_unknown(self, text: str, positions: NDArray[np.intp], offset: int) -> str:
        first: dict[str, int] = {}
        for position in positions:
            first.setdefault(text[position], offset + int(position))
            if len(first) > 5:
                break
        parts = []
        for character, position in list(first.items())[:5]:
            where = "position" if self.filter == "none" else "filtered position"
            part = f"{name_character(character)} (U+{ord(character):04X}) at {where} {position}"
            nearest = self.nearest(character)
            if nearest is not None:
                part += f", nearest {name_character(nearest) if len(nearest) == 1 else repr(nearest)}"
            parts.append(part)
        more = "; and more" if len(first) > 5 else ""
        return f"not in the model's vocabulary of {counted(len(self), 'character')}: {'; '.join(parts)}{more}"


class _CharacterDecoder:
    def __init__(self, symbols: str) -> None:
        self._symbols = symbols

    def decode(self, ids: Sequence[int], final: bool = False) -> str:
        return "".join([self._symbols[index] for index in ids])


class _ByteDecoder:
    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def decode(self, ids: Sequence[int], final: bool = False) -> str:
        return self._decoder.decode(bytes(ids), final)


class _BackwardByteDecoder:
    """Decodes bytes that arrive last byte first, so a character is complete when its first byte arrives."""

    def __init__(self) -> None:
        self._waiting = b""

    def decode(self, ids: Sequence[int], final: bool = False) -> str:
        text = ""
        for byte in ids:
            self._waiting = bytes([byte]) + self._waiting
            is_continuation = 0x80 <= byte < 0xC0
            # A character has at most three continuation bytes.
            if not is_continuation or len(self._waiting) > 3:
                text = self._flush() + text
        return self._flush() + text if final else text

    def _flush(self) -> str:
        text = self._waiting.decode("utf-8", "replace")
        self._waiting = b""
        return text


class TextFilter:
    """Changes a text to what a model with this filter reads. A long text may come in pieces.

    Args:
        filter: `none` leaves a text as it is; `letters` makes its letters lower case and replaces everything
            between words with one space.
    """

    def __init__(self, filter: Filter) -> None:
        self._filter = filter
        self._ends_with_space = False

    def __call__(self, text: str) -> str:
        """Return the next piece of the text as the model reads it."""
        if self._filter == "none":
            return text
        # In str.lower the lower case of sigma, and of no other letter, depends on its neighbours, which may be in
        # another piece.
        text = text.replace("\u03a3", "\u03c3").lower()
        text = text.translate({ord(symbol): " " for symbol in set(text) if not _belongs_to_word(symbol)})
        text = re.sub("  +", " ", text)
        if self._ends_with_space:
            text = text.removeprefix(" ")
        if text:
            self._ends_with_space = text.endswith(" ")
        return text


def _belongs_to_word(symbol: str) -> bool:
    # A mark belongs to the letter before it; in some scripts the vowels are marks.
    return symbol.isalpha() or unicodedata.category(symbol).startswith("M")


def code_points_of(text: str) -> NDArray[np.uint32]:
    """Return the code point of each character, shape `(T,)`."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")


def name_character(character: str) -> str:
    """Return a visible name for a character: `'a'`, `space`, `newline`, `U+0301 COMBINING ACUTE ACCENT`.

    White space, control characters and combining marks cannot be seen alone, so they are spelled out.
    """
    familiar = {" ": "space", "\n": "newline", "\t": "tab", "\r": "carriage return", "\0": "NUL"}
    if character in familiar:
        return familiar[character]
    if unicodedata.category(character)[0] in "CMZ":
        return f"U+{ord(character):04X} {unicodedata.name(character, 'unnamed')}"
    return f"'{character}'"
