"""The prompt of `charlm predict-next`: what may come next, at every keystroke."""

from __future__ import annotations

from charlm.cli.prediction_table import prediction_table
from charlm.inference.incremental import IncrementalReader

GHOST_LENGTH = 40
TOOLBAR_CANDIDATES = 8
BANNER = "Type, and see what may come next. Right arrow: the grey text. Enter: a table. exit or Ctrl-D: leave."
BACKWARD_BANNER = "Type, and see what may come before it. Enter: a table. exit or Ctrl-D: leave."
LEAVE = ("exit", "quit")


def converse(reader: IncrementalReader, top: int) -> None:
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
        # prompt_toolkit itself asks for a suggestion only after an insertion; after a backspace it would be gone.
        buffer.suggestion = Continuation().get_suggestion(buffer, buffer.document)

    def toolbar() -> str:
        document = session.default_buffer.document
        # A backward model needs the whole text, not just the part before the cursor.
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


def show(reader: IncrementalReader, top: int) -> None:
    """Print the table of what may come next."""
    print(prediction_table(reader.predict(top)))


def toolbar_text(reader: IncrementalReader) -> str:
    """Return one line: the characters typed that the model does not know, and the most probable next ones."""
    parts = [f"{c.name} {c.probability:.0%}" for c in reader.predict(TOOLBAR_CANDIDATES).candidates]
    unknown = reader.unknown_characters
    return (f"unknown, left out: {unknown!r}   " if unknown else "") + "   ".join(parts)
