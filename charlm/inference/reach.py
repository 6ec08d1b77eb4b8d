"""How far back a model sees: what more context is worth, and how long a changed character matters. No torch.

Distances count from the character that is predicted: the character at distance 1 was read last. A backward model reads
a text from its end, so the characters that it has read follow the predicted one.

Letters: `N` distances, `P` predictors, which are the model and, if it has n-grams, its net alone; `W` characters of a
window.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, CancelledError, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass
from functools import partial
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from charlm.errors import OVERFLOW, ModelFileError, UsageError, counted
from charlm.inference.sampling import log2_probabilities, require
from charlm.inference.stepper import Progress, Stepper, StepperState
from charlm.machine import usable_cores
from charlm.vocab import Ids

MAX_CONTEXT, MAX_DISTANCE = 1024, 256
NUM_PLACES = 128
# So many streams are read side by side. The states of many more do not stay in the caches.
STREAMS_TOGETHER = 32
# A longer text is not read from its start, because that takes a step for each character, one after the other.
MAX_READ = 20_000
# The time between two reports of how far a measurement is, in seconds.
REPORT_EVERY = 0.1

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class ContextLoss:
    """How well a model predicts characters from those right before them.

    Attributes:
        context: how many characters it read before each, from the initial state; None for all since the text started.
        bits: the mean cost of the characters.
        net_bits: the same for the net of a model with n-grams; None if the model is a net alone.
        characters: how many were predicted.
    """

    context: int | None
    bits: float
    net_bits: float | None
    characters: int

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        return asdict(self)


@dataclass(frozen=True)
class ChangeEffect:
    """How much a character matters some steps later: the text is also read with another character in its place.

    Attributes:
        distance: how far the changed character is from the predicted one.
        bits: how far the prediction moves: the mean Kullback-Leibler divergence from it, in bits.
        net_bits: the same for the net of a model with n-grams; None if the model is a net alone.
        state_share: the mean norm of the difference between both states of the net, as a share of that at distance 1.
        characters: how many were replaced.
    """

    distance: int
    bits: float
    net_bits: float | None
    state_share: float
    characters: int

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        return asdict(self)


def loss_by_context(
    stepper: Stepper,
    stretches: Sequence[Ids],
    max_context: int = MAX_CONTEXT,
    num_targets: int = NUM_PLACES,
    progress: Progress | None = None,
) -> list[ContextLoss]:
    """Predict the same characters from the 1, 2, 4, ... characters before each, and from all if the text is short.

    Args:
        stepper: the model.
        stretches: a text, or several that follow one another with gaps.
        max_context: the largest number of characters; a short text has fewer.
        num_targets: how many characters to predict; they are evenly spaced.
        progress: called now and then with how many characters of how many were read.

    Raises:
        UsageError: the text is too short, or a number is less than 1.
        ModelFileError: the numbers of the model overflow.
    """
    texts = in_reading_order(stepper.is_backward, stretches)
    contexts = distances_within(texts, max_context, 1)
    places_B2 = evenly_spaced(texts, num_targets, contexts[-1], 0)
    reading = _Reading(stepper, progress)

    def after(places_B2: NDArray[np.int64]) -> Numbers:
        """Return the costs of the characters at some places after contexts of each length, (N, P, B)."""
        window_WB = windows_at(texts, places_B2, contexts[-1], 0)
        costs: list[Numbers] = []
        for context in contexts:
            state = stepper.before(window_WB.shape[1])
            for ids_B in window_WB[-context - 1 : -1]:
                state = reading.advance(ids_B, state)
            costs.append(_costs(stepper, state, window_WB[-1]))
        return np.array(costs)

    # The whole texts come first, because each takes long and needs one core only.
    whole: list[Callable[[], Numbers]] = []
    num_whole = 0
    if sum(map(len, texts)) <= MAX_READ:
        each = [(text, places_B2[places_B2[:, 0] == stretch, 1]) for stretch, text in enumerate(texts)]
        each = [(text, positions_B) for text, positions_B in each if len(positions_B)]
        whole = [partial(_costs_of_whole, reading, text, positions_B) for text, positions_B in each]
        num_whole = sum(1 + int(positions_B[-1]) for _, positions_B in each)
    groups = [partial(after, group_B2) for group_B2 in in_groups(places_B2, STREAMS_TOGETHER)]
    found = reading.do([*whole, *groups], num_whole + sum(contexts) * len(places_B2))
    rows = list(zip(contexts, np.concatenate(found[len(whole) :], axis=-1).mean(axis=-1), strict=True))
    every: list[tuple[int | None, Numbers]] = [*rows]
    if whole:
        every.append((None, np.concatenate(found[: len(whole)], axis=-1).mean(axis=-1)))
    return [ContextLoss(context, *_of_predictors(bits_P), len(places_B2)) for context, bits_P in every]


def change_effect(
    stepper: Stepper,
    stretches: Sequence[Ids],
    max_distance: int = MAX_DISTANCE,
    num_changes: int = NUM_PLACES,
    seed: int = 1,
    progress: Progress | None = None,
) -> list[ChangeEffect]:
    """Replace characters, one at a time, and compare what the model predicts 1, 2, 4, ... characters later.

    Each character is replaced by one that is drawn from the text, and is read after as many characters as the largest
    distance. What follows it is the same in both readings.

    Args:
        stepper: the model.
        stretches: a text, or several that follow one another with gaps.
        max_distance: the largest distance; a short text has smaller ones.
        num_changes: how many characters to replace; they are evenly spaced.
        seed: which characters are drawn.
        progress: called now and then with how many characters of how many were read.

    Raises:
        UsageError: the text is too short or has only one different character, or a number is out of its bounds.
        ModelFileError: the numbers of the model overflow.
    """
    require(seed >= 0, f"a seed must be 0 or more, not {seed}")
    texts = in_reading_order(stepper.is_backward, stretches)
    distances = distances_within(texts, max_distance, 2)
    before = distances[-1]
    places_B2 = evenly_spaced(texts, num_changes, before, before - 1)
    counts_V = _counts_around(texts, places_B2, before, len(stepper.vocabulary))
    others_B = _others(counts_V, windows_at(texts, places_B2, 0, 0)[0], seed)
    reading = _Reading(stepper, progress)
    groups = in_groups(np.concatenate([places_B2, others_B[:, None]], axis=1), STREAMS_TOGETHER)
    found = reading.do(
        [partial(_moves_after, reading, texts, distances, group_B3) for group_B3 in groups], 3 * before * len(others_B)
    )
    means_NP = np.concatenate(found, axis=-1).mean(axis=-1)
    # A state may overflow although the logits do not.
    if not np.isfinite(means_NP).all():
        raise ModelFileError(*OVERFLOW)
    norms_N = means_NP[:, -1]
    shares_N = norms_N / norms_N[0] if norms_N[0] else norms_N
    return [
        ChangeEffect(distance, *_of_predictors(bits_P), float(share), len(others_B))
        for distance, bits_P, share in zip(distances, means_NP[:, :-1], shares_N, strict=True)
    ]


def in_reading_order(is_backward: bool, stretches: Sequence[Ids]) -> list[Ids]:
    """Return texts as the model reads them: from their ends, if it is a backward model."""
    return [text[::-1] for text in stretches] if is_backward else list(stretches)


def distances_within(texts: Sequence[Ids], largest: int, num_windows: int) -> list[int]:
    """Return the distances 1, 2, 4, ... up to the largest one for which there is room in half of the longest text.

    Args:
        texts: the texts.
        largest: the largest distance to return.
        num_windows: room for how many times the distance is needed around a place.

    Raises:
        UsageError: there is no room for any, or the largest is less than 1.
    """
    require(largest >= 1, f"the largest distance must be at least 1, not {largest}")
    longest = max(map(len, texts), default=0)
    if longest < 2:
        raise UsageError(f"the text is too short: it has {counted(longest, 'character')}", "at least 2 are needed")
    room = max(1, min(largest, longest // (2 * num_windows)))
    return [1 << power for power in range(room.bit_length())]


def evenly_spaced(texts: Sequence[Ids], number: int, before: int, after: int) -> NDArray[np.int64]:
    """Choose places that are evenly spaced in texts and have enough characters around them.

    Args:
        texts: the texts.
        number: how many places; there are fewer if there is no room for so many.
        before: how many characters of the same text stand before each at least.
        after: the same after each.

    Returns:
        places_B2: for each the number of its text and the position in it, shape (B, 2).

    Raises:
        UsageError: the number is less than 1.
    """
    require(number >= 1, f"the number of places must be at least 1, not {number}")
    room_S = np.array([max(0, len(text) - before - after) for text in texts])
    ends_S = room_S.cumsum()
    chosen_B = np.linspace(0, ends_S[-1] - 1, min(number, ends_S[-1])).round().astype(np.int64)
    texts_B = np.searchsorted(ends_S, chosen_B, side="right")
    return np.stack([texts_B, chosen_B - (ends_S - room_S)[texts_B] + before], axis=1)


def windows_at(texts: Sequence[Ids], places_B2: NDArray[np.int64], before: int, after: int) -> Ids:
    """Return what stands around each place, the place itself after the characters before it; shape (W, B), int64."""
    windows = [texts[text][place - before : place + after + 1] for text, place in places_B2]
    return np.stack(windows, axis=1).astype(np.int64)


class _Reading:
    """Reads with a model in jobs that run side by side, and counts what they have read.

    Args:
        stepper: the model.
        progress: called now and then with how many characters of how many were read.
    """

    def __init__(self, stepper: Stepper, progress: Progress | None = None) -> None:
        self.stepper = stepper
        self._progress, self._lock = progress, Lock()
        self._num_read, self._is_over = 0, False

    def advance(self, ids_B: NDArray[Any], state: StepperState) -> StepperState:
        """Read one character in each stream."""
        with self._lock:
            self._num_read += len(ids_B)
        if self._is_over:
            raise CancelledError
        return self.stepper.advance(ids_B, state)

    def do(self, jobs: Sequence[Callable[[], Numbers]], num_to_read: int) -> list[Numbers]:
        """Do jobs on all cores; NumPy releases the GIL. No result depends on their number.

        An error of one job, or Ctrl-C, ends all of them at their next step.
        """
        with ThreadPoolExecutor(usable_cores(), "reach") as threads:
            running = [threads.submit(job) for job in jobs]
            try:
                left = set(running)
                while left:
                    done, left = wait(left, REPORT_EVERY, FIRST_EXCEPTION)
                    for job in done:
                        job.result()
                    if self._progress:
                        self._progress(self._num_read, num_to_read)
            except BaseException:
                self._is_over = True
                threads.shutdown(wait=False, cancel_futures=True)
                raise
            return [job.result() for job in running]


def _costs_of_whole(reading: _Reading, text: Ids, positions_B: NDArray[np.int64]) -> Numbers:
    """Read a text from its start, and return the costs at these positions, which ascend; (P, B)."""
    costs: list[Numbers] = []
    stepper = reading.stepper
    state, position = reading.advance(np.array([len(stepper.vocabulary)]), stepper.before(1)), 0
    for place in positions_B:
        for index in text[position:place]:
            state = reading.advance(np.array([index]), state)
        costs.append(_costs(stepper, state, text[place : place + 1]))
        position = place
    return np.concatenate(costs, axis=-1)


def _moves_after(
    reading: _Reading, texts: Sequence[Ids], distances: Sequence[int], places_B3: NDArray[np.int64]
) -> Numbers:
    """Read texts around some places also with another character there, and return what moves at each distance.

    Args:
        reading: reads with the model.
        texts: the texts.
        distances: where to compare; as many characters as the largest one are read before each place.
        places_B3: the number of the text, the position in it, and the other character.

    Returns:
        For each distance what moves: the prediction of each predictor, and the state; shape (N, P + 1, B).
    """
    before, other_B = distances[-1], places_B3[:, 2]
    window_WB = windows_at(texts, places_B3[:, :2], before, before - 1)
    state = reading.stepper.before(len(other_B))
    for ids_B in window_WB[:before]:
        state = reading.advance(ids_B, state)
    changed, moves = reading.advance(other_B, state), list[Numbers]()
    state = reading.advance(window_WB[before], state)
    for distance, ids_B in enumerate([*window_WB[before + 1 :], None], 1):
        if distance in distances:
            moves.append(_moves(reading.stepper, state, changed))
        if ids_B is not None:
            state, changed = reading.advance(ids_B, state), reading.advance(ids_B, changed)
    return np.array(moves)


def _predictions(stepper: Stepper, state: StepperState) -> list[Numbers]:
    """Return the base-2 logarithms of the probabilities of each predictor, (B, V)."""
    logits = [stepper.logits(state), *([stepper.net_logits(state)] if stepper.has_ngrams else [])]
    return list(map(log2_probabilities, logits))


def _costs(stepper: Stepper, state: StepperState, targets_B: Ids) -> Numbers:
    """Return the costs of characters in bits for each predictor, (P, B)."""
    rows_B = np.arange(len(targets_B))
    return np.array([-log_p_BV[rows_B, targets_B] for log_p_BV in _predictions(stepper, state)])


@np.errstate(over="ignore", invalid="ignore")
def _moves(stepper: Stepper, state: StepperState, changed: StepperState) -> Numbers:
    """Return the divergence of each predictor's prediction in bits, and the norm of the difference of the states."""
    pairs = zip(_predictions(stepper, state), _predictions(stepper, changed), strict=True)
    # Rounding may leave a divergence of 0 below it.
    divergences = [np.maximum((np.exp2(p_BV) * (p_BV - q_BV)).sum(axis=-1), 0.0) for p_BV, q_BV in pairs]
    parts = zip(sum(stepper.net_state(state), ()), sum(stepper.net_state(changed), ()), strict=True)
    squares = [np.square(a_BH.astype(np.float64) - b_BH).sum(axis=-1) for a_BH, b_BH in parts]
    return np.array([*divergences, np.sqrt(sum(squares))])


