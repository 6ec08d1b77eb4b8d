"""The README is true: its commands run, its tables list what there is."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import CliRunner

import charlm
from charlm.cli.app import app
from charlm.data.catalog import catalog_entries
from charlm.files import bundled_folder
from tests.helpers.evaluation import TINY_WORKLOAD

README = Path(__file__).parents[1] / "README.md"
TEXT = README.read_text(encoding="utf-8")
# What makes a command of the README quick without changing what it shows.
SMALL = [
    "--set", "model.hidden_size=16", "--set", "train.steps=4", "--set", "train.evaluation_characters=200",
    "--set", "train.batch_size=4", "--sample-length", "20",
]  # fmt: skip


def commands() -> list[str]:
    """Return every `$ charlm ...` line in the order of the page."""
    return re.findall(r"^\$ (charlm .*)$", TEXT, flags=re.MULTILINE)


def test_every_command_on_the_page_works(monkeypatch: pytest.MonkeyPatch) -> None:
    """From top to bottom in one folder with a novel in it, each exits with 0."""
    monkeypatch.setattr("charlm.evaluation.bench.WORKLOAD", TINY_WORKLOAD)
    novel = "It was a dark and stormy night. Chapter one, said the hen, and two. " * 30 + "\n"
    Path("my-novel.txt").write_text(novel, encoding="utf-8")
    Path("another.txt").write_text("It was another night.", encoding="utf-8")
    assert len(commands()) >= 12
    for command in commands():
        arguments = shlex.split(command)[1:]
        if arguments[0] == "train":
            arguments = [argument for argument in arguments if argument not in ("--time", "60s")]
            arguments += SMALL if "--resume" not in arguments else ["--set", "train.steps=8", "--sample-length", "5"]
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0, f"{command}: {result.stderr}"


def test_every_command_is_on_the_page() -> None:
    """None is left for the reader to find."""
    shown = {command.split()[1] for command in commands()}
    assert set(get_command(app).commands) == shown  # type: ignore[attr-defined]


def test_the_table_of_files_lists_the_files_in_their_order() -> None:
    """Every file once, and below those it imports."""
    listed = re.findall(r"^\| `(\w+)\.py` \|", TEXT, flags=re.MULTILINE)
    assert sorted(listed) == sorted(path.stem for path in Path(charlm.__file__).parent.glob("*.py"))
    for index, name in enumerate(listed):
        if name in ("__init__", "__main__"):
            continue
        source = (Path(charlm.__file__).parent / f"{name}.py").read_text(encoding="utf-8")
        for other in re.findall(r"^from charlm\.(\w+) import", source, flags=re.MULTILINE):
            assert listed.index(other) < index, f"{name} imports {other}"


def test_the_corpora_on_the_page_are_those_of_the_catalogue() -> None:
    """Each by its name."""
    table = TEXT[TEXT.index("### Texts") : TEXT.index("### Cells")]
    rows = [line for line in table.splitlines() if line.startswith("| `")]
    assert {name for row in rows for name in re.findall(r"`([\w-]+)`", row)} == set(catalog_entries())


def test_the_settings_files_on_the_page_are_those_that_are_shipped() -> None:
    """Each by its name."""
    paragraph = TEXT[TEXT.index("### Settings") : TEXT.index("## How it works")]
    assert set(re.findall(r"`([\w-]+\.yaml)`", paragraph)) == {
        path.name for path in bundled_folder("configs").glob("*.yaml")
    }


@pytest.mark.parametrize("name", ["train", "test"])
def test_the_two_set_up_commands_are_marked(name: str) -> None:
    """Each is one line that makes its own environment."""
    block = re.search(rf"<!-- {name} command -->\n```sh\n(.*)\n```", TEXT)
    assert block is not None
    assert block[1].startswith("python3 -m venv .venv && .venv/bin/pip install ")


def test_every_option_of_every_command_has_a_help_text() -> None:
    """Arguments too."""
    for name, command in get_command(app).commands.items():  # type: ignore[attr-defined]
        for parameter in command.params:
            assert getattr(parameter, "help", None), f"{name} {parameter.name}"
        assert f"charlm {name}" in (command.help or ""), name
