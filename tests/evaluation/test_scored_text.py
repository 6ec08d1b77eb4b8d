"""The text to score is a part of the model's own text, or another one in the model's vocabulary."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from charlm.checkpoint import ModelFile
from charlm.data.corpus import load_corpus
from charlm.errors import CorpusError, UnknownCharacterError, UsageError
from charlm.evaluation.scored_text import load_other_text, load_own_text

OWN = "abcdefghij" * 10


@pytest.fixture
def model(make_model: Callable[..., ModelFile]) -> ModelFile:
    """A model of a text in this folder, of which 0.2 are held out for validation and nothing for a test."""
    Path("own.txt").write_text(OWN, encoding="utf-8")
    file = make_model(symbols="abcdefghij")
    data = {"corpus": ["own.txt"], "validation_fraction": 0.2, "test_fraction": 0.0}
    return replace(file, corpus=load_corpus(["own.txt"]).facts(), config=file.config | {"data": data})


def test_the_validation_part_is_scored_by_default(model: ModelFile) -> None:
    """The last fifth of the text is scored, beside baselines that learn from the rest."""
    text = load_own_text(model)
    assert text.name == "validation part of own.txt"
    assert model.vocabulary.decode(text.ids.joined()) == OWN[80:]
    assert text.training_ids is not None
    assert model.vocabulary.decode(text.training_ids.joined()) == OWN[:80]


def test_the_training_part_has_no_baselines(model: ModelFile) -> None:
    """There are no baselines that would learn from the text that they predict."""
    text = load_own_text(model, "train")
    assert (model.vocabulary.decode(text.ids.joined()), text.training_ids) == (OWN[:80], None)


def test_an_empty_part_is_refused_with_its_setting(model: ModelFile) -> None:
    """The hint names the setting that held out nothing."""
    with pytest.raises(CorpusError, match=r"test part of own\.txt is empty") as raised:
        load_own_text(model, "test")
    assert "data.test_fraction" in raised.value.hint


@pytest.mark.parametrize("text", [OWN.replace("a", "b", 1), OWN + "a", OWN[:-1]])
def test_an_own_text_that_has_changed_is_refused(model: ModelFile, text: str) -> None:
    """The validation part of a changed text may have been trained on; a text that has grown is not even read."""
    Path("own.txt").write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match="no longer"):
        load_own_text(model)


def test_an_own_text_from_standard_input_is_refused(model: ModelFile) -> None:
    """A text that came from standard input cannot be read a second time."""
    config = model.config | {"data": {"corpus": ["-"]}}
    with pytest.raises(UsageError, match="standard input"):
        load_own_text(replace(model, config=config))


def test_another_text_is_scored_as_a_whole(model: ModelFile) -> None:
    """Another text is encoded with the model's vocabulary, and a note counts the skipped characters."""
    Path("other.txt").write_text("jabX", encoding="utf-8")
    text = load_other_text(model, ["other.txt"], "utf-8", "skip")
    assert (text.name, model.vocabulary.decode(text.ids.joined()), text.training_ids) == ("other.txt", "jab", None)
    assert any("1 characters that the model does not know" in note for note in text.notes)
    with pytest.raises(UnknownCharacterError, match="X"):
        load_other_text(model, ["other.txt"], "utf-8", "error")
