"""Whether held-out text is like the text that is trained on, and what to say about it. Knows no models.

Letters: `P` pieces of the training part, `Q` places in each, `L` characters at each place, `K` different symbols.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from charlm.data.corpus import Corpus
from charlm.data.holdout import Part, Split, hold_out, should_spread
from charlm.data.mapped import read
from charlm.settings.config import DataConfig

# The training part is divided into pieces, to see how much they differ from one another. Each piece, and the held-out
# part, is looked at in so many places, at up to so many characters in each.
PIECES, PLACES, CHARACTERS = 9, 10, 2000
# Fewer characters in all have frequencies of their own. Less is enough for sorted lines.
MIN_CHARACTERS, MIN_CHARACTERS_OF_LIST = 1000, 300
# How far, in bits, the frequencies of characters and of pairs may be from those of the training part: more than this,
# and more than so many times as far as those of other pieces.
FAR, TIMES = (0.02, 0.05), 3.0
# So far is too far, even if all pieces of the text differ as much.
VERY_FAR = (0.05, 0.15)
# In a list of sorted lines, all pieces differ, and only in how the lines begin.
FAR_IN_SORTED_LINES = 0.03
LINES_LOOKED_AT, LONGEST_LINE = 200, 300

Symbols = NDArray[np.int64]


class _Distance(NamedTuple):
    """How far the frequencies in a held-out part are from those in the training part, in bits.

    Attributes:
        excess: how much farther than those of characters from everywhere in the training part, as many.
        usual: the same for an upper quartile of the pieces of the training part.
        noise: how far characters from everywhere in the training part are.
    """

    excess: float
    usual: float
    noise: float

    def is_beyond(self, far: float, times: float = 0.0) -> bool:
        """Return whether this is more than so many bits, than so many times the usual, and than chance explains."""
        return self.excess > max(far, times * self.usual, self.noise)


def unlike_training(corpus: Corpus, parts: Split) -> list[str]:
    """Return the names of the held-out parts whose characters, or pairs of them, have quite other frequencies.

    Blocks that are spread over the text are as much like the rest as can be. The time does not grow with the text,
    because only some of it is read.
    """
    if parts.is_spread:
        return []
    return [name for name in ("validation", "test") if _is_unlike(corpus, getattr(parts, name), parts.train)]


def notes_on_holdout(corpus: Corpus, data: DataConfig, parts: Split, unlike: list[str]) -> list[str]:
    """Say how a text is held out, and which held-out parts are unlike the training part."""
    notes, blocks = [], [len(part.bounds_S2) for part in parts[1:]]
    if parts.is_spread:
        size, number = sum(map(len, parts[1:])), sum(blocks)
        where = f"{number} blocks spread over the text" if number > 1 else "1 block within the text"
        notes.append(f"held out: {size:,} {corpus.vocabulary.unit}s in {where}")
    elif sum(blocks) and should_spread(corpus, data):
        notes.append("the text is too short to be held out in blocks: its end is held out")
    for name in unlike:
        remedies = ["shuffle its lines, which are sorted"] if _has_sorted_lines(corpus) else []
        if hold_out(corpus, data.model_copy(update={"holdout": "spread"})).is_spread:
            remedies.append("a run with `--set data.holdout=spread` holds out blocks from the whole text")
        elif not remedies:
            remedies.append(f"a larger `data.{name}_fraction` holds out more of it")
        notes.append(
            f"the {name} part is unlike the training part: its {corpus.vocabulary.unit}s have other frequencies; "
            + ", or ".join(remedies)
        )
    return notes


def _is_unlike(corpus: Corpus, held_out: Part, train: Part) -> bool:
    num_characters = min(len(held_out), len(train) // PIECES)
    if num_characters < MIN_CHARACTERS_OF_LIST:
        return False
    of_characters, of_pairs = _distances(held_out, train)
    if of_pairs.excess > FAR_IN_SORTED_LINES and _has_sorted_lines(corpus):
        return True
    is_far = of_characters.is_beyond(FAR[0], TIMES) or of_pairs.is_beyond(FAR[1], TIMES)
    is_very_far = of_characters.is_beyond(VERY_FAR[0]) or of_pairs.is_beyond(VERY_FAR[1])
    return num_characters >= MIN_CHARACTERS and (is_far or is_very_far)


def _distances(held_out: Part, train: Part) -> tuple[_Distance, _Distance]:
    """Return how far the frequencies of characters and of pairs are from those of the training part."""
    within_L = np.arange(min(CHARACTERS, len(held_out) // PLACES, len(train) // (PIECES * PLACES)))
    place_Q1 = np.arange(PLACES)[:, None]
    size = len(train) // PIECES
    piece_P11 = np.arange(PIECES)[:, None, None] * size
    # As much text in one place as the held-out part, so that pieces of it are as much alike.
    extent = min(size, len(held_out))
    everywhere_PQL = train.at(piece_P11 + place_Q1 * (size // PLACES) + within_L).astype(np.int64)
    pieces_PQL = train.at(piece_P11 + place_Q1 * (extent // PLACES) + within_L).astype(np.int64)
    held_out_QL = held_out.at(place_Q1 * (len(held_out) // PLACES) + within_L).astype(np.int64)
    texts = (held_out_QL, everywhere_PQL, pieces_PQL)
    num_symbols = 1 + max(int(text.max()) for text in texts)
    pairs = tuple(text[..., :-1] * num_symbols + text[..., 1:] for text in texts)
    return _distance(*texts), _distance(*pairs)


def _distance(held_out_QL: Symbols, everywhere_PQL: Symbols, pieces_PQL: Symbols) -> _Distance:
    sizes = np.cumsum([held_out_QL.size, everywhere_PQL.size])
    symbols = np.concatenate([held_out_QL.ravel(), everywhere_PQL.ravel(), pieces_PQL.ravel()])
    if symbols.max() > len(symbols):
        # There are far more possible pairs than pairs.
        symbols = np.unique(symbols, return_inverse=True)[1]
    held_out_N, everywhere_N, pieces_N = np.split(symbols, sizes)
    num_symbols = int(symbols.max()) + 1

    def count(some: Symbols) -> Symbols:
        return np.bincount(some.ravel(), minlength=num_symbols)

    all_K = count(everywhere_N)
    places = everywhere_N.reshape(PIECES * PLACES, -1)
    # Every ninth place, and the tenth of the places that are in one piece: each is compared with all other places.
    mixed = [count(places[piece::PIECES]) for piece in range(PIECES)]
    noise = max(_divergence(some_K, all_K - some_K) for some_K in mixed)
    of_pieces = [
        _divergence(count(piece), all_K - count(own))
        for piece, own in zip(pieces_N.reshape(PIECES, -1), everywhere_N.reshape(PIECES, -1), strict=True)
    ]
    usual = max(0.0, float(np.quantile(of_pieces, 0.75)) - noise)
    return _Distance(_divergence(count(held_out_N), all_K) - noise, usual, noise)


def _divergence(counts_K: Symbols, others_K: Symbols) -> float:
    """Return the Jensen-Shannon divergence of two distributions in bits: 0 if equal, 1 if they share nothing."""
    p_K, q_K = counts_K / counts_K.sum(), others_K / others_K.sum()
    mean_K = (p_K + q_K) / 2
    return float(sum((some[some > 0] * np.log2(some[some > 0] / mean_K[some > 0])).sum() for some in (p_K, q_K)) / 2)


def _has_sorted_lines(corpus: Corpus) -> bool:
    """Return whether the first characters of lines rise, or fall, from the start of the text to its end."""
    initials: dict[int, int] = {}
    for place in np.linspace(0, max(len(corpus.ids) - LONGEST_LINE, 0), LINES_LOOKED_AT).astype(int).tolist():
        before, end, after = corpus.vocabulary.decode(read(corpus.ids, place, place + LONGEST_LINE)).partition("\n")
        if end and after[:1].strip():
            initials[place + len(before)] = ord(after[0].lower()[0])
    steps = np.diff(list(initials.values()))
    rises, falls = int((steps > 0).sum()), int((steps < 0).sum())
    return max(rises, falls) > 4 and min(rises, falls) <= 0.1 * max(rises, falls)
