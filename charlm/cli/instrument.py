"""What the prompt of `charlm predict-next` shows: what takes little time at every key, everything else when idle."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from itertools import pairwise
from time import perf_counter

from charlm.cli.repl_commands import Conversation, command_in, commands_starting
from charlm.errors import CharlmError, UsageError
from charlm.inference.incremental import IncrementalReader
from charlm.inference.layer_changes import LayerChange
from charlm.inference.predict import Prediction
from charlm.inference.words import WordPrediction
from charlm.vocab import name_character

GHOST_LENGTH = 40
NUM_WORDS = 5
# A search is given up after so many pauses: a model that knows its language needs twenty or so.
MAX_PAUSES = 300
# How often a person sees how much of a long text is still to be read, in symbols.
SHOWN_EVERY = 200
# So long a key may read, in seconds; what is left is read when no key is waiting.
READING_TIME = 0.008


@dataclass(frozen=True)
class Figures:
    """What one model says at the cursor.

    Attributes:
        prediction: what may come next; all of it, where two models are compared.
        last_bits: what the last character cost; NaN if there is none, or it was skipped.
        mean_bits: what the characters before the cursor cost on average; NaN if there are none.
    """

    prediction: Prediction
    last_bits: float
    mean_bits: float


class Instrument:
    """Follows a line while it is typed.

    Args:
        conversation: the models, and how a line is read.

    Attributes:
        conversation: as above.
        shows_gates: whether the gates at the last character are shown.
        line: the line.
        cursor: where the cursor is in it.
        figures: of each model, at the cursor; of the line before while `num_missing` is not 0.
        last: the name of the last character, or an empty string.
        ghost: the most probable continuation, as far as it is known.
        words: the most probable words of each model; None for a model without words.
        are_words_old: whether these are still those of the line before.
        changes: what the last character did in each layer.
        error: why there are no figures, or an empty string.
        version: changes whenever there is something else to show.
    """

    def __init__(self, conversation: Conversation) -> None:
        self.conversation = conversation
        self.shows_gates = False
        self.version = 0
        self.line, self.cursor = "", 0
        self.figures: list[Figures] = []
        self.last = self.ghost = self.error = ""
        self.words: list[WordPrediction | None] = []
        self.changes: list[LayerChange] = []
        self.are_words_old = self._is_ghost_old = True
        self._seen: tuple[str, int, bool] | None = None
        self._work: Iterator[bool] = iter(())

    @property
    def readers(self) -> list[IncrementalReader]:
        """One of each model."""
        return self.conversation.readers

    def restart(self) -> None:
        """Forget what was shown: a command may have changed models and settings."""
        self._seen, self.figures, self.words, self.ghost, self.changes = None, [], [], "", []

    def look(self, line: str, cursor: int) -> None:
        """Follow the line to what it is now, and compute what takes little time."""
        if self._seen == (line, cursor, self.shows_gates):
            return
        self._seen = line, cursor, self.shows_gates
        self.version += 1
        added = line[len(self.line) :] if line.startswith(self.line) and cursor == len(line) else None
        is_typed_ghost = added is not None and self.ghost.startswith(added)
        self.ghost = self.ghost[len(added or "") :] if is_typed_ghost else ""
        self.line, self.cursor, self.error = line, cursor, ""
        self.are_words_old = self._is_ghost_old = True
        self.changes = self.changes if self.shows_gates else []
        self._work = iter(())
        if command := command_in(line):
            self.ghost, self._is_ghost_old = rest_of_command(line, *command), False
            return
        try:
            self._read()
        except CharlmError as error:
            self._fail(error)

    def work(self) -> bool | None:
        """Do a little of what is left: about one step of a model.

        Returns:
            whether there is more to show than before; None if nothing is left to do.
        """
        try:
            has_more = next(self._work)
        except StopIteration:
            return None
        except CharlmError as error:
            self._fail(error)
            has_more = True
        self.version += has_more
        return has_more

    @property
    def num_missing(self) -> int:
        """How many symbols are to be read before the figures are those of the line."""
        return sum(reader.num_missing for reader in self.readers)

    @property
    def is_far_behind(self) -> bool:
        """Whether so much is to be read that the old figures are not worth showing."""
        return self.num_missing > SHOWN_EVERY

    def whole_ghost(self) -> str:
        """Return the continuation; it is computed now if it is not known yet."""
        while self._is_ghost_old and self.work() is not None:
            pass
        return self.ghost

    def word(self, number: int = 0) -> str:
        """Return what one of the most probable words adds, or an empty string; it is computed now if need be."""
        while self.are_words_old and self.work() is not None:
            pass
        found = self.words[0] if self.words and not self.are_words_old else None
        return found.words[number].text if found and number < len(found.words) else ""

    def bits(self, start: int, end: int) -> list[float]:
        """Return what some characters of the line cost the first model; NaN for those that are not known yet."""
        reader = self.conversation.reader
        places = self.conversation.places(self.line, start, end, reader)
        bits = reader.bits(places[0], places[-1]).tolist()
        spans = [slice(here - places[0], there - places[0]) for here, there in pairwise(places)]
        return [sum(bits[span]) if bits[span] else math.nan for span in spans]

    def _read(self) -> None:
        deadline = perf_counter() + READING_TIME
        for reader in self.readers:
            place = self.conversation.place(self.line, self.cursor, reader)
            reader.edit(self.conversation.text(self.line, reader), place)
            while reader.num_missing and perf_counter() < deadline:
                reader.advance()
        self._work = self._steps()
        if not self.num_missing:
            self._measure()

    def _measure(self) -> None:
        """Compute the figures at the cursor."""
        reader = self.conversation.reader
        self.last = name_character(reader.last_character) if reader.last_character else ""
        self.figures = [
            Figures(prediction, each.last_bits, each.bits_per_character)
            for each, prediction in zip(self.readers, self.conversation.predictions(), strict=True)
        ]

    def _steps(self) -> Iterator[bool]:
        """Do what is left, and pause after each step of a model; yield whether there is more to show."""
        was_missing = self.num_missing > 0
        for reader in self.readers:
            while reader.num_missing:
                reader.advance()
                yield self.is_far_behind and not reader.num_missing % SHOWN_EVERY
        if was_missing:
            self._measure()
            yield True
        reader = self.conversation.reader
        if self.shows_gates:
            self.changes = reader.last_changes()
            yield True
        if self.line and self.cursor == len(self.line):
            pieces = []
            for piece in reader.continue_text(GHOST_LENGTH):
                pieces.append(piece)
                yield False
            self.ghost = "".join(pieces)
        self._is_ghost_old = False
        yield True
        found: list[WordPrediction | None] = []
        for each in self.readers:
            found.append((yield from self._search(each)))
        self.words, self.are_words_old = found, False
        yield True
        # What is behind the cursor, for its colours.
        while reader.advance():
            yield False
        yield True

    def _search(self, reader: IncrementalReader) -> Generator[bool, None, WordPrediction | None]:
        search = reader.words(NUM_WORDS)
        for _ in range(MAX_PAUSES):
            try:
                next(search)
            except StopIteration as end:
                words: WordPrediction = end.value
                return words
            except UsageError:
                # A model without words is no error here.
                return None
            yield False
        return None

    def _fail(self, error: CharlmError) -> None:
        self.restart()
        self._seen = self.line, self.cursor, self.shows_gates
        self.error, self._work = str(error), iter(())


def rest_of_command(line: str, name: str, argument: str) -> str:
    """Return what completes the name of a command."""
    meant = next(iter(commands_starting(name)), "")
    return "" if argument or not name or line.endswith(" ") else meant[len(name) :]
