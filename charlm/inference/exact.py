"""Arithmetic that gives the same bits on every CPU, with any number of threads. Knows no models.

CPUs and libraries differ in `exp` and `tanh`, and in the order in which a matrix product sums. Three rules avoid this:

* A matrix product has factors that are whole numbers, so small that no sum exceeds 2^53. A float64 holds every such sum
  exactly, so the order does not matter.
* All else is addition, subtraction, multiplication, division and rounding, one operation at a time. IEEE 754 defines
  each of their bits.
* `tanh` and the other functions are tables, which are made by the second rule.
"""

from __future__ import annotations

import math
from decimal import Context, Decimal
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Float64s = NDArray[np.float64]

# Inputs of matrix products are rounded to whole numbers of 2^-15, and cut off at +-2^10.
INPUT_BITS, LARGEST_INPUT_BITS = 15, 10
# A float64 holds every whole number up to 2^53.
SUM_BITS = 53
# A product is done in blocks so small that BLAS uses one thread for each: OpenBLAS takes more for 2^18 multiplications,
# and where other programs use the cores, threads that wait for one another made this a hundred times slower.
OUTPUTS_PER_BLOCK, MULTIPLICATIONS_PER_BLOCK = 32, 1 << 18
# Arguments of tanh and sigmoid are rounded to whole numbers of 2^-11, and cut off at +-16, where both are almost flat.
# The tables are so small that they stay in a second-level cache.
ARGUMENT_BITS, LARGEST_ARGUMENT = 11, 16


class ExactArray:
    """An array of float64 numbers with the operations that the equations of the cells need.

    It has the methods of a torch tensor: `cells.py` calls them for whatever is no NumPy array.

    Args:
        values: the numbers, which are finite.
    """

    __slots__ = ("values",)
    # NumPy leaves `1 - array` to this class.
    __array_ufunc__ = None

    def __init__(self, values: Float64s) -> None:
        self.values = values

    @property
    def shape(self) -> tuple[int, ...]:
        """The sizes of its axes."""
        return self.values.shape

    def __getitem__(self, index: Any) -> ExactArray:
        return ExactArray(self.values[index])

    def __add__(self, other: Any) -> ExactArray:
        return ExactArray(self.values + _values_of(other))

    def __sub__(self, other: Any) -> ExactArray:
        return ExactArray(self.values - _values_of(other))

    def __rsub__(self, other: Any) -> ExactArray:
        return ExactArray(_values_of(other) - self.values)

    def __mul__(self, other: Any) -> ExactArray:
        return ExactArray(self.values * _values_of(other))

    def __neg__(self) -> ExactArray:
        return ExactArray(-self.values)

    def tanh(self) -> ExactArray:
        """Hyperbolic tangent."""
        return ExactArray(_looked_up(_tanh_table(), self.values))

    def sigmoid(self) -> ExactArray:
        """1 / (1 + exp(-x))."""
        return ExactArray(_looked_up(_sigmoid_table(), self.values))

    def relu(self) -> ExactArray:
        """The larger of x and 0."""
        return ExactArray(np.maximum(self.values, 0))

    def logaddexp(self, other: ExactArray) -> ExactArray:
        """log(exp(x) + exp(y)), as the larger one plus log(1 + exp(-distance))."""
        distance = np.abs(self.values - other.values)
        return ExactArray(np.maximum(self.values, other.values) + _looked_up(_softplus_table(), -distance))

    def new_zeros(self, shape: tuple[int, ...]) -> ExactArray:
        """Return zeros."""
        return ExactArray(np.zeros(shape))


