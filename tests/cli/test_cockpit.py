"""The screen of a run: every figure of `metrics.jsonl` in its place, in a frame that nothing breaks."""

from __future__ import annotations

import io
import re
from itertools import pairwise
from typing import Any

import pytest
from rich.cells import cell_len
from rich.color import Color
from rich.console import Console

from charlm.cli.cockpit import STATES, TRAIN, VALIDATION, Judged, View, cockpit_lines, summary_lines
from charlm.cli.plot import COUNTS, QUIET
from charlm.cli.run_history import History
from charlm.cli.shades import Style
from charlm.ramps import SEQUENTIAL, luminance
from charlm.training.events import Baseline

SIZES = [(80, 24), (40, 20), (200, 50), (20, 8), (60, 12), (119, 30), (120, 30), (33, 60), (300, 9)]
JUDGED = Judged("overfitting", "no validation has been better since step 20: it has started to overfit")
WRITTEN = "the hare\nsaid so."
COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def line(step: int, **others: Any) -> dict[str, Any]:
    """Return a line of `metrics.jsonl`, with a loss that falls from 5 to 3."""
    figures = {"epoch": step / 40, "learning_rate": 0.0021, "characters_per_second": 45_123.4, "gradient_norm": 0.412}
    loss = 3 + 2 / (1 + step / 10)
    return {"step": step, "seconds": step / 2, "train_bits_per_character": loss, **figures, **others}


def lines_of_run() -> list[dict[str, Any]]:
    """Return the lines of a run with three validations, of which the second is the best one."""
    validations = {10: 4.5, 20: 3.25, 30: 3.5}
    return [
        line(step, **({"validation_bits_per_character": validations[step]} if step in validations else {}))
        for step in range(1, 31)
    ]


def view(*lines: dict[str, Any], **changes: Any) -> View:
    """Return what the screen shows of a run."""
    of_run: dict[str, Any] = {
        "title": ("runs/fables-lstm-1", "1x128 lstm", "123,456 parameters", "fables"),
        "unit": "character",
        "per": "character",
        "of_net": "",
        "end": 60.0,
        "is_timed": False,
        "shades": Style(SEQUENTIAL, 256),
        "history": History(lines or lines_of_run()),
        "baseline": Baseline(7, 3.312),
        "step": 31,
        "share": 0.5,
        "times": ("0:15 elapsed", "0:15 left"),
        "judged": JUDGED,
    }
    return View(**of_run | changes)


def drawn(shown: View, columns: int = 80, rows: int = 24) -> list[str]:
    """Return the lines as a terminal of this size gets them, without colours."""
    return [COLOUR.sub("", text) for text in coloured(shown, columns, rows)]


def coloured(shown: View, columns: int, rows: int) -> list[str]:
    """Return the same with colours."""
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=columns, height=rows, color_system="256")
    for text in cockpit_lines(shown, columns, rows):
        console.print(text, no_wrap=True, crop=False, overflow="ignore")
    return stream.getvalue().split("\n")[:-1]


def test_each_figure_is_that_of_the_last_line() -> None:
    """Losses, pace, rate and norm are those of `metrics.jsonl`; the best validation has its step and its time."""
    screen = "\n".join(drawn(view(), 160, 40))
    for figure in (
        "step 31 of 60",
        "45,123 characters/s",
        "learning rate 0.0021",
        "gradient norm 0.41",
        "epoch 0.75",
        "train 3.500",
        "validation 3.500",
        "7-gram 3.312",
        "best 3.250 at step 20, 0:10",
        "0.062 better than the 7-gram Kneser-Ney model",
        "50%   0:15 elapsed   0:15 left",
        "overfitting: no validation has been better since step 20: it has started to overfit",
    ):
        assert figure in screen


def test_a_model_that_is_worse_than_counts_hears_so() -> None:
    """The best validation is compared with the model of counts."""
    assert "0.250 worse than the 5-gram Kneser-Ney model" in "\n".join(drawn(view(baseline=Baseline(5, 3.0))))
    assert "Kneser-Ney" not in "\n".join(drawn(view(baseline=None)))


