"""Lines and tables fit into a width, lose no word, and drop whole columns; pipes get everything."""

from __future__ import annotations

import io
import os
import re
from typing import Any

import pytest
from rich.cells import cell_len

from charlm.cells import CELLS
from charlm.cli.bench import bench_columns, bench_row
from charlm.cli.explain import explanation_lines
from charlm.cli.explain_step import summary_lines
from charlm.cli.layout import (
    Column,
    Field,
    clock_text,
    fitted,
    paragraphs,
    screen_width,
    table_lines,
    whole_items,
    wrapped,
)
from charlm.cli.live import progress_line, record_line
from charlm.inference.cell_description import describe_cell
from charlm.inference.explanation import Explanation
from charlm.spec import ModelSpec
from charlm.training.events import Record
from tests.helpers.model_files import random_model
from tests.helpers.terminal import Terminal

WIDTHS = range(40, 121)
SENTENCE = "note: 16 units should read the text 9.2 times in this time; `charlm eval -m runs/a` says how good that is"


def assert_fits(lines: list[str], width: int, text: str) -> None:
    """Check that all lines fit, and that they have the words of a text, whole and in order."""
    assert max(map(cell_len, lines)) <= width
    assert " ".join(lines).split() == text.split()


def test_a_sentence_breaks_at_spaces_only() -> None:
    """At every width the words are whole, and a command that is there to be copied stays on one line."""
    for width in WIDTHS:
        lines = wrapped(SENTENCE, width)
        assert_fits(lines, width, SENTENCE)
        assert any("`charlm eval -m runs/a`" in line for line in lines)
        assert all(line.startswith("  ") for line in lines[1:])


def test_what_cannot_be_broken_is_left_whole() -> None:
    """A long path has a line of its own; Chinese breaks between characters; without a width nothing breaks."""
    path = "runs/" + "a" * 60
    assert wrapped(f"best model in {path} now", 40) == ["best model in", f"  {path}", "  now"]
    chinese = "after '" + "狐狸的故事" * 20 + "' it reads '狐'"
    lines = wrapped(chinese, 40, "")
    assert max(map(cell_len, lines)) <= 40
    assert "".join(lines).replace(" ", "") == chinese.replace(" ", "")
    assert wrapped(SENTENCE * 9, None) == [SENTENCE * 9]


