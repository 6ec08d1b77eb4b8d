"""Arithmetic coding gives symbols back, in as many bytes as their probabilities say."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from charlm.errors import CompressedFileError
from charlm.inference.arithmetic_coding import INTERVAL_BITS, Decoder, Encoder

# For each symbol the frequencies of all, that of the escape, and the symbol.
Steps = list[tuple[list[int], int, int]]

frequencies = st.lists(st.one_of(st.integers(1, 3), st.integers(1, 1 << 24)), min_size=1, max_size=6)


@st.composite
def steps(draw: st.DrawFn) -> tuple[list[int], int, int]:
    """Draw the frequencies of a step, that of the escape, and what comes."""
    counts, escape = draw(frequencies), draw(st.one_of(st.just(0), st.integers(1, 1 << 30)))
    return counts, escape, draw(st.integers(0, len(counts) - (escape == 0)))


def encoded(given_steps: Steps) -> bytes:
    """Return the code of the symbols."""
    encoder = Encoder()
    for counts, escape, index in given_steps:
        encoder.code(np.cumsum(counts), escape, index)
    return encoder.finish()


def decoded(given_steps: Steps, code: bytes) -> list[int]:
    """Return the symbols of a code."""
    decoder = Decoder(code)
    return [decoder.code(np.cumsum(counts), escape) for counts, escape, _ in given_steps]


def information(given_steps: Steps) -> float:
    """Return how many bits the symbols have, by logarithms."""
    return sum(math.log2((sum(f) + e) / [*f, e][index]) for f, e, index in given_steps)


@settings(max_examples=80, deadline=None)
@given(st.lists(steps(), max_size=30))
def test_symbols_come_back(given_steps: Steps) -> None:
    """The decoder finds every symbol, and the code is at most two bytes longer than the information."""
    code = encoded(given_steps)
    assert decoded(given_steps, code) == [index for _, _, index in given_steps]
    assert -8 < 8 * len(code) - information(given_steps) < 16


def test_long_codes_are_as_short_as_the_probabilities_say() -> None:
    """5,000 symbols of every kind of frequency take at most two bytes more than their information; carries occur."""
    random = np.random.default_rng(0)
    given_steps = [
        ((random.integers(1, 1 << int(random.integers(1, 25)), size=5)).tolist(), 1, int(random.integers(5)))
        for _ in range(4000)
    ]
    given_steps += [([1 << 24, 1], 0, 0)] * 500 + [([1, 1 << 24], 0, 1)] * 500
    code = encoded(given_steps)
    assert decoded(given_steps, code) == [index for _, _, index in given_steps]
    assert -1 < len(code) - information(given_steps) / 8 < 2


def test_a_carry_runs_through_all_bytes() -> None:
    """Intervals around a half leave a run of 0xFF, and the last symbol is above the half."""
    for num_around in range(2, 40):
        encoder, given_steps = Encoder(), []
        for number in range(num_around + 1):
            half = 1 << INTERVAL_BITS - (not encoder._bytes)
            below = (half - encoder._low) * 256 // encoder._range
            counts = [below, 1, 255 - below] if number < num_around else [below + 1, 255 - below]
            assert encoder._bytes in (b"", b"\x7f" + b"\xff" * (len(encoder._bytes) - 1))
            given_steps.append((counts, 0, 1))
            encoder.code(np.cumsum(counts), 0, 1)
        assert encoder._bytes[:-1] == b"\x80" + b"\0" * (len(encoder._bytes) - 2)
        assert len(encoder._bytes) >= num_around - 1
        assert decoded(given_steps, encoder.finish()) == [1] * len(given_steps)


@settings(max_examples=60, deadline=None)
@given(st.lists(steps(), max_size=20), st.binary(max_size=20))
def test_any_bytes_give_symbols_or_one_error(given_steps: Steps, code: bytes) -> None:
    """A hostile code gives symbols of the given kinds, or a `CompressedFileError`."""
    try:
        found = decoded(given_steps, code)
    except CompressedFileError:
        return
    assert all(0 <= index <= len(f) - (e == 0) for (f, e, _), index in zip(given_steps, found, strict=True))


def test_a_code_that_is_used_up_is_damaged() -> None:
    """A short code does not decode for ever."""
    with pytest.raises(CompressedFileError, match="damaged"):
        decoded([([1, 1], 0, 0)] * 1000, b"\x12")
