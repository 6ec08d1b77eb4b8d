"""What is in a text: line ends, control and rare characters, lines that stand more than once. Knows no models."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from charlm.data.copies import Progress
from charlm.data.corpus import Corpus
from charlm.data.documents import line_starts
from charlm.data.holdout import Split
from charlm.data.mapped import PIECE, read
from charlm.vocab import Ids, Vocabulary

# So many lines are compared; of more, those whose hash is a multiple of 2, 4, 8 and so on, with all their copies.
MAX_LINES = 1 << 21
# Shorter lines, such as a bracket, may well stand in several places.
MIN_CHARACTERS = 20
# A character that makes up less than this share of a text is rare.
RARE_SHARE = 1e-5
NUM_EXAMPLES, EXAMPLE_CHARACTERS = 5, 60

Hashes = NDArray[np.uint64]
Places = NDArray[np.int64]


@dataclass(frozen=True)
class Symbol:
    """A character that a person should know of.

    Attributes:
        name: of the character.
        count: how often it stands in the text.
        place: where it stands first.
        context: what stands around that place.
    """

    name: str
    count: int
    place: int
    context: str


@dataclass(frozen=True)
class Line:
    """A line that stands more than once.

    Attributes:
        text: its beginning.
        count: how often it stands in the text, or in the held-out text.
        place: where it stands first.
    """

    text: str
    count: int
    place: int


@dataclass(frozen=True)
class Survey:
    """What is in a text.

    Attributes:
        characters: how many characters it has.
        vocabulary: how many of them are different.
        line_ends: how many lines end with LF, with CR LF, and with CR alone.
        control: control characters other than the ends of lines and tabs.
        rare: how many characters make up less than a 100,000th of the text each.
        rarest: the rarest of them.
        lines: how many lines have at least 20 characters besides white space at their ends.
        lines_compared: how many of these were compared with all others, with their copies.
        duplicate_lines: how many of those compared repeat one before.
        duplicates: the most frequent ones.
        held_out_lines: how many of those compared stand in held-out text.
        lines_in_both: how many of these also stand in the training part.
        in_both: the longest of these.
    """

    characters: int
    vocabulary: int
    line_ends: dict[str, int]
    control: list[Symbol]
    rare: int
    rarest: list[Symbol]
    lines: int
    lines_compared: int
    duplicate_lines: int
    duplicates: list[Line]
    held_out_lines: int
    lines_in_both: int
    in_both: list[Line]

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


def survey(corpus: Corpus, parts: Split, piece: int = PIECE, progress: Progress | None = None) -> Survey:
    """Look at all of a text, in two passes and in little memory.

    Args:
        corpus: the text.
        parts: how it is divided.
        piece: how many characters are looked at together.
        progress: called with how many characters of how many were looked at, both passes together.
    """
    ids, vocabulary, lines = corpus.ids, corpus.vocabulary, _Lines()

    def tick(done: int) -> None:
        if progress:
            progress(done, 2 * len(ids))

    counts_V, first_V, line_ends = _count(ids, vocabulary, piece, tick)
    for places_L, ends_L, hashes_L in _hashed_lines(ids, vocabulary, piece):
        lines.add(places_L, ends_L, hashes_L)
        tick(len(ids) + int(ends_L.max(initial=0)))

    def symbols(which: list[int]) -> list[Symbol]:
        return [
            Symbol(vocabulary.name(index), int(counts_V[index]), int(first_V[index]), _around(corpus, first_V[index]))
            for index in which
        ]

    held_out = np.concatenate([parts.validation.bounds_S2, parts.test.bounds_S2])
    is_control = [unicodedata.category(each) == "Cc" and each not in "\n\r\t" for each in vocabulary.symbols]
    control = [index for index in np.flatnonzero(counts_V).tolist() if is_control[index]]
    is_rare_V = (counts_V > 0) & (counts_V < RARE_SHARE * len(ids))
    rarest = sorted(np.flatnonzero(is_rare_V).tolist(), key=lambda index: int(counts_V[index]))[:NUM_EXAMPLES]
    num_duplicates, duplicates = lines.duplicates(corpus)
    num_held_out, num_in_both, in_both = lines.in_both(corpus, held_out[np.argsort(held_out[:, 0])])
    return Survey(
        len(ids),
        int(np.count_nonzero(counts_V)),
        line_ends,
        symbols(control),
        int(is_rare_V.sum()),
        symbols(rarest),
        lines.total,
        len(lines.hashes),
        num_duplicates,
        duplicates,
        num_held_out,
        num_in_both,
        in_both,
    )


def _count(
    ids: Ids, vocabulary: Vocabulary, size: int, tick: Callable[[int], None]
) -> tuple[NDArray[np.int64], Places, dict[str, int]]:
    """Return how often each symbol stands in a text, where it stands first, and how many lines end in which way."""
    counts_V = np.zeros(len(vocabulary), dtype=np.int64)
    first_V = np.full(len(vocabulary), -1, dtype=np.int64)
    cr, lf = vocabulary.symbols.find("\r"), vocabulary.symbols.find("\n")
    pairs = 0
    for start in range(0, len(ids), size):
        # One character more, because CR and LF may stand in two pieces.
        piece = read(ids, start, start + size + 1)
        if cr >= 0 and lf >= 0:
            pairs += int(np.count_nonzero((piece[:-1] == cr) & (piece[1:] == lf)))
        piece = piece[:size]
        here_V = np.bincount(piece, minlength=len(vocabulary))
        for index in np.flatnonzero((counts_V == 0) & (here_V > 0)).tolist():
            first_V[index] = start + int((piece == index).argmax())
        counts_V += here_V
        tick(start + len(piece))
    ends = [int(counts_V[index]) if index >= 0 else 0 for index in (lf, cr)]
    return counts_V, first_V, {"LF": ends[0] - pairs, "CR LF": pairs, "CR": ends[1] - pairs}


def _hashed_lines(ids: Ids, vocabulary: Vocabulary, size: int) -> Iterator[tuple[Places, Places, Hashes]]:
    """Yield where lines begin and end, without white space at either end, and a hash of each.

    The hash is that of a polynomial: differences of sums over the text, divided by a power of an odd number.
    """
    random = np.random.default_rng(0)
    values_V = random.integers(0, 1 << 64, len(vocabulary), dtype=np.uint64)
    is_space_V = np.array([symbol.isspace() for symbol in vocabulary.symbols], dtype=bool)
    factor = int(random.integers(1 << 63, dtype=np.uint64)) * 2 + 1
    powers, inverses = (_powers(each, size) for each in (factor, pow(factor, -1, 1 << 64)))
    start = 0
    while start < len(ids):
        piece = read(ids, start, start + size)
        ends_L = line_starts(piece, vocabulary)[0]
        if start + len(piece) == len(ids):
            # The last line has no end.
            ends_L = np.append(ends_L, len(piece))
        elif not len(ends_L):
            end, hash_ = _long_line(ids, vocabulary, start, size)
            yield np.array([start]), np.array([end]), np.array([hash_], dtype=np.uint64)
            start = end
            continue
        places_L = np.concatenate([[0], ends_L[:-1]])
        inked = np.flatnonzero(~is_space_V[piece])
        if len(inked):
            low_L, high_L = np.searchsorted(inked, places_L), np.searchsorted(inked, ends_L)
            is_long_L = low_L < high_L
            first_L, last_L = inked[low_L[is_long_L]], inked[high_L[is_long_L] - 1] + 1
            is_long_L = last_L - first_L >= MIN_CHARACTERS
            first_L, last_L = first_L[is_long_L], last_L[is_long_L]
            sums = np.concatenate([[np.uint64(0)], np.cumsum(values_V[piece] * powers[: len(piece)])])
            hashes_L = (sums[last_L] - sums[first_L]) * inverses[first_L]
            # The low bits of such a product depend on few others.
            hashes_L ^= hashes_L >> np.uint64(32)
            yield start + first_L, start + last_L, hashes_L
        start += int(ends_L[-1])


def _long_line(ids: Ids, vocabulary: Vocabulary, start: int, size: int) -> tuple[int, int]:
    """Return where a line ends that is longer than a piece, and a hash of it, with white space at its ends."""
    digest, end, has_ended = hashlib.blake2b(digest_size=8), start, False
    while end < len(ids) and not has_ended:
        piece = read(ids, end, end + size)
        ends_L = line_starts(piece, vocabulary)[0]
        has_ended = len(ends_L) > 0
        piece = piece[: ends_L[0]] if has_ended else piece
        digest.update(piece.tobytes())
        end += len(piece)
    return end, int.from_bytes(digest.digest(), "little")


def _powers(factor: int, number: int) -> Hashes:
    powers = np.full(number, factor, dtype=np.uint64)
    powers[0] = 1
    return np.cumprod(powers, dtype=np.uint64)


class _Lines:
    """Lines by their hashes; of very many only some, but of these all.

    Attributes:
        total: how many there are.
        hashes: of those that are kept.
        places: where they begin.
        ends: where they end.
    """

    def __init__(self) -> None:
        self.total, self._divisor, self._waiting = 0, 1, 0
        self._parts: list[tuple[Hashes, Places, Places]] = []

    def add(self, places_L: Places, ends_L: Places, hashes_L: Hashes) -> None:
        """Add lines."""
        self.total += len(hashes_L)
        self._parts.append(self._kept(hashes_L, places_L, ends_L))
        self._waiting += len(self._parts[-1][0])
        while self._waiting > MAX_LINES:
            self._divisor *= 2
            self._parts = [self._kept(*self._joined())]
            self._waiting = len(self._parts[0][0])

    @property
    def hashes(self) -> Hashes:
        """The hashes of the lines that are kept."""
        return self._joined()[0]

    def duplicates(self, corpus: Corpus) -> tuple[int, list[Line]]:
        """Return how many lines repeat one before, and the most frequent of them."""
        hashes, places, ends = self._joined()
        _, first, counts = np.unique(hashes, return_index=True, return_counts=True)
        most = np.argsort(-counts, kind="stable")[:NUM_EXAMPLES]
        found = [_line(corpus, counts[at], places[first[at]], ends[first[at]]) for at in most if counts[at] > 1]
        return int((counts - 1).sum()), found

    def in_both(self, corpus: Corpus, held_out_S2: NDArray[np.int64]) -> tuple[int, int, list[Line]]:
        """Return how many lines are held out, how many of them stand in the rest too, and the longest of those."""
        hashes, places, ends = self._joined()
        stretch = np.searchsorted(held_out_S2[:, 0], places, side="right") - 1
        is_held_out = (stretch >= 0) & (places < held_out_S2[stretch, 1]) if len(held_out_S2) else stretch >= 0
        is_in_both = is_held_out & np.isin(hashes, hashes[~is_held_out])
        _, first, counts = np.unique(hashes[is_in_both], return_index=True, return_counts=True)
        places, ends = places[is_in_both][first], ends[is_in_both][first]
        longest = np.argsort(places - ends, kind="stable")[:NUM_EXAMPLES]
        found = [_line(corpus, counts[at], places[at], ends[at]) for at in longest]
        return int(is_held_out.sum()), int(is_in_both.sum()), found

    def _kept(self, hashes: Hashes, places: Places, ends: Places) -> tuple[Hashes, Places, Places]:
        is_kept = hashes % np.uint64(self._divisor) == 0
        return hashes[is_kept], places[is_kept], ends[is_kept]

    def _joined(self) -> tuple[Hashes, Places, Places]:
        empty = np.zeros(0, dtype=np.uint64), np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
        hashes, places, ends = (np.concatenate(each) for each in zip(empty, *self._parts, strict=True))
        self._parts = [(hashes, places, ends)]
        return hashes, places, ends


def _line(corpus: Corpus, count: int, place: int, end: int) -> Line:
    text = corpus.vocabulary.decode(corpus.ids[place : min(end, place + EXAMPLE_CHARACTERS)])
    return Line(text + ("..." if end > place + EXAMPLE_CHARACTERS else ""), int(count), int(place))


def _around(corpus: Corpus, place: int) -> str:
    return corpus.vocabulary.decode(corpus.ids[max(0, int(place) - 15) : int(place) + 15])
