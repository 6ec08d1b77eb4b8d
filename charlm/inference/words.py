"""Which word may come next: the most probable ones with their true probabilities.

The probability of a word is the product of the probabilities of its characters and of a boundary after it. A prefix is
at least as probable as every word that it begins, so the search always extends the most probable prefix: a word that is
more probable than every prefix left is certainly the next in the ranking. A beam would not know what it has dropped.
"""

from __future__ import annotations

import heapq
from collections.abc import Generator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from charlm.errors import UsageError
from charlm.inference.generate import read_prompt
from charlm.inference.recent import Recent
from charlm.inference.sampling import Floats, Sampling
from charlm.inference.stepper import Predictor, StepperState, side_by_side, streams_of
from charlm.inference.word_boundaries import MAX_WORD_SO_FAR, Boundaries, Effect, Place

# So many prefixes are extended at most, and so much memory is used for their states and candidates.
MAX_EXTENDED = 2000
MAX_BYTES = 1 << 28
# So many are extended side by side, where their probabilities are worth it.
ROWS = 4
# Continuations that are less probable than this share of a word do not change what is shown of it.
NEGLIGIBLE = 1e-6


@dataclass(frozen=True)
class Word:
    """A word that may come next, or with a backward model before.

    Attributes:
        text: what is added to the text; empty if the text ends with a whole word, and the word ends there.
        word: the whole word, with the part of it that the text has already.
        probability: that the text continues with exactly this word, and then a boundary.
    """

    text: str
    word: str
    probability: float


@dataclass(frozen=True)
class WordPrediction:
    """Which words may come next.

    Attributes:
        words: the most probable ones, the most probable first.
        remaining_probability: of all other words together.
        others_at_most: no other word is more probable than this.
        is_complete: whether these are certainly the most probable ones; if not, the search took too long and ended.
    """

    words: list[Word]
    remaining_probability: float
    others_at_most: float
    is_complete: bool = True

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        return asdict(self)


def predict_words(
    stepper: Predictor, text: str, top: int, unknown: str = "error", recent: bool = False
) -> WordPrediction:
    """Rank the words that may come after a text, or with a backward model before it.

    Args:
        stepper: the model.
        text: the text. If it ends inside a word, the words that complete it are ranked.
        top: how many words to list.
        unknown: what to do about characters the model lacks.
        recent: whether what followed the same characters before in the text counts too.

    Raises:
        UsageError: `top` is less than 1, or the vocabulary has no words.
        UnknownCharacterError: the text holds characters the model lacks, under `unknown="error"`.
    """
    logits_V, state, read, counted = _read(stepper, text, unknown, recent)
    return most_probable_words(stepper, logits_V, state, read, top, recent=counted)


def word_probabilities(
    stepper: Predictor, text: str, additions: Sequence[str], unknown: str = "error", recent: bool = False
) -> list[float | None]:
    """Return how probable it is that a text continues with each of some words, and then a boundary.

    Args:
        stepper: the model.
        text: the text, as for `predict_words`.
        additions: what each word adds to the text, as in `Word.text`.
        unknown: what to do about characters of the text that the model lacks.
        recent: whether what followed the same characters before in the text counts too.

    Returns:
        one for each word; None if the model lacks characters of it.

    Raises:
        UsageError: the vocabulary has no words.
        UnknownCharacterError: the text holds characters the model lacks, under `unknown="error"`.
    """
    logits_V, state, read, counted = _read(stepper, text, unknown, recent)
    boundaries = Boundaries(stepper.vocabulary, stepper.is_backward)
    place = boundaries.place_in(boundaries.word_so_far(read))
    found: list[float | None] = []
    for addition in additions:
        ids_T = stepper.vocabulary.encode(addition, "skip")
        if stepper.vocabulary.decode(ids_T) != addition:
            found.append(None)
            continue
        search = _Search(stepper, boundaries, Sampling(), counted, 1)
        symbols = (ids_T[::-1] if stepper.is_backward else ids_T).tolist()
        found.append(search.probability_of(symbols, _Prefix((), 1.0, place), logits_V, state))
    return found


