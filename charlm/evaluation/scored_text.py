"""Which text a model is scored on: a part of the text it was trained on, or another one. Knows ids, no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from charlm.checkpoint import ModelFile
from charlm.config import DataConfig
from charlm.config_file import validate_settings
from charlm.data.corpus import Corpus, load_corpus
from charlm.data.downloads import DownloadProgress
from charlm.data.holdout import Part, recorded_split
from charlm.errors import CorpusError, TooLargeError, UsageError

PartName = Literal["train", "validation", "test"]
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


def load_other_text(
    model: ModelFile, names: Sequence[str], encoding: str, unknown: str, progress: DownloadProgress | None = None
) -> TextToScore:
    """Read any text in the vocabulary of a model, to be scored as a whole.

    Args:
        model: the model.
        names: corpora of the catalogue, files, folders, globs, or `-` for standard input.
        encoding: how the bytes of the text spell characters.
        unknown: what to do about characters the model does not know: `error`, `skip`, or `replace=C`.
        progress: called as a download proceeds.

    Raises:
        CorpusError: the text is missing, empty or undecodable.
        UnknownCharacterError: it holds unknown characters, under `unknown="error"`.
    """
    options = {"encoding": encoding, "vocabulary": model.vocabulary, "unknown": unknown}
    corpus = load_corpus(names, progress=progress, **options)  # type: ignore[arg-type]
    return TextToScore(corpus.name, Part.of(corpus.ids), notes=(*corpus.notes, *_notes_on_learned(model, corpus)))


def load_own_text(
    model: ModelFile,
    part: PartName = "validation",
    names: Sequence[str] | None = None,
    encoding: str | None = None,
    command: str = "charlm eval",
    progress: DownloadProgress | None = None,
) -> TextToScore:
    """Read a part of the text that a model was trained on, after checking that it is still the same text.

    Args:
        model: the model.
        part: the name of the part.
        names: where the text is now; None for where it was in training.
        encoding: how its bytes spell characters; None for what it was in training.
        command: what scores the model, for hints.
        progress: called as a download proceeds.

    Raises:
        CorpusError: the text cannot be read, or the part is empty.
        UsageError: the text came through standard input, or it is another one.
        ConfigError: the settings in the model file are not valid.
        ModelFileError: the held-out blocks in the model file are not valid.
    """
    # A model file is untrusted: its settings are checked like those of a user.
    settings = validate_settings({"data": model.config.get("data")}, {}, "the model's settings").data
    encoding = encoding or settings.encoding
    if names:
        corpus = _load_as_in_training(model, names, encoding, progress)
        if corpus.sha256 != model.corpus.get("sha256"):
            raise UsageError(f"the text `{corpus.name}` is not the one that this model learned", SCORE_AS_A_WHOLE)
    else:
        corpus = _load_from_where_it_was(model, settings, encoding, f"{command} --part {part} --corpus")
    if corpus.vocabulary != model.vocabulary:
        raise UsageError(f"the symbols of this model are not those of its text `{corpus.name}`", SCORE_AS_A_WHOLE)
    name = f"{part} part of {corpus.name}"
    parts = recorded_split(corpus.ids, settings, model.corpus)
    ids: Part = getattr(parts, part)
    if not len(ids):
        hint = "" if part == "train" else f"`data.{part}_fraction` held out nothing; `--part train` scores the rest"
        raise CorpusError(f"the {name} is empty", hint)
    return TextToScore(name, ids, None if part == "train" else parts.train)


def _notes_on_learned(model: ModelFile, corpus: Corpus) -> list[str]:
    """Say if a text that is scored as a whole is the one that the model learned."""
    if corpus.sha256 != model.corpus.get("sha256"):
        return []
    data = model.config.get("data")
    held_out = [part for part in ("validation", "test") if isinstance(data, dict) and data.get(f"{part}_fraction")]
    if not held_out:
        return ["the model learned all of this text"]
    return [f"the model learned most of this text; `--part {held_out[0]}` scores what was held out of it"]


def _load_from_where_it_was(model: ModelFile, settings: DataConfig, encoding: str, command: str) -> Corpus:
    """Read the text of a model under the names in the model file, which is untrusted.

    Args:
        model: the model.
        settings: where its text was, and others.
        encoding: how its bytes spell characters.
        command: what scores the same part of a text whose name follows.
    """
    hint = f"if the text is elsewhere now: `{command} FILE`"
    if "-" in settings.corpus:
        again = f"`{command} -` reads the same text from there, `{command} FILE` from a file"
        raise UsageError("the model learned from standard input", again)
    try:
        corpus = _load_as_in_training(model, settings.corpus, encoding, max_bytes=model.corpus_bytes)
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
    encoding: str,
    progress: DownloadProgress | None = None,
    max_bytes: int | None = None,
) -> Corpus:
    vocabulary = model.vocabulary
    options = {"encoding": encoding, "kind": vocabulary.kind, "filter": vocabulary.filter}
    return load_corpus(names, progress=progress, max_bytes=max_bytes, **options)  # type: ignore[arg-type]
