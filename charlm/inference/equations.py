"""Evaluates the printed equations of a cell for one step, and writes them out with the numbers of one unit.

The equations are those of `Cell.text`; the texts come with charlm, never from a file.
"""

from __future__ import annotations

import ast
import itertools
import re
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import NamedTuple

import numpy as np

from charlm.cells import LETTERS, Cell, Recurrent, relu, sigmoid, tanh
from charlm.inference.sampling import Floats

# The value of every expression, by its text as in the equations: (H,) each.
Values = dict[str, Floats]
EQUATION = re.compile(r"^([\w']+) = (.+)$", re.MULTILINE)
PRIME = "_new"
FUNCTIONS: dict[str, Callable[[Floats], Floats]] = {"sigmoid": sigmoid, "tanh": tanh, "max": relu}


class Operation(NamedTuple):
    """An operation between two numbers, and its sign in the equations."""

    sign: str
    compute: Callable[[Floats, Floats], Floats]


OPERATIONS: dict[type[ast.operator], Operation] = {
    ast.Add: Operation("+", np.add),
    ast.Sub: Operation("-", np.subtract),
    ast.Mult: Operation("*", np.multiply),
    ast.Div: Operation("/", np.divide),
}


class Equation(NamedTuple):
    """An equation of a cell.

    Attributes:
        name: what it computes.
        right: its right side, parsed.
    """

    name: str
    right: ast.expr

    @property
    def text(self) -> str:
        """The equation as a cell's text has it."""
        return f"{self.name} = {text_of(self.right)}"

    @property
    def pre_activation(self) -> str:
        """What the first function is applied to; without a function, the right side."""
        for node in ast.walk(self.right):
            match node:
                case ast.Call(ast.Name(function), [*_, argument]) if function in FUNCTIONS:
                    return text_of(argument)
        return text_of(self.right)


@cache
def equations_of(cell: Cell) -> list[Equation]:
    """Return the equations of a cell, in the order of its text."""
    found = EQUATION.findall(cell.text)
    return [Equation(name, ast.parse(right.replace("'", PRIME), mode="eval").body) for name, right in found]


def text_of(node: ast.expr) -> str:
    """Return an expression as it stands in the equations."""
    return ast.unparse(node).replace(PRIME, "'")


def suffixes(cell: Cell) -> list[str]:
    """Return for each gate what follows u, R, a and d in its equation; nothing in a cell of one equation."""
    return [f"_{letter}" for letter in cell.letters.values()] if len(cell.gates) > 1 else [""]


# The weights of an untrusted file may be so large that a product overflows; minlstm may divide 0 by 0, where its step
# computes the same quotient by logarithms.
@np.errstate(over="ignore", invalid="ignore", divide="ignore")
def evaluate(
    cell: Cell,
    inputs_G: Floats,
    recurrent: Recurrent,
    biases: Mapping[str, Floats],
    state: Mapping[str, Floats],
    known: Mapping[str, Floats],
) -> Values:
    """Return the value of each expression in the equations of a cell, at one step.

    Args:
        cell: the cell.
        inputs_G: what the input adds to each gate, shape (G,).
        recurrent: the recurrent weights.
        biases: those of the inputs as `a` and those of the state as `d`, (G,) each.
        state: the old state by its letters, (H,) each.
        known: what the step itself computed, by letters, (H,) each; the equations after it use these numbers.
    """
    values: Values = dict(state)
    for letter, array_G in {"u": inputs_G, "U x": inputs_G - biases["a"], **biases}.items():
        for suffix, array_H in zip(suffixes(cell), np.split(array_G, len(cell.gates)), strict=True):
            values[letter[:1] + suffix + letter[1:]] = array_H
    if cell.peepholes:
        letters = [f"p_{LETTERS[gate]}" for gate in cell.peepholes]
        values |= zip(letters, recurrent.peepholes_KH, strict=True)

    def visit(node: ast.expr) -> Floats:
        text = text_of(node)
        if text in values:
            return values[text]
        match node:
            case ast.Constant(value=int() as number):
                return np.array(number, inputs_G.dtype)
            case ast.BinOp(left, operator, right):
                values[text] = OPERATIONS[type(operator)].compute(visit(left), visit(right))
            case ast.Call(ast.Name(function), [*_, argument]) if function in FUNCTIONS:
                values[text] = FUNCTIONS[function](visit(argument))
            case ast.Call(ast.Name(function), [argument]):
                suffix = function.removeprefix("R")
                values[text] = _product(cell, recurrent, suffix, visit(argument))
                values[product_text(suffix, argument)] = values[text] - values[f"d{suffix}"]
        return values[text]

    for name, right in equations_of(cell):
        value = visit(right)
        if isinstance(right, ast.BinOp | ast.Call):
            del values[text_of(right)]
        values[name] = known.get(name, value)
    return values


