"""Which parts of a text are trained on and which are held out: its end, or blocks that are spread over it."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from charlm.data.corpus import Corpus
from charlm.data.documents import document_starts, line_starts
from charlm.data.mapped import gather, read
from charlm.errors import CorpusError, ModelFileError, counted
from charlm.settings.config import DataConfig
from charlm.vocab import Ids

# A block that is held out has at least so many characters. A source that is small beside the others has one of its
# own if its share is at least the second number.
BLOCK_CHARACTERS, SMALL_BLOCK_CHARACTERS = 4000, 2000
# A long text has about so many blocks, which are longer then.
USUAL_BLOCKS = 64
MAX_BLOCKS = 2 * USUAL_BLOCKS
# The edge of a block moves this far at most to the end of a file, a paragraph or a line.
MAX_REACH = 4096
# The name of the blocks in the facts about a text that a model file holds.
HELD_OUT = "held_out"

Block = tuple[int, int]


@dataclass(frozen=True, eq=False)
class Part:
    """A part of a text: stretches of it, in order. Between two stretches stands text of other parts.

    Attributes:
        ids: the whole text, shape (N,); it is not copied.
        bounds_S2: where each stretch starts and where it ends, shape (S, 2), ascending.
        documents_D: where documents of the whole text begin at which the state of a net is reset, ascending; empty
            if it is carried over.
    """

    ids: Ids
    bounds_S2: NDArray[np.int64]
    documents_D: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))

    @classmethod
    def of(cls, text: Ids | Part) -> Part:
        """Return a text of one stretch as a part; leave a part as it is."""
        return text if isinstance(text, Part) else cls.between(text, [(0, len(text))])

    @classmethod
    def between(cls, ids: Ids, blocks: Sequence[Block]) -> Self:
        """Return the stretches of a text that are given by start and end, without the empty ones."""
        return cls(ids, np.array([block for block in blocks if block[0] < block[1]], dtype=np.int64).reshape(-1, 2))

    def __len__(self) -> int:
        return int(self.lengths_S.sum())

    @property
    def lengths_S(self) -> NDArray[np.int64]:
        """The number of characters of each stretch."""
        return self.bounds_S2[:, 1] - self.bounds_S2[:, 0]

    @property
    def stretches(self) -> list[Ids]:
        """The characters of each stretch, as views of the text."""
        return [self.ids[start:end] for start, end in self.bounds_S2]

    def joined(self) -> Ids:
        """Return its characters in one array: a view of the text if it has one stretch, a copy if it has several."""
        stretches = self.stretches
        return stretches[0] if len(stretches) == 1 else np.concatenate([self.ids[:0], *stretches])

    def at(self, places: NDArray[np.int64]) -> Ids:
        """Return the characters at these places, which are counted in the joined stretches.

        Args:
            places: shape (..., L); the L of each row are close together.
        """
        upto_S = np.cumsum(self.lengths_S)
        stretches = np.searchsorted(upto_S, places, side="right")
        places = places - upto_S[stretches] + self.bounds_S2[stretches, 1]
        rows_RL = places.reshape(-1, places.shape[-1])
        return gather(self.ids, rows_RL.T).T.reshape(places.shape)

    def backwards(self) -> Part:
        """Return the same characters of the reversed text."""
        total = len(self.ids)
        return Part(self.ids[::-1], total - self.bounds_S2[::-1, ::-1], total - self.documents_D[::-1])

    def divided(self) -> Part:
        """Return the same characters, with a stretch for each document at which the state is reset."""
        inside = [self.documents_D[slice(*self.documents_D.searchsorted(bounds))] for bounds in self.bounds_S2]
        edges = map(np.union1d, self.bounds_S2, inside)
        return self._of([block for some in edges for block in pairwise(some.tolist())])

    def _of(self, blocks: Sequence[Block]) -> Part:
        """Return other stretches of the same text."""
        return replace(Part.between(self.ids, blocks), documents_D=self.documents_D)

    def beginnings(self, num_characters: int) -> Part:
        """Return so many characters, or all: the beginning of each stretch, in proportion to its length."""
        starts_S = self.bounds_S2[:, 0]
        return self._of(list(zip(starts_S, starts_S + self._shares_of(num_characters), strict=True)))

    def endings(self, num_characters: int) -> Part:
        """Return so many characters, or all: the end of each stretch, in proportion to its length."""
        ends_S = self.bounds_S2[:, 1]
        return self._of(list(zip(ends_S - self._shares_of(num_characters), ends_S, strict=True)))

    def without_blocks(self, num_characters: int, num_blocks: int) -> tuple[Part, Part]:
        """Return the part without blocks of so many characters in all, and these blocks, which are evenly spaced."""
        total, ends = len(self), np.cumsum(self.lengths_S)
        taken: list[Block] = []
        for index in range(num_blocks):
            size = num_characters * (index + 1) // num_blocks - num_characters * index // num_blocks
            # Around the middle of an equal share of the characters, within the stretch that it lies in.
            middle = (2 * index + 1) * total // (2 * num_blocks)
            stretch = int(np.searchsorted(ends, middle, side="right"))
            start, end = self.bounds_S2[stretch].tolist()
            place = start + middle - int(ends[stretch]) + end - start
            first = max(start, min(place - size // 2, end - size), taken[-1][1] if taken else 0)
            taken.append((first, min(first + size, end)))
        edges = sorted({edge for block in [*taken, *self.bounds_S2.tolist()] for edge in block})
        left = [
            (a, b)
            for a, b in pairwise(edges)
            if not any(first <= a < last for first, last in taken)
            and any(start <= a < end for start, end in self.bounds_S2.tolist())
        ]
        return self._of(left), self._of(taken)

    def _shares_of(self, num_characters: int) -> NDArray[np.int64]:
        # Python's integers, because the products are large.
        total, upto = len(self), [0, *np.cumsum(self.lengths_S).tolist()]
        return np.diff([min(num_characters, total) * end // max(total, 1) for end in upto])


class Split(NamedTuple):
    """The three parts of a corpus. They share no character, and together they are all of it."""

    train: Part
    validation: Part
    test: Part

    @property
    def is_spread(self) -> bool:
        """Whether blocks are held out, and not the end."""
        return len(self.train.bounds_S2) > 1

    @property
    def _is_recorded(self) -> bool:
        """Whether the fractions alone do not say where the parts are."""
        return self.is_spread

    def facts(self) -> dict[str, Any]:
        """Return what a model file says of it: the blocks that are held out; nothing if a share of the end is."""
        # They depend on where the files of a text end, which is unknown when the text comes back in one piece.
        blocks = {name: getattr(self, name).bounds_S2.tolist() for name in ("validation", "test")}
        return {HELD_OUT: blocks} if self._is_recorded else {}


class _RecordedSplit(Split):
    _is_recorded = True


def hold_out(corpus: Corpus, data: DataConfig) -> Split:
    """Divide a text into train, validation and test, as the settings say.

    A text that is too short to be spread is cut at its end.
    """
    fractions = [_in_decimals(data.validation_fraction), _in_decimals(data.test_fraction)]
    regions = _regions(corpus, fractions) if should_spread(corpus, data) else []
    if data.documents is not None:
        return _split_at_documents(corpus, data.documents, regions, fractions)
    if regions:
        return _split_at(corpus.ids, *_blocks(corpus, regions, fractions))
    return split_at_end(corpus.ids, data.validation_fraction, data.test_fraction)


def _split_at_documents(
    corpus: Corpus, documents: str, regions: Sequence[Block], fractions: Sequence[Fraction]
) -> Split:
    """Divide a text where documents begin, as near to the usual places as they do.

    Raises:
        CorpusError: there are too few documents.
    """
    starts_D = document_starts(corpus, documents)
    total = len(corpus.ids)

    def nearest(place: int) -> int:
        # The training part needs a document too.
        after = int(starts_D.searchsorted(place))
        near = [int(start) for start in starts_D[max(0, after - 1) : after + 1]]
        return min([*near, total] if near else [total], key=lambda start: abs(start - place))

    if regions:
        blocks = _blocks(corpus, regions, fractions, lambda place, _: nearest(place))
    else:
        train_end, validation_end = (int(total * (1 - share)) for share in (sum(fractions), fractions[1]))
        edges = [nearest(train_end), nearest(validation_end), total]
        blocks = [[block] if block[0] < block[1] else [] for block in pairwise(edges)]
    if any(fraction and not part for fraction, part in zip(fractions, blocks, strict=True)):
        raise CorpusError(
            f"{corpus.name} has only {counted(len(starts_D) + 1, 'document')} (`data.documents={documents}`), "
            "too few to hold some of them out",
            "`data.documents=blank-line` makes documents of paragraphs, `data.documents=null` of nothing",
        )
    return _RecordedSplit(*_split_at(corpus.ids, *blocks))


def should_spread(corpus: Corpus, data: DataConfig) -> bool:
    """Return whether blocks should be held out if the text is long enough: `auto` spreads several texts."""
    is_several = len({0, *corpus.ends}) > 2
    return data.holdout == "spread" or (data.holdout == "auto" and is_several)


def split_at_end(ids: Ids, validation_fraction: float, test_fraction: float) -> Split:
    """Cut ids into train, validation and test, contiguous and in this order; train keeps at least one character."""
    validation, test = _in_decimals(validation_fraction), _in_decimals(test_fraction)
    train_end = max(1, int(len(ids) * (1 - validation - test)))
    validation_end = max(train_end, int(len(ids) * (1 - test)))
    return _split_at(ids, [(train_end, validation_end)], [(validation_end, len(ids))])


def recorded_split(ids: Ids, data: DataConfig, facts: Mapping[str, Any]) -> Split:
    """Divide the text of a model as it was divided when the model was trained.

    Args:
        ids: the text.
        data: the settings of the model.
        facts: what the model file says of the text. A file that names no blocks held out the end.

    Raises:
        ModelFileError: these are no blocks of this text.
    """
    if HELD_OUT not in facts:
        return split_at_end(ids, data.validation_fraction, data.test_fraction)
    recorded = facts[HELD_OUT]
    if not isinstance(recorded, dict) or recorded.keys() != {"validation", "test"}:
        raise _no_blocks()
    validation, test = _checked(recorded["validation"]), _checked(recorded["test"])
    ordered = sorted([*validation, *test])
    edges = [0, *(edge for block in ordered for edge in block), len(ids)]
    if any(start > end for start, end in pairwise(edges)) or sum(end - start for start, end in ordered) >= len(ids):
        raise _no_blocks()
    return _RecordedSplit(*_split_at(ids, validation, test))


def at_documents(split: Split, corpus: Corpus, data: DataConfig) -> Split:
    """Return the parts of a text with the places where the state of a net is reset, if the settings ask for it."""
    starts_D = reset_places(corpus, data)
    return type(split)(*(replace(part, documents_D=starts_D) for part in split))


def reset_places(corpus: Corpus, data: DataConfig) -> NDArray[np.int64]:
    """Return where documents begin at which the state of a net is reset; none if the settings do not ask for it."""
    if not data.reset_state_at_documents or data.documents is None:
        return np.zeros(0, dtype=np.int64)
    return document_starts(corpus, data.documents)


def _checked(blocks: Any) -> list[Block]:
    if not isinstance(blocks, list) or len(blocks) > MAX_BLOCKS:
        raise _no_blocks()
    for block in blocks:
        if not isinstance(block, list) or list(map(type, block)) != [int, int] or not 0 <= block[0] < block[1]:
            raise _no_blocks()
    return [(start, end) for start, end in blocks]


def _no_blocks() -> ModelFileError:
    return ModelFileError(
        "the held-out blocks in the model file are not valid", "use a model that `charlm train` wrote"
    )


def _split_at(ids: Ids, validation: list[Block], test: list[Block]) -> Split:
    """Return the split with these blocks, and all that is between them as the training part."""
    edges = [0, *(edge for block in sorted([*validation, *test]) for edge in block), len(ids)]
    train = list(zip(edges[::2], edges[1::2], strict=True))
    return Split(*(Part.between(ids, blocks) for blocks in (train, validation, test)))


def _in_decimals(fraction: float) -> Fraction:
    # In decimals as written: in binary 1 - 0.05 - 0.05 is less than 0.9, and a character would change sides.
    return Fraction(str(fraction))


def _regions(corpus: Corpus, fractions: Sequence[Fraction]) -> list[Block]:
    """Divide a text into regions, each of which gets a block of each held-out part; none if the text is too short.

    A source of some size has regions of its own, so that each gets its share. Smaller ones share a region.
    """
    held_out = [fraction for fraction in fractions if fraction]
    # The training text between two blocks is not shorter than a block.
    smallest = min([*held_out, _gap(fractions)]) if held_out else Fraction(0)
    if smallest <= 0:
        return []
    total = len(corpus.ids)
    usual = max(int(BLOCK_CHARACTERS / smallest), total // USUAL_BLOCKS)
    least = max(int(SMALL_BLOCK_CHARACTERS / smallest), total // MAX_BLOCKS)
    regions: list[Block] = []
    start = num_sources = 0
    for end in [*corpus.ends, total]:
        num_sources, length = num_sources + 1, end - start
        if length >= (least if num_sources == 1 else usual):
            number = max(1, length // usual)
            regions += pairwise(start + length * index // number for index in range(number + 1))
            start, num_sources = end, 0
    if regions:
        # The last region takes in what is left.
        regions[-1] = (regions[-1][0], total)
    return regions or ([(0, total)] if total >= least else [])


def _gap(fractions: Sequence[Fraction]) -> Fraction:
    """Return the share of a region that lies between two of its blocks, and half of which lies at either end."""
    return (1 - sum(fractions, Fraction(0))) / max(1, sum(map(bool, fractions)))


def _blocks(
    corpus: Corpus,
    regions: Sequence[Block],
    fractions: Sequence[Fraction],
    nearest_end: Callable[[int, int], int] | None = None,
) -> list[list[Block]]:
    """Return the blocks of each held-out part, evenly spaced in each region, with edges where something ends.

    Args:
        corpus: the text.
        regions: of the text.
        fractions: the share of each part.
        nearest_end: returns where something ends near a place, within a reach if possible; None for a file, a
            paragraph or a line.
    """
    nearest_end = nearest_end or partial(_nearest_end, corpus)
    blocks: list[list[Block]] = [[] for _ in fractions]
    # How many characters a part should have by now, less those that it has.
    owed, last = [Fraction(0) for _ in fractions], 0
    for region_start, region_end in regions:
        length = region_end - region_start
        gap = length * _gap(fractions)
        place = region_start + gap / 2
        for part, fraction in enumerate(fractions):
            if not fraction:
                continue
            # So short that a block, and the text between two blocks, keep a third of their length at least.
            reach = min(int(min(length * fraction, gap) / 6), MAX_REACH)
            start = max(nearest_end(int(place), reach), last)
            owed[part] += length * fraction
            last = max(nearest_end(int(start + owed[part]), reach), start)
            owed[part] -= last - start
            if start < last:
                blocks[part].append((start, last))
            place += length * fraction + gap
    return blocks


def _nearest_end(corpus: Corpus, place: int, reach: int) -> int:
    """Return where a file ends near this place; else where a paragraph does; else a line; else the place itself."""
    start, end = max(place - reach, 0), place + reach
    files = corpus.ends[bisect_left(corpus.ends, start) : bisect_left(corpus.ends, end)]
    lines_L, paragraphs_P = line_starts(read(corpus.ids, start, end), corpus.vocabulary)
    for ends in (np.array(files), start + paragraphs_P, start + lines_L):
        if len(ends):
            return int(ends[np.abs(ends - place).argmin()])
    return place