class ExactLinear:
    """W x + b. The weights are rounded to whole numbers of a power of two, which suits the largest of them.

    With 512 inputs, they have 19 bits and a sign.

    Args:
        weight_OI: O outputs, I inputs.
        bias_O: shape (O,).
    """

    def __init__(self, weight_OI: NDArray[Any], bias_O: NDArray[Any]) -> None:
        num_outputs, num_inputs = weight_OI.shape
        bits = SUM_BITS - INPUT_BITS - LARGEST_INPUT_BITS - (num_inputs - 1).bit_length()
        bits -= math.frexp(float(np.abs(weight_OI).max(initial=0)))[1]
        num_blocks = -(-num_outputs // OUTPUTS_PER_BLOCK)
        # D blocks of P outputs; the last one is filled up with zeros.
        weight_PI = np.zeros((num_blocks * OUTPUTS_PER_BLOCK, num_inputs))
        weight_PI[:num_outputs] = np.rint(np.ldexp(weight_OI.astype(np.float64), bits))
        weight_DPI = weight_PI.reshape(num_blocks, OUTPUTS_PER_BLOCK, num_inputs)
        self._weight_DIP = np.ascontiguousarray(weight_DPI.transpose(0, 2, 1))
        self._rows = max(1, MULTIPLICATIONS_PER_BLOCK // (num_inputs * OUTPUTS_PER_BLOCK))
        self._unit = math.ldexp(1.0, -bits - INPUT_BITS)
        self._bias_O = bias_O.astype(np.float64)

    def __call__(self, x_BI: ExactArray) -> ExactArray:
        """Return W x + b for each row, shape (B, O)."""
        inputs_BI = x_BI.values * float(1 << INPUT_BITS)
        np.rint(inputs_BI, out=inputs_BI)
        largest = float(1 << INPUT_BITS + LARGEST_INPUT_BITS)
        _limit(inputs_BI, -largest, largest)
        num_streams, num_blocks = len(inputs_BI), len(self._weight_DIP)
        y_BDP = np.empty((num_streams, num_blocks, OUTPUTS_PER_BLOCK))
        y_DBP = y_BDP.transpose(1, 0, 2)
        for start in range(0, num_streams, self._rows):
            rows = slice(start, start + self._rows)
            np.matmul(inputs_BI[rows], self._weight_DIP, out=y_DBP[:, rows])
        y_BO = y_BDP.reshape(num_streams, -1)[:, : len(self._bias_O)]
        y_BO *= self._unit
        y_BO += self._bias_O
        return ExactArray(y_BO)


@cache
def decayed(num: int, bits: int) -> Float64s:
    """Return exp(-k / 2^bits) for k from 0 to `num` - 1.

    exp(-(j + 2^i) h) is exp(-j h) times exp(-2^i h). The few numbers of the second kind come from `decimal`, which
    computes without floating point.
    """
    powers, context = np.ones(num), Context(prec=40)
    done = 1
    while done < num:
        factor = float(context.exp(context.divide(Decimal(-done), 1 << bits)))
        powers[done : 2 * done] = powers[: min(done, num - done)] * factor
        done *= 2
    return powers


def natural_logarithm(number: int) -> float:
    """Return the logarithm, rounded correctly."""
    return float(Decimal(number).ln(Context(prec=40)))


def _looked_up(table: Float64s, values: Float64s) -> Float64s:
    """Return the entries of a table for arguments from -16 to 16; those beyond have the first and the last entry."""
    places = values * float(1 << ARGUMENT_BITS)
    # The conversion to whole numbers cuts off the rest: half of one more rounds to the nearest.
    places += (len(table) // 2) + 0.5
    _limit(places, 0, len(table) - 1)
    return table.take(places.astype(np.intp))


def _limit(values: Float64s, least: float, most: float) -> None:
    """Do what `np.clip` does, in half the time for short arrays."""
    np.maximum(values, least, out=values)
    np.minimum(values, most, out=values)


@cache
def _tanh_table() -> Float64s:
    # tanh x = (1 - exp(-2x)) / (1 + exp(-2x)), and tanh(-x) = -tanh x.
    powers = decayed((2 * LARGEST_ARGUMENT << ARGUMENT_BITS) + 1, ARGUMENT_BITS)[::2]
    half = (1 - powers) / (1 + powers)
    return np.concatenate([-half[:0:-1], half])


@cache
def _sigmoid_table() -> Float64s:
    powers = decayed((LARGEST_ARGUMENT << ARGUMENT_BITS) + 1, ARGUMENT_BITS)
    return np.concatenate([(powers / (1 + powers))[:0:-1], 1 / (1 + powers)])


@cache
def _softplus_table() -> Float64s:
    """Return log(1 + y) for y = exp(x) up to x = 0, and zeros above, where it is not asked for."""
    powers = decayed((LARGEST_ARGUMENT << ARGUMENT_BITS) + 1, ARGUMENT_BITS)
    # log(1 + y) = 2 artanh z with z = y / (2 + y), at most 1/3: 17 terms z^(2k+1) / (2k+1) are enough.
    z = powers / (2 + powers)
    series = np.zeros_like(z)
    for odd in range(33, 0, -2):
        series = series * z * z + 1 / odd
    half = 2 * z * series
    return np.concatenate([half[:0:-1], half[:1], np.zeros(len(half) - 1)])


def _values_of(other: Any) -> Any:
    return other.values if isinstance(other, ExactArray) else other
