"""What `--help` and `--help-settings` print, for people and for programs."""

from __future__ import annotations

import json
from typing import get_args, get_origin

import pytest

from charlm.cli.app import COMMANDS
from charlm.files import bundled_folder
from charlm.settings.config import GROUPS, Config, TrainConfig
from tests.helpers.commands import answer, call, spawn


def test_train_names_every_settings_file_that_is_shipped() -> None:
    """The help of `charlm train` and the folder name the same files."""
    shipped = {path.stem for path in bundled_folder("configs").glob("*.yaml")}
    # The help breaks lines also after a hyphen.
    words = call("train", "-h").stdout.replace("-\n", "-").partition("A settings file, or ")[2].partition(";")[0]
    assert {"".join(name.split()) for name in words.split(",")} == shipped >= {"char-rnn", "lstm"}


@pytest.mark.parametrize("command", ["sample", "predict-next", "fill", "score", "inspect"])
def test_the_help_says_what_is_taken_off_standard_input(command: str) -> None:
    """One line end is, which is there whenever a shell writes a line."""
    words = " ".join(call(command, "-h").stdout.split())
    assert "- reads it from standard input, without its last line end." in words


def test_settings_as_json_have_name_group_default_and_meaning() -> None:
    """`train --help-settings --json` lists every setting, in the order of the text."""
    settings = answer("train", "--help-settings", "--json")
    groups = {"": Config} | GROUPS
    names = [
        f"{group}.{name}".removeprefix(".")
        for group, model in groups.items()
        for name in model.model_fields
        if name not in GROUPS
    ]
    assert [setting["name"] for setting in settings] == names
    lines = call("train", "--help-settings").stdout.splitlines()
    for setting, line in zip(settings, lines, strict=True):
        assert line.startswith(f"{setting['name']} (default ")
        assert setting["description"] in line
        assert setting["group"] == setting["name"].rpartition(".")[0]
        field = groups[setting["group"]].model_fields[setting["name"].rpartition(".")[2]]
        assert setting["default"] == json.loads(json.dumps(field.default))


def test_settings_as_json_have_types_bounds_and_choices() -> None:
    """They are written as in JSON Schema."""
    settings = {setting["name"]: setting for setting in answer("train", "--help-settings", "--json")}
    size = settings["train.batch_size"]
    assert (size["type"], size["minimum"], size["maximum"]) == ("integer", 1, 65536)
    optimizer = TrainConfig.model_fields["optimizer"].annotation
    assert get_origin(optimizer)
    assert settings["train.optimizer"]["enum"] == list(get_args(optimizer))
    assert all({"type", "anyOf"} & setting.keys() for setting in settings.values())


def test_no_summary_of_a_command_is_cut_off() -> None:
    """Each is a sentence that fits into the width of 80 characters of a terminal."""
    listed = call("--help").stdout.partition("Commands:\n")[2]
    assert len(listed.splitlines()) == len(COMMANDS)
    assert all(line.endswith(".") and not line.endswith("...") for line in listed.splitlines())


def test_commands_keep_their_help_where_docstrings_are_removed() -> None:
    """Under `python -OO` the help of all commands is what it always is."""
    without = {"env": {"PYTHONOPTIMIZE": "2"}}
    top = spawn("--help", **without).stdout.decode()
    assert [line for line in top.splitlines() if line.split()[:1] == ["train"] and len(line.split()) > 4]
    assert all(name in top for name in COMMANDS)
    assert "charlm fill" in spawn("fill", "--help", **without).stdout.decode()