def _product(cell: Cell, recurrent: Recurrent, suffix: str, state_H: Floats) -> Floats:
    """Return what a state adds to the gate of a suffix; several gates may share a product."""
    gate = suffixes(cell).index(suffix)
    ends = [*itertools.accumulate(cell.products, initial=0)]
    number = next(number for number, end in enumerate(ends[1:]) if gate < end)
    (added_G,) = recurrent.products[number](state_H[None])
    added_H: Floats = np.split(added_G, cell.products[number])[gate - ends[number]]
    return added_H


def written(equation: Equation, values: Values, unit: int, done: set[str]) -> list[str]:
    """Return the steps of an equation with the numbers of one unit, such as `f * c = 0.806 * -3.563 = -2.872`.

    Args:
        equation: the equation.
        values: what `evaluate` returned.
        unit: the unit.
        done: the expressions that were written out before; they are not written again, and those of this equation are
            added.
    """
    steps: list[str] = []

    def number(node: ast.expr) -> str:
        return text_of(node) if isinstance(node, ast.Constant) else value_of(text_of(node))

    def value_of(text: str) -> str:
        return shown(values[equation.name if text == text_of(equation.right) else text][unit])

    def write(node: ast.expr) -> None:
        text, name = text_of(node), re.fullmatch("u(.*)", text_of(node))
        if text in done:
            return
        done.add(text)
        match node:
            case ast.Name() if name:
                parts = [value_of(f"U{name[1]} x"), value_of(f"a{name[1]}")]
                steps.append(f"{text} = {added(parts)} = {value_of(text)}")
            case ast.BinOp(_, ast.Add() | ast.Sub(), _):
                terms, before = [*_terms(node)], len(steps)
                for _, term in terms:
                    write(term)
                sum_of = added([f"{sign}{number(term)}" for sign, term in terms])
                # The numbers of the terms are those of the steps before.
                are_steps = len(steps) - before >= len(terms)
                steps.append(f"sum {value_of(text)}" if are_steps else f"{text} = {sum_of} = {value_of(text)}")
            case ast.BinOp(left, operator, right):
                write(left)
                write(right)
                sign = OPERATIONS[type(operator)].sign
                steps.append(f"{text} = {number(left)} {sign} {number(right)} = {value_of(text)}")
            case ast.Call(ast.Name(function), [*others, argument]) if function in FUNCTIONS:
                write(argument)
                inside = ", ".join(map(number, [*others, argument]))
                label = "" if node is equation.right else f"{text} = "
                steps.append(f"{label}{function}({inside}) = {value_of(text)}")
            case ast.Call(ast.Name(function), [argument]):
                suffix = function.removeprefix("R")
                write(argument)
                parts = [value_of(product_text(suffix, argument)), value_of(f"d{suffix}")]
                steps.append(f"{text} = {added(parts)} = {value_of(text)}")

    write(equation.right)
    return steps


def product_text(suffix: str, argument: ast.expr) -> str:
    """Return how the product of a recurrent matrix is written, without its bias: `R_n h`, `R_n (r * h)`."""
    text = text_of(argument)
    return f"R{suffix} {text}" if isinstance(argument, ast.Name) else f"R{suffix} ({text})"


def added(numbers: list[str]) -> str:
    """Join numbers, each perhaps with a minus, to a sum."""
    text = " + ".join(numbers).replace("+ --", "+ ").replace("+ -", "- ")
    return text.removeprefix("--")


def shown(value: float) -> str:
    """Return a number with three decimals, or with two digits if it is small and with four if it is very large."""
    if value and abs(value) < 0.01:
        return f"{value:.2g}"
    return f"{value:.3f}" if abs(value) < 1e6 else f"{value:.4g}"


def _terms(node: ast.expr, sign: str = "") -> Iterator[tuple[str, ast.expr]]:
    """Yield the terms of a sum, each with its sign: nothing or a minus."""
    match node:
        case ast.BinOp(left, ast.Add() | ast.Sub() as operator, right):
            yield from _terms(left, sign)
            yield from _terms(right, "-" if isinstance(operator, ast.Sub) else "")
        case _:
            yield sign, node