@pytest.mark.parametrize("variable", ["", "0", "-3", "wide", "9" * 5000])
def test_the_width_is_that_of_the_terminal(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """`COLUMNS` counts if it is a number; a terminal that does not say has 80, and a pipe has no width."""
    monkeypatch.setenv("COLUMNS", variable)
    assert screen_width(Terminal()) == 80
    monkeypatch.setenv("COLUMNS", "33")
    assert (screen_width(Terminal()), screen_width(io.StringIO())) == (33, None)
    monkeypatch.delenv("COLUMNS")
    monkeypatch.setattr(os, "get_terminal_size", lambda _: os.terminal_size((123, 9)))
    monkeypatch.setattr(Terminal, "fileno", lambda self: 1)
    assert screen_width(Terminal()) == 123


@pytest.mark.parametrize("width", range(30))
def test_a_row_drops_whole_items(width: int) -> None:
    """The items that fit stand in the row unchanged, and nothing of the next one."""
    items = ["'a' 12%", "'\u7684' 9%", "space 7%"]
    row = whole_items(items, width)
    shown = row.split("   ") if row else []
    assert shown == items[: len(shown)]
    assert cell_len(row) <= width
    assert len(shown) == 3 or cell_len("   ".join(items[: len(shown) + 1])) > width


TABLE = [Column("name"), Column("number", True, rank=1), Column("other", True, rank=2), Column("about", least=12)]
ROWS = [["fox", "1,000", "2", "a text of some words"], ["hare", "20", "30,000", "another"]]


def test_a_table_drops_its_least_important_columns() -> None:
    """First a text is wrapped, then the columns of the highest rank go; no width is needed for the whole table."""
    assert table_lines(TABLE, ROWS) == [
        "name  number   other  about",
        "fox    1,000       2  a text of some words",
        "hare      20  30,000  another",
    ]
    assert table_lines(TABLE, ROWS, 36) == [
        "name  number   other  about",
        "fox    1,000       2  a text of some",
        "                      words",
        "hare      20  30,000  another",
    ]
    assert table_lines(TABLE, ROWS, 30)[0] == "name  number  about"
    assert table_lines(TABLE, ROWS, 18)[:3] == ["name  about", "fox   a text of", "      some words"]
    assert table_lines(TABLE, [], 80, has_header=False) == []


def test_lines_of_a_report_drop_the_same_fields() -> None:
    """The room for a field counts, not its text, so that a short and a long line look alike."""
    for text in ("", "best 1.234"):
        assert fitted([Field("step"), Field("left", 1), Field(text, size=10)], 18) == f"step  {text}".rstrip()
    assert fitted([Field("step"), Field("left", 1)], 9) == "step"
    assert fitted([Field("step"), Field("left", 1)], None) == "step  left"


def step_of_a_model(cell: str) -> dict[str, Any]:
    """Return one step of a model in numbers."""
    explanation = Explanation(random_model(cell), "abc abc abc abc abc abc abc")
    return explanation.of_unit(explanation.step()).to_json()


@pytest.mark.parametrize("cell", CELLS)
def test_explain_fits_at_every_width(cell: str) -> None:
    """Equations stay lines of their own, prose and numbers break between words, and numbers keep their names."""
    description, step = describe_cell(ModelSpec(cell, 65, 64, 512, 1)).to_json(), step_of_a_model(cell)
    letters = description["letters"]
    whole = [*explanation_lines(description, None), *summary_lines(step, letters, None)]
    equations = [line for line in whole if re.match(r"[\w']+ = [^=]*$", line)]
    assert len(equations) >= len(CELLS[cell].gates)
    for width in WIDTHS:
        lines = [*explanation_lines(description, width), *summary_lines(step, letters, width)]
        assert_fits(lines, width, " ".join(whole))
        assert set(equations) <= set(lines)
        for name, value in step["gates"].items():
            assert any(f"{name} " in line and f"= {value:+.6f}" in line for line in lines)


def test_prose_is_not_wider_than_can_be_read() -> None:
    """On a very wide terminal, paragraphs stay narrow and equations whole; a pipe gets the lines as they are."""
    text = f"{SENTENCE}\n{SENTENCE}\n\nh' = o * tanh(c')\nc = f * c"
    lines = paragraphs(text, 200)
    assert max(map(len, lines)) <= 100
    assert lines[-3:] == ["", "h' = o * tanh(c')", "c = f * c"]
    assert paragraphs(text, None) == text.split("\n")


ROW = {
    "part": "training", "name": "lstm 2x512", "charlm": 1_234_567.0, "beside": 123_456.0, "unit": "characters/s",
    "ratio": 10.0, "layers_ratio": 1.5, "gemm_share": 0.5, "arithmetic": "bf16, torch kernel",
}  # fmt: skip


def test_bench_keeps_name_figure_and_ratio() -> None:
    """Head and rows, which are laid out one by one, drop the same columns."""
    for width in [*WIDTHS, None]:
        columns = bench_columns("training")
        head, line = table_lines(columns, [], width) + table_lines(columns, [bench_row(ROW)], width, has_header=False)
        assert max(len(head), len(line)) <= (width or 200)
        assert ("training" in head, "charlm" in head, "ratio" in head) == (True, True, True)
        assert ("lstm 2x512" in line, "1,234,567" in line, "10.00" in line) == (True, True, True)
        assert ("GEMM" in head) == ("50%" in line)
        assert head.index("charlm") + len("charlm") == line.index("1,234,567") + len("1,234,567")


def record(step: int, seconds: float, valid: float | None = None, skipped: int = 0) -> Record:
    """Return a record of training."""
    return Record(step, 3.25, seconds, 1.812, 2.0, 0.01, 463_225.0, valid, skipped)


def test_a_report_line_fits_and_stands_in_line() -> None:
    """The figures of short and long runs are below one another, and the losses are always there."""
    for width in [*WIDTHS, 200]:
        first = record_line(record(5, 2.0, 5.9), 0.01, 30.0, 5.9, "char", width)
        last = record_line(record(99_999, 7000.0, 1.701), 0.99, 8.0, 1.69, "char", width)
        assert max(len(first), len(last)) <= width
        assert ("train 1.812  valid 5.900" in first, "train 1.812  valid 1.701" in last) == (True, True)
        assert first.index("train") == last.index("train")
        assert width < 80 or ("0:08 left" in last and " 99% " in last and "best 1.690" in last)
        assert "best" not in first


def test_a_report_line_says_what_is_elapsed_and_left() -> None:
    """In a pipe a line has every figure."""
    line = record_line(record(1_234, 8.0, 1.701, skipped=2), 0.29, 22.0, 1.7, "char", None)
    assert " ".join(line.split()) == (
        "0:08 step 1,234 epoch 3.25 29% 0:22 left 463,225 chars/s train 1.812 valid 1.701 best 1.700 2 blocks skipped"
    )


def test_the_live_line_names_elapsed_and_left() -> None:
    """The times have their words at every width; further facts are there if there is room."""
    for width in WIDTHS:
        line = progress_line(0.29, 8.0, 22.0, ["train 1.812", "463,225 chars/s"], width)
        assert line.startswith(" 29%  0:08 elapsed, 0:22 left")
        assert len(line) <= width
        assert progress_line(0.0, 3.0, None, [], width) == "  0%  0:03 elapsed"


def test_times_are_short_and_plain() -> None:
    """Minutes and seconds, hours if there are any, and days if there are many."""
    times = [clock_text(seconds) for seconds in (0.4, 8, 62.6, 3600, 36_061, 4e6)]
    assert times == ["0:00", "0:08", "1:03", "1:00:00", "10:01:01", "46 days"]
