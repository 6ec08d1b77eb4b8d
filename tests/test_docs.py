"""The documentation is true: its commands run, its links have targets, and its lists are complete."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest
import yaml
from typer.main import get_command
from typer.testing import CliRunner

import charlm
from charlm.cells import CELLS
from charlm.cli.app import app
from charlm.files import bundled_folder
from tests.helpers.evaluation import TINY_WORKLOAD
from tests.helpers.reference import COMMAND, PAGES, PARTS, ROOT, renewed

README, CHINESE_README = ROOT / "README.md", ROOT / "README.zh-CN.md"
DOCUMENTS = [README, CHINESE_README, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
COURSE, CHINESE_COURSE = ROOT / "docs" / "course.md", ROOT / "docs" / "course.zh-CN.md"
# The Chinese pages show the code of the English ones, which is run once.
RUN = [page for page in DOCUMENTS if page not in (CHINESE_README, CHINESE_COURSE)]
# A block below this line is on the Chinese page only.
EXTRA = "<!-- only in Chinese -->\n"
MAX_README_LINES = {README: 150, CHINESE_README: 180}
MAX_ROW = 110
# Options that make a shown command quick without changing what it shows.
SMALL = [
    "--set", "model.hidden_size=16", "--set", "train.steps=4", "--set", "train.evaluation_characters=200",
    "--set", "train.batch_size=4", "--set", "data.validation_fraction=0.01", "--sample-length", "20",
]  # fmt: skip

by_name = pytest.mark.parametrize("page", DOCUMENTS, ids=[page.stem for page in DOCUMENTS])


def read(page: Path) -> str:
    """Return the text of a page."""
    return page.read_text(encoding="utf-8")


def prose(page: Path) -> str:
    """Return a page without its blocks of code."""
    return re.sub(r"^```.*?^```$", "", read(page), flags=re.MULTILINE | re.DOTALL)


def section(page: Path, title: str) -> str:
    """Return the text below a heading, up to the next heading of its level."""
    level = title.split()[0]
    return read(page).partition(f"\n{title}\n")[2].partition(f"\n{level} ")[0]


def shown_commands(page: Path) -> list[str]:
    """Return every `$ charlm ...` line in the order of the page."""
    return re.findall(r"^\$ (charlm .*)$", read(page), flags=re.MULTILINE)


def extra_commands(page: Path) -> list[str]:
    """Return the commands of the marked blocks, which a page has beyond those of its translation."""
    marked = re.findall(rf"^{EXTRA}```console\n(.*?)^```$", read(page), flags=re.MULTILINE | re.DOTALL)
    return re.findall(r"^\$ (charlm .*)$", "".join(marked), flags=re.MULTILINE)


def blocks(page: Path, language: str) -> list[str]:
    """Return the blocks of code in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", read(page), flags=re.MULTILINE | re.DOTALL)


def heading_levels(page: Path) -> list[str]:
    """Return the signs before the headings of a page, in its order."""
    return re.findall(r"^(#+) ", prose(page), flags=re.MULTILINE)


def links(page: Path) -> set[str]:
    """Return the targets of the links of a page, a Chinese page as the English one."""
    return {target.replace(".zh-CN", "") for target in re.findall(r"\]\(([^)\s]+)\)", prose(page))}


def figures(page: Path) -> set[str]:
    """Return the numbers of two digits or more outside the blocks of a page, except in names like GB18030."""
    return set(re.findall(r"(?<![A-Za-z\d.,])\d[\d.,]*\d", prose(page)))


