"""How much of a text stands verbatim in the text that a model learned, and where. Needs no torch."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from charlm.checkpoint import ModelFile, load_checkpoint
from charlm.data.copies import MAX_LENGTH, Progress, Run, is_covered, longest_run, match
from charlm.data.corpus import Corpus, TextProgress
from charlm.data.holdout import Split
from charlm.errors import UndecodableError
from charlm.evaluation.scored_text import load_own_parts
from charlm.run_folder import find_model
from charlm.vocab import Ids, TextFilter, Vocabulary

LENGTHS = range(5, MAX_LENGTH + 1)
# So much of the held-out text is compared: its share varies little beyond.
HELD_OUT_CHARACTERS = 50_000
# Copies are marked from the length at which at most this share of the held-out text stands in the training text.
MARKED_SHARE = 0.05
# The same length for a model that held nothing out.
USUAL_LENGTH = 20
CONTEXT_CHARACTERS = 20
# What stands for the bytes of an incomplete character.
REPLACEMENT = "\ufffd"


@dataclass(frozen=True)
class LongestCopy:
    """The longest run of a text that stands verbatim in the training text.

    Attributes:
        length: how many symbols it has: characters, or bytes if the model reads bytes.
        text: the run.
        start: where it begins in the text that was checked, in symbols from 0.
        position: where it stands in the whole text that the model learned, in symbols from 0.
        line: the line of the source in which it begins, from 1; None in a text without line ends.
        source: the file, or the name of the text.
        before: a few characters before it in the training text.
        after: a few characters after it there.
    """

    length: int
    text: str
    start: int
    position: int
    line: int | None
    source: str
    before: str
    after: str


@dataclass(frozen=True)
class Copies:
    """What of a text stands verbatim in the training text.

    Attributes:
        text: the text that was checked.
        vocabulary: that of the model; lengths count its symbols.
        lengths_T: how long the run is that begins at each symbol and stands there, up to `MAX_LENGTH`.
        longest: the longest run; None if no symbol stands there.
        held_out_lengths_T: the same lengths for held-out text; None if the model held nothing out.
    """

    text: str
    vocabulary: Vocabulary
    lengths_T: NDArray[np.int64]
    longest: LongestCopy | None
    held_out_lengths_T: NDArray[np.int64] | None

    @cached_property
    def share_by_length(self) -> dict[int, float]:
        """Which share of the text lies in copies of at least each length."""
        return shares([self.lengths_T])

    @cached_property
    def held_out_share_by_length(self) -> dict[int, float] | None:
        """Which share of held-out text lies in such copies: as much as any text of this kind has."""
        return None if self.held_out_lengths_T is None else shares([self.held_out_lengths_T])

    @property
    def marked_length(self) -> int:
        """From which length on a copy is remarkable: held-out text hardly has such copies."""
        if self.held_out_share_by_length is None:
            return USUAL_LENGTH
        rare = [length for length, share in self.held_out_share_by_length.items() if share <= MARKED_SHARE]
        return min(rare, default=MAX_LENGTH)

    def spans(self, length: int | None = None) -> list[tuple[int, int]]:
        """Return where copies of at least a length start and end in the text, in characters.

        Args:
            length: the length, `MAX_LENGTH` at most; None for `marked_length`.
        """
        covered = is_covered(self.lengths_T, self.marked_length if length is None else length)
        if self.vocabulary.kind == "bytes" and self.text:
            # A character is copied if each of its bytes is.
            sizes = [len(character.encode("utf-8", "surrogatepass")) for character in self.text]
            covered = np.logical_and.reduceat(covered, np.cumsum([0, *sizes[:-1]]))
        edges = np.flatnonzero(np.diff(covered, prepend=False, append=False))
        return [(start, end) for start, end in edges.reshape(-1, 2).tolist()]

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        held_out = self.held_out_share_by_length
        return {
            "unit": self.vocabulary.unit,
            "length": len(self.lengths_T),
            "longest": None if self.longest is None else dict(vars(self.longest)),
            "marked_length": self.marked_length,
            "spans": [list(span) for span in self.spans()],
            "share_by_length": _as_json(self.share_by_length),
            "held_out_length": 0 if self.held_out_lengths_T is None else len(self.held_out_lengths_T),
            "held_out_share_by_length": None if held_out is None else _as_json(held_out),
        }


class LearnedText:
    """The text that a model learned, in which copies are found.

    Args:
        corpus: the whole text.
        parts: its parts; what stands in the training part counts as a copy.
    """

    def __init__(self, corpus: Corpus, parts: Split) -> None:
        self._corpus = corpus
        self._train = parts.train
        self._held_out = (parts.validation if len(parts.validation) else parts.test).beginnings(HELD_OUT_CHARACTERS)
        self._held_out_lengths_T: NDArray[np.int64] | None = None

    @classmethod
    def of(
        cls,
        model: ModelFile,
        names: Sequence[str] | None = None,
        command: str = "charlm sample --check-copies --corpus",
        progress: TextProgress | None = None,
    ) -> LearnedText:
        """Read the text that a model learned.

        Args:
            model: the model.
            names: where the text is now; None for where it was in training.
            command: what does the same with a text whose name follows, for hints.
            progress: called as a text is downloaded or read.

        Raises:
            CharlmError: see `load_own_parts`.
        """
        otherwise = f"copies are found in the text that was learned: `{_learned_name(model)}`"
        try:
            return cls(*load_own_parts(model, names, command, otherwise, progress))
        except UndecodableError as error:
            # Its hint is on options that only training and scoring have.
            raise UndecodableError(str(error), otherwise) from error

    def copies(self, texts: Sequence[str], progress: Progress | None = None) -> list[Copies]:
        """Find what of each text stands in the training text. It is read once for all texts.

        Args:
            texts: as the model writes them.
            progress: called with the number of characters that were looked at, and how many there are.

        Raises:
            UnknownCharacterError: a text has characters that the model does not know.
        """
        vocabulary = self._corpus.vocabulary
        ids = [vocabulary.encode(text, is_filtered=True) for text in texts]
        held_out = self._held_out.stretches if self._held_out_lengths_T is None else []
        found = match([*ids, *held_out], self._train, progress)
        if held_out:
            self._held_out_lengths_T = np.concatenate([lengths_T for lengths_T, _ in found[len(ids) :]])
        return [
            Copies(
                text,
                vocabulary,
                matches.lengths_T,
                self._described(longest_run(ids_T, matches, self._train), ids_T),
                self._held_out_lengths_T,
            )
            for text, ids_T, matches in zip(texts, ids, found[: len(ids)], strict=True)
        ]

    def _described(self, run: Run | None, ids_T: Ids) -> LongestCopy | None:
        if run is None:
            return None
        corpus, end = self._corpus, run.place + run.length
        source = bisect_right(corpus.ends, run.place)
        start = corpus.ends[source - 1] if source else 0
        return LongestCopy(
            run.length,
            self._text(ids_T[run.start : run.start + run.length]),
            run.start,
            run.place,
            _line(corpus.ids[start : run.place], corpus.vocabulary),
            corpus.sources[source] if len(corpus.sources) > 1 else corpus.name,
            self._text(corpus.ids[max(0, run.place - CONTEXT_CHARACTERS) : run.place]),
            self._text(corpus.ids[end : end + CONTEXT_CHARACTERS]),
        )

    def _text(self, ids: Ids) -> str:
        """Return a piece as text, without the characters that are incomplete at its edges."""
        text = self._corpus.vocabulary.decode(ids)
        return text.strip(REPLACEMENT) if self._corpus.vocabulary.kind == "bytes" else text


def find_copies(model: str | os.PathLike[str], text: str, corpus: Sequence[str] | None = None) -> Copies:
    """Find what of a text stands verbatim in the text that a model learned.

    Args:
        model: a model file or a run folder.
        text: any text; without the prompt, if the model continued one.
        corpus: where the text is that was learned; None for where it was in training.

    Raises:
        CharlmError: there is no such model, its text cannot be read or is another one, or it does not know a character.
    """
    file = load_checkpoint(find_model(Path(model)))
    return LearnedText.of(file, corpus).copies([TextFilter(file.vocabulary.filter)(text)])[0]


def shares(lengths: Sequence[NDArray[np.int64]]) -> dict[int, float]:
    """Return which share of all symbols of some texts lies in copies of at least each length.

    Args:
        lengths: for each text how long the run is that begins at each symbol.
    """
    total = max(1, sum(map(len, lengths)))
    return {
        length: sum(np.count_nonzero(is_covered(lengths_T, length)) for lengths_T in lengths) / total
        for length in LENGTHS
    }


def _as_json(share_by_length: dict[int, float]) -> dict[str, float]:
    return {str(length): round(share, 6) for length, share in share_by_length.items()}


def _learned_name(model: ModelFile) -> str:
    name = model.corpus.get("name")
    return name if isinstance(name, str) else "unknown"


def _line(before: Ids, vocabulary: Vocabulary) -> int | None:
    """Return the number of the line that begins or continues after these characters of a source."""
    end = next((end for end in "\n\r" if end in vocabulary), None)
    if end is None:
        return None
    (number,) = vocabulary.encode(end, is_filtered=True)
    size = 1 << 22
    return 1 + sum(int(np.count_nonzero(before[at : at + size] == number)) for at in range(0, len(before), size))
