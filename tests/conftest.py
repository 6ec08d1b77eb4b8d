"""Fixtures of all tests: a cache and a working folder of their own, small models, and no workers for single files."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.main import get_command

from charlm.checkpoint import ModelFile
from tests.helpers.commands import HARE_AND_FOX
from tests.helpers.model_files import random_model

# Two test processes with two threads each on two cores slow each other many times over.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# A terminal in a test is drawn on, wherever the tests run, and no process compiles again what another one has compiled.
for name in ("CI", "NO_COLOR", "PYTHONDONTWRITEBYTECODE"):
    os.environ.pop(name, None)


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Start two workers for folders of tests, and none for files, single tests and `-k`, which start sooner alone."""
    is_selection = config.option.keyword or all(argument.partition("::")[0].endswith(".py") for argument in config.args)
    return 0 if is_selection else 2


@pytest.fixture(scope="session", autouse=True)
def what_tests_spare() -> Iterator[None]:
    """The commands are built once in this process, as in the program; no test waits for a disk or a long sample."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("typer.testing._get_command", functools.cache(get_command), raising=False)
        # A file that is closed is still refused. What depends on the order of fsync and rename watches the calls.
        patch.setattr(os, "fsync", os.fstat)
        # The samples of a run are as good if they are short.
        patch.setattr("charlm.training.samples.LENGTH", 20)
        yield


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Each test has its own cache and works in its own folder."""
    monkeypatch.setenv("CHARLM_CACHE", str(tmp_path / "cache"))
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    return work


@pytest.fixture(scope="session")
def make_model() -> Callable[..., ModelFile]:
    """Return `random_model`, which makes a small model file with random weights."""
    return random_model


@pytest.fixture
def model() -> str:
    """A small model file."""
    random_model().save(Path("small.safetensors"))
    return "small.safetensors"


@pytest.fixture
def text() -> str:
    """A small text."""
    Path("hare.txt").write_text(HARE_AND_FOX, encoding="utf-8")
    return "hare.txt"