def inline_code(page: Path) -> set[str]:
    """Return what stands in backticks outside the blocks of a page."""
    return set(re.findall(r"`([^`\n]+)`", prose(page)))


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub makes of the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", prose(page), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def run(command: str) -> None:
    """Run a shown command, which must succeed; trainings become short and small."""
    command = re.sub(r"(--unit |--unit 1\.|--clamp 1\.)\d{2,}", r"\g<1>7", command)  # small models have 16 units
    arguments = shlex.split(command)[1:]
    if arguments[0] == "train":
        arguments = [argument for argument in arguments if argument not in ("--time", "20s", "30s", "60s")]
        arguments += SMALL if "--resume" not in arguments else ["--set", "train.steps=8", "--sample-length", "5"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, f"{command}: {result.stderr}"


@pytest.fixture(scope="module")
def first_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that every reader has."""
    folder = tmp_path_factory.mktemp("reader")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CHARLM_CACHE", str(folder / "cache"))
        run(f"charlm train --out {shlex.quote(str(folder / 'first'))}")
    return folder / "first"


@pytest.fixture
def folder_of_a_reader(first_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with a novel, another text and a run, for a reader who opens a page in the middle."""
    monkeypatch.setattr("charlm.evaluation.bench.WORKLOAD", TINY_WORKLOAD)
    novel = "It was a dark and stormy night. Chapter one, said the hen, and two. " * 30 + "\n"
    Path("my-novel.txt").write_text(novel, encoding="utf-8")
    Path("another.txt").write_text("It was another night.", encoding="utf-8")
    shutil.copytree(first_run, "runs/first")


@pytest.mark.usefixtures("folder_of_a_reader")
@pytest.mark.parametrize("page", [page for page in RUN if shown_commands(page)], ids=lambda page: page.stem)
def test_every_shown_command_works(page: Path) -> None:
    """The commands of a page run from top to bottom in one folder, and each exits with 0.

    The Chinese course has the commands of the English one (see the next test), so these run once, and then its own.
    """
    for command in shown_commands(page) + (extra_commands(CHINESE_COURSE) if page == COURSE else []):
        run(command)


def test_both_languages_have_the_same_course() -> None:
    """The Chinese course shows the commands of the English one in the same order, below the same headings."""
    same = [command for command in shown_commands(CHINESE_COURSE) if command not in extra_commands(CHINESE_COURSE)]
    assert same == shown_commands(COURSE)
    assert heading_levels(CHINESE_COURSE) == heading_levels(COURSE)


def test_both_languages_have_the_same_readme() -> None:
    """The Chinese README has the headings, code, links and figures of the English one, and names its commands."""
    assert heading_levels(CHINESE_README) == heading_levels(README)
    assert blocks(CHINESE_README, r"\w*") == blocks(README, r"\w*")
    assert links(CHINESE_README) == links(README)
    assert figures(CHINESE_README) == figures(README)
    english, chinese = inline_code(README), inline_code(CHINESE_README)
    assert english <= chinese, english - chinese
    assert not [code for code in chinese - english if code.startswith("charlm")]


def test_every_command_is_shown() -> None:
    """Every command is on at least one page."""
    shown = {command.split()[1] for page in DOCUMENTS for command in shown_commands(page)}
    assert shown == set(get_command(app).commands)  # type: ignore[attr-defined]


@by_name
def test_every_example_of_a_command_can_be_parsed(page: Path) -> None:
    """Examples that train for long or download are not run, but their options exist."""
    commands = get_command(app).commands  # type: ignore[attr-defined]
    for block in blocks(page, "sh"):
        for line in re.findall(r"^charlm .*$", block, flags=re.MULTILINE):
            name, *arguments = shlex.split(line)[1:]
            commands[name].make_context(name, arguments)


@pytest.mark.usefixtures("folder_of_a_reader")
@pytest.mark.parametrize("page", [page for page in RUN if "```python" in read(page)], ids=lambda page: page.stem)
def test_every_python_example_runs(page: Path) -> None:
    """The Python blocks of a page run one after another in the folder of a reader."""
    names: dict[str, object] = {}
    for block in blocks(page, "python"):
        exec(block, names)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_generated_pages_are_up_to_date(page: Path) -> None:
    """The generated commands and settings on the pages are those of the program."""
    assert read(page) == renewed(read(page)), f"docs/{page.name} is stale: run `{COMMAND}`"


def test_every_generated_part_is_on_a_page() -> None:
    """Every part that can be generated is on a page."""
    text = "".join(map(read, PAGES))
    assert all(f"<!-- generated: {name} -->" in text and f"<!-- end: {name} -->" in text for name in PARTS)


@by_name
def test_every_link_has_a_target(page: Path) -> None:
    """Each link names a file of the project, and a heading in it; web addresses are not tested."""
    for target in re.findall(r"\[[^\]]*\]\(([^)\s]+)\)", prose(page)):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), f"{page.name}: {target}"
        assert not anchor or anchor in anchors(linked), f"{page.name}: {target}"


