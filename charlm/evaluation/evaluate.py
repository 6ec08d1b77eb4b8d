"""How well a model predicts a text: nats and bits per character, perplexity, accuracy. Changes no model.

Letters, beside those of the models: `S` segments of a text, `B` of them side by side.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from charlm.errors import OVERFLOW, CorpusError, ModelFileError
from charlm.nn.model import CharModel
from charlm.vocab import Ids

# A long text is read in several streams at once, each of at least this many characters.
MAX_STREAMS = 64
MIN_CHARACTERS_PER_STREAM = 2048
# Characters that a stream reads unscored before its own part, so that its state is close to that of one long pass.
WARM_UP = 256
BLOCK_SIZE = 256
MAX_LOGITS = 1 << 24
# The length of each segment of a sample. A small sample has shorter segments, but this many of them.
SEGMENT_LENGTH = 2048
MIN_SEGMENTS = 16
# How many characters each stream reads in the measurement of a model's speed.
TRIAL_LENGTH = 32
# Called with the share of an evaluation that is done. An exception raised in it ends the evaluation.
Tick = Callable[[float], None]


@dataclass(frozen=True)
class Scores:
    """How well a model predicted the characters of a text, averaged over them.

    Attributes:
        characters: how many were scored; the first character of a text is predicted from the start symbol alone.
        nats_per_character: mean of -ln p.
        top1_accuracy: share of characters that the model found the most probable.
        top5_accuracy: share that were among the five most probable.
        standard_error_nats: of the mean, if only a sample of the text was scored; None if all of it was.
    """

    characters: int
    nats_per_character: float
    top1_accuracy: float
    top5_accuracy: float
    standard_error_nats: float | None = None

    @classmethod
    def of_sums(cls, sums: NDArray[np.float64], num_characters: int) -> Self:
        """Average what `sum_scores` returned.

        Args:
            sums: nats, and how often the target was the first and among the first five, shape (3,).
            num_characters: over how many characters these are summed.

        Raises:
            ModelFileError: a sum is not finite.
        """
        # Comparisons with NaN are false, so every character would count as the most probable one.
        if not np.isfinite(sums).all():
            raise ModelFileError(*OVERFLOW)
        nats, top1, top5 = sums / num_characters
        return cls(num_characters, float(nats), float(top1), float(top5))

    @property
    def bits_per_character(self) -> float:
        """Mean of -log2 p."""
        return self.nats_per_character / math.log(2)

    @property
    def standard_error_bits(self) -> float | None:
        """The standard error of `bits_per_character`; None if all of the text was scored."""
        return None if self.standard_error_nats is None else self.standard_error_nats / math.log(2)

    @property
    def perplexity_per_character(self) -> float:
        """The number of equally probable characters that would be as hard to predict: exp of the mean."""
        return math.exp(min(self.nats_per_character, 700.0))

    def to_json(self) -> dict[str, float | int]:
        """Return every figure by name."""
        return {
            "characters": self.characters,
            "nats_per_character": self.nats_per_character,
            "bits_per_character": self.bits_per_character,
            "perplexity_per_character": self.perplexity_per_character,
            "top1_accuracy": self.top1_accuracy,
            "top5_accuracy": self.top5_accuracy,
        }


def _ignore(share: float) -> None:
    """Do nothing with the share that is done."""


def evaluate(model: CharModel, ids: Ids, window: int | None = None, tick: Tick = _ignore) -> Scores:
    """Score a text, in float32, without touching the model, its mode, or any random numbers.

    A backward model predicts each character from those after it. A model that sees both sides predicts each character
    from all others; it reads at least 256 characters before and 256 after it.

    Args:
        model: in any mode, which does not change.
        ids: the text, shape (N,), N at least 1.
        window: start every window of this many characters from the initial state and the one character before it, as
            models with a fixed context are measured; None carries the state through the whole text.
        tick: called after each block with the share of the text that is done, from 0 to 1.

    Raises:
        CorpusError: the text is empty.
        ModelFileError: the model's numbers overflow.
    """
    ids = in_reading_order(model, ids)
    if window is not None:
        window = min(window, len(ids))
        return _score(model, ids, Segments(np.arange(0, len(ids), window), window, 0), tick)
    length = -(-len(ids) // _num_streams(len(ids)))
    return _score(model, ids, Segments(np.arange(0, len(ids), length), length, WARM_UP), tick)


def evaluate_sample(model: CharModel, ids: Ids, num_read: int, tick: Tick = _ignore) -> Scores:
    """Score segments that are evenly spaced in a text, or the whole text if it is short enough, as `evaluate` does.

    Each segment has a warm-up of its own, so that the result estimates the score of one state carried through the
    text. The choice of segments depends on the two lengths alone. The standard error is that of the mean of
    independent segments.

    Args:
        model: in any mode, which does not change.
        ids: the text, shape (N,), N at least 1.
        num_read: how many characters to read, including warm-ups; a text of at most this length is scored whole.
        tick: called after each block with the share that is done, from 0 to 1.

    Raises:
        CorpusError: the text is empty.
        ModelFileError: the model's numbers overflow.
    """
    if len(ids) <= num_read:
        return evaluate(model, ids, tick=tick)
    segments = _spread(len(ids), num_read)
    sums_S3 = _score_apart(model, in_reading_order(model, ids), segments, tick)
    scores = Scores.of_sums(sums_S3.sum(0), len(sums_S3) * segments.length)
    means_S = sums_S3[:, 0] / segments.length
    # The spread of a single segment is unknown.
    error = float(means_S.std(ddof=1) / math.sqrt(len(means_S))) if len(means_S) > 1 else None
    return replace(scores, standard_error_nats=error)


def reading_that_fits(model: CharModel, ids: Ids, seconds: float, now: Callable[[], float]) -> tuple[int, float]:
    """Measure how fast a model reads, and return how much of a text `evaluate_sample` can read in the given seconds.

    Args:
        model: the model.
        ids: the text, shape (N,), N at least 1.
        seconds: how long it may take.
        now: a clock, in seconds.

    Returns:
        how many characters to read, N if the time is enough for the whole text; and how many seconds that takes.
    """
    num_streams = _num_streams(len(ids))
    pace = _pace(model, ids, num_streams, now)
    whole = (len(ids) + num_streams * WARM_UP) / pace
    if whole <= seconds:
        return len(ids), whole
    if len(_spread(len(ids), int(pace * seconds)).first_S) < num_streams:
        # Fewer segments side by side are read more slowly: measure again.
        pace = _pace(model, ids, MIN_SEGMENTS, now)
    return max(1, min(int(pace * seconds), len(ids) - 1)), seconds


def in_reading_order(model: CharModel, ids: Ids) -> Ids:
    """Return a text in the order in which a model reads it: reversed for a backward model.

    Raises:
        CorpusError: the text is empty.
    """
    if not len(ids):
        raise CorpusError("there is nothing to evaluate: the text is empty", "choose another part or corpus")
    return ids[::-1] if model.spec.is_backward else ids


class Segments(NamedTuple):
    """Which parts of a text are scored.

    Attributes:
        first_S: the position of the first character of each, ascending.
        length: how many characters each has; the last one may be cut off by the end of the text.
        warm_up: how many characters are read unscored before each.
    """

    first_S: NDArray[np.int64]
    length: int
    warm_up: int


def _num_streams(num_characters: int) -> int:
    return max(1, min(MAX_STREAMS, num_characters // MIN_CHARACTERS_PER_STREAM))


def _spread(num_characters: int, num_read: int) -> Segments:
    """Return segments in the middle of equal parts of a text: `num_read` characters with their warm-ups."""
    num_segments = min(num_characters, max(MIN_SEGMENTS, num_read // (SEGMENT_LENGTH + WARM_UP)))
    num_each = max(2, num_read // num_segments)
    warm_up = min(WARM_UP, num_each // 2)
    length = max(1, min(SEGMENT_LENGTH, num_each - warm_up, num_characters // num_segments))
    middle_S = (2 * np.arange(num_segments) + 1) * num_characters // (2 * num_segments)
    return Segments(middle_S - length // 2, length, warm_up)


def _num_at_once(model: CharModel) -> int:
    # The right context is read again for every block, so long blocks matter more than many streams.
    if not model.spec.sees_both_sides:
        return MAX_STREAMS
    return max(1, min(MAX_STREAMS, MAX_LOGITS // (model.spec.num_symbols * (BLOCK_SIZE + WARM_UP))))


def _groups(model: CharModel, num_characters: int, segments: Segments) -> Iterator[Segments]:
    """Divide segments into groups that are read side by side."""
    first_S, length, warm_up = segments
    # The right context of a segment near the end of the text is shorter, so that it cannot be read beside others.
    is_alone_S = model.spec.sees_both_sides & (first_S + length + WARM_UP > num_characters)
    together = first_S[~is_alone_S]
    num_groups = -(-len(together) // _num_at_once(model))
    for first_B in np.array_split(together, num_groups) if num_groups else []:
        yield Segments(first_B, length, warm_up)
    for start in first_S[is_alone_S]:
        yield Segments(np.array([start]), min(length, num_characters - int(start)), warm_up)


class _Meter:
    """Counts the characters that were read, and reports their share of all."""

    def __init__(self, tick: Tick, segments: Segments) -> None:
        self._tick, self._num_read = tick, 0
        self._total = len(segments.first_S) * (segments.warm_up + segments.length)

    def add(self, num_read: int) -> None:
        """Count characters that were read."""
        self._num_read += num_read
        self._tick(min(1.0, self._num_read / self._total))


@torch.inference_mode()
def _score(model: CharModel, ids: Ids, segments: Segments, tick: Tick) -> Scores:
    """Score all segments, and average over them."""
    totals, meter = np.zeros(3), _Meter(tick, segments)
    for group in _groups(model, len(ids), segments):
        sums = np.zeros(3)
        for logits_TBV, targets_TB, inside_TB in _blocks(model, ids, group, meter):
            sums += sum_scores(logits_TBV, targets_TB, inside_TB)
        totals += sums
    return Scores.of_sums(totals, len(ids))


@torch.inference_mode()
def _score_apart(model: CharModel, ids: Ids, segments: Segments, tick: Tick) -> NDArray[np.float64]:
    """Return for each segment its nats and how often the target was the first and among the first five, (S, 3)."""
    meter, of_groups = _Meter(tick, segments), []
    for group in _groups(model, len(ids), segments):
        sums_B3 = np.zeros((len(group.first_S), 3))
        for logits_TBV, targets_TB, _ in _blocks(model, ids, group, meter):
            log_p_TB, rank_TB = _ranked(logits_TBV, targets_TB)
            sums_B3[:, 0] -= log_p_TB.cpu().double().sum(0).numpy()
            for column, k in enumerate((1, 5), start=1):
                sums_B3[:, column] += (rank_TB < k).sum(0).cpu().numpy()
        of_groups.append(sums_B3)
    return np.concatenate(of_groups)


@torch.inference_mode()
def _pace(model: CharModel, ids: Ids, num_streams: int, now: Callable[[], float]) -> float:
    """Return how many characters a second a model reads in this many streams side by side."""
    ids = in_reading_order(model, ids)
    num_streams = min(num_streams, _num_at_once(model), len(ids))
    # A model that sees both sides reads beyond the block, so a short block would look slow.
    length = min(BLOCK_SIZE if model.spec.sees_both_sides else TRIAL_LENGTH, len(ids) // num_streams)
    segments = Segments(np.arange(num_streams) * (len(ids) // num_streams), length, 0)
    seconds = []
    # The first pass is slower than later ones.
    for _ in range(2):
        start = now()
        for block in _blocks(model, ids, segments, _Meter(_ignore, segments)):
            sum_scores(*block)
        seconds.append(now() - start)
    return num_streams * length / max(min(seconds), 1e-9)


def _blocks(model: CharModel, ids: Ids, segments: Segments, meter: _Meter) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Read segments side by side; yield logits_TBV, targets_TB, and inside_TB: whether a target is in the text."""
    first_B, length, warm_up = segments
    spec = model.spec
    largest = BLOCK_SIZE + WARM_UP if spec.sees_both_sides else BLOCK_SIZE
    block_size = max(1, min(largest, MAX_LOGITS // (len(first_B) * spec.num_symbols)))
    device = model.output.weight.device

    def inputs(start: int, end: int) -> Tensor:
        """Return the character before each of the targets `start` to `end`; the start symbol at the text's start."""
        positions_TB = first_B + np.arange(start - 1, end - 1)[:, None]
        tokens_TB = ids[np.clip(positions_TB, 0, len(ids) - 1)].astype(np.int64)
        tokens_TB[positions_TB < 0] = spec.start_id
        return torch.from_numpy(tokens_TB).to(device)

    def right_of(start: int, end: int) -> Tensor:
        """Return the character after each of these targets and up to `WARM_UP` more, then the start symbol."""
        num_left = len(ids) - end - int(first_B[0])
        positions_TB = first_B + np.arange(start + 1, end + min(WARM_UP, num_left) + 1)[:, None]
        tokens_TB = ids[np.minimum(positions_TB, len(ids) - 1)].astype(np.int64)
        tokens_TB[-1] = spec.start_id
        return torch.from_numpy(tokens_TB).to(device)

    state = model.start_state(len(first_B))
    start_1B = torch.full((1, len(first_B)), spec.start_id, device=device)
    state = model.advance(start_1B, state)
    for start in range(-warm_up, 0, block_size):
        end = min(start + block_size, 0)
        state = model.advance(inputs(start, end), state)
        meter.add((end - start) * len(first_B))
    # A segment at the start of the text has had no warm-up.
    begins_B1 = torch.from_numpy(first_B == 0).to(device)[:, None]
    starts = model.start_state(len(first_B))
    state = tuple(torch.where(begins_B1, start, part) for start, part in zip(starts, state, strict=True))
    for start in range(0, length, block_size):
        end = min(start + block_size, length)
        right_TB = right_of(start, end) if spec.sees_both_sides else None
        logits_TBV, state = model(inputs(start, end), state, (), right_TB)
        positions_TB = first_B + np.arange(start, end)[:, None]
        inside_TB = positions_TB < len(ids)
        targets_TB = torch.from_numpy(ids[np.minimum(positions_TB, len(ids) - 1)].astype(np.int64)).to(device)
        yield logits_TBV, targets_TB, torch.from_numpy(inside_TB).to(device)
        meter.add((end - start) * len(first_B))


def sum_scores(logits_TBV: Tensor, targets_TB: Tensor, inside_TB: Tensor) -> NDArray[np.float64]:
    """Sum over a block the nats, and how often the target was the first and among the first five, shape (3,).

    Args:
        logits_TBV: what a model predicts.
        targets_TB: the characters that followed.
        inside_TB: which of them count.
    """
    log_p_TB, rank_TB = _ranked(logits_TBV, targets_TB)
    # Some devices have no float64.
    nats = -(log_p_TB * inside_TB).cpu().double().sum()
    return np.array([float(nats), *(float(((rank_TB < k) & inside_TB).sum()) for k in (1, 5))])


def _ranked(logits_TBV: Tensor, targets_TB: Tensor) -> tuple[Tensor, Tensor]:
    """Return ln p of the targets, and how many characters are more probable than each."""
    log_p_TBV = torch.log_softmax(logits_TBV.float(), dim=-1)
    log_p_TB1 = log_p_TBV.gather(-1, targets_TB[..., None])
    # Equally probable characters rank in the order of their ids, as in sampling.
    ids_V = torch.arange(log_p_TBV.shape[-1], device=log_p_TBV.device)
    is_first_TBV = (log_p_TBV == log_p_TB1) & (ids_V < targets_TB[..., None])
    rank_TB = ((log_p_TBV > log_p_TB1) | is_first_TBV).sum(-1)
    return log_p_TB1[..., 0], rank_TB