@pytest.mark.parametrize(("columns", "rows"), SIZES)
@pytest.mark.parametrize("text", [WRITTEN, "狐狸说今天\n天气很好。" * 12, "\x1b[2J\r\x07\u202e\x9b\u0301e\u0301" * 20])
def test_nothing_breaks_the_frame(columns: int, rows: int, text: str) -> None:
    """At each size the lines fit, whatever the model writes and the run is called, and no control character is sent."""
    shown = view(*lines_of_run(), line(31, sample=text, sample_bits=[1.5] * len(text)))
    shown.title = (f"runs/{text}", *shown.title[1:])
    shown.note = f"a note about {text}"
    screen = drawn(shown, columns, rows)
    assert len(screen) == rows
    assert max(map(cell_len, screen)) <= columns
    assert all(character.isprintable() or character == "\u3000" for character in "".join(screen))
    assert "\x1b" not in "".join(screen)


@pytest.mark.parametrize(("columns", "rows"), SIZES)
def test_a_run_without_figures_has_a_frame_too(columns: int, rows: int) -> None:
    """Before the first record there is something to be seen."""
    shown = view(history=History(), baseline=None, judged=None, activity="counting the n-grams to beat")
    screen = drawn(shown, columns, rows)
    assert len(screen) == rows
    assert "counting the n-grams"[:columns] in "\n".join(screen)


@pytest.mark.parametrize(("columns", "rows"), SIZES)
def test_the_judgement_and_what_to_know_are_always_shown(columns: int, rows: int) -> None:
    """A terminal that is too low loses curves and samples first."""
    shown = view(*lines_of_run(), line(31, sample=WRITTEN, sample_bits=[1.5] * len(WRITTEN)))
    assert "overfit" in "".join(drawn(shown, columns, rows)[-4:])
    shown.note = "saving"
    assert "saving" in "".join(drawn(shown, columns, rows))


@pytest.mark.parametrize(("columns", "rows"), [(80, 24), (40, 20), (200, 50)])
def test_usual_terminals_show_curves_and_sample(columns: int, rows: int) -> None:
    """A narrow terminal has all parts, and a wide one also what the model wrote before."""
    samples = [line(step, sample=f"{step} hares", sample_bits=[2.0] * 8) for step in (31, 32)]
    screen = "\n".join(drawn(view(*lines_of_run(), *samples), columns, rows))
    assert "it writes, at step 32" in screen
    assert "32 hares" in screen
    assert ("it wrote at step 31" in screen, "31 hares" in screen) == ((columns == 200),) * 2
    assert len(re.findall("[\u2801-\u28ff]", screen)) >= 8
    assert "\u254c" * 8 in screen
    for name in ("train", "validation", "7-gram", "rate", "gradient", "best", "characters/s|chars/s", "left"):
        assert re.search(name, screen)


def test_figures_stay_where_they_are_while_they_grow() -> None:
    """From the first step to the last one, no figure moves what is beside it."""
    places = []
    for step, pace in ((9, 950.0), (99_999, 999_999.0)):
        shown = view(line(step, characters_per_second=pace), step=step, end=100_000)
        places.append([row.index("rate") for row in drawn(shown, 160, 30) if "learning rate" in row])
    assert places[0] == places[1] != []


def test_a_sample_is_shaded_by_its_bits() -> None:
    """A character of no bits has the first shade, one of 9 bits or more the last; unknown bits have none."""
    shown = view(line(1, sample="ab", sample_bits=[0.0, 12.5]))
    text = "".join(coloured(shown, 80, 24))
    assert f"48;5;{SEQUENTIAL.indices[0]}ma" in text
    assert f"48;5;{SEQUENTIAL.indices[-1]}mb" in text
    assert "48;5" not in "".join(coloured(view(line(1, sample="ab", sample_bits=["x", None])), 80, 24))


