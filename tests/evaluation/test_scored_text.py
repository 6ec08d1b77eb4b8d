"""The text to score is a part of the model's own text, or another one in the model's vocabulary."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from charlm.checkpoint import ModelFile
from charlm.data.corpus import load_corpus
from charlm.errors import CorpusError, UnknownCharacterError, UsageError
from charlm.evaluation.scored_text import PartName, load_other_text, load_own_text

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


def test_an_own_text_from_standard_input_is_asked_for(model: ModelFile) -> None:
    """A text that came from standard input is not there a second time; the hint says how to give it again."""
    config = model.config | {"data": {"corpus": ["-"], "validation_fraction": 0.2}}
    with pytest.raises(UsageError, match="standard input") as raised:
        load_own_text(replace(model, config=config))
    assert "`charlm eval --part validation --corpus -`" in raised.value.hint
    text = load_own_text(replace(model, config=config), names=["own.txt"])
    assert model.vocabulary.decode(text.ids.joined()) == OWN[80:]


@pytest.mark.parametrize("part", ["train", "validation"])
def test_a_text_that_was_moved_is_scored_where_it_is(model: ModelFile, part: PartName) -> None:
    """Without its place, the hint is the command that works; with it, the same characters are scored."""
    before = load_own_text(model, part)
    Path("texts").mkdir()
    Path("own.txt").rename("texts/novel.txt")
    with pytest.raises(CorpusError, match=r"own\.txt") as raised:
        load_own_text(model, part, command="charlm eval --model m")
    assert f"`charlm eval --model m --part {part} --corpus FILE`" in raised.value.hint
    text = load_own_text(model, part, ["texts/novel.txt"])
    assert text.name == f"{part} part of texts/novel.txt"
    assert text.ids.joined().tolist() == before.ids.joined().tolist()


def test_a_part_of_another_text_is_refused(model: ModelFile) -> None:
    """What a model held out is known only of the text that it learned."""
    Path("other.txt").write_text(OWN + "a", encoding="utf-8")
    with pytest.raises(UsageError, match=r"other\.txt` is not the one that this model learned") as raised:
        load_own_text(model, "validation", ["other.txt"])
    assert "without `--part`" in raised.value.hint


def test_a_whole_text_that_was_learned_is_noted(model: ModelFile) -> None:
    """The note names the part that was held out, if any was; another text has no such note."""
    Path("copy.txt").write_text(OWN, encoding="utf-8")
    (note,) = load_other_text(model, ["copy.txt"], "error").notes
    assert "learned most of this text" in note
    assert "`--part validation`" in note
    nothing_held_out = replace(model, config=model.config | {"data": {"validation_fraction": 0.0}})
    assert load_other_text(nothing_held_out, ["own.txt"], "error").notes == ("the model learned all of this text",)
    Path("copy.txt").write_text(OWN + "a", encoding="utf-8")
    assert load_other_text(model, ["copy.txt"], "error").notes == ()


def test_another_text_is_scored_as_a_whole(model: ModelFile) -> None:
    """Another text is encoded with the model's vocabulary, and a note counts the skipped characters."""
    Path("other.txt").write_text("jabX", encoding="utf-8")
    text = load_other_text(model, ["other.txt"], "skip")
    assert (text.name, model.vocabulary.decode(text.ids.joined()), text.training_ids) == ("other.txt", "jab", None)
    assert any("1 character that the model does not know" in note for note in text.notes)
    with pytest.raises(UnknownCharacterError, match="X"):
        load_other_text(model, ["other.txt"], "error")


@pytest.mark.parametrize("is_reset", [True, False])
def test_texts_have_the_documents_that_a_model_learned(model: ModelFile, is_reset: bool) -> None:
    """The held-out text and another one are divided where the settings say, if the state is reset there."""
    settings = {"documents": "cd", "reset_state_at_documents": is_reset, "corpus": ["lines.txt"]}
    lines = "ab\ncd\n" * 20
    Path("lines.txt").write_text(lines, encoding="utf-8")
    corpus = load_corpus(["lines.txt"])
    data = model.config["data"] | settings
    model = replace(model, vocabulary=corpus.vocabulary, corpus=corpus.facts(), config=model.config | {"data": data})
    expected = list(range(3, 120, 6)) if is_reset else []
    assert load_own_text(model).ids.documents_D.tolist() == expected
    assert load_other_text(model, ["lines.txt"], "error").ids.documents_D.tolist() == expected
