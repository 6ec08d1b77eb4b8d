"""The commands of the prompt of `charlm predict-next`, and the texts that are typed into it."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path
from typing import TypeVar

from rich.cells import chop_cells

from charlm.cli.layout import Column, cells_of, table_lines, wrapped
from charlm.cli.options import model_file
from charlm.errors import CharlmError, UsageError, counted, nearest_name, one_line
from charlm.files import expanded, write_atomic
from charlm.inference.incremental import IncrementalReader
from charlm.inference.predict import Prediction
from charlm.inference.stepper import Stepper

Number = TypeVar("Number", int, float)
Rows = list[tuple[str, str]]

LEAVE = ("exit", "quit")
# Cells of the kept text that the prompt repeats.
SHOWN_WIDTH = 16
# Each command with its argument and what it does.
COMMANDS = {
    "help": ("", "list keys and commands"),
    "model": ("PATH", "use another model file or run folder"),
    "compare": ("PATH", "show what another model predicts beside it; /compare off ends that"),
    "temperature": ("T", "show probabilities as at this temperature; 1 is as learned"),
    "top": ("N", "how many characters a table lists"),
    "keep": ("", "on or off: after Enter, continue the text instead of starting anew"),
    "reset": ("", "start anew: forget the text that /keep continues"),
    "save": ("FILE", "write the texts you entered to a new file"),
    "exit": ("", "leave"),
}


class Conversation:
    """What was typed so far, and how the next line is read.

    Args:
        reader: the model.
        top: how many characters a table lists.
        keys: returns the keys that there are, and what they do; a line mode has none.
        other: a model that is compared with it; it reads from the same side.
        names: of both models.

    Attributes:
        reader, top, other, names: as above; commands replace them.
        keeps: whether the next line continues the last text.
    """

    def __init__(
        self,
        reader: IncrementalReader,
        top: int,
        keys: Callable[[IncrementalReader], Rows] | None = None,
        other: IncrementalReader | None = None,
        names: tuple[str, str] = ("this model", "the other"),
    ):
        self.reader, self.top, self.other, self.names = reader, top, other, names
        self.keeps = False
        self._keys = keys
        # In every text LF ends a line, whatever the model knows.
        self._entered: list[str] = []
        self._last = ""

    @property
    def readers(self) -> list[IncrementalReader]:
        """The model, and the one that is compared with it."""
        return [self.reader] if self.other is None else [self.reader, self.other]

    def text(self, line: str, reader: IncrementalReader | None = None) -> str:
        """Return the text that a model reads: what is kept, and the line."""
        return _with_line_ends(self._continued(line), reader or self.reader)

    def place(self, line: str, cursor: int, reader: IncrementalReader | None = None) -> int:
        """Return after how many characters of this text the cursor stands."""
        return self.places(line, cursor, cursor, reader or self.reader)[0]

    def places(self, line: str, start: int, end: int, reader: IncrementalReader) -> list[int]:
        """Return where each character of a part of the line stands in this text, and where the part ends."""
        before = line[min(start, _is_escaped(line)) : start]
        first = len(_with_line_ends(before, reader)) + (
            0 if reader.is_backward else len(_with_line_ends(self._kept, reader))
        )
        of_line_end = len(reader.line_end) or 1
        sizes = [of_line_end if character == "\n" else 1 for character in line[start:end]]
        if sizes and not start and _is_escaped(line):
            sizes[0] = 0
        return [*accumulate(sizes, initial=first)]

    def enter(self, line: str) -> str:
        """Read a line that is complete, and return the text."""
        if line:
            text = self._continued(line)
            if self._kept:
                self._entered.pop()
            self._entered.append(text)
            self._last = text
        else:
            text = self._continued("")
        for reader in self.readers:
            reader.read(_with_line_ends(text, reader))
        return _with_line_ends(text, self.reader)

    def predictions(self) -> list[Prediction]:
        """Return what each model predicts after the text that was read; all of it, if they are compared."""
        tops = [self.top] if self.other is None else [len(reader.vocabulary) for reader in self.readers]
        return [reader.predict(top) for reader, top in zip(self.readers, tops, strict=True)]

    def _continued(self, line: str) -> str:
        line = line[_is_escaped(line) :]
        return line + self._kept if self.reader.is_backward else self._kept + line

    @property
    def prompt(self) -> str:
        """The prompt: the end of the text that the line continues."""
        kept = one_line(self._kept[: SHOWN_WIDTH + 1] if self.reader.is_backward else self._kept[-SHOWN_WIDTH - 1 :])
        if cells_of(kept) > SHOWN_WIDTH:
            if self.reader.is_backward:
                kept = chop_cells(kept, SHOWN_WIDTH)[0] + "..."
            else:
                kept = "..." + chop_cells(kept[::-1], SHOWN_WIDTH)[0][::-1]
        return f"(before {kept}) > " if kept and self.reader.is_backward else f"{kept}> "

    @property
    def _kept(self) -> str:
        return self._last if self.keeps else ""

    def obey(self, name: str, argument: str, width: int | None) -> str:
        """Run a command and return what it answers; an error changes nothing."""
        if name == "help":
            return self._help(width)
        try:
            if name not in COMMANDS:
                raise UsageError(f"there is no command `/{name}`", unknown_command_hint(name))
            if COMMANDS[name][0] and not argument:
                raise UsageError(f"`/{name}` needs more", f"`{usage(name)}`: {COMMANDS[name][1]}")
            answer: str = getattr(self, f"_{name}")(argument)
        except CharlmError as error:
            answer = f"error: {error}" + (f"\nhint: {error.hint}" if error.hint else "")
        return "\n".join(part for line in answer.split("\n") for part in wrapped(line, width, ""))

    def _help(self, width: int | None) -> str:
        keys = self._keys(self.reader) if self._keys else []
        commands = [(usage(name), meaning) for name, (_, meaning) in COMMANDS.items()]
        as_text = ("\\/help", "a backslash in front: the text /help, not the command")
        columns = [Column("name"), Column("meaning", least=20)]
        return "\n".join(table_lines(columns, [*keys, *commands, as_text], width, has_header=False))

    def _model(self, path: str) -> str:
        reader = self._opened(path)
        if self.other is not None:
            _refuse_other_side(reader, self.other)
        self.reader, self.names = reader, (path, self.names[1])
        return f"model {one_line(path)}: it knows {len(reader.vocabulary):,} {reader.vocabulary.kind}"

    def _compare(self, path: str) -> str:
        if path.lower() == "off":
            self.other = None
            return "off: one model"
        other = self._opened(path)
        _refuse_other_side(self.reader, other)
        self.other, self.names = other, (self.names[0], path)
        return f"compared with {one_line(path)}: it knows {len(other.vocabulary):,} {other.vocabulary.kind}"

    def _opened(self, path: str) -> IncrementalReader:
        """Return another model that has read what is kept."""
        reader = IncrementalReader(Stepper(model_file(Path(path))), self.reader.unknown, self.reader.recent)
        reader.temperature = self.reader.temperature
        reader.read(_with_line_ends(self._kept, reader))
        # Weights of an untrusted file that overflow are refused here, and the old model stays.
        reader.predict(self.top)
        return reader

    def _temperature(self, value: str) -> str:
        before, temperature = self.reader.temperature, number(value, float)
        try:
            for reader in self.readers:
                reader.temperature = temperature
                reader.predict(self.top)
        except CharlmError:
            for reader in self.readers:
                reader.temperature = before
            raise
        return f"probabilities are shown as at temperature {temperature:g}"

    def _top(self, value: str) -> str:
        self.reader.predict(top := number(value, int))
        self.top = top
        return f"a table lists {top:,} characters"

    def _keep(self, value: str) -> str:
        if value.lower() not in ("", "on", "off"):
            raise UsageError(f"`{value}` is neither on nor off", "`/keep` alone changes from one to the other")
        self.keeps = not self.keeps if not value else value.lower() == "on"
        return "on: a line continues the text; /reset starts anew" if self.keeps else "off: each line starts anew"

    def _reset(self, argument: str) -> str:
        self._last = ""
        return "the next line starts anew"

    def _save(self, name: str) -> str:
        if not self._entered:
            raise UsageError("nothing was entered yet", "Enter reads a text; then save it")
        if name[0] in "'\"" and name.endswith(name[0]):
            name = name[1:-1]
        path = expanded(name)
        try:
            if path.exists() or path.is_symlink():
                raise UsageError(f"`{path}` exists, and no file is overwritten", "`/save` with another name")
            text = _with_line_ends("".join(f"{text}\n" for text in self._entered), self.reader)
            write_atomic(path, text.encode("utf-8", "surrogatepass"))
        except OSError as error:
            raise UsageError(f"`{path}` cannot be written: {error.strerror or error}") from error
        except ValueError as error:
            raise UsageError(f"`{name}` is no name of a file") from error
        return f"saved {counted(len(self._entered), 'text')} to {one_line(str(path))}"


def _with_line_ends(text: str, reader: IncrementalReader) -> str:
    return text.replace("\n", reader.line_end or "\n")


def _is_escaped(line: str) -> bool:
    """Return whether a backslash in front makes a text of what is a command without it."""
    return line.startswith("\\") and (leaves(line[1:]) or command_in(line[1:]) is not None)


def _refuse_other_side(reader: IncrementalReader, other: IncrementalReader) -> None:
    if reader.is_backward != other.is_backward:
        raise UsageError(
            "one model predicts what comes next and the other what stands before",
            "compare two models of the same direction",
        )


def command_in(line: str) -> tuple[str, str] | None:
    """Return the name and the argument of a command, or None if the line is a text.

    A text may start with `//`, `/*` or `/usr/bin`: only a word, or nothing, after the slash is a command.
    """
    found = re.fullmatch(r"/([A-Za-z]*)|/([A-Za-z]+) (.*)", line.rstrip(" "))
    if not found:
        return None
    alone, name, argument = found.groups()
    return (alone or name or "").lower(), (argument or "").strip()


def leaves(line: str) -> bool:
    """Return whether a line ends the prompt."""
    command = command_in(line)
    return line.strip() in LEAVE or (command is not None and command[0] in LEAVE)


def commands_starting(name: str) -> list[str]:
    """Return the commands whose names start so."""
    return [command for command in COMMANDS if command.startswith(name)]


def usage(name: str) -> str:
    """Return a command as it is typed."""
    return f"/{name} {COMMANDS[name][0]}".rstrip()


def unknown_command_hint(name: str) -> str:
    """Return which command may be meant, and how to enter the same text as a text."""
    meant = next(iter(commands_starting(name)), None) if name else None
    meant = meant or nearest_name(name, COMMANDS)
    return (f"did you mean `/{meant}`? " if meant else "") + f"`/help` lists them; `\\/{name}` is the text `/{name}`"


def number(text: str, kind: type[Number]) -> Number:
    """Read a number.

    Raises:
        UsageError: it is none.
    """
    try:
        return kind(text)
    except ValueError:
        raise UsageError(f"`{text}` is not a {'whole ' if kind is int else ''}number") from None
