"""The next-character instrument: what may come next after a text, at every keystroke. Reads and writes the terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from charlm.inference.generate import start
from charlm.inference.predict import Ranking, rank
from charlm.inference.stepper import Floats, Stepper, StepperState
from charlm.vocab import filtered

GHOST_LENGTH = 40
TOOLBAR_CANDIDATES = 8
BANNER = "Type, and see what may come next. Right arrow: the grey text. Enter: a table. exit or Ctrl-D: leave."
BACKWARD_BANNER = "Type, and see what may come before it. Enter: a table. exit or Ctrl-D: leave."
LEAVE = ("exit", "quit")
STATES_KEPT = 256


@dataclass(frozen=True)
class Prediction:
    """What may come after a text, or with a backward model before it.

    Attributes:
        text: the text.
        ranking: the likeliest characters.
    """

    text: str
    ranking: Ranking

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {"text": self.text, **self.ranking.to_json()}

    def lines(self, bar: str) -> Iterator[str]:
        """Draw it; see `Ranking.lines`."""
        return self.ranking.lines(bar)


def predict(stepper: Stepper, text: str, top: int, unknown: str = "error") -> Prediction:
    """Rank what may come after a text.

    Raises:
        UnknownCharacterError: the text holds characters the model lacks, under `unknown="error"`.
    """
    return Prediction(text, rank(stepper.vocabulary, start(stepper, text, unknown)[0][0], top))


class Reader:
    """Follows a line that is being edited, with the state after each of its last characters and some before.

    A keystroke at the end is one step of the model, a backspace none. What the model does not know is left out.
    """

    def __init__(self, stepper: Stepper) -> None:
        self._stepper = stepper
        self._text = ""
        # By how many characters were read; of those long ago only one in so many, for a line may be of any length.
        self._states: dict[int, tuple[Floats, StepperState]] = {0: stepper.start()}
        # Before the first character a new line is expected, though none has been read.
        self._empty = start(stepper, "")

    @property
    def is_backward(self) -> bool:
        """Whether what comes next is what stands before the text."""
        return self._stepper.is_backward

    def read(self, text: str) -> None:
        """Move to another text, stepping only over what differs from the one before."""
        vocabulary, order = self._stepper.vocabulary, slice(None, None, -1 if self._stepper.is_backward else 1)
        text = filtered(text, vocabulary.filter)[order]
        common = _common_length(self._text, text)
        self._states = {length: state for length, state in self._states.items() if length <= common}
        known = max(self._states)
        now = self._states[known]
        for length, character in enumerate(text[known:], start=known + 1):
            now = self._stepper.read(vocabulary.encode(character, "skip")[order], *now)
            self._states[length] = now
            if (length - STATES_KEPT) % STATES_KEPT:
                self._states.pop(length - STATES_KEPT, None)
        self._text = text

    @property
    def unknown_characters(self) -> str:
        """The characters of the text that the model does not know."""
        return "".join(dict.fromkeys(c for c in self._text if c not in self._stepper.vocabulary))

    @property
    def _now(self) -> tuple[Floats, StepperState]:
        return self._states[len(self._text)] if self._text else self._empty

    def predict(self, top: int) -> Ranking:
        """Rank what may come next."""
        return rank(self._stepper.vocabulary, self._now[0][0], top)

    def continuation(self, length: int) -> str:
        """Return the likeliest next characters, taken one by one, up to the end of the line; none backward."""
        if self._stepper.is_backward:
            return ""
        decoder = self._stepper.vocabulary.decoder()
        logits_BV, state = self._now
        text = ""
        for _ in range(length):
            drawn = int(np.argmax(logits_BV[0]))
            text += decoder.decode([drawn])
            if "\n" in text:
                break
            logits_BV, state = self._stepper.step(np.array([drawn]), state)
        return text.partition("\n")[0]


def answer_lines(stepper: Stepper, top: int, unknown: str) -> Iterator[Prediction]:
    """Predict after each line of standard input."""
    for line in sys.stdin:
        yield predict(stepper, line.rstrip("\r\n"), top, unknown)


def converse(reader: Reader, top: int) -> None:
    """Run the prompt until `exit` or Ctrl-D: predictions and a continuation at every keystroke, a table at Enter."""
    from prompt_toolkit import PromptSession
    from prompt_toolkit.auto_suggest import AutoSuggest, Suggestion
    from prompt_toolkit.buffer import Buffer
    from prompt_toolkit.document import Document
    from prompt_toolkit.history import InMemoryHistory

    class Continuation(AutoSuggest):
        def get_suggestion(self, buffer: Buffer, document: Document) -> Suggestion | None:
            reader.read(document.text)
            return Suggestion(reader.continuation(GHOST_LENGTH)) if document.text else None

    def suggest(buffer: Buffer) -> None:
        # Asked only when something is inserted, the suggestion would be gone after a backspace.
        buffer.suggestion = Continuation().get_suggestion(buffer, buffer.document)

    def toolbar() -> str:
        document = session.default_buffer.document
        # What stands before a text is a matter of all of it.
        reader.read(document.text if reader.is_backward else document.text_before_cursor)
        return toolbar_text(reader)

    session: PromptSession[str] = PromptSession(
        history=InMemoryHistory(), auto_suggest=Continuation(), bottom_toolbar=toolbar
    )
    session.default_buffer.on_text_changed += suggest
    print(BACKWARD_BANNER if reader.is_backward else BANNER)
    while True:
        try:
            text = session.prompt("> ")
        except KeyboardInterrupt:
            continue
        except EOFError:
            return
        if text.strip() in LEAVE:
            return
        reader.read(text)
        show(reader, top)


def show(reader: Reader, top: int) -> None:
    """Print the table of what may come next."""
    for line in reader.predict(top).lines(bar_character()):
        print(line)


def toolbar_text(reader: Reader) -> str:
    """Return one line: the likeliest characters, or which of those typed the model does not know."""
    parts = [f"{c.name} {c.probability:.0%}" for c in reader.predict(TOOLBAR_CANDIDATES).candidates]
    unknown = reader.unknown_characters
    return (f"unknown, left out: {unknown!r}   " if unknown else "") + "   ".join(parts)


def bar_character() -> str:
    """Return what to draw bars with on this terminal."""
    encoding = sys.stdout.encoding or "ascii"
    try:
        "\u2588".encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return "#"
    return "\u2588"


def _common_length(before: str, after: str) -> int:
    length = 0
    for one, other in zip(before, after, strict=False):
        if one != other:
            break
        length += 1
    return length
