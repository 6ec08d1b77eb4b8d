"""Which units follow a hypothesis, such as being inside quotes: chosen on one half of a text, measured on the other.

Letters: C characters and T symbols of the text, H units, U units that are ranked at once, K hypotheses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from charlm.checkpoint import ModelFile
from charlm.errors import UsageError
from charlm.inference.activations import Activations, characters_of, read_activations
from charlm.inference.hypotheses import Hypothesis, hypotheses
from charlm.inference.sampling import Floats
from charlm.inference.stepper import Progress
from charlm.inference.units import Layer, Unit
from charlm.vocab import Ids

Doubles = NDArray[np.float64]
# With fewer true or false symbols in a half of the text, a figure would say little.
MIN_OF_EACH = 20
UNITS_AT_ONCE = 64
NUM_RANKED = 5


@dataclass(frozen=True)
class Follower:
    """A unit that follows a hypothesis.

    Attributes:
        unit: the unit.
        part: which part of its state, or which gate.
        sign: 1 if it is larger where the hypothesis is true or larger, -1 if it is smaller there.
        chosen_by: its figure on the first half of the text, from which it was chosen.
        figure: its figure on the second half. For a hypothesis that is true or false this is the area under the ROC
            curve: how often the unit is larger (for the sign -1: smaller) at a true symbol than at a false one, where
            equal values count half. For a number it is the correlation, times the sign.
    """

    unit: Unit
    part: str
    sign: int
    chosen_by: float
    figure: float

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {
            "unit": str(self.unit),
            "part": self.part,
            "sign": self.sign,
            "chosen_by": self.chosen_by,
            "figure": self.figure,
        }


@dataclass(frozen=True)
class Finding:
    """The units that follow one hypothesis best.

    Attributes:
        hypothesis: the hypothesis.
        counts: for each half of the text, the number of symbols at which it is true, or a number other than 0.
        followers: the units with the best figures on the first half, the best one first; none if there are too few
            symbols of one kind.
    """

    hypothesis: Hypothesis
    counts: tuple[int, int]
    followers: list[Follower]

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {
            "hypothesis": self.hypothesis.name,
            "measure": "correlation" if self.hypothesis.is_number else "auc",
            "chosen_on": self.counts[0],
            "measured_on": self.counts[1],
            "units": [follower.to_json() for follower in self.followers],
        }


@dataclass(frozen=True, eq=False)
class Search:
    """What was found in a text.

    Attributes:
        texts: the text as the model read it, in pieces that were each read from their own start.
        lengths_C: how many symbols each character is; several only in a vocabulary of bytes.
        num_chosen_on: the number of symbols of the first half.
        activations: of the layers that were searched.
        findings: one for each hypothesis, in their order.
    """

    texts: list[str]
    lengths_C: NDArray[np.int64]
    num_chosen_on: int
    activations: list[Activations]
    findings: list[Finding]

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        total = int(self.lengths_C.sum())
        return {
            "chosen_on": self.num_chosen_on,
            "measured_on": total - self.num_chosen_on,
            "findings": [finding.to_json() for finding in self.findings],
        }


def find_units(
    model: ModelFile,
    texts: Sequence[Ids],
    own: Mapping[str, str] | None = None,
    parts: Sequence[str] | None = None,
    layers: Sequence[Layer] | None = None,
    progress: Progress | None = None,
) -> Search:
    """Rank all units of a net by how well they follow each hypothesis in texts.

    Args:
        model: the model; its n-grams have no part in it.
        texts: each is read from its own start.
        own: regular expressions by the name of their hypothesis, beside the built-in ones.
        parts: which parts of the state and which gates; None for the state alone.
        layers: which layers; None for all.
        progress: called after each step with how many symbols of how many were read.

    Raises:
        UsageError: the texts are too short or do not fit into memory, or a hypothesis is not valid.
        ModelFileError: the weights are so large that a state overflows.
    """
    all_hypotheses = hypotheses(own)
    total = sum(map(len, texts))
    if total < 4 * MIN_OF_EACH:
        raise UsageError(
            f"a text of {total} {model.vocabulary.unit}s is too short to find units in it",
            f"it needs at least {4 * MIN_OF_EACH}, and says more with thousands",
        )
    activations = read_activations(model, texts, parts or model.spec.recurrence.state, layers, progress)
    return search_in(activations, [characters_of(model.vocabulary, ids_T) for ids_T in texts], all_hypotheses)


def search_in(
    activations: Sequence[Activations],
    read: Sequence[tuple[str, NDArray[np.int64]]],
    all_hypotheses: Sequence[Hypothesis],
) -> Search:
    """Do the same with activations that were read already.

    Args:
        activations: the layers and parts to search.
        read: for each text its characters, and how many symbols each of them is.
        all_hypotheses: what units may follow.
    """
    lengths_C = np.concatenate([lengths for _, lengths in read])
    total = int(lengths_C.sum())
    tracks = {
        side: np.stack(
            [
                np.repeat(np.concatenate([hypothesis.seen(text, side) for text, _ in read]), lengths_C)
                for hypothesis in all_hypotheses
            ],
            axis=1,
        )
        for side in {layer.reads_backward for layer in activations}
    }
    half = total // 2
    ranking = _Ranking(activations, tracks, half)
    followers: dict[int, list[Follower]] = {}
    for is_number in (False, True):
        of_kind = [index for index, each in enumerate(all_hypotheses) if each.is_number == is_number]
        followers |= ranking.followers(of_kind, is_number)
    is_true_TK = next(iter(tracks.values())) != 0
    findings = [
        Finding(
            hypothesis,
            (int(is_true_TK[:half, index].sum()), int(is_true_TK[half:, index].sum())),
            followers.get(index, []),
        )
        for index, hypothesis in enumerate(all_hypotheses)
    ]
    return Search([text for text, _ in read], lengths_C, half, list(activations), findings)


class _Ranking:
    """Ranks units on the first half of a text and measures the best ones on the second.

    Args:
        activations: those of the layers to rank.
        tracks: of all hypotheses, shape (T, K), as a layer meets them that does not read backward, or does.
        half: the number of symbols of the first half.
    """

    def __init__(self, activations: Sequence[Activations], tracks: Mapping[bool, Doubles], half: int) -> None:
        self._tried = [(layer, part) for layer in activations for part in layer.parts]
        self._tracks, self._half = tracks, half

    def followers(self, indices: Sequence[int], is_number: bool) -> dict[int, list[Follower]]:
        """Return the best units for each hypothesis by its index; all of them are numbers, or none is."""
        indices = [index for index in indices if self._has_enough(index, is_number)]
        if not indices:
            return {}
        half, measure, middle = self._half, correlations if is_number else areas, 0.0 if is_number else 0.5
        figures = [
            measure(layer.parts[part][:half], self._tracks[layer.reads_backward][:half, indices])
            for layer, part in self._tried
        ]
        num_units = len(figures[0])
        found = {}
        for index, figures_U in zip(indices, np.concatenate(figures).T, strict=True):
            followers = []
            for place in np.argsort(-abs(figures_U - middle), kind="stable")[:NUM_RANKED].tolist():
                layer, part = self._tried[place // num_units]
                unit = place % num_units
                track_T1 = self._tracks[layer.reads_backward][half:, index : index + 1]
                figure = float(measure(layer.parts[part][half:, unit : unit + 1], track_T1)[0, 0])
                # Below the middle the unit is low where the hypothesis is true: its figure is that of its negative.
                sign = 1 if figures_U[place] >= middle else -1
                chosen_by, figure = (middle + sign * (each - middle) for each in (float(figures_U[place]), figure))
                followers.append(Follower(Unit(layer.layer, unit), part, sign, chosen_by, figure))
            found[index] = followers
        return found

    def _has_enough(self, index: int, is_number: bool) -> bool:
        """Return whether each half has enough symbols of each kind."""
        for tracks_TK in self._tracks.values():
            for track_T in np.split(tracks_TK[:, index], [self._half]):
                num_true = int((track_T != 0).sum())
                num_others = int((track_T != track_T[0]).sum()) if is_number else len(track_T) - num_true
                if min(num_true, num_others) < MIN_OF_EACH:
                    return False
        return True


def areas(values_TU: Floats, labels_TK: Doubles) -> Doubles:
    """Return the area under the ROC curve of units for labels: how often a true symbol has the larger value.

    The number of pairs of a true and a false symbol in which the true one is larger, and half the number of pairs of
    equal values, divided by the number of all pairs (Mann and Whitney 1947).

    Args:
        values_TU: of each unit at each symbol.
        labels_TK: 1 for true and 0 for false; each column has both.

    Returns:
        Shape (U, K).
    """
    num_symbols, num_units = values_TU.shape
    num_true_K = labels_TK.sum(axis=0)
    num_pairs_K = num_true_K * (num_symbols - num_true_K)
    found = []
    for start in range(0, num_units, UNITS_AT_ONCE):
        values_UT = np.ascontiguousarray(values_TU[:, start : start + UNITS_AT_ONCE].T)
        ranks_UT = np.empty(values_UT.shape)
        for values_T, ranks_T in zip(values_UT, ranks_UT, strict=True):
            order = values_T.argsort()
            sorted_T = values_T[order]
            firsts = np.flatnonzero(np.concatenate([[True], sorted_T[1:] != sorted_T[:-1]]))
            counts = np.diff(firsts, append=num_symbols)
            # Equal values share the mean of their ranks.
            ranks_T[order] = np.repeat(firsts + (counts + 1) / 2, counts)
        found.append((ranks_UT @ labels_TK - num_true_K * (num_true_K + 1) / 2) / num_pairs_K)
    return np.concatenate(found)


def correlations(values_TU: Floats, numbers_TK: Doubles) -> Doubles:
    """Return the correlation (Pearson) of units with numbers, shape (U, K); 0 for a unit that never changes."""
    numbers_TK = numbers_TK - numbers_TK.mean(axis=0)
    lengths_K = np.sqrt((numbers_TK**2).sum(axis=0))
    found = []
    for start in range(0, values_TU.shape[1], UNITS_AT_ONCE):
        values_TU_ = values_TU[:, start : start + UNITS_AT_ONCE].astype(np.float64)
        values_TU_ -= values_TU_.mean(axis=0)
        lengths_U1 = np.sqrt((values_TU_**2).sum(axis=0))[:, None]
        products_UK = values_TU_.T @ numbers_TK
        lengths_UK = lengths_U1 * lengths_K
        found.append(np.divide(products_UK, lengths_UK, out=np.zeros_like(products_UK), where=lengths_UK > 0))
    return np.concatenate(found)
