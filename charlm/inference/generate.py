"""From logits to characters: temperature, top-k, top-p, min-p, stop, streams. Works on a stepper; prints nothing."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from charlm.errors import OVERFLOW, ModelFileError, UsageError
from charlm.inference.stepper import Floats, Stepper, StepperState


@dataclass(frozen=True)
class Choice:
    """How the next character is drawn.

    Attributes:
        temperature: below 1 the likely becomes likelier, above 1 the rare less rare; 0 always takes the likeliest.
        top_k: draw only from the k likeliest (exactly k, ties in id order); None for all.
        top_p: draw only from the likeliest that together reach this probability; at least one.
        min_p: draw only from those at least this share as probable as the likeliest.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0
    min_p: float = 0.0

    def __post_init__(self) -> None:
        checks = [
            (0 <= self.temperature < float("inf"), f"the temperature must be 0 or more, not {self.temperature}"),
            (self.top_k is None or self.top_k >= 1, f"top-k must be at least 1, not {self.top_k}"),
            (0 < self.top_p <= 1, f"top-p must be above 0 and at most 1, not {self.top_p}"),
            (0 <= self.min_p <= 1, f"min-p must be from 0 to 1, not {self.min_p}"),
        ]
        for holds, message in checks:
            if not holds:
                raise UsageError(message)

    def probabilities(self, logits: Floats) -> NDArray[np.float64]:
        """Return the distributions to draw from, over the last axis, each summing to 1.

        Temperature comes first, then top-k, top-p and min-p, each on what the one before left.
        """
        if self.temperature == 0:
            _refuse_overflow(logits)
            likeliest = logits.argmax(axis=-1, keepdims=True)
            return np.where(np.arange(logits.shape[-1]) == likeliest, 1.0, 0.0)
        p = softmax(logits, self.temperature)
        if self.top_k is None and self.top_p >= 1 and self.min_p <= 0:
            return p
        # Likeliest first; a stable sort keeps ties in id order, so that k means k.
        order = np.argsort(-p, axis=-1, kind="stable")
        left = np.take_along_axis(p, order, axis=-1)
        if self.top_k is not None:
            left[..., self.top_k :] = 0
        left /= left.sum(axis=-1, keepdims=True)
        if self.top_p < 1:
            # A character is kept while those before it have not reached top-p yet.
            reached = np.cumsum(left, axis=-1)[..., :-1] >= self.top_p
            left[..., 1:][reached] = 0
        left[left < self.min_p * left[..., :1]] = 0
        left /= left.sum(axis=-1, keepdims=True)
        np.put_along_axis(p, order, left, axis=-1)
        return p


def softmax(logits: Floats, temperature: float = 1.0) -> NDArray[np.float64]:
    """Turn logits into probabilities over the last axis, in float64, without overflow at any temperature above 0."""
    _refuse_overflow(logits)
    p: NDArray[np.float64] = logits.astype(np.float64)
    p -= p.max(axis=-1, keepdims=True)
    if temperature != 1:
        # Below this a difference of any two float32 numbers could divide to infinity; the result is the same.
        p /= max(temperature, 1e-260)
    np.exp(p, out=p)
    p /= p.sum(axis=-1, keepdims=True)
    return p


def _refuse_overflow(logits: Floats) -> None:
    # Asked this way round it is NaN's answer too; -inf is what cannot be.
    if not (logits < np.inf).all():
        raise ModelFileError(*OVERFLOW)


def draw_seed() -> int:
    """Return a seed short enough to be typed again."""
    return secrets.randbelow(2**31)


def start(stepper: Stepper, prompt: str, unknown: str = "error") -> tuple[Floats, StepperState]:
    """Read a prompt from the start of a text, or with a backward model from its end.

    Without a prompt the text begins as a new line does that is not empty, in a vocabulary that has newlines.

    Raises:
        UnknownCharacterError: the prompt holds characters the model lacks, under `unknown="error"`.
    """
    vocabulary = stepper.vocabulary
    ids_T = vocabulary.encode(prompt, unknown)
    if stepper.is_backward:
        ids_T = ids_T[::-1]
    if prompt or "\n" not in vocabulary or len(vocabulary) == 1:
        return stepper.read(ids_T, *stepper.start())
    newline = vocabulary.encode("\n")
    logits_BV, state = stepper.read(newline, *stepper.start())
    logits_BV[:, newline] = -np.inf
    return logits_BV, state


