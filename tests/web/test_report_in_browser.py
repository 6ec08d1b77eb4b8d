"""The pages of runs in a real browser: curves that the mouse and the keyboard read, a slider, sentences, a phone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from charlm.ramps import SEQUENTIAL
from tests.helpers.browser import after_drawing
from tests.helpers.commands import answer, call
from tests.helpers.runs import record, run_folder, validated
from tests.web.test_report import hostile_run

pytestmark = pytest.mark.browser

Open = Callable[[str], Any]


class Page:
    """A page of runs in a browser."""

    def __init__(self, browser: Any) -> None:
        self.browser = browser
        after_drawing(browser)

    def all(self, selector: str) -> list[Any]:
        """Return all elements that a selector finds."""
        return self.browser.find_elements("css selector", selector)  # type: ignore[no-any-return]

    def text(self, selector: str) -> str:
        """Return the text of the first element that a selector finds."""
        return self.browser.execute_script("return document.querySelector(arguments[0]).textContent", selector)  # type: ignore[no-any-return]

    def legend(self, place: int = 0) -> dict[str, str]:
        """Return what the legend of a panel of the first charts reads out."""
        script = (
            "return [...document.querySelectorAll('.chart-legend')[arguments[0]].children]"
            ".map((each) => [each.firstChild.nextSibling.textContent.trim(), each.lastChild.textContent])"
        )
        return dict(self.browser.execute_script(script, place))

    def point_at(self, share: float) -> None:
        """Move the mouse over the first plot, at a share of the width of its curves."""
        from selenium.webdriver import ActionChains

        after_drawing(self.browser)
        plot = self.all(".plot")[0]
        left, width = self.browser.execute_script(
            "const box = document.querySelector('.plot clipPath rect').getBBox(); return [box.x, box.width]"
        )
        x = left + 4 + share * (width - 8) - plot.size["width"] / 2
        ActionChains(self.browser).move_to_element_with_offset(plot, round(x), 0).perform()

    def press(self, selector: str, *names: str) -> None:
        """Press keys on an element."""
        from selenium.webdriver.common.keys import Keys

        self.all(selector)[0].send_keys(*(getattr(Keys, name) for name in names))

    def open(self, selector: str) -> None:
        """Open details by their summary."""
        self.press(selector, "ENTER")
        after_drawing(self.browser)

    def fits(self, width: int) -> bool:
        """Return whether a window of this width shows the page without scrolling sideways."""
        self.browser.set_window_size(width, 844)
        after_drawing(self.browser)
        script = "return document.documentElement.scrollWidth <= document.documentElement.clientWidth"
        return bool(self.browser.execute_script(script))


@pytest.fixture
def show(open_page: Open) -> Callable[..., Page]:
    """Return a function that opens the page that a command writes to `page.html`."""

    def show(*arguments: str) -> Page:
        result = call(*arguments)
        assert result.exit_code == 0, result.stderr
        return Page(open_page(Path("page.html").read_text(encoding="utf-8")))

    return show


def steps_of(page: Page) -> Sequence[str]:
    """Return the place that the readout names, as step, time and epoch."""
    return page.text(".chart-readout strong").split(", ")


def test_the_mouse_and_the_keyboard_read_the_curves(show: Callable[..., Page]) -> None:
    """At each place they say the figures of the record; without either it is the last one."""
    run_folder()
    page = show("report", "run", "-o", "page.html")
    last = {"train": "2.0645", "validation": "2.0000", "3-gram Kneser-Ney": "2.5000", "best model": "2.1250"}
    assert (steps_of(page), page.legend()) == (["step 30", "0:15", "epoch 3.00"], last)
    page.point_at(0.4)
    assert steps_of(page)[0] == "step 15"
    assert page.legend() == last | {"train": "2.1250", "validation": "3.5000 at 10"}
    assert page.legend(1) == {"of the last block": "0.006"}
    assert len(page.all(".crosshair")) == 3
    page.press(".plots", "ARROW_LEFT", "ARROW_LEFT", "HOME")
    assert page.legend() == last | {"train": "6.0000", "validation": ""}
    page.press(".plots", "ARROW_RIGHT")
    assert page.all(".plots")[0].get_attribute("aria-valuetext").startswith("step 10, 0:05, epoch 1.00, train 2.1818")
    next(button for button in page.all("#curves .filter button") if button.text == "time").click()
    page.point_at(0.4)
    assert steps_of(page)[1] == "0:08"
    page.all(".whole")[0].click()
    assert page.all(".whole")[0].get_attribute("aria-pressed") == "true"


def test_a_slider_shows_what_the_model_wrote(show: Callable[..., Page]) -> None:
    """Each character has the shade of its bits; the copies have a chart, the settings their values."""
    run_folder()
    page = show("report", "run", "-o", "page.html")
    assert page.text(".sample-place") == "step 30, 0:15, epoch 3.00, validation 2.0000"
    assert page.text(".sample") == "the fox"
    shades = [f"shade-{SEQUENTIAL.shade(bits / 9)}" for bits in range(7)]
    assert [cell.get_attribute("class") for cell in page.all(".sample span")] == shades
    page.press(".slider input", "HOME")
    assert (page.text(".sample-place").split(",")[0], page.text(".sample")) == ("step 10", "teh fxo")
    (line,) = [entry for entry in page.all("#copies p") if "best model wrote" in entry.text]
    copies = answer("sample", "-m", "run", "--length", "1000", "--seed", "0", "--check-copies", "--json")["copies"]
    assert f"{copies['share_by_length'][str(copies['marked_length'])]:.1%}" in line.text
    page.open("#copies summary")
    assert len(page.all("#copies u")) == len(copies["spans"])
    page.open(".figure-table summary")
    assert [row.text.split()[0] for row in page.all(".figure-table tbody tr")] == ["5", "10", "15", "20", "30"]
    assert "validation_fraction\n0.2" in page.all("#facts")[0].text
    assert page.fits(390)
    page.all("#theme")[0].click()
    assert page.browser.execute_script("return document.documentElement.dataset.theme") == "dark"


def test_a_hostile_run_is_only_shown(show: Callable[..., Page]) -> None:
    """Its texts are texts, its numbers have no effect on the rest, and what is lacking is a sentence."""
    hostile_run()
    (run,) = (path for path in Path().iterdir() if path.is_dir())
    page = show("report", str(run), "-o", "page.html")
    assert page.browser.title.startswith("charlm report: ")
    assert page.text("#text_view p").startswith("No held-out text is shown: ")
    assert page.text("#copies p").startswith("Copies were not looked for: ")
    assert "</script><script>document.title='hostile'" in page.text("#facts")
    page.press(".plots", "HOME", "ARROW_RIGHT", "END")
    page.press(".slider input", "HOME")
    assert page.text(".sample").startswith("</script>")
    assert page.fits(390)


def test_several_runs_have_one_picture_and_a_table(show: Callable[..., Page]) -> None:
    """The legend has the last validation of each run at the place, the table the figures of `compare`."""
    lines = [validated(4, 3.0), record(8), validated(12, 2.5)]
    runs = [str(run_folder("<b>one")), str(run_folder("two", lines, cell="gru"))]
    rows = answer("compare", *runs, "--json")["rows"]
    page = show("compare", *runs, "--html", "page.html")
    assert page.legend() == {"<b>one": "2.0000", "two": "2.5000 at 0:06"}
    page.point_at(0)
    assert page.legend() == {"<b>one": "", "two": "3.0000"}
    table = [[cell.text for cell in row.find_elements("css selector", "td")] for row in page.all("tbody tr")]
    assert [cells[0].removesuffix(" *") for cells in table] == [row["run"] for row in rows]
    assert [cells[2] for cells in table] == [f"{row['best']:.4f}" for row in rows]
    assert page.fits(390)
