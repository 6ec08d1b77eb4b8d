"""The way of each character of a text through the net of a model, in numbers.

N-grams beside a net are not explained: these are the numbers of the net alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np

from charlm.cells import Cell
from charlm.checkpoint import ModelFile
from charlm.errors import OVERFLOW, ModelFileError, UsageError
from charlm.inference.cell_texts import CELL_TEXTS
from charlm.inference.equations import Values, equations_of, evaluate, written
from charlm.inference.mixture import WEIGHT_NAME
from charlm.inference.sampling import Floats, softmax
from charlm.inference.stepper import Output, Stack, StepperState
from charlm.inference.units import Layer, Unit, layers_of
from charlm.spec import ModelSpec
from charlm.vocab import Vocabulary

# A state is kept after so many characters; to go to any other character, the text is read from the state before it.
KEPT_EVERY = 32
# So many of the characters that may come next are listed.
NUM_SCORES = 10
LETTERS_OF_STATE = {"hidden": "h", "cell": "c"}


@dataclass(frozen=True)
class UnitStep:
    """One step of one unit.

    Attributes:
        before: the text that was read before this step; a backward model read it from its end.
        name: how to show the character that is read in this step.
        unit: the unit.
        old_state: each part of the state before, by name.
        gates: each gate and the candidate, by name; none for a cell that has no gates.
        new_state: each part of the state after, by name.
    """

    before: str
    name: str
    unit: Unit
    old_state: dict[str, float]
    gates: dict[str, float]
    new_state: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        layer = self.unit.layer
        return asdict(self) | {"stack": layer.stack, "layer": layer.number, "unit": self.unit.index}


@dataclass(frozen=True, eq=False)
class LayerStep:
    """One step of one layer, in the numbers of all its units.

    Attributes:
        spec: the model.
        layer: the layer.
        reads_backward: whether it reads the text from its end.
        position: how many characters the layer has read with this step.
        name: how to show the character that it reads.
        values: the value of each letter and expression of the equations, (H,) each, by its text: `f`, `f * c`, `c'`.
    """

    spec: ModelSpec
    layer: Layer
    reads_backward: bool
    position: int
    name: str
    values: Values

    @property
    def cell(self) -> Cell:
        """The cell of the layer."""
        return self.spec.recurrence

    @property
    def old_state(self) -> dict[str, Floats]:
        """Each part of the state before the step, by name."""
        return {name: self.values[LETTERS_OF_STATE[name]] for name in self.cell.state}

    @property
    def new_state(self) -> dict[str, Floats]:
        """Each part of the state after the step, by name."""
        return {name: self.values[f"{LETTERS_OF_STATE[name]}'"] for name in self.cell.state}

    @property
    def gates(self) -> dict[str, Floats]:
        """Each gate by name; none for a cell that has none."""
        return {name: self.values[letter] for name, letter in self.cell.letters.items() if name != "candidate"}

    @property
    def candidate(self) -> Floats:
        """What the step would add to the state."""
        return self.values[self.cell.candidate]

    @property
    def pre_activations(self) -> dict[str, Floats]:
        """For each gate and the candidate what its sigmoid or tanh is applied to."""
        pre_activations = {equation.name: equation.pre_activation for equation in equations_of(self.cell)}
        letters = self.cell.letters
        return {name: self.values.get(pre_activations[letter], self.values[letter]) for name, letter in letters.items()}

    @property
    def largest_unit(self) -> int:
        """The unit with the largest absolute output."""
        return int(abs(self.values["h'"]).argmax())

    def numbers(self, unit: int) -> dict[str, dict[str, float]]:
        """Return the old state, the gates with the candidate, and the new state of a unit, each by name."""
        letters = self.cell.letters if self.gates else {}
        parts = {
            "old_state": self.old_state,
            "gates": {name: self.values[letter] for name, letter in letters.items()},
            "new_state": self.new_state,
        }
        return {part: {name: float(array[unit]) for name, array in arrays.items()} for part, arrays in parts.items()}

    def arithmetic(self, unit: int) -> list[tuple[str, list[str]]]:
        """Return each equation, and its steps with the numbers of a unit, as in `f * c = 0.806 * -3.563 = -2.872`."""
        done: set[str] = set()
        equations = equations_of(self.cell)
        return [(equation.text, written(equation, self.values, unit, done)) for equation in equations]

    def effects(self, unit: int) -> dict[str, str]:
        """Return what each gate of a unit does in this step, by its letter."""
        texts, letters = CELL_TEXTS[self.spec.cell].effects, self.cell.letters
        return {letters[name]: text.format(f"{self.values[letters[name]][unit]:.1%}") for name, text in texts.items()}

    def to_json(self) -> dict[str, Any]:
        """Return the numbers of all units as plain values."""

        def plain(arrays: Mapping[str, Floats]) -> dict[str, list[float]]:
            return {name: array.tolist() for name, array in arrays.items()}

        return {
            "stack": self.layer.stack,
            "reads": "from right to left" if self.reads_backward else "from left to right",
            "layer": self.layer.number,
            "name": self.name,
            "old_state": plain(self.old_state),
            "pre_activations": plain(self.pre_activations),
            "gates": plain(self.gates),
            "candidate": self.candidate.tolist(),
            "new_state": plain(self.new_state),
            "values": plain(self.values),
        }


class Score(NamedTuple):
    """The score of one character, and how it becomes a probability.

    Attributes:
        character: the character itself.
        name: how to show it.
        product: its row of the output matrix times the output of the layers.
        bias: its bias.
        logit: the sum of both.
        exp: e to the power of the logit less the largest logit.
        probability: the share of this in the sum over all characters.
    """

    character: str
    name: str
    product: float
    bias: float
    logit: float
    exp: float
    probability: float


@dataclass(frozen=True, eq=False)
class CharacterStep:
    """The way of one character: embedding, each layer and direction, logits, softmax.

    Attributes:
        number: how many characters have been read with this one; 0 if this is the start of the text.
        id: the number of the character.
        embedding: the vector of the character, (E,), or None if the inputs are one-hot.
        layers: each layer, from the input to the output, those that read from the left first.
        logits: the score of each character that may come next, (V,).
        scores: of the most probable of them, the most probable first.
        total: the sum over all of them of e to the power of the logit less the largest logit.
    """

    number: int
    id: int
    embedding: Floats | None
    layers: list[LayerStep]
    logits: Floats
    scores: list[Score]
    total: float

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {
            "step": self.number,
            "name": self.layers[0].name,
            "id": self.id,
            "embedding": None if self.embedding is None else self.embedding.tolist(),
            "layers": [layer.to_json() for layer in self.layers],
            "logits": self.logits.tolist(),
            "predicted": [score._asdict() for score in self.scores],
            "sum_of_exp": self.total,
        }


class Explanation:
    """A text on its way through the net of a model, character by character.

    A backward model reads the text from its end. A model of both sides predicts the character after the one that the
    layers from the left read: those from the right read down to the character after that.

    Args:
        model: the model.
        text: the text; not empty.
        unknown: what to do about characters that the model does not know: `error`, `skip`, or `replace=C`.

    Raises:
        UsageError: the text is empty.
        UnknownCharacterError: the text holds characters the model lacks, under `unknown="error"`.
    """

    def __init__(self, model: ModelFile, text: str, unknown: str = "error") -> None:
        ids_T = model.vocabulary.encode(text, unknown)
        if not len(ids_T):
            hint = "`--text` gives the text, its last character is looked at"
            raise UsageError("there is no character to read", hint)
        self.spec: ModelSpec = model.spec
        self.has_ngrams = WEIGHT_NAME in model.arrays
        self._vocabulary: Vocabulary = model.vocabulary
        self._weights = model.weights
        self._stacks = {name: Stack(model, name) for name in self.spec.stacks}
        self._output = Output(model)
        edge, forward = [len(self._vocabulary)], ids_T.tolist()
        # The symbols that each stack reads, in the order in which it reads them.
        self._symbols = {"layers": edge + forward[:: -1 if self.spec.is_backward else 1]}
        self._symbols["backward_layers"] = edge + forward[::-1]
        self._kept = {name: [stack.start(1)] for name, stack in self._stacks.items()}

    @property
    def text(self) -> str:
        """The text as it is read."""
        return self._vocabulary.decode(self._symbols["backward_layers"][:0:-1])

    @property
    def unit(self) -> str:
        """What is read in a step: a `character` or a `byte`."""
        return self._vocabulary.unit

    @property
    def num_steps(self) -> int:
        """How many characters there are."""
        return len(self._symbols["layers"]) - 1

    def around(self, number: int) -> tuple[str, str, str]:
        """Return the text on the left of the character of a step, the character, and the text on the right of it."""
        symbols, decode = self._symbols["layers"], self._vocabulary.decode
        read, character, rest = symbols[1:number], symbols[number : number + 1] if number else [], symbols[number + 1 :]
        if self.spec.is_backward:
            return decode(rest[::-1]), decode(character), decode(read[::-1])
        return decode(read), decode(character), decode(rest)

    def before(self, layer: LayerStep) -> str:
        """Return the text that a layer has read before a step."""
        read = self._symbols[layer.layer.stack][1 : layer.position]
        return self._vocabulary.decode(read[:: -1 if layer.reads_backward else 1])

    def of_unit(self, step: CharacterStep, layer: Layer | None = None, unit: int | None = None) -> UnitStep:
        """Return the numbers of one unit of a layer.

        Args:
            step: the step.
            layer: the layer; by default the last one, of a model of both sides the last one that reads from the left.
            unit: the number of the unit, from 0; by default the one with the largest absolute output.
        """
        layer = Layer(self.spec.num_layers) if layer is None else layer
        found = next(of_layer for of_layer in step.layers if of_layer.layer == layer)
        index = found.largest_unit if unit is None else unit
        return UnitStep(self.before(found), found.name, Unit(layer, index), **found.numbers(index))

    def steps(self) -> Iterator[CharacterStep]:
        """Yield each step, the start of the text first."""
        return map(self.step, range(self.num_steps + 1))

    def step(self, number: int | None = None) -> CharacterStep:
        """Return the step that reads a character.

        Args:
            number: which character, from 1, in the order in which the model reads them; 0 is the start of the text, and
                None is the last character.

        Raises:
            UsageError: there is no such character.
            ModelFileError: the weights are so large that a number overflows.
        """
        number = self.num_steps if number is None else number
        if not 0 <= number <= self.num_steps:
            hint = f"the steps are 0, the start of the text, to {self.num_steps}"
            raise UsageError(f"there is no step {number}", hint)
        layers = self._layers("layers", number)
        if self.spec.sees_both_sides:
            layers += self._layers("backward_layers", max(0, self.num_steps - number - 1))
        ends = layers[self.spec.num_layers - 1 :: self.spec.num_layers]
        outputs_I = np.concatenate([layer.values["h'"] for layer in ends])
        logits_V = self._output(outputs_I[None])[0]
        if not np.isfinite(logits_V).all():
            raise ModelFileError(*OVERFLOW)
        index = self._symbols["layers"][number]
        table = self._weights.get("embedding.weight")
        embedding_E = None if table is None else table[index]
        return CharacterStep(number, index, embedding_E, layers, logits_V, *self._scores(logits_V))

    def _layers(self, name: str, position: int) -> list[LayerStep]:
        """Return what each layer of a stack computes when it reads the symbol at a position."""
        stack, symbols = self._stacks[name], self._symbols[name]
        before = self._before(name, position)
        ids_B = np.array(symbols[position : position + 1])
        after, all_gates = stack.look(ids_B, before)
        cell, reads_backward = stack.cell, name != "layers" or self.spec.is_backward
        edge = f"the {'end' if reads_backward else 'start'} of the text"
        what = self._vocabulary.name(symbols[position]) if position else edge
        letters = [LETTERS_OF_STATE[part] for part in cell.state]
        layers = [layer for layer in layers_of(self.spec) if layer.stack == name]
        found = []
        for layer, old_state, new_state, gates, (inputs_BG, recurrent) in zip(
            layers, before, after, all_gates, stack.terms(ids_B, after), strict=True
        ):
            known = {cell.letters[gate]: array_BH[0] for gate, array_BH in gates.items()}
            known |= {f"{letter}'": array_BH[0] for letter, array_BH in zip(letters, new_state, strict=True)}
            old = {letter: array_BH[0] for letter, array_BH in zip(letters, old_state, strict=True)}
            biases = {
                letter: self._weights[f"{name}.{layer.number - 1}.bias_{kind}_l0"]
                for letter, kind in (("a", "ih"), ("d", "hh"))
                if letter == "a" or cell.products
            }
            values = evaluate(cell, inputs_BG[0], recurrent, biases, old, known)
            if not all(np.isfinite(array).all() for array in values.values()):
                raise ModelFileError(*OVERFLOW)
            found.append(LayerStep(self.spec, layer, reads_backward, position, what, values))
        return found

    def _before(self, name: str, position: int) -> StepperState:
        """Return the state of a stack before it reads the symbol at a position."""
        kept, stack, symbols = self._kept[name], self._stacks[name], self._symbols[name]
        while len(kept) <= position // KEPT_EVERY:
            end = len(kept) * KEPT_EVERY
            kept.append(stack.read(symbols[end - KEPT_EVERY : end], kept[-1]))
        start = position - position % KEPT_EVERY
        return stack.read(symbols[start:position], kept[start // KEPT_EVERY])

    def _scores(self, logits_V: Floats) -> tuple[list[Score], float]:
        """Return the numbers that lead to the probabilities of the most probable characters, and the sum of all exp."""
        p_V, bias_V = softmax(logits_V), self._weights["output.bias"].astype(float)
        exact_V = logits_V.astype(float)
        exp_V = np.exp(exact_V - exact_V.max())
        symbols, name = self._vocabulary.symbols, self._vocabulary.name
        columns = (exact_V - bias_V, bias_V, exact_V, exp_V, p_V)
        scores = [
            Score(symbols[index], name(index), *(float(column[index]) for column in columns))
            for index in np.argsort(-p_V, kind="stable")[:NUM_SCORES].tolist()
        ]
        return scores, float(exp_V.sum())
