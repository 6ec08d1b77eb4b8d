"""How well a model predicts a text: nats and bits per character, perplexity, accuracy. Changes no model.

Letters, beside those of the models: `S` segments of a text, `B` of them side by side.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from charlm.data.gaps import Gapped
from charlm.data.holdout import Part
from charlm.errors import OVERFLOW, CorpusError, ModelFileError
from charlm.evaluation.segments import MAX_STREAMS, MIN_SEGMENTS, WARM_UP, Segments, sample, whole, windows
from charlm.evaluation.window import Window
from charlm.inference.mixture import Mixture, MixtureReader
from charlm.nn.model import CharModel, State
from charlm.vocab import Ids

BLOCK_SIZE = 256
# The logits of a block, and the gates of a layer, are at most so many numbers, so that a large vocabulary takes no more
# memory. Larger blocks are faster on an accelerator, and where a model sees both sides, because it reads the right
# context again for each of them.
MAX_NUMBERS, MAX_NUMBERS_OF_LARGE_BLOCK = 1 << 20, 1 << 24
MAX_RANKED = 1 << 20
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
        net: of a net with n-grams, the scores of the net alone.
        ngrams: the same of the n-grams alone.
    """

    characters: int
    nats_per_character: float
    top1_accuracy: float
    top5_accuracy: float
    standard_error_nats: float | None = None
    net: Scores | None = None
    ngrams: Scores | None = None

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


def evaluate(
    model: CharModel,
    text: Ids | Part,
    window: int | None = None,
    tick: Tick = _ignore,
    mixture: Mixture | None = None,
) -> Scores:
    """Score a text, in float32, without touching the model, its mode, or any random numbers.

    A backward model predicts each character from those after it. A model that sees both sides predicts each character
    from all others; it reads at least 256 characters before and 256 after it. If the text has several stretches, each
    is read as a text of its own, and so is each document at which the state is reset.

    Args:
        model: in any mode, which does not change.
        text: the text, of at least one character.
        window: start every window of this many characters from the initial state and the one character before it, as
            models with a fixed context are measured; None carries the state through the whole text.
        tick: called after each block with the share of the text that is done, from 0 to 1.
        mixture: n-grams to mix with the model; it reads in one direction then.

    Raises:
        CorpusError: the text is empty.
        ModelFileError: the model's numbers overflow.
    """
    part = Gapped(in_reading_order(model, text))
    if window:
        meter, portions = _Meter(tick, len(part)), windows(part, window)
    else:
        segments = whole(part, model.spec.sees_both_sides)
        meter, portions = _Meter.of(tick, segments), iter([segments])
    sums_P3 = sum(_score(model, part, some, meter, mixture) for some in portions)
    return _averaged(np.asarray(sums_P3), part.num_characters)


def evaluate_sample(
    model: CharModel, text: Ids | Part, num_read: int, tick: Tick = _ignore, mixture: Mixture | None = None
) -> Scores:
    """Score segments that are evenly spaced in a text, or the whole text if it is short enough, as `evaluate` does.

    Each segment has a warm-up of its own, so that the result estimates the score of one state carried through the
    text. The choice of segments depends on the lengths alone. The standard error is that of the mean of independent
    segments.

    Args:
        model: in any mode, which does not change.
        text: the text, of at least one character.
        num_read: how many characters to read, including warm-ups; a text of at most this length is scored whole.
        tick: called after each block with the share that is done, from 0 to 1.
        mixture: n-grams to mix with the model.

    Raises:
        CorpusError: the text is empty.
        ModelFileError: the model's numbers overflow.
    """
    if len(text) <= num_read:
        return evaluate(model, text, None, tick, mixture)
    part = Gapped(in_reading_order(model, text))
    segments = sample(part, num_read)
    sums_PS3 = _score_apart(model, part, segments, tick, mixture)
    characters_S = part.num_characters_of(segments.first_S, segments.last_S)
    # The spread of a single segment is unknown.
    errors = [None] * len(sums_PS3)
    if len(segments) > 1:
        means_PS = sums_PS3[:, :, 0] / np.maximum(characters_S, 1)
        errors = (means_PS.std(axis=1, ddof=1) / math.sqrt(len(segments))).tolist()
    return _averaged(sums_PS3.sum(1), max(1, int(characters_S.sum())), errors)


