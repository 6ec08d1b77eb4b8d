"""How well a model predicts a text: nats and bits per character, perplexity, accuracy. Changes no model."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from charlm.errors import OVERFLOW, CorpusError, ModelFileError
from charlm.nn.model import CharModel
from charlm.vocab import Ids

MAX_STREAMS = 64
# Shorter texts are read in one stream; a part of a longer one is at least this long.
MIN_CHARACTERS_PER_STREAM = 2048
# What a stream reads, unscored, before its part: after it the state is what it would be had it read all before.
WARM_UP = 256
BLOCK_SIZE = 256
MAX_LOGITS = 1 << 24
# Of a sample: the characters of a segment, and of a small one how many segments there are at the least.
SEGMENT_LENGTH = 2048
MIN_SEGMENTS = 16
# Characters of each stream that are read to find out how fast a model reads.
TRIAL_LENGTH = 32
# Called with the share of an evaluation that is done; what it raises ends the evaluation.
Tick = Callable[[float], None]
# Dynamic evaluation: characters between two updates, their rate, the share of the way back to the weights it began
# with, and how slowly the running size of a gradient changes.
SEGMENT_SIZE = 32
DYNAMIC_RATE = 3e-4
DYNAMIC_RETURN = 2e-3
DYNAMIC_DECAY = 0.999
DYNAMIC_EPSILON = 1e-5


@dataclass(frozen=True)
class Scores:
    """How well each character was predicted from what the model reads of the others, averaged over all characters.

    Attributes:
        characters: how many were scored: every one, the first from the start of a text.
        nats_per_character: mean of -ln p.
        top1_accuracy: share of characters that were the likeliest.
        top5_accuracy: share that were among the five likeliest.
        standard_error_nats: of the mean, where a sample stands for the whole text; None where all of it was scored.
    """

    characters: int
    nats_per_character: float
    top1_accuracy: float
    top5_accuracy: float
    standard_error_nats: float | None = None

    @property
    def bits_per_character(self) -> float:
        """Mean of -log2 p."""
        return self.nats_per_character / math.log(2)

    @property
    def standard_error_bits(self) -> float | None:
        """The standard error of `bits_per_character`; None where all of the text was scored."""
        return None if self.standard_error_nats is None else self.standard_error_nats / math.log(2)

    @property
    def perplexity_per_character(self) -> float:
        """The number of equally likely characters this is as hard as; exp of the mean, taken once."""
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
    """Do nothing about how far an evaluation is."""


def evaluate(model: CharModel, ids: Ids, window: int | None = None, tick: Tick = _ignore) -> Scores:
    """Score a text, in float32, without touching the model, its mode, or any random numbers.

    A model that reads backward predicts each character from those after it; one that reads from both sides, from all
    others, of which it has read at least the 256 before it and the 256 after it.

    Args:
        model: in whatever mode; it comes out as it went in.
        ids: the text, shape (N,), N at least 1.
        window: forget everything before each window of that many characters except the one character before it
            (what fixed-context models are measured by); None carries the state through the whole text.
        tick: told after each block of the text how much is done, from 0 to 1.

    Raises:
        CorpusError: the text is empty.
        ModelFileError: the model's numbers overflow.
    """
    _refuse_nothing(ids)
    ids = _as_read(model, ids)
    if window is not None:
        window = min(window, len(ids))
        return _score(model, ids, Segments(np.arange(0, len(ids), window), window, 0), tick)
    length = -(-len(ids) // _num_streams(len(ids)))
    return _score(model, ids, Segments(np.arange(0, len(ids), length), length, WARM_UP), tick)


def evaluate_sample(model: CharModel, ids: Ids, num_read: int, tick: Tick = _ignore) -> Scores:
    """Score segments at evenly spaced places of a text, or all of a text that is short enough, as `evaluate` does.

    Each segment has a warm-up of its own, so that the figure estimates that of one state carried through the text.
    Which segments are scored depends on the two lengths alone. The standard error is that of the mean of independent
    segments.

    Args:
        model: in whatever mode; it comes out as it went in.
        ids: the text, shape (N,), N at least 1.
        num_read: how many characters to read, those of the warm-ups included; a text that is no longer is scored whole.
        tick: told after each block how much is done, from 0 to 1.

    Raises:
        CorpusError: the text is empty.
        ModelFileError: the model's numbers overflow.
    """
    if len(ids) <= num_read:
        return evaluate(model, ids, tick=tick)
    segments = _spread(len(ids), num_read)
    sums_S3 = _score_apart(model, _as_read(model, ids), segments, tick)
    scores = _mean(sums_S3.sum(0), len(sums_S3) * segments.length)
    means_S = sums_S3[:, 0] / segments.length
    # A single segment says nothing of how far others are from it.
    error = float(means_S.std(ddof=1) / math.sqrt(len(means_S))) if len(means_S) > 1 else None
    return replace(scores, standard_error_nats=error)


def reading_that_fits(model: CharModel, ids: Ids, seconds: float, now: Callable[[], float]) -> tuple[int, float]:
    """Try how fast a model reads, and return how much of a text `evaluate_sample` can read in so many seconds.

    Args:
        model: the model.
        ids: the text, shape (N,), N at least 1.
        seconds: how long it may take.
        now: a clock, in seconds.

    Returns:
        how many characters to read: N where the whole text fits; and how many seconds that takes.
    """
    num_streams = _num_streams(len(ids))
    pace = _pace(model, ids, num_streams, now)
    whole = (len(ids) + num_streams * WARM_UP) / pace
    if whole <= seconds:
        return len(ids), whole
    if len(_spread(len(ids), int(pace * seconds)).first_S) < num_streams:
        # So few segments side by side read more slowly.
        pace = _pace(model, ids, MIN_SEGMENTS, now)
    return max(1, min(int(pace * seconds), len(ids) - 1)), seconds


def evaluate_dynamically(model: CharModel, ids: Ids) -> Scores:
    """Score a text with a model that learns from it as it goes: each segment first scored, then learned.

    One stream, in float32; every segment is a step of gradient descent, scaled by the running size of each gradient,
    which also draws the weights back to those they began with. The model itself is not touched.

    Args:
        model: in whatever mode; it comes out as it went in.
        ids: the text, shape (N,), N at least 1.

    Raises:
        CorpusError: the text is empty.

    Source: Krause et al. 2018, "Dynamic evaluation of neural sequence models", with the gradients' sizes taken from
    the text as it goes and not beforehand from the training text.
    """
    _refuse_nothing(ids)
    model, ids = copy.deepcopy(model), _as_read(model, ids)
    device = model.output.weight.device
    weights = list(model.parameters())
    origins = [weight.detach().clone() for weight in weights]
    mean_squares = [torch.zeros_like(weight) for weight in weights]
    tokens_N = np.concatenate([[model.spec.num_symbols], ids[:-1]]).astype(np.int64)
    state, sums = model.start_state(1), np.zeros(3)
    for step, start in enumerate(range(0, len(ids), SEGMENT_SIZE), start=1):
        tokens_TB = torch.from_numpy(tokens_N[start : start + SEGMENT_SIZE, None]).to(device)
        targets_TB = torch.from_numpy(ids[start : start + SEGMENT_SIZE, None].astype(np.int64)).to(device)
        logits_TBV, state = model(tokens_TB, state)
        sums += _sums(logits_TBV.detach(), targets_TB, torch.ones_like(targets_TB))
        state = tuple(part_LBH.detach() for part_LBH in state)
        loss = functional.cross_entropy(logits_TBV.flatten(0, 1), targets_TB.flatten())
        # A learned initial state is a weight that only the first segment depends on.
        gradients = torch.autograd.grad(loss, weights, allow_unused=True, materialize_grads=True)
        with torch.no_grad():
            for weight, origin, mean_square, gradient in zip(weights, origins, mean_squares, gradients, strict=True):
                mean_square.mul_(DYNAMIC_DECAY).addcmul_(gradient, gradient, value=1 - DYNAMIC_DECAY)
                size = (mean_square / (1 - DYNAMIC_DECAY**step)).sqrt_().add_(DYNAMIC_EPSILON)
                weight.lerp_(origin, DYNAMIC_RETURN).addcdiv_(gradient, size, value=-DYNAMIC_RATE)
    return _mean(sums, len(ids))


def _as_read(model: CharModel, ids: Ids) -> Ids:
    return ids[::-1] if model.spec.is_backward else ids


def _refuse_nothing(ids: Ids) -> None:
    if not len(ids):
        raise CorpusError("there is nothing to evaluate: the text is empty", "choose another part or corpus")


class Segments(NamedTuple):
    """Which parts of a text are scored.

    Attributes:
        first_S: where each begins, in order.
        length: how many characters each has; the last may end with the text before that.
        warm_up: how many characters are read before each, unscored.
    """

    first_S: NDArray[np.int64]
    length: int
    warm_up: int


def _num_streams(num_characters: int) -> int:
    return max(1, min(MAX_STREAMS, num_characters // MIN_CHARACTERS_PER_STREAM))


def _spread(num_characters: int, num_read: int) -> Segments:
    """Return segments in the middle of equal parts of a text; with their warm-ups they have `num_read` characters."""
    num_segments = min(num_characters, max(MIN_SEGMENTS, num_read // (SEGMENT_LENGTH + WARM_UP)))
    num_each = max(2, num_read // num_segments)
    warm_up = min(WARM_UP, num_each // 2)
    length = max(1, min(SEGMENT_LENGTH, num_each - warm_up, num_characters // num_segments))
    middle_S = (2 * np.arange(num_segments) + 1) * num_characters // (2 * num_segments)
    return Segments(middle_S - length // 2, length, warm_up)


def _num_at_once(model: CharModel) -> int:
    # What is read on the right of a block is read again for the next one: blocks must be long, be there few streams.
    if not model.spec.sees_both_sides:
        return MAX_STREAMS
    return max(1, min(MAX_STREAMS, MAX_LOGITS // (model.spec.num_symbols * (BLOCK_SIZE + WARM_UP))))


def _groups(model: CharModel, num_characters: int, segments: Segments) -> Iterator[Segments]:
    """Go through segments, many side by side."""
    first_S, length, warm_up = segments
    # Beside others what is near the end of the text would be read from the right after more than one start symbol.
    is_alone_S = (model.spec.sees_both_sides) & (first_S + length + WARM_UP > num_characters)
    together = first_S[~is_alone_S]
    num_groups = -(-len(together) // _num_at_once(model))
    for first_B in np.array_split(together, num_groups) if num_groups else []:
        yield Segments(first_B, length, warm_up)
    for start in first_S[is_alone_S]:
        yield Segments(np.array([start]), min(length, num_characters - int(start)), warm_up)


class _Meter:
    """Tells how much has been read of what there is to read."""

    def __init__(self, tick: Tick, segments: Segments) -> None:
        self._tick, self._num_read = tick, 0
        self._total = len(segments.first_S) * (segments.warm_up + segments.length)

    def add(self, num_read: int) -> None:
        """Count characters that were read."""
        self._num_read += num_read
        self._tick(min(1.0, self._num_read / self._total))


@torch.inference_mode()
def _score(model: CharModel, ids: Ids, segments: Segments, tick: Tick) -> Scores:
    """Score all segments together."""
    totals, meter = np.zeros(3), _Meter(tick, segments)
    for group in _groups(model, len(ids), segments):
        sums = np.zeros(3)
        for logits_TBV, targets_TB, inside_TB in _blocks(model, ids, group, meter):
            sums += _sums(logits_TBV, targets_TB, inside_TB)
        totals += sums
    return _mean(totals, len(ids))


@torch.inference_mode()
def _score_apart(model: CharModel, ids: Ids, segments: Segments, tick: Tick) -> NDArray[np.float64]:
    """Return for each segment, shape (S, 3), its nats and how often the first and one of the first five was right."""
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
    """Return how many characters a second a model reads, so many streams side by side."""
    ids = _as_read(model, ids)
    num_streams = min(num_streams, _num_at_once(model), len(ids))
    # What sees both sides reads further than its block, and a short one would look slow.
    length = min(BLOCK_SIZE if model.spec.sees_both_sides else TRIAL_LENGTH, len(ids) // num_streams)
    segments = Segments(np.arange(num_streams) * (len(ids) // num_streams), length, 0)
    seconds = []
    # The first time takes longer than any other.
    for _ in range(2):
        began = now()
        for block in _blocks(model, ids, segments, _Meter(_ignore, segments)):
            _sums(*block)
        seconds.append(now() - began)
    return num_streams * length / max(min(seconds), 1e-9)


def _mean(sums: NDArray[np.float64], num_characters: int) -> Scores:
    # Of numbers that are none every comparison is false, and every character would be the likeliest.
    if not np.isfinite(sums).all():
        raise ModelFileError(*OVERFLOW)
    nats, top1, top5 = sums / num_characters
    return Scores(num_characters, float(nats), float(top1), float(top5))


def _blocks(model: CharModel, ids: Ids, segments: Segments, meter: _Meter) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Read segments side by side; yield logits_TBV, targets_TB, and inside_TB, which of these are in the text."""
    first_B, length, warm_up = segments
    num_symbols = model.spec.num_symbols
    sees_right = model.spec.sees_both_sides
    largest = BLOCK_SIZE + WARM_UP if sees_right else BLOCK_SIZE
    block_size = max(1, min(largest, MAX_LOGITS // (len(first_B) * num_symbols)))
    device = model.output.weight.device

    def inputs(start: int, end: int) -> Tensor:
        """Return what stands before the targets `start` to `end` of each part: the start symbol before the first."""
        positions_TB = first_B + np.arange(start - 1, end - 1)[:, None]
        tokens_TB = ids[np.clip(positions_TB, 0, len(ids) - 1)].astype(np.int64)
        tokens_TB[positions_TB < 0] = num_symbols
        return torch.from_numpy(tokens_TB).to(device)

    def right_of(start: int, end: int) -> Tensor:
        """Return what stands after the same targets, and `WARM_UP` more: the start symbol after all of it."""
        num_left = len(ids) - end - int(first_B[0])
        positions_SB = first_B + np.arange(start + 1, end + min(WARM_UP, num_left) + 1)[:, None]
        tokens_SB = ids[np.minimum(positions_SB, len(ids) - 1)].astype(np.int64)
        tokens_SB[-1] = num_symbols
        return torch.from_numpy(tokens_SB).to(device)

    state = model.start_state(len(first_B))
    start_1B = torch.full((1, len(first_B)), num_symbols, device=device)
    state = model.advance(start_1B, state)
    for start in range(-warm_up, 0, block_size):
        end = min(start + block_size, 0)
        state = model.advance(inputs(start, end), state)
        meter.add((end - start) * len(first_B))
    begins_B1 = torch.from_numpy(first_B == 0).to(device)[:, None]
    starts = model.start_state(len(first_B))
    state = tuple(torch.where(begins_B1, start, part) for start, part in zip(starts, state, strict=True))
    for start in range(0, length, block_size):
        end = min(start + block_size, length)
        logits_TBV, state = model(inputs(start, end), state, (), right_of(start, end) if sees_right else None)
        positions_TB = first_B + np.arange(start, end)[:, None]
        inside_TB = positions_TB < len(ids)
        targets_TB = torch.from_numpy(ids[np.minimum(positions_TB, len(ids) - 1)].astype(np.int64)).to(device)
        yield logits_TBV, targets_TB, torch.from_numpy(inside_TB).to(device)
        meter.add((end - start) * len(first_B))


def _sums(logits_TBV: Tensor, targets_TB: Tensor, inside_TB: Tensor) -> NDArray[np.float64]:
    log_p_TB, rank_TB = _ranked(logits_TBV, targets_TB)
    # Not every device has numbers of double length.
    nats = -(log_p_TB * inside_TB).cpu().double().sum()
    return np.array([float(nats), *(float(((rank_TB < k) & inside_TB).sum()) for k in (1, 5))])


def _ranked(logits_TBV: Tensor, targets_TB: Tensor) -> tuple[Tensor, Tensor]:
    """Return ln p of the targets, and how many characters were likelier than each."""
    log_p_TBV = torch.log_softmax(logits_TBV.float(), dim=-1)
    log_p_TB1 = log_p_TBV.gather(-1, targets_TB[..., None])
    # Of equally likely characters the first comes first, as in sampling.
    ids_V = torch.arange(log_p_TBV.shape[-1], device=log_p_TBV.device)
    is_first_TBV = (log_p_TBV == log_p_TB1) & (ids_V < targets_TB[..., None])
    rank_TB = ((log_p_TBV > log_p_TB1) | is_first_TBV).sum(-1)
    return log_p_TB1[..., 0], rank_TB
