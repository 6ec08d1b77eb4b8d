"""From prompts to texts: one way to continue them, whichever side the texts grow on."""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from charlm.inference.sampling import Floats, Sampling, draw, require
from charlm.inference.stepper import Predictor, StepperState, streams_of
from charlm.vocab import Ids, Vocabulary


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
    """Texts that grow side by side, each after its prompt; made by `generate`.

    Iterating draws the characters and yields each piece as soon as it is drawn. The pieces of a backward model stand
    before those that came earlier: `in_reading_order` and `texts` put them in their place. Iterating again draws the
    same texts again.

    Attributes:
        stepper: the model.
        prompts: what each text starts with, or with a backward model ends with.
        logits_BV: what comes next after each prompt, shape (B, V).
        state: the state after each prompt.
        length: how many characters to draw for each text.
        sampling: how each is drawn.
        seeds: one for each text.
        stop: strings that end a text; the one that was met is part of it.
        lines: ends a text after that many line ends.
    """

    stepper: Predictor
    prompts: tuple[str, ...]
    logits_BV: Floats
    state: StepperState
    length: int
    sampling: Sampling
    seeds: tuple[int, ...]
    stop: tuple[str, ...]
    lines: int | None

    def __iter__(self) -> Iterator[Piece]:
        for number, new, _ in self._grow():
            if new:
                yield Piece(number, new)

    def _grow(self) -> Iterator[tuple[int, str, bool]]:
        """Yield what each text grows by: its number, the new characters, and whether the text is complete."""
        growing = [GrowingText(self.stepper, seed, self.stop, self.lines) for seed in self.seeds]
        numbers = list(range(len(growing)))
        logits_BV, state = self.logits_BV, self.state
        if not self.length:
            yield from ((number, "", True) for number in numbers)
            return
        for position in range(self.length):
            is_last = position == self.length - 1
            # Each text has random numbers of its own, so that it does not depend on the others.
            random_B = np.array([text.random.random() for text in growing])
            drawn_B = draw(self.sampling.probabilities(logits_BV), random_B)
            left = []
            for row, (text, drawn) in enumerate(zip(growing, drawn_B.tolist(), strict=True)):
                new, is_complete = text.read(drawn, is_last)
                yield numbers[row], new, is_complete
                if not is_complete:
                    left.append(row)
            if not left:
                return
            if len(left) < len(growing):
                growing, numbers = [growing[row] for row in left], [numbers[row] for row in left]
                drawn_B, state = drawn_B[left], streams_of(state, left)
            logits_BV, state = self.stepper.step(drawn_B, state)

    def in_reading_order(self, with_prompt: bool = True) -> Iterator[Piece]:
        """Yield pieces that can be written one after the other, the prompt first.

        A text that grows at its beginning is one piece, which comes when it is complete.
        """
        if self.stepper.is_backward:
            yield from itertools.starmap(Piece, enumerate(self.completed(with_prompt)))
            return
        if with_prompt:
            yield from itertools.starmap(Piece, enumerate(self.prompts))
        yield from self

    def completed(self, with_prompt: bool = True) -> Iterator[str]:
        """Yield the whole texts in order, each as soon as it and those before it are complete."""
        parts: list[list[str]] = [[prompt if with_prompt else ""] for prompt in self.prompts]
        complete: set[int] = set()
        order = slice(None, None, -1 if self.stepper.is_backward else 1)
        number = 0
        for grown, new, is_complete in self._grow():
            parts[grown].append(new)
            if is_complete:
                complete.add(grown)
            while number in complete:
                complete.remove(number)
                yield "".join(parts[number][order])
                number += 1

    def texts(self, with_prompt: bool = True) -> list[str]:
        """Return the whole texts, with the prompt or without."""
        return list(self.completed(with_prompt))


def generate(
    stepper: Predictor,
    prompt: str | Sequence[str],
    *,
    length: int,
    sampling: Sampling,
    seeds: Sequence[int],
    stop: Sequence[str] = (),
    lines: int | None = None,
    unknown: str = "error",
) -> Generation:
    """Read a prompt and return the texts that continue it, one for each seed, drawn as they are asked for.

    A backward model writes what stands before the prompt. Each seed gives the same text whatever the other texts are.

    Args:
        stepper: the model.
        prompt: the text to continue, or one for each seed; see `read_prompts`.
        length: how many characters to draw for each text; the prompt is not counted.
        sampling: how each is drawn.
        seeds: one for each text, 0 or more.
        stop: strings that end a text; the one that was met is part of it.
        lines: ends a text after that many line ends: LF, CR LF, or a CR alone.
        unknown: what to do about characters the model lacks: `error`, `skip`, or `replace=C`.

    Raises:
        UsageError: a length, a seed, a number of lines or a stop string is out of its bounds.
        UnknownCharacterError: a prompt holds characters the model lacks, under `unknown="error"`.
    """
    require(length >= 0, f"the length must be 0 or more, not {length}")
    require(lines is None or lines >= 1, f"the number of lines must be at least 1, not {lines}")
    require(all(seed >= 0 for seed in seeds), f"a seed must be 0 or more, not {min(seeds, default=0)}")
    check_stop(stop)
    prompts = (prompt,) * len(seeds) if isinstance(prompt, str) else tuple(prompt)
    # A prompt of several texts is read once.
    row_of = {each: row for row, each in enumerate(dict.fromkeys(prompts))}
    rows = [row_of[each] for each, _ in zip(prompts, seeds, strict=True)]
    logits_BV, state = read_prompts(stepper, list(row_of), unknown)
    return Generation(
        stepper,
        prompts,
        logits_BV[rows],
        streams_of(state, rows),
        length,
        sampling,
        tuple(seeds),
        tuple(stop),
        lines,
    )


