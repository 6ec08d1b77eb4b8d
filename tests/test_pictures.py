"""The pictures of the documentation: small, self-contained, described, and drawn as a terminal shows things."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import pytest

from tests.helpers.reference import ROOT

FOLDER = ROOT / "docs" / "pictures"
PICTURES = sorted(FOLDER.glob("*.svg"))
PAGES = [ROOT / "README.md", ROOT / "README.zh-CN.md", *sorted((ROOT / "docs").glob("*.md"))]
SVG = "{http://www.w3.org/2000/svg}"
MAX_BYTES = 300_000
NEITHER_SCRIPT_NOR_OTHER_FILES = {
    "a", "circle", "clipPath", "defs", "g", "path", "polyline", "rect", "style", "svg", "text", "use",
}  # fmt: skip

each_picture = pytest.mark.parametrize("path", PICTURES, ids=[path.stem for path in PICTURES])


@pytest.fixture
def film(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module that draws terminals, which is no part of the package."""
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("film")


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script that makes the pictures."""
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("make")


def words(svg: str) -> dict[str, tuple[float, float]]:
    """Return where each text of a picture starts and how wide it is, in cells of a terminal."""
    texts = [text for text in ElementTree.fromstring(svg).iter(f"{SVG}text") if "textLength" in text.attrib]
    return {text.text or "": (float(text.attrib["x"]) / 9, float(text.attrib["textLength"]) / 9) for text in texts}


def test_the_script_names_all_pictures() -> None:
    """The docstring of the script has a line about each picture, and each of them is there."""
    named = re.findall(r"^\* ([\w-]+\.svg):", (FOLDER / "make.py").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert sorted(named) == [path.name for path in PICTURES]
    assert named


@each_picture
def test_a_picture_is_small_and_needs_nothing_else(path: Path) -> None:
    """A picture is well-formed, without script, and refers only to its own parts."""
    text = path.read_text(encoding="utf-8")
    assert path.stat().st_size <= MAX_BYTES
    root = ElementTree.fromstring(text)
    assert {element.tag.removeprefix(SVG) for element in root.iter()} <= NEITHER_SCRIPT_NOR_OTHER_FILES
    attributes = [(name, value) for element in root.iter() for name, value in element.attrib.items()]
    assert [name for name, value in attributes if name.startswith("on") or name.endswith("src")] == []
    assert [value for name, value in attributes if name.endswith("href") and not value.startswith("#")] == []
    assert re.findall(r"url\((?!#)|@import|https?:(?!//www\.w3\.org/2000/svg\")", text) == []


@each_picture
def test_a_picture_is_shown_and_described(path: Path) -> None:
    """Some page shows it, and every page that shows it says in words what is to be seen."""
    shown = [
        alternative
        for page in PAGES
        for alternative, target in re.findall(r"!\[([^\]]*)\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
        if (page.parent / target).resolve() == path
    ]
    assert shown
    assert [text for text in shown if len(text) < 20] == []


def test_an_animation_can_stand_still() -> None:
    """For readers who want no motion, and where nothing can move, each row shows what it shows at the end."""
    svg = (FOLDER / "terminal.svg").read_text(encoding="utf-8")
    assert "@media (prefers-reduced-motion:reduce){.r{animation:none!important}}" in svg
    still = dict(re.findall(r'<g id="(r\d+)" class="r" transform="translate\(0 (-?\d+)\)">', svg))
    moves = dict(re.findall(r"@keyframes (r\d+)\{((?:[\d.]+%\{[^}]*\})*)\}", svg))
    assert still
    assert {name: re.findall(r"translateY\((-?\d+)px\)", move)[-1] for name, move in moves.items()} == still


def test_a_drawn_terminal_has_its_text_in_cells(film: ModuleType) -> None:
    """Wide characters take two cells, columns keep their places, and markup stays text."""
    screen = "\x1b[1m狐狸\x1b[0m said   <b>\n\x1b[2m──╮\x1b[0m ██▌"
    svg = film.film([film.Frame(0.0, "a & b", screen, (3, 1))], 1.0, 20, 2)
    assert words(svg) == {"狐狸": (0, 4), "said": (5, 4), "<b>": (12, 3)}
    # The bar is one rectangle of two and a half cells; its first cell is the fifth.
    assert 'x="36" y="0" width="22.5" height="20"' in svg
    assert "@keyframes" not in svg


@pytest.mark.parametrize(
    ("escape", "colours"),
    [
        ("31", ("#f27d72", None)),
        ("38;5;196", ("#ff0000", None)),
        ("38;2;1;2;3;48;2;4;5;6", ("#010203", "#040506")),
        ("1;38;2;1;2;3;7", ("#10151d", "#010203")),
        ("38;2;1;2;3;39", ("#d5dbe5", None)),
    ],
)
def test_a_drawn_terminal_has_its_colours(film: ModuleType, escape: str, colours: tuple[str, str | None]) -> None:
    """Colours by name, by number and by their parts, exchanged or not."""
    ((cell,),) = film.cells(f"\x1b[{escape}mx", None)
    assert cell[2].colours() == colours


def test_braille_and_dashes_need_no_font(film: ModuleType) -> None:
    """Dots and dashes are drawn where they stand in their cells, and are no text."""
    svg = film.film([film.Frame(0.0, "", "a\x1b[32m\u2881\u254c\x1b[0mb", None)], 1.0, 10, 1)
    # The dots 1 and 8 of the second cell, and the two strokes of the dash in the third one.
    assert '<path d="M10 3h2M15 18h2M19 10h3M23 10h3" class="c0"/>' in svg
    assert words(svg) == {"a": (0, 1), "b": (3, 1)}


def test_the_end_of_each_scene_can_be_read(make: ModuleType) -> None:
    """A minute of training takes seconds, a scene ends with its last screen, and that stands still for its rest."""
    looks = [make.Look(float(second), "train", f"{second}", None) for second in range(61)]
    looks += [make.Look(70.0 + 0.3 * key, "sample", f"key {key}", None) for key in range(3)]
    frames, seconds = make.frames(looks, 1)
    starts = {frame.screen: frame.seconds for frame in frames}
    assert starts["0"] == 0
    assert starts["60"] == pytest.approx(make.TRAINING_SECONDS)
    assert starts["key 0"] - starts["60"] == pytest.approx(make.RESTS["train"])
    assert starts["key 2"] - starts["key 0"] == pytest.approx(0.6)
    assert seconds - starts["key 2"] == pytest.approx(make.RESTS["sample"])
    fewer, same_seconds = make.frames(looks, 4)
    assert len(fewer) < len(frames)
    assert same_seconds == seconds
    assert {"60", "key 0", "key 2"} <= {frame.screen for frame in fewer}


def test_a_film_shows_each_screen_in_its_time(film: ModuleType) -> None:
    """A row that changes is moved at the share of the round at which its screen is first seen."""
    frames = [film.Frame(0.0, "", "one\nsame", None), film.Frame(1.0, "", "two\nsame", None)]
    svg = film.film([*frames, frames[0]._replace(seconds=3.0)], 4.0, 10, 2)
    moves = "0%{transform:translateY(0px)}25%{transform:translateY(-40px)}75%{transform:translateY(0px)}"
    assert re.findall(r"@keyframes r\d+\{(.*?)\}#", svg) == [moves]