def _averaged(sums_P3: NDArray[np.float64], num_characters: int, errors: Sequence[float | None] = ()) -> Scores:
    """Return the scores of a net, or of a net and its n-grams together, which also have those of each alone."""
    each = [Scores.of_sums(sums, num_characters) for sums in sums_P3]
    each = [replace(scores, standard_error_nats=error) for scores, error in zip_longest(each, errors)]
    return replace(each[2], net=each[0], ngrams=each[1]) if len(each) > 1 else each[0]


def reading_that_fits(
    model: CharModel,
    text: Ids | Part,
    seconds: float,
    now: Callable[[], float],
    mixture: Mixture | None = None,
) -> tuple[int, float]:
    """Measure how fast a model reads, and return how much of a text `evaluate_sample` can read in the given seconds.

    Args:
        model: the model.
        text: the text, of N characters, at least 1.
        seconds: how long it may take.
        now: a clock, in seconds.
        mixture: n-grams to mix with the model.

    Returns:
        how many characters to read, N if the time is enough for the whole text; and how many seconds that takes.
    """
    part, total = Part.of(text), len(text)
    num_streams = len(whole(part, sees_both_sides=model.spec.sees_both_sides))
    pace = _pace(model, part, num_streams, now, mixture)
    needed = (total + num_streams * WARM_UP) / pace
    if needed <= seconds:
        return total, needed
    if len(sample(part, int(pace * seconds))) < num_streams:
        # Fewer segments side by side are read more slowly: measure again.
        pace = _pace(model, part, MIN_SEGMENTS, now, mixture)
    return max(1, min(int(pace * seconds), total - 1)), seconds


def in_reading_order(model: CharModel, text: Ids | Part) -> Part:
    """Return a text in the order in which a model reads it: reversed for a backward model.

    Raises:
        CorpusError: the text is empty.
    """
    if not len(text):
        raise CorpusError("there is nothing to evaluate: the text is empty", "choose another part or corpus")
    part = Part.of(text)
    return part.backwards() if model.spec.is_backward else part


def _characters_of_block(model: CharModel) -> int:
    """Return how many characters a block has at most, in all streams together."""
    spec = model.spec
    is_large = spec.sees_both_sides or model.output.weight.device.type != "cpu"
    max_numbers = MAX_NUMBERS_OF_LARGE_BLOCK if is_large else MAX_NUMBERS
    return max_numbers // max(spec.num_symbols, len(spec.recurrence.gates) * spec.hidden_size)


