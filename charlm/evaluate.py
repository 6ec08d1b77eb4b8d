"""How well a model predicts a text: nats and bits per character, perplexity, accuracy. Changes no model."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from charlm.errors import OVERFLOW, CorpusError, ModelFileError
from charlm.model import CharModel
from charlm.vocab import Ids

MAX_STREAMS = 64
# Shorter texts are read in one stream; a part of a longer one is at least this long.
MIN_CHARACTERS_PER_STREAM = 2048
# What a stream reads, unscored, before its part: after it the state is what it would be had it read all before.
WARM_UP = 256
BLOCK_SIZE = 256
MAX_LOGITS = 1 << 24
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
    """

    characters: int
    nats_per_character: float
    top1_accuracy: float
    top5_accuracy: float

    @property
    def bits_per_character(self) -> float:
        """Mean of -log2 p."""
        return self.nats_per_character / math.log(2)

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


def evaluate(model: CharModel, ids: Ids, window: int | None = None) -> Scores:
    """Score a text, in float32, without touching the model, its mode, or any random numbers.

    A model that reads backward predicts each character from those after it; one that reads from both sides, from all
    others, of which it has read at least the 256 before it and the 256 after it.

    Args:
        model: in whatever mode; it comes out as it went in.
        ids: the text, shape (N,), N at least 1.
        window: forget everything before each window of that many characters except the one character before it
            (what fixed-context models are measured by); None carries the state through the whole text.

    Raises:
        CorpusError: the text is empty.
        ModelFileError: the model's numbers overflow.
    """
    _refuse_nothing(ids)
    ids = _as_read(model, ids)
    if window is not None:
        window = min(window, len(ids))
        return _score(model, ids, np.arange(0, len(ids), window), window, warm_up=0)
    num_streams = max(1, min(MAX_STREAMS, len(ids) // MIN_CHARACTERS_PER_STREAM))
    length = -(-len(ids) // num_streams)
    return _score(model, ids, np.arange(0, len(ids), length), length, WARM_UP)


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
    tokens_N = np.concatenate([[model.num_symbols], ids[:-1]]).astype(np.int64)
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
    return ids[::-1] if model.direction == "backward" else ids


def _refuse_nothing(ids: Ids) -> None:
    if not len(ids):
        raise CorpusError("there is nothing to evaluate: the text is empty", "choose another part or corpus")


@torch.inference_mode()
def _score(model: CharModel, ids: Ids, first: NDArray[np.int64], length: int, warm_up: int) -> Scores:
    """Score the parts that begin at `first`, each of `length` characters, many side by side."""
    totals = np.zeros(3)
    # Beside others what is near the end of the text would be read from the right after more than one start symbol.
    is_alone = (model.direction == "both") & (first + length + WARM_UP > len(ids))
    together = first[~is_alone]
    # What is read on the right of a block is read again for the next one: blocks must be long, be there few streams.
    at_once = MAX_LOGITS // (model.num_symbols * (BLOCK_SIZE + WARM_UP)) if model.direction == "both" else MAX_STREAMS
    num_groups = -(-len(together) // max(1, min(MAX_STREAMS, at_once)))
    for group in np.array_split(together, num_groups) if num_groups else []:
        totals += _score_group(model, ids, group, length, warm_up)
    for start in first[is_alone]:
        totals += _score_group(model, ids, np.array([start]), min(length, len(ids) - int(start)), warm_up)
    return _mean(totals, len(ids))


def _mean(sums: NDArray[np.float64], num_characters: int) -> Scores:
    # Of numbers that are none every comparison is false, and every character would be the likeliest.
    if not np.isfinite(sums).all():
        raise ModelFileError(*OVERFLOW)
    nats, top1, top5 = sums / num_characters
    return Scores(num_characters, float(nats), float(top1), float(top5))


def _score_group(
    model: CharModel, ids: Ids, first_B: NDArray[np.int64], length: int, warm_up: int
) -> NDArray[np.float64]:
    num_symbols = model.num_symbols
    sees_right = model.direction == "both"
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
        state = model.advance(inputs(start, min(start + block_size, 0)), state)
    begins_B1 = torch.from_numpy(first_B == 0).to(device)[:, None]
    starts = model.start_state(len(first_B))
    state = tuple(torch.where(begins_B1, start, part) for start, part in zip(starts, state, strict=True))
    sums = np.zeros(3)
    for start in range(0, length, block_size):
        end = min(start + block_size, length)
        logits_TBV, state = model(inputs(start, end), state, (), right_of(start, end) if sees_right else None)
        positions_TB = first_B + np.arange(start, end)[:, None]
        inside_TB = positions_TB < len(ids)
        targets_TB = torch.from_numpy(ids[np.minimum(positions_TB, len(ids) - 1)].astype(np.int64)).to(device)
        sums += _sums(logits_TBV, targets_TB, torch.from_numpy(inside_TB).to(device))
    return sums


def _sums(logits_TBV: Tensor, targets_TB: Tensor, inside_TB: Tensor) -> NDArray[np.float64]:
    log_p_TBV = torch.log_softmax(logits_TBV.float(), dim=-1)
    log_p_TB1 = log_p_TBV.gather(-1, targets_TB[..., None])
    # Of equally likely characters the first comes first, as in sampling.
    ids_V = torch.arange(log_p_TBV.shape[-1], device=log_p_TBV.device)
    is_first_TBV = (log_p_TBV == log_p_TB1) & (ids_V < targets_TB[..., None])
    rank_TB = ((log_p_TBV > log_p_TB1) | is_first_TBV).sum(-1)
    # Not every device has numbers of double length.
    nats = -(log_p_TB1[..., 0] * inside_TB).cpu().double().sum()
    return np.array([float(nats), *(float(((rank_TB < k) & inside_TB).sum()) for k in (1, 5))])
