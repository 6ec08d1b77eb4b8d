"""A text with the bits that each of its characters costs a model; its totals, lines and worst places.

Letters: `C` characters of a text, `T` symbols of a model, which are bytes if its vocabulary is one of bytes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from charlm.errors import CorpusError
from charlm.inference.fill import Filler
from charlm.inference.predict import Candidate
from charlm.inference.score import Reader, SymbolScores, score_symbols
from charlm.inference.stepper import Progress
from charlm.vocab import Ids, TextFilter, Vocabulary, code_points_of

LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+")
# Thai, Lao, Tibetan, Burmese, Khmer, Japanese and Chinese put no spaces between words.
UNSPACED = re.compile(
    "[\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)
MAX_UNSPACED = 0.1
# Keeps a perplexity finite: one word may be very long.
MAX_EXPONENT = 1023.0


class Line(NamedTuple):
    """A line of a text.

    Attributes:
        number: from 1.
        start: the place of its first character in the text, from 0.
        text: its characters, with the line end.
    """

    number: int
    start: int
    text: str

    @property
    def span(self) -> slice:
        """Which characters of the text it has."""
        return slice(self.start, self.start + len(self.text))


@dataclass(frozen=True)
class Place:
    """A place of a text, what was expected there, and what stood there.

    Attributes:
        position: of the character in the text, from 0.
        line: of the character, from 1.
        column: of the character in its line, from 1.
        bits: what it cost.
        expected: the most probable symbol.
        found: the symbol that stood there, as the model read it.
    """

    position: int
    line: int
    column: int
    bits: float
    expected: Candidate
    found: Candidate


@dataclass(frozen=True)
class Surprisal:
    """A text with the bits that each of its characters cost a model.

    Attributes:
        text: the text as it was given, or as the filter of the model left it.
        bits_C: the bits of each character, the sum over its bytes for a model of bytes; NaN for a character that the
            model does not know and that was skipped.
        is_known_C: whether the model knows each character; one that was replaced has the bits of its replacement.
        read: the characters that were scored: the text without what was skipped, and with replacements.
        scores: of each symbol that was read.
        characters_T: to which character of the text each symbol belongs.
        ids_T: the symbols.
        vocabulary: those of the model.
        sees_both_sides: whether each symbol was predicted from both sides; its bits are then those of a masked symbol.
    """

    text: str
    bits_C: NDArray[np.float64]
    is_known_C: NDArray[np.bool_]
    read: str
    scores: SymbolScores
    characters_T: NDArray[np.int64]
    ids_T: Ids
    vocabulary: Vocabulary
    sees_both_sides: bool

    @property
    def unit(self) -> str:
        """What the figures are averaged over: `character`, or for models of both sides `masked character` or `byte`."""
        return self.vocabulary.scored_unit(True) if self.sees_both_sides else "character"

    @cached_property
    def units_C(self) -> NDArray[np.float64]:
        """How many units each character counts as; NaN if it was not scored."""
        is_of_bytes = self.sees_both_sides and self.vocabulary.kind == "bytes"
        units_C = _num_bytes(self.text).astype(np.float64) if is_of_bytes else np.ones(len(self.text))
        return np.where(np.isnan(self.bits_C), np.nan, units_C)

    @property
    def num_unknown(self) -> int:
        """How many characters the model does not know."""
        return int((~self.is_known_C).sum())

    @property
    def bits(self) -> float:
        """The cost of the whole text."""
        return float(np.nansum(self.bits_C))

    def bits_per_unit(self, span: slice = slice(None)) -> float:
        """Return the mean of the bits over a part of the text; NaN if no character of it was scored."""
        num_units = np.nansum(self.units_C[span])
        return float(np.nansum(self.bits_C[span]) / num_units) if num_units else math.nan

    @property
    def num_bytes(self) -> int:
        """How many bytes the characters that were scored take in UTF-8."""
        return int(_num_bytes(self.read).sum())

    @cached_property
    def num_words(self) -> int | None:
        """How many words were scored: characters between white space.

        None for models of both sides, for text of scripts that put no spaces between words, and if there are none.
        """
        num_spaced = sum(map(len, words := self.read.split()))
        is_unspaced = len(UNSPACED.findall(self.read)) > MAX_UNSPACED * num_spaced
        return None if self.sees_both_sides or is_unspaced else len(words) or None

    @property
    def bits_per_word(self) -> float | None:
        """The bits of the whole text, those of its spaces included, divided by the number of words."""
        return None if self.num_words is None else self.bits / self.num_words

    def totals(self) -> dict[str, float | int | None]:
        """Return the figures of the whole text by name; the names say over what they are averaged.

        For a model of both sides these are figures of masked characters, and there are none per byte and per word: the
        sum of its bits is not the cost of the text.
        """
        unit, bits_per_unit = self.unit.replace(" ", "_"), self.bits_per_unit()
        figures: dict[str, float | int | None] = {
            "characters": len(self.read),
            "bytes": self.num_bytes,
            "words": self.num_words,
            "unknown_characters": self.num_unknown,
            f"bits_per_{unit}": bits_per_unit,
            f"perplexity_per_{unit}": perplexity(bits_per_unit),
        }
        if self.sees_both_sides:
            return figures
        bits_per_word = self.bits_per_word
        return figures | {
            "bits_per_byte": self.bits / self.num_bytes,
            "bits_per_word": bits_per_word,
            "perplexity_per_word": None if bits_per_word is None else perplexity(bits_per_word),
        }

    def worst_lines(self) -> list[Line]:
        """Return the lines that have characters which were scored, those with the most bits per character first."""
        scored = [(self.bits_per_unit(line.span), line) for line in lines_of(self.text)]
        return [line for bits, line in sorted(scored, key=lambda pair: -pair[0]) if not math.isnan(bits)]

    def worst_places(self, top: int = 10) -> list[Place]:
        """Return the places with the most bits, the worst first."""
        order_T = np.argsort(-self.scores.bits_T, kind="stable")[:top].tolist()
        starts = np.array([line.start for line in lines_of(self.text)])
        places = []
        for index in order_T:
            position = int(self.characters_T[index])
            line = int(np.searchsorted(starts, position, side="right"))
            column = position - int(starts[line - 1]) + 1
            bits = float(self.scores.bits_T[index])
            expected = self._candidate(self.scores.expected_TK[index, 0], self.scores.expected_bits_TK[index, 0])
            places.append(Place(position, line, column, bits, expected, self._candidate(self.ids_T[index], bits)))
        return places

    def _candidate(self, index: Any, bits: float) -> Candidate:
        return Candidate(self.vocabulary.symbols[index], self.vocabulary.name(int(index)), float(2.0**-bits))

    def to_json(self, top: int = 10) -> dict[str, Any]:
        """Return it as plain values: the totals, the lines in order, the worst places, and the bits per character."""
        per_unit = f"bits_per_{self.unit.replace(' ', '_')}"
        lines = [
            {
                "line": line.number,
                "position": line.start,
                "characters": len(line.text),
                per_unit: self.bits_per_unit(line.span),
            }
            for line in lines_of(self.text)
        ]
        values = {
            "text": self.text,
            **self.totals(),
            "bits": self.bits,
            "lines": lines,
            "worst_places": [asdict(place) for place in self.worst_places(top)],
            "bits_of_characters": self.bits_C.tolist(),
        }
        return dict(finite(values))


def measure_surprisal(
    model: Reader, text: str, unknown: str = "error", progress: Progress | None = None, top: int = 1
) -> Surprisal:
    """Score each character of a text with a model, its n-grams included.

    A model of one direction predicts the first character that it reads from the start of a text, with nothing before
    it.

    Args:
        model: the model.
        text: the text, from its start to its end.
        unknown: what to do about characters the model lacks: `error`, `skip`, or `replace=C`.
        progress: called now and then with how many symbols of how many were scored.
        top: how many symbols to name that were expected in each place; at most all.

    Raises:
        CorpusError: there is no character to score.
        UnknownCharacterError: the text holds unknown characters, under `unknown="error"`.
        ModelFileError: the weights are so large that the logits overflow.
    """
    text, ids_T = symbols_to_score(model.vocabulary, text, unknown)
    scores = score_symbols(model, ids_T, progress, top)
    return surprisal_of(model, text, ids_T, scores, unknown)


def symbols_to_score(vocabulary: Vocabulary, text: str, unknown: str = "error") -> tuple[str, Ids]:
    """Return a text as the filter of a model leaves it, and the symbols of it to score, in the order of the text.

    Raises:
        CorpusError: there is no character to score.
        UnknownCharacterError: the text holds characters the model lacks, under `unknown="error"`.
    """
    text = TextFilter(vocabulary.filter)(text)
    ids_T = vocabulary.encode(text, unknown, is_filtered=True)
    if not len(ids_T):
        reason = "has no known character" if text else "is empty"
        raise CorpusError(
            f"there is nothing to score: the text {reason}",
            "give a text of at least one character that it knows",
        )
    return text, ids_T


def surprisal_of(model: Reader, text: str, ids_T: Ids, scores: SymbolScores, unknown: str = "error") -> Surprisal:
    """Return a text with what its characters cost, from the scores of its symbols; see `symbols_to_score`."""
    vocabulary = model.vocabulary
    if vocabulary.kind == "bytes":
        is_known_C, read = np.ones(len(text), np.bool_), text
        characters_T = np.repeat(np.arange(len(text)), _num_bytes(text))
    else:
        is_known_C = np.array([character in vocabulary for character in text])
        read = "".join(vocabulary.symbols[index] for index in ids_T)
        characters_T = np.flatnonzero(is_known_C) if unknown == "skip" else np.arange(len(text))
    bits_C = np.full(len(text), np.nan)
    bits_C[characters_T] = 0.0
    np.add.at(bits_C, characters_T, scores.bits_T)
    sees_both_sides = isinstance(model, Filler)
    return Surprisal(text, bits_C, is_known_C, read, scores, characters_T, ids_T, vocabulary, sees_both_sides)


def lines_of(text: str) -> Iterator[Line]:
    """Yield the lines of a text. They end with LF, CR or both; other characters end none."""
    for number, found in enumerate(LINE.finditer(text), 1):
        yield Line(number, found.start(), found[0])


def perplexity(bits: float) -> float:
    """Return the number of equally probable choices that cost so many bits."""
    return float(2.0 ** min(bits, MAX_EXPONENT))


def finite(values: Any) -> Any:
    """Return plain values in which None stands for NaN and for infinity, which JSON does not have."""
    if isinstance(values, dict):
        return {name: finite(value) for name, value in values.items()}
    if isinstance(values, list):
        return list(map(finite, values))
    return None if isinstance(values, float) and not math.isfinite(values) else values


def _num_bytes(text: str) -> NDArray[np.int64]:
    """Return how many bytes each character takes in UTF-8, shape (C,)."""
    code_points_C = code_points_of(text)
    longer_C = [(code_points_C >= least).astype(np.int64) for least in (0x80, 0x800, 0x10000)]
    return 1 + sum(longer_C, np.zeros(len(text), np.int64))
