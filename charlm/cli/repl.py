"""The prompt of `charlm predict-next`: what may come next, at every keystroke, or after every line."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import TextIO

from charlm.cli.layout import screen_width, wrapped
from charlm.cli.prediction_table import comparison_table, prediction_table
from charlm.cli.render import say
from charlm.cli.repl_commands import Conversation, Rows, command_in, leaves
from charlm.cli.repl_panel import unknown_note
from charlm.inference.incremental import IncrementalReader
from charlm.inference.predict import Prediction
from charlm.inference.prediction_comparison import ComparedCharacters

# Prints what one model or two predict after a text, given the text, the predictions, the names of the models and how
# many characters to list.
Show = Callable[[str, Sequence[Prediction], Sequence[str], int], None]
NAMES = ("this model", "the other")


def converse(
    reader: IncrementalReader, top: int, other: IncrementalReader | None = None, names: tuple[str, str] = NAMES
) -> None:
    """Run the prompt until `exit` or Ctrl-D: all that a model says at every keystroke, a table at Enter.

    Args:
        reader: the model.
        top: how many characters are listed.
        other: a model that is compared with it.
        names: of both.
    """
    from charlm.cli.repl_live import LivePrompt

    conversation = Conversation(reader, top, lambda reader: keys_of(reader, live.ghost_name), other, names)
    live = LivePrompt(conversation)
    side = "before it" if reader.is_backward else "next"
    welcome = f"Type, and see what may come {side}. /help lists keys and commands."
    print(*wrapped(welcome, screen_width(sys.stdout), ""), sep="\n")

    def ask() -> str:
        while True:
            try:
                return live.ask()
            except KeyboardInterrupt:
                continue

    _answer(conversation, ask, show_table, sys.stdout)


def converse_in_lines(
    reader: IncrementalReader,
    top: int,
    show: Show,
    other: IncrementalReader | None = None,
    names: tuple[str, str] = NAMES,
) -> None:
    """Answer each line that is typed, where the prompt cannot draw: a terminal at one end only, or a dumb one.

    Args:
        reader: the model.
        top: how many characters a table lists.
        show: prints what is predicted after a text on standard output.
        other: a model that is compared with it.
        names: of both.
    """
    conversation = Conversation(reader, top, None, other, names)
    may_prompt = sys.stdout.isatty()

    def ask() -> str:
        if may_prompt:
            print(conversation.prompt, end="", file=sys.stderr, flush=True)
        line = sys.stdin.readline()
        if line:
            return line.rstrip("\r\n")
        if may_prompt:
            print(file=sys.stderr)
        raise EOFError

    def show_with_note(text: str, predictions: Sequence[Prediction], names: Sequence[str], top: int) -> None:
        if note := unknown_note(conversation.reader):
            say(note)
        show(text, predictions, names, top)

    say("Enter a text for what may come next. /help lists commands. exit or Ctrl-D: leave.")
    _answer(conversation, ask, show_with_note, sys.stderr)


def _answer(conversation: Conversation, ask: Callable[[], str], show: Show, stream: TextIO) -> None:
    """Ask for lines, do the commands and answer the texts among them, until the end.

    Args:
        conversation: what was typed so far.
        ask: returns the next line.
        show: answers a text.
        stream: where to print what comes of a command.
    """
    while True:
        try:
            line = ask()
        except EOFError:
            return
        if leaves(line):
            return
        if command := command_in(line):
            print(conversation.obey(*command, screen_width(stream)), file=stream, flush=True)
        else:
            text = conversation.enter(line)
            show(text, conversation.predictions(), conversation.names, conversation.top)


def show_table(text: str, predictions: Sequence[Prediction], names: Sequence[str], top: int) -> None:
    """Print a table of what one model predicts, or two."""
    if len(predictions) > 1:
        print(comparison_table(ComparedCharacters.of(predictions, top), names))
    else:
        print(prediction_table(predictions[0]))


def keys_of(reader: IncrementalReader, ghost_name: str) -> Rows:
    """Return the keys of the prompt, and what they do with this model."""
    side = "before the text" if reader.is_backward else "at the cursor"
    rows = [
        ("Tab", f"insert the most probable word {side}; Alt-2 to Alt-5 insert the others"),
        ("Right arrow", "" if reader.is_backward else f"take over {ghost_name}"),
        ("Ctrl-G", "open or close the gates at the last character" if reader.has_gates else ""),
        ("Enter", "a table of what may come " + ("before" if reader.is_backward else "next")),
        ("Alt-Enter", "start a new line in the text" if reader.line_end else ""),
        ("Ctrl-Q Tab", "type a tab; at the start of a line Tab does" if "\t" in reader.vocabulary else ""),
        ("Up, Down", "what you entered before, also at earlier starts"),
        ("Ctrl-C", "empty the line"),
        ("Ctrl-D", "leave, if the line is empty"),
    ]
    return [(key, meaning) for key, meaning in rows if meaning]
