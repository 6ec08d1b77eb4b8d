"""What is drawn on a terminal in place: who may draw, which lines are written, and what is left behind."""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Callable
from contextlib import suppress

import pytest
from rich.text import Text

from charlm.cli import screen
from charlm.cli.preparation import Preparation
from charlm.cli.screen import ENTER, LEAVE, may_draw, shown
from charlm.training.events import BlockLearned, Preparing
from tests.helpers.terminal import watched_terminal

SECOND = "\x1b[?1049"


def looks(monkeypatch: pytest.MonkeyPatch) -> list[Callable[[], None]]:
    """Let nothing look at the clock; return the functions to call instead."""
    found: list[Callable[[], None]] = []

    class Now:
        def __init__(self, look: Callable[[], None], seconds: float = 0.0) -> None:
            found.append(look)
            look()

        def __enter__(self) -> None: ...

        def __exit__(self, *_: object) -> None: ...

    monkeypatch.setattr(screen, "repeated", Now)
    monkeypatch.setattr("charlm.cli.preparation.repeated", Now)
    monkeypatch.setattr(screen, "REST", 0)
    return found


def on_screen(written: str) -> list[str]:
    """Return the rows that a terminal of 20 columns and 8 rows shows after what was written to it."""
    rows, row = [""] * 8, 0
    for sequence, text in re.findall(r"(\x1b\[[?0-9;]*[A-Za-z])|([^\x1b]+)", written):
        if sequence.endswith("H"):
            row = int(sequence[2:-1] or 1) - 1
        elif sequence == "\x1b[2J":
            rows = [""] * 8
        elif sequence == "\x1b[J":
            rows[row:] = [""] * (8 - row)
        elif sequence == "\x1b[K":
            assert len(rows[row]) < 20, "the last column would be erased"
        elif text:
            rows[row] = text[:20]
    return rows


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("NO_COLOR", "1"),
        ("TERM", "dumb"),
        ("TERM", ""),
        ("CI", "true"),
        ("JPY_PARENT_PID", "1"),
        ("MPLBACKEND", "module://matplotlib_inline.backend_inline"),
        ("LINES", "5"),
        ("COLUMNS", "12"),
    ],
)
def test_only_a_watched_terminal_is_drawn_on(variable: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without colours, in CI, in a notebook, on a terminal that is dumb or tiny, there are plain lines."""
    terminal = watched_terminal(monkeypatch, 20, 8)
    assert may_draw(terminal)
    monkeypatch.setenv(variable, value)
    assert not may_draw(terminal)
    assert not may_draw(io.StringIO())


def test_only_lines_that_differ_are_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second drawing writes the changed line alone, and nothing is written if nothing has changed."""
    terminal = watched_terminal(monkeypatch, 20, 8)
    look, lines, moment = looks(monkeypatch), ["one", "two"], [0]
    with shown(lambda columns, rows: [Text(line) for line in lines], lambda: moment[0], print):
        assert on_screen(terminal.getvalue())[:3] == ["one", "two", ""]
        before = len(terminal.getvalue())
        look[0]()
        assert len(terminal.getvalue()) == before
        lines[1], moment[0] = "new", 1
        look[0]()
        assert "one" not in terminal.getvalue()[before:]
        assert on_screen(terminal.getvalue())[:3] == ["one", "new", ""]


def test_full_lines_and_full_screens_are_not_erased(monkeypatch: pytest.MonkeyPatch) -> None:
    """A line may end in the last column, and the lines in the last row; fewer lines leave nothing below them."""
    terminal = watched_terminal(monkeypatch, 20, 8)
    look, number = looks(monkeypatch), [8]
    with shown(lambda columns, rows: [Text("x" * columns)] * number[0], lambda: number[0], print):
        assert on_screen(terminal.getvalue()) == ["x" * 20] * 8
        number[0] = 3
        look[0]()
        assert on_screen(terminal.getvalue()) == [*["x" * 20] * 3, *[""] * 5]


def test_another_size_is_drawn_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a resize all lines are laid out anew, although nothing has changed and the screen rests."""
    terminal = watched_terminal(monkeypatch, 20, 8)
    look = looks(monkeypatch)
    with shown(lambda columns, rows: [Text(f"{columns} x {rows}")], lambda: 0, print):
        monkeypatch.setattr(screen, "REST", 1e9)
        monkeypatch.setenv("COLUMNS", "19")
        look[0]()
        assert on_screen(terminal.getvalue())[0] == "19 x 8"


def test_drawing_rests_longer_than_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A drawing that takes long is not repeated at once, so that the drawings take a small share of the time."""
    watched_terminal(monkeypatch, 20, 8)
    look, moment = looks(monkeypatch), iter(range(100))
    monkeypatch.setattr(screen, "REST", 1e9)
    number = [0]

    def draw(columns: int, rows: int) -> list[Text]:
        number[0] += 1
        return [Text(str(number[0]))]

    with shown(draw, lambda: next(moment), print):
        look[0]()
        look[0]()
    assert number[0] == 1


@pytest.mark.parametrize("error", [None, KeyboardInterrupt, RuntimeError])
def test_the_terminal_is_restored(error: type[BaseException] | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """However the drawing ends, the first screen, the cursor and the line break are back, and so is the stream."""
    terminal = watched_terminal(monkeypatch, 20, 8)
    looks(monkeypatch)
    with suppress(KeyboardInterrupt, RuntimeError), shown(lambda columns, rows: [], lambda: 0, print):
        if error:
            raise error
    written = terminal.getvalue()
    assert written.startswith(ENTER)
    assert written.endswith(LEAVE)
    assert written.count(SECOND) == 2
    assert sys.stderr is terminal


def test_what_others_write_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """A warning does not stand in the middle of the screen."""
    terminal = watched_terminal(monkeypatch, 20, 8)
    looks(monkeypatch)
    kept: list[str] = []
    with shown(lambda columns, rows: [Text("all")], lambda: 0, kept.append):
        print("first\nsecond", file=sys.stderr)
        assert sys.stderr.isatty()
    assert kept == ["first", "second"]
    assert "first" not in terminal.getvalue()


def test_a_preparation_is_seen_at_once_and_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first thing is written before it is done, the next ones take its place, and nothing remains."""
    terminal = watched_terminal(monkeypatch, 20, 8)
    look = looks(monkeypatch)
    with Preparation() as preparation:
        preparation.show(Preparing("loading torch"))
        assert "loading torch" in terminal.getvalue()
        preparation.show(Preparing("reading the text"))
        preparation.show(BlockLearned(1, 0.5, None))
        look[0]()
        assert re.search(r"\x1b\[A\r. reading the text\x1b\[K\n$", terminal.getvalue())
        preparation.show(Preparing("reading", 200_000_000, 1_000_000_000))
        look[0]()
        # The last column stays free, so that the line is never broken.
        assert terminal.getvalue().endswith(" reading, 20% of 1\x1b[K\n")
        preparation.show(Preparing("reading", 700_000_000))
        look[0]()
        assert terminal.getvalue().endswith(" reading, 700 MB\x1b[K\n")
    assert terminal.getvalue().endswith("\r\x1b[K\x1b[A\x1b[K")


def test_a_preparation_elsewhere_is_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal without colours gets a line for each thing; a pipe gets none."""
    terminal = watched_terminal(monkeypatch, 20, 8)
    monkeypatch.setenv("NO_COLOR", "1")
    for stream, expected in ((terminal, "loading torch\nreading the text\n"), (io.StringIO(), "")):
        monkeypatch.setattr(sys, "stderr", stream)
        with Preparation() as preparation:
            preparation.show(Preparing("loading torch"))
            preparation.show(Preparing("reading the text"))
            preparation.show(Preparing("reading the text", 1, 2))
        assert stream.getvalue() == expected