def _read(stepper: Predictor, text: str, unknown: str, recent: bool) -> tuple[Floats, StepperState, str, Recent | None]:
    """Return what a model says after a text, its state, the part of the text that shows where it stands, and counts."""
    logits_BV, state = read_prompt(stepper, text, unknown)
    ids_T = stepper.vocabulary.encode(text, unknown)
    # A character has up to four bytes.
    end = slice(4 * MAX_WORD_SO_FAR) if stepper.is_backward else slice(-4 * MAX_WORD_SO_FAR, None)
    counted = Recent.of(ids_T[::-1] if stepper.is_backward else ids_T) if recent else None
    return logits_BV[0], state, stepper.vocabulary.decode(ids_T[end]), counted


def most_probable_words(
    stepper: Predictor,
    logits_V: Floats,
    state: StepperState,
    text: str,
    top: int,
    *,
    temperature: float = 1.0,
    recent: Recent | None = None,
    only_additions: bool = False,
) -> WordPrediction:
    """Rank the words that may come next, given what the model says now.

    If the search ends after `MAX_EXTENDED` prefixes, the list has the best words found until then, perhaps fewer than
    `top`. Their probabilities are true, and `others_at_most` bounds what is missing.

    Args:
        stepper: the model.
        logits_V: what comes next, without `recent`.
        state: of one stream, after the text.
        text: what was read; only its last characters matter, with a backward model its first.
        top: how many words to list.
        temperature: of the probabilities.
        recent: what followed the same characters before in the text; the words themselves are not counted.
        only_additions: whether every word adds characters. A word that the text has completed is then followed by the
            next one: after "fox", " said" as well as "es".

    Raises:
        UsageError: `top` is less than 1, a temperature is out of its bounds, or the vocabulary has no words.
        ModelFileError: the weights of the model are so large that its state overflows.
    """
    steps = word_search(
        stepper, logits_V, state, text, top, temperature=temperature, recent=recent, only_additions=only_additions
    )
    while True:
        try:
            next(steps)
        except StopIteration as end:
            prediction: WordPrediction = end.value
            return prediction


def word_search(
    stepper: Predictor,
    logits_V: Floats,
    state: StepperState,
    text: str,
    top: int,
    *,
    temperature: float = 1.0,
    recent: Recent | None = None,
    only_additions: bool = False,
) -> Generator[None, None, WordPrediction]:
    """Return what `most_probable_words` returns, and pause after every few steps of the model."""
    if top < 1:
        raise UsageError(f"the number of words to list must be at least 1, not {top}")
    boundaries = Boundaries(stepper.vocabulary, stepper.is_backward)
    so_far = boundaries.word_so_far(text)
    place = Place() if only_additions else boundaries.place_in(so_far)
    search = _Search(stepper, boundaries, Sampling(temperature), recent, top)
    found, at_most, is_complete = yield from search.run(_Prefix((), 1.0, place), logits_V, state)
    words = [_as_word(stepper, prefix.symbols, so_far, probability) for prefix, probability in found]
    remaining = max(0.0, 1 - sum(word.probability for word in words))
    return WordPrediction(words, remaining, min(at_most, remaining), is_complete)


def _as_word(stepper: Predictor, symbols: tuple[int, ...], so_far: str, probability: float) -> Word:
    text = stepper.vocabulary.decode(symbols[::-1] if stepper.is_backward else symbols)
    return Word(text, text + so_far if stepper.is_backward else so_far + text, probability)


class _Prefix:
    """The beginning of a word, or a whole one.

    Attributes:
        symbols: what is added to the text.
        probability: of these symbols.
        place: where they end in a word.
        hangs_on: the word that ends here, unless what follows continues it.
        parent: the state before the last symbol.
        state: the state after it, once the prefix is extended.
        next_V, probabilities_V: what may follow it without ending the word, the most probable first.
        num_tried: how many of these are prefixes already.
        hanging: those among them that may or may not end the word.
    """

    __slots__ = (
        "hanging", "hangs_on", "next_V", "num_tried", "parent", "place", "probabilities_V", "probability", "state",
        "symbols",
    )  # fmt: skip

    def __init__(
        self,
        symbols: tuple[int, ...],
        probability: float,
        place: Place,
        parent: StepperState = (),
        hangs_on: _Found | None = None,
    ) -> None:
        self.symbols, self.probability, self.place = symbols, probability, place
        self.parent, self.hangs_on = parent, hangs_on
        self.state: StepperState | None = None
        self.next_V = np.empty(0, np.intp)
        self.probabilities_V = np.empty(0)
        self.num_tried = 0
        self.hanging: dict[int, _Prefix] = {}


