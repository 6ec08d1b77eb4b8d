"""Which text a model is scored on: a part of the text it was trained on, or another one. Knows ids, no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

from charlm.checkpoint import ModelFile
from charlm.data.corpus import Corpus, TextProgress, load_corpus
from charlm.data.holdout import Part, Split, at_documents, recorded_split, reset_places
from charlm.errors import CorpusError, TooLargeError, UsageError
from charlm.settings.config_file import validate_settings

PartName = Literal["train", "validation", "test"]
UNKNOWN_TEXT = "it is not known which text this model learned"
SCORE_AS_A_WHOLE = "without `--part`, `--corpus` scores any text as a whole"


@dataclass(frozen=True)
class TextToScore:
    """A text in the vocabulary of a model.

    Attributes:
        name: what people call it.
        ids: its characters.
        training_ids: the part of the same corpus that baselines may learn from; None if they have nothing to learn.
        notes: changes to the text, and other facts, that a person should know of.
    """

    name: str
    ids: Part
    training_ids: Part | None = None
    notes: tuple[str, ...] = ()


class _Reading(NamedTuple):
    """How the bytes of a text become characters, as in the settings of `data`."""

    encoding: str
    skip_undecodable: bool


def load_other_text(
    model: ModelFile,
    names: Sequence[str],
    unknown: str,
    progress: TextProgress | None = None,
    encoding: str | None = None,
    skip_undecodable: bool = False,
) -> TextToScore:
    """Read any text in the vocabulary of a model, to be scored as a whole.

    Args:
        model: the model.
        names: corpora of the catalogue, files, folders, globs, or `-` for standard input.
        unknown: what to do about characters the model does not know: `error`, `skip`, or `replace=C`.
        progress: called as a text is downloaded or read.
        encoding: how the bytes of the text spell characters; None for UTF-8.
        skip_undecodable: leave out files that are no text in this encoding.

    Raises:
        CorpusError: the text is missing, empty or undecodable.
        ConfigError: the settings in the model file are not valid.
        UnknownCharacterError: it holds unknown characters, under `unknown="error"`.
    """
    read = _Reading(encoding or "utf-8", skip_undecodable)
    corpus = load_corpus(names, vocabulary=model.vocabulary, unknown=unknown, progress=progress, **read._asdict())
    return TextToScore(
        corpus.name, _with_documents(model, corpus), notes=(*corpus.notes, *_notes_on_learned(model, corpus))
    )


def load_own_text(
    model: ModelFile,
    part: PartName = "validation",
    names: Sequence[str] | None = None,
    command: str = "charlm eval",
    progress: TextProgress | None = None,
    encoding: str | None = None,
    skip_undecodable: bool = False,
) -> TextToScore:
    """Read a part of the text that a model was trained on, after checking that it is still the same text.

    Args:
        model: the model.
        part: the name of the part.
        names: where the text is now; None for where it was in training.
        command: what scores the model, for hints.
        progress: called as a text is downloaded or read.
        encoding: how its bytes spell characters; None for what it was in training.
        skip_undecodable: leave out files that are no text in this encoding, also if training did not.

    Raises:
        CorpusError: the text cannot be read, or the part is empty.
        UsageError: the text came through standard input, or it is another one.
        ConfigError: the settings in the model file are not valid.
        ModelFileError: the held-out blocks in the model file are not valid.
    """
    if not _knows_text(model):
        raise UsageError(UNKNOWN_TEXT, SCORE_AS_A_WHOLE)
    corpus, parts = load_own_parts(
        model, names, f"{command} --part {part} --corpus", SCORE_AS_A_WHOLE, progress, encoding, skip_undecodable
    )
    name = f"{part} part of {corpus.name}"
    ids: Part = getattr(parts, part)
    if not len(ids):
        hint = "" if part == "train" else f"`data.{part}_fraction` held out nothing; `--part train` scores the rest"
        raise CorpusError(f"the {name} is empty", hint)
    return TextToScore(name, ids, None if part == "train" else parts.train)


def _knows_text(model: ModelFile) -> bool:
    """Return whether a model file says which text was learned. One that was imported does not."""
    return bool(model.corpus.get("sha256"))


def load_own_parts(
    model: ModelFile,
    names: Sequence[str] | None,
    command: str,
    otherwise: str,
    progress: TextProgress | None = None,
    encoding: str | None = None,
    skip_undecodable: bool = False,
) -> tuple[Corpus, Split]:
    """Read the text that a model was trained on, after checking that it is still the same text.

    Args:
        model: the model.
        names: where the text is now; None for where it was in training.
        command: what does the same with a text whose name follows, for hints.
        otherwise: what can be done if the text at `names` is another one, for hints.
        progress: called as a text is downloaded or read.
        encoding: how its bytes spell characters; None for what it was in training.
        skip_undecodable: leave out files that are no text in this encoding, also if training did not.

    Returns:
        The text, and its parts as they were in training.

    Raises:
        CorpusError: the text cannot be read.
        UsageError: the text came through standard input, or it is another one.
        ConfigError: the settings in the model file are not valid.
        ModelFileError: the held-out blocks in the model file are not valid.
    """
    if not _knows_text(model):
        raise UsageError(UNKNOWN_TEXT)
    # A model file is untrusted: its settings are checked like those of a user.
    settings = validate_settings({"data": model.config.get("data")}, {}, "the model's settings").data
    read = _Reading(encoding or settings.encoding, skip_undecodable or settings.skip_undecodable)
    if names:
        corpus = _load_as_in_training(model, names, read, progress)
        if corpus.sha256 != model.corpus.get("sha256"):
            raise UsageError(f"the text `{corpus.name}` is not the one that this model learned", otherwise)
    else:
        corpus = _load_from_where_it_was(model, settings.corpus, read, command)
    if corpus.vocabulary != model.vocabulary:
        raise UsageError(f"the symbols of this model are not those of its text `{corpus.name}`", otherwise)
    return corpus, at_documents(recorded_split(corpus.ids, settings, model.corpus), corpus, settings)


def _with_documents(model: ModelFile, corpus: Corpus) -> Part:
    """Return a text with the documents that the model has learned to start anew at.

    Raises:
        ConfigError: the settings in the model file are not valid.
    """
    data, text = model.config.get("data"), Part.of(corpus.ids)
    if not isinstance(data, dict) or not data.get("reset_state_at_documents"):
        return text
    settings = validate_settings({"data": data}, {}, "the model's settings").data
    return replace(text, documents_D=reset_places(corpus, settings))


def _notes_on_learned(model: ModelFile, corpus: Corpus) -> list[str]:
    """Say if a text that is scored as a whole is the one that the model learned."""
    if corpus.sha256 != model.corpus.get("sha256"):
        return []
    data = model.config.get("data")
    held_out = [part for part in ("validation", "test") if isinstance(data, dict) and data.get(f"{part}_fraction")]
    if not held_out:
        return ["the model learned all of this text"]
    return [f"the model learned most of this text; `--part {held_out[0]}` scores what was held out of it"]


def _load_from_where_it_was(model: ModelFile, names: Sequence[str], read: _Reading, command: str) -> Corpus:
    """Read the text of a model under the names in the model file, which is untrusted.

    Args:
        model: the model.
        names: where its text was.
        read: how.
        command: what scores the same part of a text whose name follows.
    """
    hint = f"if the text is elsewhere now: `{command} FILE`"
    if "-" in names:
        again = f"`{command} -` reads the same text from there, `{command} FILE` from a file"
        raise UsageError("the model learned from standard input", again)
    try:
        corpus = _load_as_in_training(model, names, read, max_bytes=model.corpus_bytes)
    except TooLargeError as error:
        raise UsageError(f"the model's own text is no longer what it was: {error}", hint) from error
    except CorpusError as error:
        raise CorpusError(f"the model's own text: {error}", hint) from error
    if corpus.sha256 != model.corpus.get("sha256"):
        raise UsageError(f"the text `{corpus.name}` is not, or no longer, what this model learned", hint)
    return corpus


def _load_as_in_training(
    model: ModelFile,
    names: Sequence[str],
    read: _Reading,
    progress: TextProgress | None = None,
    max_bytes: int | None = None,
) -> Corpus:
    options: dict[str, Any] = {"kind": model.vocabulary.kind, "filter": model.vocabulary.filter, **read._asdict()}
    # A model that was trained on from another one also has the symbols of that one.
    options |= {"vocabulary": model.vocabulary, "grows": True} if model.base else {}
    return load_corpus(names, progress=progress, max_bytes=max_bytes, **options)