def stream(
    stepper: Stepper,
    logits_BV: Floats,
    state: StepperState,
    *,
    length: int,
    choice: Choice,
    seeds: Sequence[int],
    stop: Sequence[str] = (),
    lines: int | None = None,
) -> Iterator[tuple[int, str]]:
    """Write texts side by side, one batch step for a character in each.

    Every text has its own random numbers, so its seed gives the same text in any company.

    Args:
        stepper: the model.
        logits_BV: what comes next after the prompt, shape (1, V); each text starts from it.
        state: the state of one stream, from `start`.
        length: characters to draw for each text, the prompt not counted.
        choice: how each is drawn.
        seeds: one for each text.
        stop: texts that end a sample; the one that was met is part of it.
        lines: ends a sample after that many newlines.

    Yields:
        the number of the text and the characters it has grown by, as they are drawn; a backward model's stand
        before those that came earlier.
    """
    random = [np.random.default_rng(seed) for seed in seeds]
    decoders = [stepper.vocabulary.decoder(stepper.is_backward) for _ in seeds]
    order = slice(None, None, -1 if stepper.is_backward else 1)
    endings = [_Ending([text[order] for text in stop], lines) for _ in seeds]
    logits_BV = np.repeat(logits_BV, len(seeds), axis=0)
    state = tuple(tuple(np.repeat(part, len(seeds), axis=0) for part in layer) for layer in state)
    for position in range(length):
        is_last = position == length - 1
        drawn_B = _draw(choice.probabilities(logits_BV), np.array([generator.random() for generator in random]))
        for index, (ending, drawn) in enumerate(zip(endings, drawn_B.tolist(), strict=True)):
            if ending.reached:
                continue
            grown = decoders[index].decode([drawn], final=is_last)
            ending.see(grown[order])
            if grown:
                yield index, grown
        if is_last or all(ending.reached for ending in endings):
            return
        logits_BV, state = stepper.step(drawn_B, state)


def joined(stepper: Stepper, pieces: Iterable[tuple[int, str]], prompt: str, num_texts: int) -> list[str]:
    """Put together what `stream` yields: each text, after the prompt, or with a backward model before it."""
    texts: list[list[str]] = [[] for _ in range(num_texts)]
    for index, grown in pieces:
        texts[index].append(grown)
    if stepper.is_backward:
        return ["".join(reversed(text)) + prompt for text in texts]
    return [prompt + "".join(text) for text in texts]


class _Ending:
    """Watches one text for a stop text or its last line, remembering no more of it than a stop text is long."""

    def __init__(self, stop: Sequence[str], lines: int | None) -> None:
        self.reached = False
        self._stop = stop
        self._longest = max(map(len, stop), default=0)
        self._tail = ""
        self._lines_left = lines

    def see(self, grown: str) -> None:
        if self._lines_left is not None:
            self._lines_left -= grown.count("\n")
            self.reached |= self._lines_left <= 0
        if self._longest:
            self._tail = (self._tail + grown)[-self._longest :]
            self.reached |= any(self._tail.endswith(stop) for stop in self._stop)


def _draw(p_BV: NDArray[np.float64], random_B: NDArray[np.float64]) -> NDArray[np.intp]:
    """Return for each row the first character whose cumulative probability exceeds a number drawn from [0, 1)."""
    cumulative_BV = p_BV.cumsum(axis=-1)
    # Of the sum, not of 1, and below it even where a product is rounded up: some character always exceeds it.
    total_B1 = cumulative_BV[:, -1:]
    threshold_B1 = np.minimum(random_B[:, None] * total_B1, np.nextafter(total_B1, 0))
    drawn_B: NDArray[np.intp] = (cumulative_BV > threshold_B1).argmax(axis=-1)
    return drawn_B
