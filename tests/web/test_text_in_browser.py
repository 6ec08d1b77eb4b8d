"""The page of a text in a real browser: the mouse, the keyboard, units that colour the text, and hostile texts."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from charlm.checkpoint import ModelFile
from charlm.inference.language_model import LanguageModel
from charlm.inference.score import reader_of
from charlm.inference.surprisal import Surprisal, measure_surprisal
from charlm.ramps import DIVERGING, SEQUENTIAL, Ramp
from charlm.vocab import Vocabulary
from charlm.web.page import render_page
from charlm.web.text_view import NUM_EXPECTED, SCRIPTS, text_view
from tests.helpers.browser import after_drawing

pytestmark = pytest.mark.browser

Open = Callable[[str], Any]
SYMBOLS = "\n abcdefgh\u72d0"
TEXT = "had a bad cab\nfade ha gag hedge\n\u72d0\u72d0 beach\n"
HOSTILE = (
    "</script><b onclick=x>&amp;<!--\n\t\x00\x1b[31m\x9b\u202eright\u200b\u2028\u3000\ud800\r\ncafe\u0301\n\u0301x\n"
    "\u05e9\u05dc\u05d5\u05dd \u5bbd\u5b57 \U0001f44d\U0001f3fd\r" + "long" * 200
)


class Page:
    """The page of a text in a browser.

    Args:
        browser: shows the page.
        scored: the text, as the model scored it.
    """

    def __init__(self, browser: Any, scored: Surprisal) -> None:
        from selenium.webdriver.support.wait import WebDriverWait

        self.browser, self.scored = browser, scored
        WebDriverWait(browser, 10).until(lambda _: self.all("[data-ready]"))

    def all(self, selector: str) -> list[Any]:
        """Return all elements that a selector finds."""
        return self.browser.find_elements("css selector", selector)  # type: ignore[no-any-return]

    def text(self, selector: str) -> str:
        """Return the text of the first element that a selector finds."""
        return self.browser.execute_script("return document.querySelector(arguments[0]).textContent", selector)  # type: ignore[no-any-return]

    def shades(self) -> list[int]:
        """Return the shade of each cell of the text; -1 for a cell without one."""
        script = "return [...document.querySelectorAll('.text .cell')].map((cell) => cell.className)"
        found = [re.search(r"(?:^| )shade-(\d+)", names) for names in self.browser.execute_script(script)]
        return [int(name[1]) if name else -1 for name in found]

    def move_to(self, element: Any, x: int = 0, y: int = 0) -> Any:
        """Move the mouse to an element, to its centre or beside it."""
        from selenium.webdriver import ActionChains

        chain = ActionChains(self.browser).move_to_element_with_offset(element, x, y)
        chain.perform()
        return chain

    def press(self, *keys: str) -> None:
        """Press keys, by their names in selenium or as characters."""
        from selenium.webdriver import ActionChains
        from selenium.webdriver.common.keys import Keys

        ActionChains(self.browser).send_keys(*(getattr(Keys, key, key) for key in keys)).perform()

    def click_unit(self, index: int, grid: int = 0) -> None:
        """Click a unit of a grid."""
        canvas = self.all("canvas")[grid]
        width, height = canvas.size["width"], canvas.size["height"]
        row, column = divmod(index, round(width / 13))
        self.move_to(canvas, column * 13 + 6 - width // 2, row * 13 + 6 - height // 2).click().perform()


@pytest.fixture
def show(open_page: Open) -> Callable[..., Page]:
    """Return a function that opens the page of a text."""

    def show(file: ModelFile, text: str, unknown: str = "error") -> Page:
        scored = measure_surprisal(reader_of(file), text, unknown, top=NUM_EXPECTED)
        view = text_view(file, scored, "a text")
        return Page(open_page(render_page("a text", {"text_view": view}, SCRIPTS)), scored)

    return show


def shades_of(ramp: Ramp, values: Any) -> list[int]:
    """Return the shades that a terminal would have."""
    return [ramp.shade(value) for value in values]


def test_a_text_has_the_shades_of_the_terminal(make_model: Callable[..., ModelFile], show: Callable[..., Page]) -> None:
    """Each character has the shade of its bits; while the mouse is over it, its bits and candidates are shown."""
    page = show(make_model(symbols=SYMBOLS), TEXT)
    assert page.shades() == shades_of(SEQUENTIAL, page.scored.bits_C / 9)
    assert page.text(".text").replace("\u21b5", "\n") == TEXT
    totals = page.scored.totals()
    assert f"{totals['bits_per_character']:.4f} bits per character" in page.text(".figures")
    cells = page.all(".text .cell")
    page.move_to(cells[6])
    assert page.text(".where") == f"'{TEXT[6]}' line 1, column 7"
    assert page.text(".bits") == f"{page.scored.bits_C[6]:.2f} bits"
    rows = [row.text.split() for row in page.all(".candidates tr")]
    place = page.scored.scores.expected_TK[6]
    assert [row[0] for row in rows][:NUM_EXPECTED] == [page.scored.vocabulary.name(int(index)) for index in place]
    assert [row[0] for row in rows if row[-1] == "found"] == [page.scored.vocabulary.name(int(page.scored.ids_T[6]))]
    page.move_to(page.all("h1")[0])
    assert page.text(".where").startswith("'h' line 1, column 1")


def test_a_click_on_a_unit_recolours_the_text(make_model: Callable[..., ModelFile], show: Callable[..., Page]) -> None:
    """Its shades are those of `inspect`, and its value stands there; a second click gives the bits back."""
    file = make_model(symbols=SYMBOLS)
    page = show(file, TEXT)
    bits = page.shades()
    (layer,) = LanguageModel(file).activations(TEXT)
    page.click_unit(7)
    values_T = np.tanh(layer.parts["cell"][:, 7])
    assert abs(np.subtract(page.shades(), shades_of(DIVERGING, values_T))).max() <= 1
    assert np.mean(np.equal(page.shades(), shades_of(DIVERGING, values_T))) > 0.8
    assert page.text(".coloured-by") == "unit 1.7, cell (tanh of it), after each character"
    shown = float(page.text(".unit-status").rpartition(" ")[2])
    assert abs(shown - values_T[0]) <= 0.0151
    page.click_unit(7)
    assert (page.shades(), page.text(".coloured-by")) == (bits, "bits per character")


def test_filters_leave_layers_and_parts(make_model: Callable[..., ModelFile], show: Callable[..., Page]) -> None:
    """All of them, one gate of all layers, or one layer; a name that is typed chooses a unit."""
    page = show(make_model(symbols=SYMBOLS, num_layers=2), TEXT)

    def headings() -> list[str]:
        return [element.text for element in page.all(".grids h4")]

    def press(key: str, name: str) -> None:
        next(button for button in page.all(f".filter.{key} button") if button.text == name).click()

    assert headings() == ["layer 2, cell (tanh of it)"]
    press("layer", "all")
    press("part", "forget")
    assert headings() == ["layer 1, forget", "layer 2, forget"]
    press("part", "all")
    assert len(headings()) == 12
    page.all(".filters input")[0].send_keys("1.3\n")
    assert page.text(".coloured-by") == "unit 1.3, hidden, after each character"
    page.all(".filters input")[0].send_keys("99\n")
    assert "There is no unit 1.399" in page.text(".unit-status")
    assert page.text(".coloured-by") == "unit 1.3, hidden, after each character"


def test_the_keyboard_reaches_all(make_model: Callable[..., ModelFile], show: Callable[..., Page]) -> None:
    """Arrow keys move in the text and in the units; Enter and the space bar choose a unit."""
    page = show(make_model(symbols=SYMBOLS), TEXT)
    page.browser.execute_script("document.querySelector('.text').focus()")
    for keys, place in [
        (["ARROW_RIGHT"] * 3, "line 1, column 4"),
        (["ARROW_DOWN"], "line 2, column 4"),
        (["END"], "line 2, column 18"),
        (["ARROW_RIGHT", "ARROW_RIGHT"], "line 3, column 2"),
        (["ARROW_UP"] * 5 + ["HOME"] + ["ARROW_LEFT"] * 2, "line 1, column 1"),
    ]:
        page.press(*keys)
        assert page.text(".where").endswith(place)
    page.browser.execute_script("document.querySelector('canvas').focus()")
    page.press("ARROW_RIGHT", "ARROW_RIGHT", "ARROW_LEFT", "ENTER")
    assert page.text(".coloured-by").startswith("unit 1.1,")
    page.press("ARROW_RIGHT", "SPACE")
    assert page.text(".coloured-by").startswith("unit 1.2,")
    page.press("SPACE")
    assert page.text(".coloured-by").startswith("bits")


def test_buttons_lead_to_the_most_surprising_places(
    make_model: Callable[..., ModelFile], show: Callable[..., Page]
) -> None:
    """In the order of `score`."""
    page = show(make_model(symbols=SYMBOLS), TEXT)
    for rank, place in enumerate(page.scored.worst_places(3), 1):
        page.all(".stepper .next")[0].click()
        assert page.text(".where").endswith(f"line {place.line}, column {place.column}")
        assert page.text(".count") == f"Most surprising: {rank} of {len(TEXT)}"


@pytest.mark.parametrize("kind", ["bytes, backward", "skipped, both"])
def test_hostile_texts_are_only_shown(
    make_model: Callable[..., ModelFile], show: Callable[..., Page], kind: str
) -> None:
    """Nothing is obeyed, each character can be looked at, and a phone need not scroll sideways."""
    is_bytes, direction = kind.startswith("bytes"), kind.rpartition(" ")[2]
    file = make_model("gru", symbols=Vocabulary.of_bytes() if is_bytes else "abcdefgh", direction=direction)
    page = show(file, HOSTILE, "skip")
    shown = page.text(".text")
    first_line = "</script><b onclick=x>&amp;<!--\u21b5"
    assert shown.startswith(first_line + "\u2192   \\x00\\x1b[31m\\x9b\\u202eright\\u200b\\u2028")
    assert "cafe\u0301\u21b5\u25cc\u0301x" in shown
    assert len(page.all(".text .line")) == len(HOSTILE.replace("\r\n", "\n").replace("\r", "\n").split("\n"))
    # The mark shares the cell of its letter.
    assert len(page.all(".text .cell")) == len(HOSTILE) - 1
    cells = "[...document.querySelectorAll('.cell')]"
    page.browser.execute_script(f"{cells}.find((cell) => cell.textContent === 'e\u0301').click()")
    assert page.text(".where") == "'e' + U+0301 line 3, column 4"
    details = page.text(".details")
    assert "byte 2 of 2: " in details if is_bytes else "The model does not know U+0301. It was skipped." in details
    page.browser.set_window_size(390, 844)
    after_drawing(page.browser)
    assert page.browser.execute_script("return document.documentElement.scrollWidth <= innerWidth")
