"""Arithmetic coding: symbols and their frequencies become bytes, and bytes become the same symbols. Knows no models.

A code is one long binary fraction. At the start it may be anything in [0, 1). Each symbol cuts the interval down to its
share of it, so a symbol of probability p costs -log2 p bits. Source: range coding, Martin 1979; all numbers are whole.
"""

from __future__ import annotations

from typing import Any, Protocol

from numpy.typing import NDArray

from charlm.errors import CompressedFileError

# The interval has 64 bits, and at least 56 of them are in use: with totals below 2^45, rounding costs less than 0.001
# bits a symbol, and far less on average.
INTERVAL_BITS = 64
LEAST_RANGE = 1 << INTERVAL_BITS - 8
MASK = (1 << INTERVAL_BITS) - 1
# After the end of a code a decoder may read so many zeros.
CODE_BYTES = INTERVAL_BITS // 8

DAMAGED = "the compressed file is damaged"
DAMAGED_HINT = "use another copy of it"


class Coder(Protocol):
    """What codes symbols: an encoder or a decoder. Both see the same frequencies."""

    def code(self, cumulative_V: NDArray[Any], escape: int, index: int) -> int:
        """Code one symbol.

        Args:
            cumulative_V: for each symbol the sum of its frequency and of those before it.
            escape: the frequency of a symbol after the last one; 0 if there is none.
            index: the symbol, for an encoder; a decoder finds it.

        Returns:
            the symbol.
        """
        ...


class Encoder:
    """Writes symbols as bytes."""

    def __init__(self) -> None:
        self._low, self._range = 0, MASK
        self._bytes = bytearray()

    def code(self, cumulative_V: NDArray[Any], escape: int, index: int) -> int:
        """Append one symbol; see `Coder`."""
        last = cumulative_V.item(-1)
        start = cumulative_V.item(index - 1) if index else 0
        end = cumulative_V.item(index) if index < len(cumulative_V) else last + escape
        share = self._range // (last + escape)
        self._low += share * start
        self._range = share * (end - start)
        if self._low > MASK:
            self._carry()
        while self._range < LEAST_RANGE:
            self._bytes.append(self._low >> INTERVAL_BITS - 8)
            self._low = self._low << 8 & MASK
            self._range <<= 8
        return index

    def _carry(self) -> None:
        """Add one to the number that was written."""
        self._low &= MASK
        place = len(self._bytes) - 1
        while self._bytes[place] == 0xFF:
            self._bytes[place] = 0
            place -= 1
        self._bytes[place] += 1

    def finish(self) -> bytes:
        """Return the code: the shortest one in the interval, if zeros follow it."""
        for num_bytes in range(CODE_BYTES + 1):
            rest = (1 << INTERVAL_BITS - 8 * num_bytes) - 1
            code = (self._low + rest) & ~rest
            if code < self._low + self._range:
                break
        if code > MASK:
            self._low = code
            self._carry()
            code = self._low
        return bytes(self._bytes) + code.to_bytes(CODE_BYTES, "big")[:num_bytes]


class Decoder:
    """Reads symbols from bytes.

    Args:
        data: a code, which may be damaged.
    """

    def __init__(self, data: bytes) -> None:
        self._bytes = data
        self._place = CODE_BYTES
        self._code = int.from_bytes(data[:CODE_BYTES].ljust(CODE_BYTES, b"\0"), "big")
        self._range = MASK

    def code(self, cumulative_V: NDArray[Any], escape: int, index: int = 0) -> int:
        """Return the next symbol; see `Coder`.

        Raises:
            CompressedFileError: the bytes are no code of symbols with these frequencies.
        """
        last = cumulative_V.item(-1)
        share = self._range // (last + escape)
        value = self._code // share
        if value >= last + escape:
            raise CompressedFileError(DAMAGED, DAMAGED_HINT)
        index = int(cumulative_V.searchsorted(value, side="right")) if value < last else len(cumulative_V)
        start = cumulative_V.item(index - 1) if index else 0
        end = cumulative_V.item(index) if index < len(cumulative_V) else last + escape
        self._code -= share * start
        self._range = share * (end - start)
        while self._range < LEAST_RANGE:
            self._code = self._code << 8 | (self._bytes[self._place] if self._place < len(self._bytes) else 0)
            self._range <<= 8
            self._place += 1
        if self._place > len(self._bytes) + CODE_BYTES:
            raise CompressedFileError(DAMAGED, DAMAGED_HINT)
        return index
