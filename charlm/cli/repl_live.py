"""The prompt that is drawn at every key: the line, what stands below it, and the keys."""

from __future__ import annotations

import asyncio
import gc
import sys

from prompt_toolkit import Application
from prompt_toolkit.application import get_app
from prompt_toolkit.buffer import Buffer
from prompt_toolkit.data_structures import Point
from prompt_toolkit.document import Document
from prompt_toolkit.enums import DEFAULT_BUFFER
from prompt_toolkit.filters import Condition, has_focus, is_done
from prompt_toolkit.formatted_text import StyleAndTextTuples
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.layout import (
    BufferControl,
    ConditionalContainer,
    FormattedTextControl,
    HSplit,
    Layout,
    UIContent,
    Window,
)
from prompt_toolkit.output import ColorDepth
from prompt_toolkit.search import SearchState
from prompt_toolkit.styles import Style
from prompt_toolkit.widgets import SearchToolbar

from charlm.cli.instrument import NUM_WORDS, Instrument
from charlm.cli.repl_commands import Conversation, command_in
from charlm.cli.repl_history import FileHistory
from charlm.cli.repl_panel import key_line, panel_rows
from charlm.cli.repl_text import Look, Row, TextRows, shade_styles, text_rows
from charlm.cli.shades import style_for
from charlm.files import cache_folder

# Grey, blue and orange that can be read on black and on white.
STYLE = Style.from_dict({"quiet": "#808080", "first": "#2f74b5", "second": "#c56a15", "unknown": "underline"})
# The text has at most this share of the rows.
SHARE_OF_TEXT = 3
# A screen of fewer rows has no row for the keys.
MIN_ROWS_WITH_KEYS = 6