@by_name
def test_every_page_can_be_reached_from_the_readme(page: Path) -> None:
    """Every page is linked from the README, directly or through other pages."""
    reached, waiting = set(), [README]
    while waiting:
        current = waiting.pop()
        reached.add(current)
        found = re.findall(r"\]\(([^)#\s]+\.md)", prose(current))
        waiting += [linked for link in found if (linked := (current.parent / link).resolve()) not in reached]
    assert page in reached


@by_name
def test_no_table_needs_scrolling(page: Path) -> None:
    """No row is wider than a page on GitHub, not counting the targets of links."""
    rows = [re.sub(r"\]\([^)]*\)|[\[`]", "", row) for row in prose(page).splitlines() if row.startswith("|")]
    assert [row for row in rows if len(row) > MAX_ROW] == []


@pytest.mark.parametrize("page", MAX_README_LINES, ids=lambda page: page.stem)
def test_the_readme_is_short(page: Path) -> None:
    """The README is short enough to be read to the end."""
    assert len(read(page).splitlines()) <= MAX_README_LINES[page]


def test_figures_of_the_readme_are_in_docs() -> None:
    """Each number among the highlights is also in docs/, where it has its machine."""
    documented = "".join(read(ROOT / "docs" / name) for name in ("performance.md", "reliability.md", "directions.md"))
    highlights = re.findall(r"\d+(?:[.,]\d+)+|\b\d{3,}\b", section(README, "## Why charlm"))
    assert highlights
    assert [figure for figure in highlights if figure not in documented] == []


def test_the_listed_modules_are_those_of_the_package() -> None:
    """The page on the architecture lists each file once, in the table of its room."""
    package, page = Path(charlm.__file__).parent, ROOT / "docs" / "architecture.md"
    for room in ("", *sorted(path.parent.name for path in package.glob("*/__init__.py"))):
        tables = section(page, f"### charlm/{room}").partition("\n## ")[0]
        listed = re.findall(r"^\| `(\w+\.py)` \|", tables, flags=re.MULTILINE)
        existing = [path.name for path in (package / room).glob("*.py") if not room or path.name != "__init__.py"]
        assert sorted(listed) == sorted(existing), room


def test_the_listed_corpora_are_those_of_the_catalogue() -> None:
    """The page on texts lists each corpus by its name."""
    catalogue = yaml.safe_load(read(bundled_folder("corpora") / "catalog.yaml"))
    rows = [row for row in section(ROOT / "docs" / "texts.md", "## Texts known by name").splitlines() if "| `" in row]
    assert {name for row in rows for name in re.findall(r"`([\w-]+)`", row)} == set(catalogue)


@pytest.mark.parametrize("page", [README, CHINESE_README, ROOT / "docs" / "cells.md"], ids=lambda page: page.stem)
def test_the_listed_cells_are_complete(page: Path) -> None:
    """Each cell has its own row, in the order of the equations."""
    listed = re.findall(r"^\| `([\w-]+)` \|", read(page), flags=re.MULTILINE)
    assert [name for name in listed if name in CELLS] == list(CELLS)


def test_the_listed_settings_files_are_those_shipped() -> None:
    """Each shipped file is listed by its name in a table."""
    listed = re.findall(r"^\| \[`([\w-]+\.yaml)`\]", read(ROOT / "docs" / "settings.md"), flags=re.MULTILINE)
    assert set(listed) == {path.name for path in bundled_folder("configs").glob("*.yaml")}


@pytest.mark.parametrize("name", ["train", "test"])
def test_the_two_set_up_commands_are_marked(name: str) -> None:
    """Each set-up command is one line that makes its own environment."""
    block = re.search(rf"<!-- {name} command -->\n```sh\n(.*)\n```", read(README))
    assert block is not None
    assert block[1].startswith("python3 -m venv .venv && .venv/bin/pip install ")


def test_every_option_of_every_command_has_a_help_text() -> None:
    """Arguments have a help text too."""
    for name, command in get_command(app).commands.items():  # type: ignore[attr-defined]
        for parameter in command.params:
            assert getattr(parameter, "help", None), f"{name} {parameter.name}"
        assert f"charlm {name}" in (command.help or ""), name
