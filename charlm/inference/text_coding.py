"""A piece of a text as an arithmetic code: characters cost what a model expects, unknown ones are spelled out.

The same code path encodes and decodes. Letters: B parts that are read side by side, V symbols.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from charlm.errors import CompressedFileError
from charlm.inference.arithmetic_coding import DAMAGED, DAMAGED_HINT, Coder, Decoder, Encoder
from charlm.inference.exact_stepper import ExactStepper
from charlm.vocab import Vocabulary, code_points_of

# Known symbols by their ids; a character that the model does not know by -1 minus its code point.
Symbols = NDArray[np.int64]
# Called now and then with how many symbols were coded since the last call.
Tick = Callable[[int], None]

# A text of n characters is cut into the root of n / 256 parts; one of fewer than 4,096 stays whole. A step with many
# parts takes little longer than with one. Each part begins without a context, which costs about seven bits.
SYMBOLS_FOR_PARTS, LEAST_SYMBOLS = 256, 4096
# The first unknown character is expected as if a sixteenth of one had been seen.
PRIOR = 16
# However many characters are unknown, no more than so many are expected for each known one.
MOST_EXPECTED = 256
# What one byte of an unknown character adds to its count, and when the counts are halved.
INCREMENT, MOST_COUNTED = 32, 1 << 16


class Transcription:
    """Bytes as the symbols of a model, and back, for any bytes.

    A vocabulary of characters reads them as UTF-8. Each byte that is not UTF-8 is one unknown character, as with
    Python's `surrogateescape`. Characters are not filtered.

    Args:
        vocabulary: the symbols of the model.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._has_bytes = vocabulary.kind == "bytes"
        self._code_points_V = code_points_of(vocabulary.symbols)
        self._order_V = np.argsort(self._code_points_V)
        self._joins_line_ends = not self._has_bytes and "\n" in vocabulary and "\r" not in vocabulary

    def symbols_of(self, data: bytes) -> tuple[Symbols, bool]:
        r"""Return the symbols, and whether each \r\n has become \n for a model that knows only \n."""
        if self._has_bytes:
            return np.frombuffer(data, np.uint8).astype(np.int64), False
        text = data.decode("utf-8", "surrogateescape")
        pairs = text.count("\r\n") if self._joins_line_ends else 0
        is_joined = pairs > 0 and pairs == text.count("\n") == text.count("\r")
        code_points_T = code_points_of(text.replace("\r\n", "\n") if is_joined else text)
        sorted_V = self._code_points_V[self._order_V]
        places_T = np.minimum(sorted_V.searchsorted(code_points_T), len(sorted_V) - 1)
        is_known_T = sorted_V[places_T] == code_points_T
        return np.where(is_known_T, self._order_V[places_T], ~code_points_T.astype(np.int64)), is_joined

    def bytes_of(self, symbols_T: Symbols, is_joined: bool) -> bytes:
        """Return the bytes of symbols.

        Raises:
            CompressedFileError: no bytes have these symbols.
        """
        if self._has_bytes:
            return symbols_T.astype(np.uint8).tobytes()
        code_points_T = np.where(symbols_T >= 0, self._code_points_V[np.maximum(symbols_T, 0)], ~symbols_T)
        text = code_points_T.astype("<u4").tobytes().decode("utf-32-le", "surrogatepass")
        try:
            return (text.replace("\n", "\r\n") if is_joined else text).encode("utf-8", "surrogateescape")
        except UnicodeEncodeError:
            raise CompressedFileError(DAMAGED, DAMAGED_HINT) from None

    def num_characters(self, data: bytes) -> int:
        """Return how many characters bytes have, or how many bytes for a model of bytes."""
        return len(data) if self._has_bytes else len(data.decode("utf-8", "surrogateescape"))


def encode_symbols(stepper: ExactStepper, symbols_T: Symbols, tick: Tick | None = None) -> bytes:
    """Return the code of a piece of a text, in the order of the text."""
    encoder = Encoder()
    given = symbols_T[::-1] if stepper.is_backward else symbols_T
    starts = _starts(len(given))
    parts = [given[start:end].tolist() for start, end in itertools.pairwise(starts)]
    _Coding(stepper, encoder, parts).run([len(part) for part in parts], tick)
    return encoder.finish()


def decode_symbols(stepper: ExactStepper, code: bytes, num_symbols: int, tick: Tick | None = None) -> Symbols:
    """Return the symbols of a code.

    Raises:
        CompressedFileError: it is no code of so many symbols.
    """
    starts = _starts(num_symbols)
    lengths = [end - start for start, end in itertools.pairwise(starts)]
    parts = _Coding(stepper, Decoder(code)).run(lengths, tick)
    symbols_T = np.array([symbol for part in parts for symbol in part], np.int64)
    return symbols_T[::-1] if stepper.is_backward else symbols_T