def _num_at_once(model: CharModel) -> int:
    # The right context is read again for every block, so long blocks matter more than many streams.
    if not model.spec.sees_both_sides:
        return MAX_STREAMS
    return max(1, min(MAX_STREAMS, _characters_of_block(model) // (BLOCK_SIZE + WARM_UP)))


def _groups(model: CharModel, segments: Segments) -> Iterator[Segments]:
    """Divide segments into groups that are read side by side."""
    # The right context of a segment near the end of its stretch is shorter, so that it can only be read beside others
    # that are as far from the end.
    is_near_S = model.spec.sees_both_sides & (segments.last_S + WARM_UP > segments.ends_S)
    alike = [np.flatnonzero(~is_near_S)]
    left_S = np.where(is_near_S, segments.ends_S - segments.first_S, -1)
    alike += [np.flatnonzero(left_S == left) for left in dict.fromkeys(left_S[is_near_S].tolist())]
    for which in alike:
        num_groups = -(-len(which) // _num_at_once(model))
        yield from (segments[some] for some in (np.array_split(which, num_groups) if num_groups else []))


class _Meter:
    """Counts the characters that were read, and reports their share of all."""

    def __init__(self, tick: Tick, total: int) -> None:
        self._tick, self._total, self._num_read = tick, total, 0

    @classmethod
    def of(cls, tick: Tick, segments: Segments) -> Self:
        """Return one for these segments."""
        return cls(tick, len(segments) * (segments.warm_up + segments.length))

    def add(self, num_read: int) -> None:
        """Count characters that were read."""
        self._num_read += num_read
        self._tick(min(1.0, self._num_read / self._total))


@torch.inference_mode()
def _score(
    model: CharModel, part: Gapped, segments: Segments, meter: _Meter, mixture: Mixture | None
) -> NDArray[np.float64]:
    """Return the sums of `sum_scores` over all segments for each prediction of `_blocks`, (P, 3)."""
    totals_P3 = np.zeros((3 if mixture else 1, 3))
    for group in _groups(model, segments):
        sums_P3 = np.zeros_like(totals_P3)
        for logits, targets_TB, inside_TB in _blocks(model, part, group, meter, mixture):
            sums_P3 += [sum_scores(logits_TBV, targets_TB, inside_TB) for logits_TBV in logits]
        totals_P3 += sums_P3
    return totals_P3


@torch.inference_mode()
def _score_apart(
    model: CharModel, part: Gapped, segments: Segments, tick: Tick, mixture: Mixture | None
) -> NDArray[np.float64]:
    """Return the same sums for each prediction and segment, (P, S, 3)."""
    meter, sums_PS3 = _Meter.of(tick, segments), np.zeros((3 if mixture else 1, len(segments), 3))
    for group in _groups(model, segments):
        sums_PB3 = np.zeros((len(sums_PS3), len(group), 3))
        for logits, targets_TB, inside_TB in _blocks(model, part, group, meter, mixture):
            sums_PB3 += [_sum_scores_apart(logits_TBV, targets_TB, inside_TB) for logits_TBV in logits]
        sums_PS3[:, np.searchsorted(segments.first_S, group.first_S)] = sums_PB3
    return sums_PS3


@torch.inference_mode()
def read_whole(
    model: CharModel, text: Ids | Part, mixture: Mixture | None = None
) -> Iterator[tuple[list[Tensor], Tensor, Tensor]]:
    """Read a text as `evaluate` does, and yield for each block what `_blocks` yields."""
    part = Gapped(in_reading_order(model, text))
    segments = whole(part)
    for group in _groups(model, segments):
        yield from _blocks(model, part, group, _Meter.of(_ignore, segments), mixture)


@torch.inference_mode()
def _pace(model: CharModel, part: Part, num_streams: int, now: Callable[[], float], mixture: Mixture | None) -> float:
    """Return how many characters a second a model reads in this many streams side by side."""
    total = len(part)
    num_streams = min(num_streams, _num_at_once(model), total)
    # A model that sees both sides reads beyond the block, so a short block would look slow.
    length = min(BLOCK_SIZE if model.spec.sees_both_sides else TRIAL_LENGTH, total // num_streams)
    # Which characters it reads does not matter, so gaps between stretches do not either.
    text = Gapped(in_reading_order(model, part.ids[:total]))
    first_S = np.arange(num_streams) * (total // num_streams)
    segments = Segments.of(text, [(0, first_S, first_S + length)], 0)
    seconds = []
    # The first pass is slower than later ones.
    for _ in range(2):
        start = now()
        for block in _blocks(model, text, segments, _Meter.of(_ignore, segments), mixture):
            for logits_TBV in block[0]:
                sum_scores(logits_TBV, *block[1:])
        seconds.append(now() - start)
    return num_streams * length / max(min(seconds), 1e-9)


def _blocks(
    model: CharModel, part: Gapped, segments: Segments, meter: _Meter, mixture: Mixture | None = None
) -> Iterator[tuple[list[Tensor], Tensor, Tensor]]:
    """Read segments side by side; yield logits_TBV of each prediction, targets_TB, and which of them count, inside_TB.

    The predictions are that of the net alone, or those of the net, of its n-grams, and of both together.
    """
    first_B, sees_both_sides = segments.first_S, model.spec.sees_both_sides
    largest = BLOCK_SIZE + WARM_UP if sees_both_sides else BLOCK_SIZE
    block_size = max(1, min(largest, _characters_of_block(model) // len(first_B)))
    there, window = _to(model), Window(part, segments, model.spec.start_id)
    state = _warmed_up(model, window, segments, block_size, meter)
    # N-grams need no more of the warm-up than they are long. Before a stretch stand start symbols, which empty them.
    reader = MixtureReader(mixture, window.left_of(-mixture.ngrams.order, 0).tokens_TB) if mixture else None
    # More is read from the text at once than by the model, because each place of the text takes time.
    for start in range(0, segments.length, largest):
        end = min(start + largest, segments.length)
        read, inside_TB = window.left_of(start, end), first_B + np.arange(start, end)[:, None] < segments.last_S
        if read.resets_TB is not None:
            inside_TB &= ~read.resets_TB
        for first in range(0, end - start, block_size):
            some = slice(first, min(first + block_size, end - start))
            tokens_TB, targets_TB, resets_TB = read.rows(some)
            right = window.right_of(start + some.start, start + some.stop) if sees_both_sides else (None, None)
            inputs = there(tokens_TB), state, (), there(right[0]), there(resets_TB), there(right[1])
            logits_TBV, state = model(*inputs)
            mixed = reader.read(tokens_TB, logits_TBV.float().cpu().numpy()) if reader else ()
            logits = [logits_TBV, *map(there, mixed)]
            yield logits, there(targets_TB), there(inside_TB[some])
            # They need much memory, and so do the next ones.
            logits.clear()
            del logits_TBV, mixed
            meter.add((some.stop - some.start) * len(first_B))


def _to(model: CharModel) -> Callable[[NDArray[Any] | None], Any]:
    """Return what turns an array into a tensor where a model is, and None into None."""
    device = model.output.weight.device
    return lambda array: None if array is None else torch.from_numpy(array).to(device)


def _warmed_up(model: CharModel, window: Window, segments: Segments, block_size: int, meter: _Meter) -> State:
    """Read what stands before segments, and return the state after it."""
    there, start_id, num_streams = _to(model), model.spec.start_id, len(segments)
    tokens_TB = window.left_of(-segments.warm_up, 1).tokens_TB
    # The state before a start symbol is the initial one. Of several in a row, only the last one needs it.
    is_start_TB = tokens_TB == start_id
    is_start_TB[:-1] &= ~is_start_TB[1:]
    starts = model.start_state(num_streams)

    def started_anew(state: State, is_start_B: NDArray[np.bool_]) -> State:
        is_start_B1 = there(is_start_B[:, None])
        return tuple(torch.where(is_start_B1, start, part) for start, part in zip(starts, state, strict=True))

    state = model.advance(there(np.full((1, num_streams), start_id)), starts)
    state = started_anew(state, is_start_TB[0])
    # Resets within a block are slower. A segment at the start of a stretch needs none, only another state at the end.
    begins_B = is_start_TB[-1].copy()
    is_start_TB[-1] = False
    for start in range(0, segments.warm_up, block_size):
        end = min(start + block_size, segments.warm_up)
        resets_TB = is_start_TB[start + 1 : end + 1]
        state = model.advance(there(tokens_TB[start:end]), state, there(resets_TB if resets_TB.any() else None))
        meter.add((end - start) * num_streams)
    return started_anew(state, begins_B)


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


def _sum_scores_apart(logits_TBV: Tensor, targets_TB: Tensor, inside_TB: Tensor) -> NDArray[np.float64]:
    """Return the same sums for each stream, shape (B, 3)."""
    log_p_TB, rank_TB = _ranked(logits_TBV, targets_TB)
    sums = [-(log_p_TB * inside_TB).cpu().double().sum(0)]
    sums += [((rank_TB < k) & inside_TB).sum(0).cpu().double() for k in (1, 5)]
    return torch.stack(sums, dim=-1).numpy()


def _ranked(logits_TBV: Tensor, targets_TB: Tensor) -> tuple[Tensor, Tensor]:
    """Return ln p of the targets, and how many characters are more probable than each."""
    # Some at a time, because there are several more arrays of that size.
    size = max(1, MAX_RANKED // logits_TBV[0].numel())
    ranked = [
        _ranked_together(*some)
        for some in zip(torch.split(logits_TBV, size), torch.split(targets_TB, size), strict=True)
    ]
    log_p_TB, rank_TB = (torch.cat(each) for each in zip(*ranked, strict=True))
    return log_p_TB, rank_TB


def _ranked_together(logits_TBV: Tensor, targets_TB: Tensor) -> tuple[Tensor, Tensor]:
    log_p_TBV = torch.log_softmax(logits_TBV.float(), dim=-1)
    log_p_TB1 = log_p_TBV.gather(-1, targets_TB[..., None])
    # A comparison that yields floats takes a fraction of the time of one that yields booleans.
    numbers_TBV = torch.empty_like(log_p_TBV)
    rank_TB = torch.gt(log_p_TBV, log_p_TB1, out=numbers_TBV).sum(-1)
    is_tied_TB = torch.eq(log_p_TBV, log_p_TB1, out=numbers_TBV).sum(-1) > 1
    if is_tied_TB.any():
        # Equally probable characters rank in the order of their ids, as in sampling.
        ids_V = torch.arange(log_p_TBV.shape[-1], device=log_p_TBV.device)
        is_before_NV = ids_V < targets_TB[is_tied_TB][:, None]
        rank_TB[is_tied_TB] += ((log_p_TBV[is_tied_TB] == log_p_TB1[is_tied_TB]) & is_before_NV).sum(-1)
    return log_p_TB1[..., 0], rank_TB