class LivePrompt:
    """Asks for lines, and shows what the models say at every key.

    Args:
        conversation: the models, and how a line is read.

    Attributes:
        instrument: what is shown.
        application: the screen and the keys.
    """

    def __init__(self, conversation: Conversation) -> None:
        self.instrument = Instrument(conversation)
        self._buffer = Buffer(
            name=DEFAULT_BUFFER,
            history=FileHistory(cache_folder() / "predict-next-history"),
            accept_handler=self._accept,
            multiline=False,
        )
        self._search = SearchToolbar()
        num_colours = style_for(sys.stdout).num_colours
        self.application: Application[str] = Application(
            layout=self._layout(),
            key_bindings=self._key_bindings(),
            style=STYLE,
            color_depth=ColorDepth.DEPTH_24_BIT if num_colours > 256 else None,
            # A key is shown at once, also while the rest of the last one is computed.
            max_render_postpone_time=0,
            after_render=lambda _: self._start_working(),
        )
        self._is_working = self._is_key_waiting = False
        self._drawn: tuple[object, TextRows] | None = None
        self.application.key_processor.before_key_press += lambda _: self._stop_working()
        depth = self.application.color_depth
        self.is_monochrome = depth == ColorDepth.DEPTH_1_BIT
        has_shades = num_colours and depth in (ColorDepth.DEPTH_8_BIT, ColorDepth.DEPTH_24_BIT)
        self._shades = shade_styles(style_for(sys.stdout)) if has_shades else []

    def ask(self) -> str:
        """Return the line that is typed.

        Raises:
            KeyboardInterrupt: Ctrl-C.
            EOFError: Ctrl-D in an empty line.
        """
        self.instrument.restart()
        self._buffer.reset(Document())
        # To look for garbage among all that is loaded would take longer than a key may.
        gc.freeze()
        self._is_working = False
        try:
            return self.application.run()
        finally:
            gc.unfreeze()

    @property
    def ghost_name(self) -> str:
        """What the suggestion is called."""
        return "the text in brackets" if self.is_monochrome else "the grey text"

    def text(self, width: int, document: Document | None = None) -> TextRows:
        """Lay out the line."""
        shown, instrument = document or self._buffer.document, self.instrument
        if document is None:
            instrument.look(shown.text, shown.cursor_position)
        # The screen asks for the rows several times each time it is drawn.
        seen = instrument.version, width, self._num_rows, self.application.is_done, shown
        if self._drawn is None or self._drawn[0] != seen:
            self._drawn = seen, self._laid_out(shown, width)
        return self._drawn[1]

    def _laid_out(self, shown: Document, width: int) -> TextRows:
        instrument = self.instrument
        is_followed = shown.text == instrument.line and not command_in(shown.text)
        return text_rows(
            shown.text,
            shown.cursor_position,
            instrument.conversation.prompt,
            instrument.bits if is_followed else _no_bits,
            instrument.conversation.reader.unknown_characters if is_followed else "",
            "" if self.application.is_done else instrument.ghost,
            Look(width, max(1, self._num_rows // SHARE_OF_TEXT), self._shades, self.is_monochrome),
        )

    @property
    def _num_rows(self) -> int:
        return self.application.output.get_size().rows

    def _layout(self) -> Layout:
        control = _TextControl(self)
        panel = FormattedTextControl(lambda: _joined(self._panel()))
        keys = FormattedTextControl(lambda: _joined([[("class:quiet", key_line(self.instrument, self._width))]]))
        is_searching = has_focus(self._search.control)
        is_shown = ~is_done & ~is_searching
        has_keys = is_shown & Condition(lambda: self._num_rows >= MIN_ROWS_WITH_KEYS)
        rows = [
            Window(control, dont_extend_height=True),
            ConditionalContainer(Window(panel, dont_extend_height=True), is_shown),
            ConditionalContainer(Window(), is_shown),
            ConditionalContainer(Window(keys, height=1), has_keys),
            ConditionalContainer(self._search, is_searching),
        ]
        return Layout(HSplit(rows), focused_element=control)

    def _panel(self) -> list[Row]:
        text = self.text(self._width)
        room = self._num_rows - len(text.rows) - (1 if self._num_rows >= MIN_ROWS_WITH_KEYS else 0)
        gap: list[Row] = [[]] if room >= 8 and self.instrument.line else []
        room -= len(gap)
        return [*gap, *panel_rows(self.instrument, self._width, max(0, room), self._shades)]

    @property
    def _width(self) -> int:
        return self.application.output.get_size().columns

    def _accept(self, buffer: Buffer) -> bool:
        self.application.exit(result=buffer.text)
        return True

    def _stop_working(self) -> None:
        # The key is drawn first; that starts the work again.
        self._is_key_waiting = True

    def _start_working(self) -> None:
        self._is_key_waiting = False
        if not self._is_working and not self.application.is_done:
            self._is_working = True
            self.application.create_background_task(self._work())

    async def _work(self) -> None:
        """Compute what is left while no key is waiting."""
        try:
            while not self._is_key_waiting and (has_more := self.instrument.work()) is not None:
                if has_more:
                    self.application.invalidate()
                await asyncio.sleep(0)
        finally:
            self._is_working = False

    def _key_bindings(self) -> KeyBindings:
        bindings, instrument = KeyBindings(), self.instrument
        is_typing = has_focus(DEFAULT_BUFFER)
        at_end = is_typing & Condition(lambda: self._buffer.document.is_cursor_at_the_end)
        has_ghost = at_end & Condition(lambda: not instrument.conversation.reader.is_backward)

        @bindings.add("c-c", filter=is_typing)
        @bindings.add("<sigint>")
        def interrupt(event: KeyPressEvent) -> None:
            event.app.exit(exception=KeyboardInterrupt)

        @bindings.add("c-d", filter=is_typing & Condition(lambda: not self._buffer.text))
        def leave(event: KeyPressEvent) -> None:
            event.app.exit(exception=EOFError)

        @bindings.add("c-g", filter=is_typing)
        def open_gates(event: KeyPressEvent) -> None:
            instrument.shows_gates = not instrument.shows_gates

        @bindings.add("right", filter=has_ghost)
        @bindings.add("c-e", filter=has_ghost)
        @bindings.add("c-f", filter=has_ghost)
        def take_ghost(event: KeyPressEvent) -> None:
            self._buffer.insert_text(self._ghost())

        @bindings.add("tab", filter=is_typing)
        def take_word(event: KeyPressEvent) -> None:
            self._type_word(0)

        for number in range(2, NUM_WORDS + 1):
            bindings.add("escape", str(number), filter=is_typing)(
                lambda event, number=number: self._type_word(number - 1)
            )

        @bindings.add("escape", "enter", filter=is_typing & Condition(lambda: bool(self._line_end)))
        def type_line_end(event: KeyPressEvent) -> None:
            self._buffer.insert_text("\n")

        return bindings

    @property
    def _line_end(self) -> str:
        return self.instrument.conversation.reader.line_end

    def _ghost(self) -> str:
        """Return as much of the suggestion as there is room for."""
        document = self._buffer.document
        self.instrument.look(document.text, document.cursor_position)
        self.instrument.whole_ghost()
        return self.text(self._width).ghost

    def _type_word(self, number: int) -> None:
        """Insert a word; at the start of a row, Tab types a tab if the model knows it."""
        buffer, reader = self._buffer, self.instrument.conversation.reader
        document = buffer.document
        if command_in(buffer.text):
            buffer.insert_text(self._ghost() if document.is_cursor_at_the_end else "")
            return
        if not number and "\t" in reader.vocabulary and not document.current_line_before_cursor.strip("\t"):
            buffer.insert_text("\t")
            return
        if reader.is_backward:
            buffer.cursor_position = 0
        self.instrument.look(buffer.text, buffer.cursor_position)
        word = self.instrument.word(number)
        if not word and not number and document.is_cursor_at_the_end and not reader.is_backward:
            word = self._ghost()
        buffer.insert_text(word.replace(self._line_end, "\n") if self._line_end else word)
        if reader.is_backward:
            buffer.cursor_position = 0


class _TextControl(BufferControl):
    """Shows the line in the rows that `LivePrompt.text` lays out."""

    def __init__(self, prompt: LivePrompt) -> None:
        super().__init__(prompt._buffer, search_buffer_control=prompt._search.control)
        self._prompt = prompt

    def preferred_height(self, width: int, max_available_height: int, *_: object) -> int:
        return len(self._laid_out(width).rows)

    def create_content(self, width: int, height: int, preview_search: bool = False) -> UIContent:
        # As the class above does.
        self.buffer.load_history_if_not_yet_loaded()
        shown = self._laid_out(width)
        return UIContent(
            get_line=lambda number: list(shown.rows[number]),
            line_count=len(shown.rows),
            cursor_position=Point(x=shown.cursor_column, y=shown.cursor_row),
        )

    def _laid_out(self, width: int) -> TextRows:
        search = self.search_buffer_control
        if search is None or get_app().layout.current_control != search or not search.buffer.text:
            return self._prompt.text(width)
        state = SearchState(search.buffer.text, self.search_state.direction, self.search_state.ignore_case)
        return self._prompt.text(width, self.buffer.document_for_search(state))


def _no_bits(start: int, end: int) -> list[float]:
    return [float("nan")] * (end - start)


def _joined(rows: list[Row]) -> StyleAndTextTuples:
    joined: StyleAndTextTuples = []
    for number, row in enumerate(rows):
        joined += [("", "\n")] if number else []
        joined += row
    return joined