def read_prompt(stepper: Predictor, prompt: str, unknown: str = "error") -> tuple[Floats, StepperState]:
    """Read one prompt, see `read_prompts`; return what comes next, shape (1, V), and the state after the prompt."""
    return read_prompts(stepper, [prompt], unknown)


def read_prompts(stepper: Predictor, prompts: Sequence[str], unknown: str = "error") -> tuple[Floats, StepperState]:
    """Read prompts side by side from the start of a text, or with a backward model from its end.

    Returns:
        logits_BV: what comes next after each, shape (B, V); and the state after each prompt.

    Raises:
        UnknownCharacterError: a prompt holds characters the model lacks, under `unknown="error"`.
    """
    read = [prompt_symbols(stepper, prompt, unknown) for prompt in prompts]
    logits_BV, state = stepper.read_each([ids_T for ids_T, _ in read])
    for row, (_, excluded) in enumerate(read):
        logits_BV[row, excluded] = -np.inf
    return logits_BV, state


def prompt_symbols(stepper: Predictor, prompt: str, unknown: str = "error") -> tuple[Ids, Ids]:
    """Return the symbols to read for a prompt, in the order of reading, and those that cannot be the next one.

    Without a prompt, a text starts as a line does that is not empty, if the vocabulary has newlines.

    Raises:
        UnknownCharacterError: the prompt holds characters the model lacks, under `unknown="error"`.
    """
    vocabulary = stepper.vocabulary
    ids_T = vocabulary.encode(prompt, unknown)
    if not prompt and "\n" in vocabulary and len(vocabulary) > 1:
        newline = vocabulary.encode("\n")
        return newline, newline
    return ids_T[:: -1 if stepper.is_backward else 1], ids_T[:0]


def draw_seed() -> int:
    """Return a random seed that is short enough to be typed again."""
    return secrets.randbelow(2**31)


def check_stop(stop: Sequence[str]) -> None:
    """Refuse an empty stop string.

    Raises:
        UsageError: there is one.
    """
    require("" not in stop, "an empty stop text would end every text at once", "leave `stop` out to stop at no text")


class GrowingText:
    """One text while it grows: its random numbers, the characters it has not completed, and where it ends.

    Args:
        stepper: the model.
        seed: of the random numbers.
        stop: strings that end the text.
        lines: ends it after that many line ends.

    Attributes:
        random: its random numbers.
    """

    def __init__(self, stepper: Predictor, seed: int, stop: Sequence[str] = (), lines: int | None = None) -> None:
        vocabulary, is_backward = stepper.vocabulary, stepper.is_backward
        self.random = np.random.default_rng(seed)
        self._decoder = vocabulary.decoder(is_backward)
        self._order = slice(None, None, -1 if is_backward else 1)
        self._ending = _Ending([text[self._order] for text in stop], lines, vocabulary, is_backward)

    @property
    def is_stopped(self) -> bool:
        """Whether a stop string or the last line has ended it."""
        return self._ending.reached

    def read(self, drawn: int, is_last: bool) -> tuple[str, bool]:
        """Return the characters that a drawn symbol completes, and whether the text ends with them."""
        new = self._decoder.decode([drawn], final=is_last)
        kept = self._ending.keep(new[self._order])[self._order]
        return kept, is_last or self._ending.reached


class _Ending:
    """Watches one text for a stop string or its last line; keeps no more of it than a stop string is long."""

    def __init__(self, stop: Sequence[str], lines: int | None, vocabulary: Vocabulary, is_backward: bool) -> None:
        self.reached = False
        self._stop = stop
        self._longest = max(map(len, stop), default=0)
        self._tail = ""
        self._lines_left = lines
        # CR LF is one line end. Whether one character of it stands alone is known only when the next one is.
        self._first, self._second = "\n\r" if is_backward else "\r\n"
        self._may_be_two = self._second in vocabulary
        self._is_waiting = False

    def keep(self, new: str) -> str:
        """Return the new characters that still belong to the text, in the order in which they were drawn."""
        for index, character in enumerate(new):
            if self._lines_left is not None:
                was_waiting, self._is_waiting = self._is_waiting, False
                if was_waiting and character != self._second and self._ends_a_line():
                    return new[:index]
                if character == self._first and self._may_be_two:
                    self._is_waiting = True
                elif character in "\r\n":
                    self._ends_a_line()
            if self._longest:
                self._tail = (self._tail + character)[-self._longest :]
                self.reached |= any(self._tail.endswith(stop) for stop in self._stop)
            if self.reached:
                return new[: index + 1]
        return new

    def _ends_a_line(self) -> bool:
        """Count a line end; return whether it was the last one."""
        assert self._lines_left is not None
        self._lines_left -= 1
        self.reached |= self._lines_left <= 0
        return self.reached