@dataclass(eq=False)
class _Found:
    """A word, with a probability that is known better and better.

    Attributes:
        prefix: its symbols.
        probability: that it ends, as far as this is decided.
        open: what may follow it, and may or may not end it.
    """

    prefix: _Prefix
    probability: float = 0.0
    open: list[_Prefix] = field(default_factory=list)

    @property
    def at_most(self) -> float:
        """The most that its probability can become."""
        return self.probability + sum(prefix.probability for prefix in self.open)

    def to_decide(self) -> list[_Prefix]:
        """Return what must be extended before its probability is known."""
        least = NEGLIGIBLE * self.at_most
        return [prefix for prefix in self.open if prefix.probability > least]


class _Search:
    """Extends prefixes in the order of what they may lead to, several at a time."""

    def __init__(
        self, stepper: Predictor, boundaries: Boundaries, sampling: Sampling, recent: Recent | None, top: int
    ) -> None:
        self._stepper, self._boundaries, self._sampling, self._recent = stepper, boundaries, sampling, recent
        self._top = top
        # Sorted by the most that can come of it. The number keeps equals in order.
        self._heap: list[tuple[float, int, _Prefix | _Found]] = []
        self._num_pushed = 0
        # The most probable words so far, as far as they are decided: no prefix below all of them matters.
        self._best: list[float] = []

    def run(
        self, root: _Prefix, logits_V: Floats, state: StepperState
    ) -> Generator[None, None, tuple[list[tuple[_Prefix, float]], float, bool]]:
        """Search until the most probable words are certain, or the limit is reached.

        Returns:
            the words with their probabilities, the most that another word can have, and whether the words are certain.
        """
        self._extend(root, self._first(logits_V), state)
        size = sum(part.nbytes for layer in state for part in layer) + 16 * len(logits_V)
        num_left = min(MAX_EXTENDED, MAX_BYTES // size)
        found: list[tuple[_Prefix, float]] = []
        while self._heap and len(found) < self._top:
            item = self._heap[0][2]
            if isinstance(item, _Found) and not item.to_decide():
                heapq.heappop(self._heap)
                found.append((item.prefix, item.probability))
                continue
            if num_left <= 0:
                break
            num_left -= self._extend_several()
            yield
        is_complete = not self._heap or len(found) == self._top
        if not is_complete:
            found += yield from self._best_of_the_rest(self._top - len(found))
        return found, -self._heap[0][0] if self._heap else 0.0, is_complete

    def _best_of_the_rest(self, num: int) -> Generator[None, None, list[tuple[_Prefix, float]]]:
        """Return the best words found so far, decided within the same limit again, and drop them from the heap."""
        words = [item for _, _, item in self._heap if isinstance(item, _Found)]
        num_left = MAX_EXTENDED
        best: list[_Found] = []
        for word in heapq.nlargest(num, words, key=lambda word: word.probability):
            while (to_decide := word.to_decide()) and num_left > 0:
                num_left -= len(self._extend_all(to_decide[:ROWS]))
                yield
            if not to_decide:
                best.append(word)
        dropped = set(map(id, best))
        self._heap = [entry for entry in self._heap if id(entry[2]) not in dropped]
        heapq.heapify(self._heap)
        return [(word.prefix, word.probability) for word in sorted(best, key=lambda word: -word.probability)]

    def probability_of(self, symbols: Sequence[int], root: _Prefix, logits_V: Floats, state: StepperState) -> float:
        """Return how probable one word is."""
        word = self._extend(root, self._first(logits_V), state)
        prefix = root
        for index in symbols:
            is_next_V = prefix.next_V == index
            if not is_next_V.any():
                return 0.0
            prefix = self._longer(prefix, index, float(prefix.probabilities_V[is_next_V][0]))
            (word,) = self._extend_all([prefix])
        num_left = MAX_EXTENDED
        while word is not None and (to_decide := word.to_decide()) and num_left > 0:
            num_left -= len(self._extend_all(to_decide[:ROWS]))
        return 0.0 if word is None or word.prefix is not prefix else word.probability

    def _first(self, logits_V: Floats) -> NDArray[np.float64]:
        return self._sampling.probabilities(logits_V if self._recent is None else self._recent.adapt(logits_V))

    def _extend_several(self) -> int:
        """Extend the prefixes from which most can come, side by side; return how many."""
        several: dict[_Prefix, None] = {}
        undecided: list[_Found] = []
        while self._heap and len(several) < ROWS:
            at_most, _, item = self._heap[0]
            if isinstance(item, _Found):
                if not (to_decide := item.to_decide()):
                    break
                heapq.heappop(self._heap)
                undecided.append(item)
                several |= dict.fromkeys(to_decide[:ROWS])
                continue
            if several and len(self._best) == self._top and -at_most < self._best[0]:
                break
            heapq.heappop(self._heap)
            prefix = self._next_of(item)
            if prefix.state is None:
                several[prefix] = None
        if several:
            self._extend_all(list(several))
        for word in undecided:
            self._push(word.at_most, word)
        return len(several)

    def _extend_all(self, several: Sequence[_Prefix]) -> list[_Found | None]:
        """Extend prefixes side by side; return for each the word that ends there."""
        ids_B = np.array([prefix.symbols[-1] for prefix in several])
        logits_BV, state = self._stepper.step(ids_B, side_by_side([prefix.parent for prefix in several]))
        if self._recent is not None:
            rows = zip(several, logits_BV, strict=True)
            logits_BV = np.array([self._recent.after(prefix.symbols).adapt(logits_V) for prefix, logits_V in rows])
        p_BV = self._sampling.probabilities(logits_BV)
        return [
            self._extend(prefix, p_BV[row], streams_of(state, slice(row, row + 1)))
            for row, prefix in enumerate(several)
        ]

    def _next_of(self, prefix: _Prefix) -> _Prefix:
        """Return the most probable continuation of a prefix that was not tried yet."""
        index = int(prefix.next_V[prefix.num_tried])
        probability = float(prefix.probabilities_V[prefix.num_tried])
        prefix.num_tried += 1
        self._push_rest(prefix)
        return self._longer(prefix, index, probability)

    def _longer(self, prefix: _Prefix, index: int, probability: float) -> _Prefix:
        """Return a prefix with one more symbol."""
        if index in prefix.hanging:
            return prefix.hanging[index]
        assert prefix.state is not None
        place = self._boundaries.after(prefix.place, index)
        return _Prefix((*prefix.symbols, index), probability, place, prefix.state)

    def _extend(self, prefix: _Prefix, p_V: NDArray[np.float64], state: StepperState) -> _Found | None:
        """Take in what may follow a prefix; return the word that ends or hangs on there."""
        effects_V = self._boundaries.effects(prefix.place)
        p_V = prefix.probability * p_V
        may_follow_V = np.flatnonzero((effects_V != Effect.ENDS) & (p_V > 0))
        order = np.argsort(-p_V[may_follow_V], kind="stable")
        prefix.next_V = may_follow_V[order]
        prefix.probabilities_V = p_V[prefix.next_V]
        prefix.state = state
        self._push_rest(prefix)
        word = prefix.hangs_on
        if word is not None:
            word.open.remove(prefix)
        elif prefix.place.kind:
            word = _Found(prefix)
        else:
            return None
        ends = float(p_V[effects_V == Effect.ENDS].sum())
        word.probability += ends
        for index in np.flatnonzero((effects_V == Effect.HANGS) & (p_V > 0)).tolist():
            place = self._boundaries.after(prefix.place, index)
            child = _Prefix((*prefix.symbols, index), float(p_V[index]), place, state, word)
            prefix.hanging[index] = child
            word.open.append(child)
        if prefix.hangs_on is None:
            self._push(word.at_most, word)
            (heapq.heappush if len(self._best) < self._top else heapq.heappushpop)(self._best, ends)
        return word

    def _push_rest(self, prefix: _Prefix) -> None:
        if prefix.num_tried < len(prefix.next_V):
            self._push(float(prefix.probabilities_V[prefix.num_tried]), prefix)

    def _push(self, at_most: float, item: _Prefix | _Found) -> None:
        self._num_pushed += 1
        heapq.heappush(self._heap, (-at_most, self._num_pushed, item))
