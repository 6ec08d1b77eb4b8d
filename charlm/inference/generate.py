"""From a prompt to texts: one way to continue it, whichever side the texts grow on."""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from charlm.inference.sampling import Floats, Sampling, draw, require
from charlm.inference.stepper import Stepper, StepperState


class Piece(NamedTuple):
    """Some new characters of one of the texts.

    Attributes:
        number: which of the texts, from 0.
        text: its new characters.
    """

    number: int
    text: str


@dataclass(frozen=True)
class Generation:
    """Texts that start with one prompt and grow side by side; made by `generate`.

    Iterating draws the characters and yields each piece as soon as it is drawn. The pieces of a backward model stand
    before those that came earlier: `in_reading_order` and `texts` put them in their place. Iterating again draws the
    same texts again.

    Attributes:
        stepper: the model.
        prompt: what each text starts with, or with a backward model ends with.
        logits_BV: what comes next after the prompt, shape (1, V).
        state: the state after the prompt.
        length: how many characters to draw for each text.
        sampling: how each is drawn.
        seeds: one for each text.
        stop: strings that end a text; the one that was met is part of it.
        lines: ends a text after that many newlines.
    """

    stepper: Stepper
    prompt: str
    logits_BV: Floats
    state: StepperState
    length: int
    sampling: Sampling
    seeds: tuple[int, ...]
    stop: tuple[str, ...]
    lines: int | None

    def __iter__(self) -> Iterator[Piece]:
        num_texts, is_backward = len(self.seeds), self.stepper.is_backward
        random = [np.random.default_rng(seed) for seed in self.seeds]
        decoders = [self.stepper.vocabulary.decoder(is_backward) for _ in self.seeds]
        order = slice(None, None, -1 if is_backward else 1)
        endings = [_Ending([text[order] for text in self.stop], self.lines) for _ in self.seeds]
        logits_BV = np.repeat(self.logits_BV, num_texts, axis=0)
        state = tuple(tuple(np.repeat(part, num_texts, axis=0) for part in layer) for layer in self.state)
        for position in range(self.length):
            is_last = position == self.length - 1
            # Each text has random numbers of its own, so that it does not depend on the others.
            random_B = np.array([generator.random() for generator in random])
            drawn_B = draw(self.sampling.probabilities(logits_BV), random_B)
            for number, (ending, drawn) in enumerate(zip(endings, drawn_B.tolist(), strict=True)):
                if ending.reached:
                    continue
                new = decoders[number].decode([drawn], final=is_last)
                ending.see(new[order])
                if new:
                    yield Piece(number, new)
            if is_last or all(ending.reached for ending in endings):
                return
            logits_BV, state = self.stepper.step(drawn_B, state)

    def in_reading_order(self, with_prompt: bool = True) -> Iterator[Piece]:
        """Yield pieces that can be written one after the other, the prompt first.

        A text that grows at its beginning is one piece, which comes when all texts are done.
        """
        if self.stepper.is_backward:
            yield from itertools.starmap(Piece, enumerate(self.texts(with_prompt)))
            return
        if with_prompt:
            yield from (Piece(number, self.prompt) for number in range(len(self.seeds)))
        yield from self

    def texts(self, with_prompt: bool = True) -> list[str]:
        """Return the whole texts, with the prompt or without."""
        parts: list[list[str]] = [[self.prompt if with_prompt else ""] for _ in self.seeds]
        for number, new in self:
            parts[number].append(new)
        order = slice(None, None, -1 if self.stepper.is_backward else 1)
        return ["".join(text[order]) for text in parts]


def generate(
    stepper: Stepper,
    prompt: str,
    *,
    length: int,
    sampling: Sampling,
    seeds: Sequence[int],
    stop: Sequence[str] = (),
    lines: int | None = None,
    unknown: str = "error",
) -> Generation:
    """Read a prompt and return the texts that continue it, one for each seed, drawn as they are asked for.

    A backward model writes what stands before the prompt. Each seed gives the same text whatever the others are.

    Args:
        stepper: the model.
        prompt: the text to continue; see `read_prompt`.
        length: how many characters to draw for each text; the prompt is not counted.
        sampling: how each is drawn.
        seeds: one for each text, 0 or more.
        stop: strings that end a text; the one that was met is part of it.
        lines: ends a text after that many newlines.
        unknown: what to do about characters the model lacks: `error`, `skip`, or `replace=C`.

    Raises:
        UsageError: a length, a seed, a number of lines or a stop string is out of its bounds.
        UnknownCharacterError: the prompt holds characters the model lacks, under `unknown="error"`.
    """
    require(length >= 0, f"the length must be 0 or more, not {length}")
    require(lines is None or lines >= 1, f"the number of lines must be at least 1, not {lines}")
    require(all(seed >= 0 for seed in seeds), f"a seed must be 0 or more, not {min(seeds, default=0)}")
    check_stop(stop)
    logits_BV, state = read_prompt(stepper, prompt, unknown)
    return Generation(stepper, prompt, logits_BV, state, length, sampling, tuple(seeds), tuple(stop), lines)


def read_prompt(stepper: Stepper, prompt: str, unknown: str = "error") -> tuple[Floats, StepperState]:
    """Read a prompt from the start of a text, or with a backward model from its end; return what comes next.

    Without a prompt, a text starts as a line does that is not empty, if the vocabulary has newlines.

    Returns:
        logits_BV: shape (1, V); and the state after the prompt.

    Raises:
        UnknownCharacterError: the prompt holds characters the model lacks, under `unknown="error"`.
    """
    vocabulary = stepper.vocabulary
    ids_T = vocabulary.encode(prompt, unknown)
    if prompt or "\n" not in vocabulary or len(vocabulary) == 1:
        return stepper.read(ids_T[::-1] if stepper.is_backward else ids_T)
    newline = vocabulary.encode("\n")
    logits_BV, state = stepper.read(newline)
    logits_BV[:, newline] = -np.inf
    return logits_BV, state


def draw_seed() -> int:
    """Return a random seed that is short enough to be typed again."""
    return secrets.randbelow(2**31)


def check_stop(stop: Sequence[str]) -> None:
    """Refuse an empty stop string.

    Raises:
        UsageError: there is one.
    """
    require("" not in stop, "an empty stop text would end every text at once", "leave `stop` out to stop at no text")


class _Ending:
    """Watches one text for a stop string or its last line; keeps no more of it than a stop string is long."""

    def __init__(self, stop: Sequence[str], lines: int | None) -> None:
        self.reached = False
        self._stop = stop
        self._longest = max(map(len, stop), default=0)
        self._tail = ""
        self._lines_left = lines

    def see(self, new: str) -> None:
        if self._lines_left is not None:
            self._lines_left -= new.count("\n")
            self.reached |= self._lines_left <= 0
        if self._longest:
            self._tail = (self._tail + new)[-self._longest :]
            self.reached |= any(self._tail.endswith(stop) for stop in self._stop)
