"""`charlm export`: what it refuses, and what it never overwrites."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from charlm.checkpoint import ModelFile, load_checkpoint
from charlm.cli.export import SUFFIXES
from tests.helpers.commands import assert_refused, call
from tests.helpers.model_files import random_model

NAMES = {"onnx": "model.onnx", "torch": "model.safetensors"}
by_format = pytest.mark.parametrize("format", NAMES)


@by_format
def test_a_model_of_both_directions_is_refused(format: str) -> None:
    """It cannot predict the next character, and the error names the command that uses it."""
    random_model(direction="both").save(Path("both.safetensors"))
    result = call("export", "-f", format, "-m", "both.safetensors")
    assert "reads from both sides" in assert_refused(result)
    assert "`charlm fill`" in result.stderr
    assert not Path(NAMES[format]).exists()


@by_format
def test_only_an_export_is_overwritten(model: str, format: str) -> None:
    """An export replaces an export, and no other file."""
    for _ in range(2):
        assert call("export", "-f", format, "-m", model).exit_code == 0
    Path(NAMES[format]).write_bytes(b"mine")
    assert "is there already" in assert_refused(call("export", "-f", format, "-m", model))
    assert Path(NAMES[format]).read_bytes() == b"mine"


def test_no_model_file_is_overwritten(model: str) -> None:
    """The file that is exported is a safetensors file, too, but no `state_dict`."""
    assert "is no `state_dict` by charlm" in assert_refused(call("export", "-f", "torch", "-m", model, "-o", model))
    load_checkpoint(Path(model))


def test_no_program_is_overwritten(model: str) -> None:
    """A program of that name stays, and no `state_dict` is written beside it."""
    Path("model.py").write_text("mine", encoding="utf-8")
    assert "`model.py` is there already" in assert_refused(call("export", "-f", "torch", "-m", model))
    assert not Path("model.safetensors").exists()


@by_format
@pytest.mark.parametrize("name", ["model", "model.pt", "missing/", "", "-"])
def test_a_name_with_another_ending_is_refused(model: str, format: str, name: str) -> None:
    """The ending says what a file is."""
    assert "does not end with" in assert_refused(call("export", "-f", format, "-m", model, "-o", name))


@by_format
def test_a_missing_folder_is_refused(model: str, format: str) -> None:
    """It is named before any work is done."""
    result = call("export", "-f", format, "-m", model, "-o", f"missing/{NAMES[format]}")
    assert assert_refused(result) == "error: there is no folder `missing`"


def test_an_unwritable_folder_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before any model is read, by every command that makes a file."""
    monkeypatch.setattr(os, "access", lambda path, mode: str(path) != "ro")
    Path("ro").mkdir()
    Path("a.txt").touch()
    for arguments in (
        ["average", "m1", "m2", "-o", "ro/x.safetensors"],
        ["compress", "a.txt", "-o", "ro/x.charlm"],
        *(["export", "-f", format, "-o", f"ro/x{suffix}"] for format, suffix in SUFFIXES.items()),
    ):
        error = assert_refused(call(*arguments, *([] if arguments[0] == "average" else ["-m", "missing"])))
        assert error == f"error: `{arguments[-1]}` cannot be made: its folder cannot be written to"


def test_a_state_dict_refuses_n_grams_in_words(make_mixture: Callable[..., ModelFile]) -> None:
    """It holds nets alone; `--net-only` exports the net, and says that this is one."""
    make_mixture().save(Path("m.safetensors"))
    result = call("export", "-f", "torch", "-m", "m.safetensors")
    assert "has n-grams beside its net" in assert_refused(result)
    assert "hint: `--net-only` exports the net\n" in result.stderr
    result = call("export", "-f", "torch", "-m", "m.safetensors", "--net-only")
    assert result.exit_code == 0
    assert result.stderr.endswith('note: this is the net without its n-grams\nrun it: python model.py "..."\n')