def test_a_terminal_without_unicode_has_letters() -> None:
    """Bar, curves and the level of the counts are ASCII."""
    assert "\n".join(drawn(view(is_unicode=False))).isascii()


def test_hostile_lines_are_left_out() -> None:
    """What cannot be a figure or a sample of a run is not shown, and a long sample is cut."""
    odd: list[Any] = ["12", None, float("nan"), -1, [], True, 1e300]
    history = History([line(1, validation_bits_per_character=value, sample=[value]) for value in odd])
    assert (history.validations, history.written) == ([], [])
    (written,) = History([line(1, sample="x" * 10**5, sample_bits=[1.0] * 10**5)]).written
    assert len(written.text) == len(written.bits) < 1000


def test_a_rollback_takes_back_what_was_after_it() -> None:
    """The curves end where the run continues, and the best validation is one of theirs."""
    history = History([*lines_of_run(), line(30, sample="so", sample_bits=[1.0, 1.0])])
    history.rewind(15)
    assert [point.step for point in history.validations] == [10]
    assert history.train[-1].step == 15
    assert history.written == []
    assert history.best is not None
    assert history.best.step == 10


def test_the_best_on_another_text_does_not_count() -> None:
    """After a change of the text the validations before it are of another text."""
    history = History([*lines_of_run(), line(31, new_text=True, validation_bits_per_character=4.0)])
    assert history.best is not None
    assert history.best.step == 31


def test_bytes_and_masked_characters_are_read_as_well() -> None:
    """A model of bytes, or one that sees both sides, names its figures after them."""
    of_bytes = {"step": 1, "seconds": 1.0, "train_bits_per_byte": 2.5, "learning_rate": 0.1, "bytes_per_second": 7.0}
    screen = "\n".join(drawn(view(of_bytes, unit="byte", per="byte")))
    assert ("train 2.500" in screen, "7 bytes/s" in screen, "bits per byte" in screen) == (True,) * 3
    masked = History([{"step": 1, "seconds": 1.0, "validation_bits_per_masked_character": 1.5}])
    assert [point.bits for point in masked.validations] == [1.5]


def test_what_remains_has_the_curves_and_the_best() -> None:
    """After the run, its curves, its last figures and its best validation stay on the terminal; no run, no picture."""
    text = "\n".join(found.plain for found in summary_lines(view(), 80))
    assert ("best 3.250 at step 20, 0:10" in text, "train 3.500" in text, "\u254c" in text) == (True,) * 3
    assert summary_lines(view(history=History()), 80) == []


def test_the_lines_of_the_screen_follow_the_run() -> None:
    """What is kept between two drawings is drawn anew when a record comes and when the size changes."""
    shown = view()
    before = drawn(shown)
    assert drawn(shown) == before
    shown.history.add(line(40, train_bits_per_character=2.5))
    assert "train 2.500" in "\n".join(drawn(shown))
    assert len(drawn(shown, 50, 20)) == 20


@pytest.mark.parametrize("style", sorted({TRAIN, VALIDATION, COUNTS, QUIET, *STATES.values()}))
def test_colours_can_be_read_on_black_and_on_white(style: str) -> None:
    """Each has a contrast of at least 3 to 1 to both, as WCAG 2 asks of large text and of lines."""
    red, green, blue = Color.parse(style).get_truecolor()
    light = luminance(red << 16 | green << 8 | blue) + 0.05
    assert light / 0.05 >= 3
    assert 1.05 / light >= 3


def test_curves_are_on_one_scale_and_touch() -> None:
    """Along a line that falls from corner to corner, each column is at most a row below the one before."""
    rising = [line(step, train_bits_per_character=5 - step / 20) for step in range(61)]
    shown = view(*rising, baseline=None)
    rows = [row[7:] for row in drawn(shown, 80, 40) if re.search("[\u2801-\u28ff]", row)]
    first = [next(i for i, row in enumerate(rows) if row[column : column + 1].strip()) for column in range(16, 60)]
    assert all(0 <= later - earlier <= 1 for earlier, later in pairwise(first))
    assert first[-1] > first[0] + 5
