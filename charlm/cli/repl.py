"""The prompt of `charlm predict-next`: what may come next, at every keystroke, or after every line."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, TextIO

from charlm.cli.layout import UNLIMITED_WIDTH, cells_of, screen_width, whole_items, wrapped
from charlm.cli.prediction_table import prediction_table
from charlm.cli.render import can_show, say
from charlm.cli.repl_commands import (
    COMMANDS,
    Conversation,
    Rows,
    command_in,
    commands_starting,
    leaves,
    usage,
)
from charlm.errors import CharlmError
from charlm.files import cache_folder
from charlm.inference.incremental import IncrementalReader

if TYPE_CHECKING:
    from prompt_toolkit import PromptSession
    from prompt_toolkit.key_binding import KeyBindings
    from prompt_toolkit.layout.processors import Processor


GHOST_LENGTH = 40
TOOLBAR_CANDIDATES = 8
TAB_WIDTH = 4
# The toolbar names so many unknown characters.
MAX_UNKNOWN = 5


def converse(reader: IncrementalReader, top: int) -> None:
    """Run the prompt until `exit` or Ctrl-D: predictions and a continuation at every keystroke, a table at Enter."""
    from prompt_toolkit import PromptSession
    from prompt_toolkit.auto_suggest import AutoSuggest, Suggestion
    from prompt_toolkit.buffer import Buffer
    from prompt_toolkit.document import Document
    from prompt_toolkit.output import ColorDepth

    from charlm.cli.repl_history import FileHistory

    class Continuation(AutoSuggest):
        def get_suggestion(self, buffer: Buffer, document: Document) -> Suggestion | None:
            return Suggestion(ghost(conversation, document.text, session.output.get_size().columns))

    def suggest(buffer: Buffer) -> None:
        # prompt_toolkit itself asks for a suggestion only after an insertion; after a backspace it would be gone.
        buffer.suggestion = Continuation().get_suggestion(buffer, buffer.document)

    def toolbar() -> str:
        document, width = session.default_buffer.document, session.output.get_size().columns
        if command := command_in(document.text):
            return command_toolbar(command[0], width)
        # A backward model needs the whole text, not just the part before the cursor.
        line = document.text if conversation.reader.is_backward else document.text_before_cursor
        try:
            conversation.reader.read(conversation.text(line))
            return toolbar_text(conversation.reader, width)
        except CharlmError as error:
            return str(error)

    def keys(reader: IncrementalReader) -> Rows:
        return keys_of(reader, "the text in brackets" if is_monochrome else "the grey text")

    conversation = Conversation(reader, top, keys)
    session: PromptSession[str] = PromptSession(
        history=FileHistory(cache_folder() / "predict-next-history"),
        auto_suggest=Continuation(),
        bottom_toolbar=toolbar,
        key_bindings=key_bindings(conversation),
    )
    is_monochrome = session.app.color_depth == ColorDepth.DEPTH_1_BIT
    session.input_processors = processors(is_monochrome)
    session.default_buffer.on_text_changed += suggest
    side = "before it" if reader.is_backward else "next"
    welcome = f"Type, and see what may come {side}. /help lists keys and commands."
    print(*wrapped(welcome, screen_width(sys.stdout), ""), sep="\n")

    def ask() -> str:
        while True:
            try:
                return session.prompt(conversation.prompt, pre_run=lambda: suggest(session.default_buffer))
            except KeyboardInterrupt:
                continue

    def answer(_: str) -> None:
        print(prediction_table(conversation.reader.predict(conversation.top)))

    _answer(conversation, ask, answer, sys.stdout)


def converse_in_lines(
    reader: IncrementalReader, top: int, show_text: Callable[[str, IncrementalReader, int], None]
) -> None:
    """Answer each line that is typed, where the prompt cannot draw: a terminal at one end only, or a dumb one.

    Args:
        reader: the model.
        top: how many characters a table lists.
        show_text: prints what a reader predicts after a text that it has read, with so many characters in a table.
    """
    conversation = Conversation(reader, top)
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

    def answer(text: str) -> None:
        if note := unknown_note(conversation.reader):
            say(note)
        show_text(text, conversation.reader, conversation.top)

    say("Enter a text for what may come next. /help lists commands. exit or Ctrl-D: leave.")
    _answer(conversation, ask, answer, sys.stderr)


def _answer(
    conversation: Conversation,
    ask: Callable[[], str],
    answer: Callable[[str], None],
    stream: TextIO,
) -> None:
    """Ask for lines, do the commands and answer the texts among them, until the end.

    Args:
        conversation: what was typed so far.
        ask: returns the next line.
        answer: answers a text.
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
            answer(conversation.enter(line))