def _starts(num_symbols: int) -> list[int]:
    """Return where the parts of a text begin, and its end."""
    num_parts = math.isqrt(num_symbols // SYMBOLS_FOR_PARTS) if num_symbols >= LEAST_SYMBOLS else 1
    return [num_symbols * part // num_parts for part in range(num_parts + 1)]


class _Coding:
    """The way through all parts of a piece: what is expected, then what comes.

    All parts share one code. At each step it has one known symbol of every part, each after the unknown ones before it.

    Args:
        stepper: the model.
        coder: an encoder or a decoder.
        given: the symbols of each part, for an encoder.
    """

    def __init__(self, stepper: ExactStepper, coder: Coder, given: Sequence[Sequence[int]] | None = None) -> None:
        self._stepper, self._coder, self._given = stepper, coder, given
        self._spelling = _Spelling(coder)
        self._num_known = self._num_unknown = 0

    def run(self, lengths: Sequence[int], tick: Tick | None) -> list[list[int]]:
        """Code parts of these lengths; return their symbols."""
        parts: list[list[int]] = [[] for _ in lengths]
        reading = [part for part, length in enumerate(lengths) if length]
        state = self._stepper.before(len(reading))
        ids = [self._stepper.num_symbols] * len(reading)
        done = 0
        while reading:
            state = self._stepper.advance(np.array(ids), state)
            cumulative_BV = self._stepper.frequencies(state).cumsum(axis=1)
            for row, part in enumerate(reading):
                self._code_until_known(cumulative_BV[row], part, parts[part], lengths[part])
            going = [row for row, part in enumerate(reading) if len(parts[part]) < lengths[part]]
            if len(going) < len(reading):
                state = state.streams(going)
            reading = [reading[row] for row in going]
            ids = [parts[part][-1] for part in reading]
            if tick is not None:
                now = self._num_known + self._num_unknown
                tick(now - done)
                done = now
        return parts

    def _code_until_known(self, cumulative_V: NDArray[np.int64], part: int, symbols: list[int], length: int) -> None:
        """Append a known symbol to a part, and the unknown ones before it; or only unknown ones, if the part ends."""
        num_symbols = len(cumulative_V)
        while len(symbols) < length:
            symbol = self._given[part][len(symbols)] if self._given is not None else 0
            # As many unknown ones are expected for each known one as there were so far, but not so many that the total
            # leaves no room for rounding.
            total, share = cumulative_V.item(-1), PRIOR * self._num_unknown + 1
            escape = min(max(1, total * share // (PRIOR * (self._num_known + 1))), total * MOST_EXPECTED)
            index = self._coder.code(cumulative_V, escape, symbol if symbol >= 0 else num_symbols)
            if index < num_symbols:
                symbols.append(index)
                self._num_known += 1
                return
            symbols.append(~self._spelling.code(~symbol))
            self._num_unknown += 1


class _Spelling:
    """Codes characters that the model does not know as the bytes of UTF-8, and learns which are frequent.

    Args:
        coder: an encoder or a decoder.
    """

    def __init__(self, coder: Coder) -> None:
        self._coder = coder
        # By the byte before; the first one has the number that is no byte.
        self._counts: dict[int, NDArray[np.int64]] = {}

    def code(self, code_point: int) -> int:
        """Code one character.

        Args:
            code_point: of the character, for an encoder; anything for a decoder.

        Raises:
            CompressedFileError: the bytes are no character.
        """
        given = chr(code_point).encode("utf-8", "surrogatepass") if code_point >= 0 else b""
        found = bytearray()
        while not found or len(found) < _length_of(found[0]):
            context = found[-1] if found else -1
            counts = self._counts.setdefault(context, np.ones(256, np.int64))
            byte = self._coder.code(counts.cumsum(), 0, given[len(found)] if given else 0)
            counts[byte] += INCREMENT
            if counts.sum() > MOST_COUNTED:
                counts -= counts >> 1
            found.append(byte)
        try:
            return ord(found.decode("utf-8", "surrogatepass"))
        except UnicodeDecodeError:
            raise CompressedFileError(DAMAGED, DAMAGED_HINT) from None


def _length_of(first: int) -> int:
    """Return how many bytes a character with this first byte has."""
    return 1 if first < 0xC0 else 2 if first < 0xE0 else 3 if first < 0xF0 else 4
