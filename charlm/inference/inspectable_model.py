"""A trained model whose net can be looked into: its units, its gates, and how far back it sees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

from charlm.checkpoint import ModelFile
from charlm.inference.activations import Activations, read_activations
from charlm.inference.explanation import Explanation
from charlm.inference.gate_statistics import GateStatistics, gate_statistics
from charlm.inference.reach import (
    MAX_CONTEXT,
    MAX_DISTANCE,
    NUM_PLACES,
    ChangeEffect,
    ContextLoss,
    change_effect,
    loss_by_context,
)
from charlm.inference.stepper import Stepper
from charlm.inference.unit_search import Search, find_units
from charlm.spec import ModelSpec
from charlm.vocab import Vocabulary


class InspectableModel:
    """A trained model that shows what its net does. `LanguageModel` adds what a model is for: it writes and predicts.

    Args:
        file: the model file that was read.
    """

    def __init__(self, file: ModelFile) -> None:
        self._file = file

    @property
    def spec(self) -> ModelSpec:
        """The model's cell, sizes and direction.

        >>> model.spec.cell, model.spec.num_symbols == len(model.vocabulary)
        ('lstm', True)
        """
        return self._file.spec

    @property
    def vocabulary(self) -> Vocabulary:
        """The symbols that the model reads and writes.

        >>> model.vocabulary.decode(model.vocabulary.encode("To be"))
        'To be'
        """
        return self._file.vocabulary

    @cached_property
    def _stepper(self) -> Stepper:
        return Stepper(self._file)

    def loss_by_context(
        self, text: str, max_context: int = MAX_CONTEXT, num_targets: int = NUM_PLACES, *, unknown: str = "error"
    ) -> list[ContextLoss]:
        """Return what characters of a text cost when only the 1, 2, 4, ... characters before each were read.

        All rows are about the same characters. A backward model reads the characters after each. If the text is not
        long, the last row is about everything from its start.

        >>> rows = model.loss_by_context("To be " * 4)
        >>> [row.context for row in rows]
        [1, 2, 4, 8, None]

        Args:
            text: the text, which should be one that the model has not learned.
            max_context: the largest number of characters; it is at most half the length of the text.
            num_targets: how many characters to predict; they are evenly spaced.
            unknown: what to do about unknown characters of the text.

        Raises:
            UsageError: the text is too short, a number is less than 1, or the model reads from both sides.
            UnknownCharacterError: the text holds unknown characters, under `unknown="error"`.
        """
        return loss_by_context(self._stepper, [self.vocabulary.encode(text, unknown)], max_context, num_targets)

    def change_effect(
        self,
        text: str,
        max_distance: int = MAX_DISTANCE,
        num_changes: int = NUM_PLACES,
        seed: int = 1,
        *,
        unknown: str = "error",
    ) -> list[ChangeEffect]:
        """Replace characters of a text, one at a time, and return how much that matters 1, 2, 4, ... characters later.

        >>> rows = model.change_effect("To be " * 4)
        >>> [row.distance for row in rows], rows[0].state_share
        ([1, 2, 4], 1.0)

        Args:
            text: the text.
            max_distance: the largest distance; it is at most a quarter of the length of the text.
            num_changes: how many characters to replace; they are evenly spaced.
            seed: which characters take their places; they are drawn from the text.
            unknown: what to do about unknown characters of the text.

        Raises:
            UsageError: the text is too short or has only one different character, a number is out of its bounds, or
                the model reads from both sides.
            UnknownCharacterError: the text holds unknown characters, under `unknown="error"`.
        """
        ids_T = self.vocabulary.encode(text, unknown)
        return change_effect(self._stepper, [ids_T], max_distance, num_changes, seed)

    def activations(
        self, text: str, parts: Sequence[str] | None = None, *, unknown: str = "error"
    ) -> list[Activations]:
        """Return the states and gates of all units of the net at each character of a text.

        There is one row for each id in `vocabulary.encode(text, unknown)`.

        >>> (layer,) = model.activations("To be")
        >>> list(layer.parts)
        ['hidden', 'cell', 'input', 'forget', 'output', 'candidate']
        >>> layer.parts["forget"].shape == (5, model.spec.hidden_size)
        True

        Args:
            text: the text, from its start to its end.
            parts: which parts of the state and which gates; None for all.
            unknown: what to do about unknown characters of the text.

        Returns:
            One object for each layer; those from right to left of a model of both sides come last.

        Raises:
            UsageError: the cell has no such part, or they do not fit into memory.
            UnknownCharacterError: the text holds unknown characters, under `unknown="error"`.
        """
        return read_activations(self._file, [self.vocabulary.encode(text, unknown)], parts)

    def find_units(self, text: str, own: Mapping[str, str] | None = None, *, unknown: str = "error") -> Search:
        r"""Rank all units of the net by how well they follow hypotheses, such as being inside quotes.

        Units are chosen on the first half of the text, and measured on the second half.

        >>> search = model.find_units("To be\n" * 30, {"vowel": "[aeiou]"})
        >>> vowel = search.findings[-1]
        >>> vowel.hypothesis.name, len(vowel.followers), 0 <= vowel.followers[0].figure <= 1
        ('vowel', 5, True)

        Args:
            text: the text, which the model should not have learned.
            own: regular expressions, by the name of a hypothesis that is true inside their matches.
            unknown: what to do about unknown characters of the text.

        Raises:
            UsageError: the text is too short or does not fit into memory, or a hypothesis is not valid.
            UnknownCharacterError: the text holds unknown characters, under `unknown="error"`.
        """
        return find_units(self._file, [self.vocabulary.encode(text, unknown)], own)

    def gate_statistics(self, text: str, *, unknown: str = "error") -> GateStatistics:
        """Return how often the gates of the net are closed or open in a text, and how long its units remember.

        >>> statistics = model.gate_statistics("To be")
        >>> [row.gate for row in statistics.saturation]
        ['input', 'forget', 'output']

        Args:
            text: the text, from its start to its end.
            unknown: what to do about unknown characters of the text.

        Raises:
            UsageError: the text is empty.
            UnknownCharacterError: the text holds unknown characters, under `unknown="error"`.
        """
        return gate_statistics(self._file, [self.vocabulary.encode(text, unknown)])

    def explain(self, text: str, *, unknown: str = "error") -> Explanation:
        """Return the way of each character of a text through the net, in numbers: every gate of every unit.

        N-grams beside the net are no part of it.

        >>> explanation = model.explain("To be")
        >>> step = explanation.step()
        >>> (layer,) = step.layers
        >>> list(layer.gates), layer.gates["forget"].shape == (model.spec.hidden_size,)
        (['input', 'forget', 'output'], True)
        >>> equation, steps = layer.arithmetic(layer.largest_unit)[4]
        >>> equation, len(steps)
        ("c' = f * c + i * g", 3)
        >>> bool((layer.values["c'"] == layer.values["f * c"] + layer.values["i * g"]).all())
        True

        Args:
            text: the text; `explanation.step(3)` is about its third character, `explanation.step()` about the last.
            unknown: what to do about unknown characters of the text.

        Raises:
            UsageError: the text is empty.
            UnknownCharacterError: the text holds unknown characters, under `unknown="error"`.
        """
        return Explanation(self._file, text, unknown)