def toolbar_text(reader: IncrementalReader, width: int = UNLIMITED_WIDTH) -> str:
    """Return one line: the characters typed that the model does not know, and the most probable next ones.

    What does not fit into the width is dropped as a whole.
    """
    items = [note] if (note := unknown_note(reader, width // 2)) else []
    if reader.temperature != 1:
        items.append(f"temperature {reader.temperature:g}:")
    items += [f"{c.name} {c.probability:.0%}" for c in reader.predict(TOOLBAR_CANDIDATES).candidates]
    return whole_items(items, width)


def unknown_note(reader: IncrementalReader, width: int = UNLIMITED_WIDTH) -> str:
    """Return which characters of the text the model does not know, or an empty string."""
    unknown = reader.unknown_characters
    if not unknown:
        return ""
    done = "left out" if reader.unknown == "skip" else "replaced"
    note = f"unknown, {done}: {unknown[:MAX_UNKNOWN]!r}{'...' if len(unknown) > MAX_UNKNOWN else ''}"
    return note if cells_of(note) <= width else f"{len(unknown)} unknown"


def command_toolbar(name: str, width: int) -> str:
    """Return one line on the commands that start with a name."""
    found = commands_starting(name)
    if not found:
        return whole_items(f"no command /{name}".split(), width, " ")
    if len(found) == 1 or name in found:
        exact = name if name in found else found[0]
        return whole_items(f"{usage(exact)}: {COMMANDS[exact][1]}".split(), width, " ")
    return whole_items([usage(command) for command in found], width)


def ghost(conversation: Conversation, line: str, width: int) -> str:
    """Return what to suggest after a line: the rest of a command, or whole words that fit into the row."""
    if command := command_in(line):
        name, argument = command
        meant = next(iter(commands_starting(name)), "")
        return "" if argument or not name or line.endswith(" ") else meant[len(name) :]
    text = conversation.text(line)
    if not text:
        return ""
    conversation.reader.read(text)
    try:
        continuation = conversation.reader.continuation(GHOST_LENGTH)
    except CharlmError:
        return ""
    before = line.rpartition("\n")[2] if "\n" in line else conversation.prompt + line
    # The cursor and the brackets around the ghost take three cells.
    room = width - cells_in_prompt(before) % width - 3
    end = next(
        (end for end in range(len(continuation)) if cells_in_prompt(continuation[: end + 1]) > room), len(continuation)
    )
    around = continuation[max(0, end - 1) : end + 1]
    is_in_word = len(around) == 2 and all(not c.isspace() and cells_of(c) == 1 for c in around)
    return re.sub(r"\S+$", "", continuation[:end]) if is_in_word else continuation[:end]


def cells_in_prompt(text: str) -> int:
    """Return how many cells a text takes in the prompt, which shows a control character as two."""
    expanded = text.expandtabs(TAB_WIDTH)
    return cells_of(expanded) + 2 * sum(c < " " or "\x7f" <= c < "\xa0" for c in expanded)


def keys_of(reader: IncrementalReader, ghost_name: str) -> Rows:
    """Return the keys of the prompt, and what they do with this model."""
    take = "" if reader.is_backward else f"take over {ghost_name}"
    knows_tab = "\t" in reader.vocabulary
    rows = [
        ("Right arrow", take),
        ("Tab", "type a tab" if knows_tab else take and f"{take}; this model knows no tab"),
        ("Alt-Enter", "start a new line in the text" if reader.line_end else ""),
        ("Enter", "a table of what may come " + ("before" if reader.is_backward else "next")),
        ("Up, Down", "what you entered before, also at earlier starts"),
        ("Ctrl-C", "empty the line"),
        ("Ctrl-D", "leave, if the line is empty"),
    ]
    return [(key, meaning) for key, meaning in rows if meaning]


def key_bindings(conversation: Conversation) -> KeyBindings:
    """Return what Tab and Alt-Enter do: they type what the model knows."""
    from prompt_toolkit.filters import Condition
    from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

    bindings = KeyBindings()

    @bindings.add("tab")
    def type_tab(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if "\t" in conversation.reader.vocabulary and not command_in(buffer.text):
            buffer.insert_text("\t")
        elif buffer.suggestion and buffer.document.is_cursor_at_the_end:
            buffer.insert_text(buffer.suggestion.text)

    @bindings.add("escape", "enter", filter=Condition(lambda: bool(conversation.reader.line_end)))
    def type_line_end(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    return bindings


def processors(is_monochrome: bool) -> list[Processor]:
    """Return what makes tabs visible, and without colours puts the suggestion in brackets."""
    from prompt_toolkit.layout.processors import Processor, TabsProcessor, Transformation, TransformationInput

    class Brackets(Processor):
        def apply_transformation(self, transformation_input: TransformationInput) -> Transformation:
            return Transformation(
                [
                    (style, f"[{text}]" if text and "auto-suggestion" in style else text)
                    for style, text, *_ in transformation_input.fragments
                ]
            )

    tabs = TabsProcessor(TAB_WIDTH, char1="\u2192" if can_show("\u2192") else ">", char2=" ")
    return [Brackets(), tabs] if is_monochrome else [tabs]
