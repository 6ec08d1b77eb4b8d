"""Which text a model is scored on: a part of the text it was trained on, or another one. Knows ids, no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from charlm.checkpoint import ModelFile
from charlm.config_file import validate_settings
from charlm.data.corpus import Corpus, load_corpus
from charlm.data.downloads import DownloadProgress
from charlm.data.holdout import split_ids
from charlm.errors import CorpusError, TooLargeError, UsageError
from charlm.vocab import Ids

Part = Literal["train", "validation", "test"]
SCORE_ANOTHER_TEXT = "`--corpus` scores any text as a whole"


@dataclass(frozen=True)
class TextToScore:
    """A text in the vocabulary of a model.

    Attributes:
        name: what people call it.
        ids: its characters, shape (N,).
        training_ids: the part of the same corpus that baselines may learn from; None if they have nothing to learn.
        notes: changes to the text that a person should know of.
    """

    name: str
    ids: Ids
    training_ids: Ids | None = None
    notes: tuple[str, ...] = ()


def load_other_text(
    model: ModelFile,
    names: Sequence[str],
    encoding: str,
    unknown: str,
    progress: DownloadProgress | None = None,
    skip_undecodable: bool = False,
) -> TextToScore:
    """Read any text in the vocabulary of a model, to be scored as a whole.

    Args:
        model: the model.
        names: corpora of the catalogue, files, folders, globs, or `-` for standard input.
        encoding: how the bytes of the text spell characters.
        unknown: what to do about characters the model does not know: `error`, `skip`, or `replace=C`.
        progress: called as a download proceeds.
        skip_undecodable: leave out files that are no text in this encoding.

    Raises:
        CorpusError: the text is missing, empty or undecodable.
        UnknownCharacterError: it holds unknown characters, under `unknown="error"`.
    """
    options = {"encoding": encoding, "vocabulary": model.vocabulary, "unknown": unknown}
    corpus = load_corpus(names, progress=progress, skip_undecodable=skip_undecodable, **options)  # type: ignore[arg-type]
    return TextToScore(corpus.name, corpus.ids, notes=corpus.notes)


def load_own_text(model: ModelFile, part: Part = "validation") -> TextToScore:
    """Read a part of the text that a model was trained on, after checking that it is still the same text.

    Raises:
        CorpusError: the text cannot be read, or the part is empty.
        UsageError: the text came through standard input, or it has changed.
        ConfigError: the settings in the model file are not valid.
    """
    # A model file is untrusted: its settings are checked like those of a user.
    settings = validate_settings({"data": model.config.get("data")}, {}, "the model's settings").data
    corpus = _load_own_corpus(model, settings.corpus, settings.encoding, settings.skip_undecodable)
    name = f"{part} part of {corpus.name}"
    parts = split_ids(corpus.ids, settings.validation_fraction, settings.test_fraction)
    ids: Ids = getattr(parts, part)
    if not len(ids):
        hint = "" if part == "train" else f"`data.{part}_fraction` held out nothing; `--part train` scores the rest"
        raise CorpusError(f"the {name} is empty", hint)
    return TextToScore(name, ids, None if part == "train" else parts.train)


def _load_own_corpus(model: ModelFile, names: list[str], encoding: str, skip_undecodable: bool) -> Corpus:
    if "-" in names:
        raise UsageError("the model learned from standard input", SCORE_ANOTHER_TEXT)
    options: dict[str, Any] = {"encoding": encoding, "skip_undecodable": skip_undecodable}
    options |= {"kind": model.vocabulary.kind, "filter": model.vocabulary.filter}
    # A model that was trained on from another one also has the symbols of that one.
    options |= {"vocabulary": model.vocabulary, "grows": True} if model.base else {}
    try:
        corpus = load_corpus(names, max_bytes=model.corpus_bytes, **options)
    except TooLargeError as error:
        raise UsageError(f"the model's own text is no longer what it was: {error}", SCORE_ANOTHER_TEXT) from error
    except CorpusError as error:
        raise CorpusError(f"the model's own text: {error}", SCORE_ANOTHER_TEXT) from error
    if corpus.sha256 != model.corpus.get("sha256"):
        raise UsageError(f"the text `{corpus.name}` is not, or no longer, what this model learned", SCORE_ANOTHER_TEXT)
    if corpus.vocabulary != model.vocabulary:
        raise UsageError(f"the symbols of this model are not those of its text `{corpus.name}`", SCORE_ANOTHER_TEXT)
    return corpus