def _counts_around(
    texts: Sequence[Ids], places_B2: NDArray[np.int64], before: int, num_symbols: int
) -> NDArray[np.int64]:
    """Return how often each symbol occurs around some places."""
    counts_V = np.zeros(num_symbols, np.int64)
    for group_B2 in in_groups(places_B2, STREAMS_TOGETHER):
        counts_V += np.bincount(windows_at(texts, group_B2, before, before - 1).ravel(), minlength=num_symbols)
    return counts_V


def _others(counts_V: NDArray[np.int64], replaced_B: Ids, seed: int) -> NDArray[np.int64]:
    """Draw another character for each that is replaced, by how often each occurs in the text."""
    symbols = np.flatnonzero(counts_V)
    if len(symbols) < 2:
        raise UsageError(
            "the text has only one different character: none can be replaced by another", "at least 2 are needed"
        )
    random, others = np.random.default_rng(seed), []
    for replaced in replaced_B:
        weights = np.where(symbols == replaced, 0, counts_V[symbols])
        others.append(random.choice(symbols, p=weights / weights.sum()))
    return np.array(others)


def in_groups(places_B: NDArray[np.int64], largest: int) -> list[NDArray[np.int64]]:
    """Divide places into groups that are read side by side."""
    return np.array_split(places_B, -(-len(places_B) // largest))


def _of_predictors(bits_P: Numbers) -> tuple[float, float | None]:
    """Return the figure of the model, and that of its net if the model has n-grams."""
    return float(bits_P[0]), float(bits_P[1]) if len(bits_P) > 1 else None
