"""Every settings file that is shipped trains."""

from __future__ import annotations

from pathlib import Path

import pytest

from charlm import config as settings
from charlm import corpus as corpora
from charlm.checkpoint import load
from charlm.files import bundled_folder
from charlm.run_folder import RunFolder
from charlm.runtime import Runtime
from charlm.train import Training

NAMES = sorted(path.stem for path in bundled_folder("configs").glob("*.yaml"))


def test_the_promised_files_are_there() -> None:
    """The default among them."""
    assert {"lstm", "gru", "rnn", "quick", "best"} <= set(NAMES)
    assert settings.DEFAULT_CONFIG in NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_file_trains_two_steps(name: str) -> None:
    """At its own sizes, on its own corpus, to a model file that loads."""
    config = settings.load(name, ["train.steps=2", "train.evaluation_characters=100"], {"seed": 1})
    text = corpora.load(config.data.corpus)
    runtime = Runtime.choose(config.train.device, config.train.precision, config.train.threads)
    training = Training(config, text, RunFolder.create(Path("run"), ""), runtime)
    records = list(training.learn())
    assert [record.step for record in records] == [1, 2]
    assert load(training.run.best).config == config.model_dump()


@pytest.mark.parametrize("name", NAMES)
def test_the_name_of_a_cell_selects_it(name: str) -> None:
    """`gru` trains a GRU."""
    if name in ("lstm", "gru", "rnn"):
        assert settings.load(name).model.cell == name
