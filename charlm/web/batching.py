"""Texts of many requests, read and continued side by side by one thread. Knows no network.

The stepper computes each text bit for bit the same whatever stands beside it, so texts join and leave at any step.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from threading import Condition, Lock, Thread
from typing import Literal, NamedTuple

import numpy as np

from charlm.errors import OVERFLOW, ModelFileError
from charlm.inference.generate import GrowingText
from charlm.inference.sampling import Floats, Sampling, draw, log2_probabilities
from charlm.inference.stepper import Predictor, StepperState, side_by_side, streams_of
from charlm.vocab import Ids

# Why a text has ended: it has its length, it met a stop string or its last line, its time was over, the server stops.
End = Literal["length", "stop", "time", "shutdown"]


class Score(NamedTuple):
    """What a symbol cost, and what the most probable ones would have cost in its place.

    Attributes:
        symbol: its id.
        bits: minus the base-2 logarithm of its probability.
        expected: the ids and bits of the most probable symbols, the most probable first.
    """

    symbol: int
    bits: float
    expected: list[tuple[int, float]]


class News(NamedTuple):
    """What has happened to a text: a symbol was drawn, or it has ended without one.

    Attributes:
        number: which text of its work, from 0.
        text: the characters that the symbol completes.
        score: what the symbol cost, if that was asked for.
        end: why the text has ended with it; None while it grows.
    """

    number: int
    text: str
    score: Score | None
    end: End | None


class Text:
    """A text to read and then to continue.

    Args:
        ids_T: the symbols to read, in the order of reading.
        excluded: symbols that cannot be the next one.
        length: how many symbols to draw.
        sampling: how each is drawn.
        growing: how it grows; needed if the length is above 0.
        top: name so many expected symbols for each symbol that is scored; None scores none.
        scores_reading: whether the symbols to read are scored too.

    Attributes:
        end: why it has ended, or None.
        num_drawn: how many symbols were drawn.
        read_scores: what each symbol cost that was read, in the order of reading.
        next_logits_V: what comes after the symbols that were read, once all of them are.
        next_symbol: the symbol to read next; None for the start of the text.
    """

    def __init__(
        self,
        ids_T: Ids,
        excluded: Ids,
        length: int = 0,
        sampling: Sampling | None = None,
        growing: GrowingText | None = None,
        top: int | None = None,
        scores_reading: bool = False,
    ) -> None:
        self._ids, self._excluded = ids_T.tolist(), excluded
        self._length, self._growing, self._top, self._scores_reading = length, growing, top, scores_reading
        self.sampling = sampling or Sampling()
        self.end: End | None = None
        self.num_drawn = self._num_read = 0
        self.read_scores: list[Score] = []
        self.next_logits_V: Floats | None = None
        self.next_symbol: int | None = None

    def take(self, logits_V: Floats) -> bool:
        """Take what comes after the symbol that was just read; return whether the next one is to be drawn."""
        if self._num_read < len(self._ids):
            self.next_symbol = self._ids[self._num_read]
            self._num_read += 1
            if self._scores_reading:
                self.read_scores.append(self._score(self.next_symbol, logits_V))
            return False
        if self.next_logits_V is None:
            logits_V[self._excluded] = -np.inf
            self.next_logits_V = logits_V.copy()
            if not self._length:
                self.end = "length"
        return self.end is None

    def random(self) -> float:
        """Return the random number for the next symbol."""
        assert self._growing is not None
        return self._growing.random.random()

    def grow(self, symbol: int, logits_V: Floats) -> tuple[str, Score | None]:
        """Take a symbol that was drawn; return the characters that it completes, and what it cost."""
        assert self._growing is not None
        self.next_symbol = symbol
        self.num_drawn += 1
        is_last = self.num_drawn == self._length
        new, is_complete = self._growing.read(symbol, is_last)
        if is_complete:
            self.end = "stop" if self._growing.is_stopped else "length"
        return new, None if self._top is None else self._score(symbol, logits_V)

    def _score(self, symbol: int, logits_V: Floats) -> Score:
        bits_V = 0 - log2_probabilities(logits_V)
        order = np.argsort(bits_V, kind="stable")[: self._top or 0].tolist()
        expected = [(index, float(bits_V[index])) for index in order if np.isfinite(bits_V[index])]
        return Score(symbol, float(bits_V[symbol]), expected)


class Work:
    """The texts of one request: the thread of a batch works on them, and a coroutine waits for what is new.

    Args:
        texts: at least one.
        seconds: how long they may take together, waiting included.
    """

    def __init__(self, texts: Sequence[Text], seconds: float) -> None:
        self.texts = list(texts)
        self.deadline = time.monotonic() + seconds
        self.is_abandoned = False
        self.error: Exception | None = None
        self._lock = Lock()
        self._news: list[News] = []
        self._num_open = len(self.texts)
        self._waiter: asyncio.Future[None] | None = None
        self._waits_for_end = False

    def put(self, news: Sequence[News]) -> None:
        """Hand over what is new; called by the thread of the batch."""
        with self._lock:
            self._news += news
            self._num_open -= sum(each.end is not None for each in news)
            self._wake()

    def fail(self, error: Exception) -> None:
        """End all texts with an error; called by the thread of the batch."""
        with self._lock:
            self.error, self._num_open = error, 0
            self._wake()

    async def news(self, until_end: bool = False) -> list[News]:
        """Wait until there is something new, or until all texts have ended; an empty list means that all is known.

        Raises:
            Exception: what has gone wrong with the work.
        """
        while True:
            with self._lock:
                if self.error is not None:
                    raise self.error
                if not self._num_open or (self._news and not until_end):
                    news, self._news = self._news, []
                    return news
                waiter = self._waiter = asyncio.get_running_loop().create_future()
                self._waits_for_end = until_end
            await waiter

    def _wake(self) -> None:
        if self._waiter is None or (self._waits_for_end and self._num_open):
            return
        waiter, self._waiter = self._waiter, None
        # The loop may have been closed since.
        with suppress(RuntimeError):
            waiter.get_loop().call_soon_threadsafe(_set_done, waiter)


def _set_done(waiter: asyncio.Future[None]) -> None:
    # It may have been cancelled.
    if not waiter.done():
        waiter.set_result(None)


class Batch:
    """One thread that owns a model, and steps all texts side by side.

    Args:
        stepper: the model.
        max_side_by_side: how many texts are stepped together; others wait.
        max_waiting: how many texts may wait.
        report: called with an exception that nobody expects.
    """

    def __init__(
        self,
        stepper: Predictor,
        max_side_by_side: int,
        max_waiting: int,
        report: Callable[[Exception], None] = lambda error: None,
    ) -> None:
        self.stepper = stepper
        self._most, self._max_waiting, self._report = max_side_by_side, max_waiting, report
        self._changed = Condition()
        self._waiting: deque[tuple[Work, int]] = deque()
        self._rows: list[tuple[Work, int]] = []
        self._state: StepperState = stepper.before(0)
        self._is_closed = self._ends_all = False
        self.num_drawn = 0
        self._thread = Thread(target=self._run, name="charlm-batch", daemon=True)
        self._thread.start()

    def add(self, work: Work) -> bool:
        """Start work, or return False: too many texts wait already."""
        with self._changed:
            num_free = self._most - len(self._rows) + self._max_waiting
            if self._is_closed or self._ends_all or len(self._waiting) + len(work.texts) > num_free:
                return False
            self._waiting += [(work, number) for number in range(len(work.texts))]
            self._changed.notify()
            return True

    def leave(self, work: Work) -> None:
        """Drop what is left of a work that nobody waits for any more."""
        work.is_abandoned = True

    def end_all(self) -> None:
        """End all texts as they are, and start no more."""
        with self._changed:
            self._ends_all = True

    def close(self) -> None:
        """End the thread."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        self._thread.join()

    @property
    def num_running(self) -> int:
        """How many texts are stepped."""
        return len(self._rows)

    @property
    def num_waiting(self) -> int:
        """How many texts wait."""
        return len(self._waiting)

    def _run(self) -> None:
        while True:
            with self._changed:
                while not (self._waiting or self._rows or self._is_closed):
                    self._changed.wait()
                if self._is_closed:
                    return
            try:
                self._renew_rows()
                if self._rows:
                    self._step()
            except Exception as error:
                self._report(error)
                for work in {id(work): work for work, _ in self._rows}.values():
                    work.fail(error)
                self._rows, self._state = [], self.stepper.before(0)

    def _renew_rows(self) -> None:
        """Let texts leave that have ended, and others join."""
        now = time.monotonic()
        with self._changed:
            waiting = [place for place in self._waiting if self._stays(place, now)]
            self._waiting = deque(waiting)
        kept = [row for row, place in enumerate(self._rows) if self._stays(place, now)]
        if len(kept) < len(self._rows):
            self._rows, self._state = [self._rows[row] for row in kept], streams_of(self._state, kept)
        num_new = min(self._most - len(self._rows), len(waiting))
        if num_new:
            self._rows += [self._waiting.popleft() for _ in range(num_new)]
            self._state = side_by_side([self._state, self.stepper.before(num_new)])

    def _stays(self, place: tuple[Work, int], now: float) -> bool:
        """Return whether a text is to be stepped; end it if its time is over or all end."""
        work, number = place
        text = work.texts[number]
        if text.end is None and not work.is_abandoned and work.error is None:
            if now < work.deadline and not self._ends_all:
                return True
            text.end = "shutdown" if self._ends_all else "time"
            work.put([News(number, "", None, text.end)])
        return False

    def _step(self) -> None:
        texts = [work.texts[number] for work, number in self._rows]
        start = len(self.stepper.vocabulary)
        ids_B = np.array([start if text.next_symbol is None else text.next_symbol for text in texts])
        logits_BV, self._state = self.stepper.step(ids_B, self._state)
        # One text may make the weights of an untrusted model overflow, and the others not.
        is_finite_B = np.isfinite(logits_BV.max(axis=-1))
        by_sampling: dict[Sampling, list[int]] = {}
        for row, (text, (work, number)) in enumerate(zip(texts, self._rows, strict=True)):
            if not is_finite_B[row]:
                work.fail(ModelFileError(*OVERFLOW))
            elif text.take(logits_BV[row]):
                by_sampling.setdefault(text.sampling, []).append(row)
            elif text.end:
                work.put([News(number, "", None, text.end)])
        for sampling, rows in by_sampling.items():
            random_B = np.array([texts[row].random() for row in rows])
            drawn_B = draw(sampling.probabilities(logits_BV[rows]), random_B)
            for row, symbol in zip(rows, drawn_B.tolist(), strict=True):
                work, number = self._rows[row]
                new, score = texts[row].grow(symbol, logits_BV[row])
                work.put([News(number, new, score, texts[row].end)])
            self.num_drawn += len(rows)
