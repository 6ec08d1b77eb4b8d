"""The n-grams beside the net of a run: which text is counted, how it is pruned, and what fixes their weight."""

from __future__ import annotations

import numpy as np

from charlm.data.holdout import Part
from charlm.data.mapped import read
from charlm.evaluation.baselines import MAX_ORDER as BASELINE_ORDER
from charlm.evaluation.mixing import fit_weight
from charlm.inference.kneser_ney import Level, count, longest_order, smooth, trie
from charlm.inference.mixture import Mixture
from charlm.inference.ngrams import MAX_ORDER, Ngrams
from charlm.inference.packed_ngrams import MAX_NGRAMS, pack, unpack
from charlm.nn.model import CharModel
from charlm.settings.config import Config, ModelConfig
from charlm.vocab import Ids

# A good weight for every text that was tried, until it is fitted, and where too little text is there to fit it.
USUAL_WEIGHT = 0.4
# The share of the training part that is neither trained on nor counted, so that the weight can be fitted on it.
TUNING_SHARE = 0.01
MIN_TUNING, MAX_TUNING = 1_000, 20_000
# One prediction is the probability of one symbol at one place. The tuning part has at most `MAX_PREDICTIONS` of them.
# The weight is fitted on at most `MAX_FITTED`, which are all in memory at once.
MAX_PREDICTIONS, MAX_FITTED = 1 << 24, 1 << 23
# A shorter text has no n-grams if the settings leave it open.
LEAST_CHARACTERS = 20_000
# At most so many characters are counted, which takes a second and about 300 MB.
MAX_COUNTED = 1_500_000
# An n-gram stays if it saves so many nats on the text that was counted. More are dropped if the table is too large.
THRESHOLD = 0.1
NUM_BLOCKS = 8
# About what an n-gram takes in a model file, with its share of what its contexts take.
BYTES_PER_NGRAM = 1.7
# A table with this share of the n-grams that fit was probably cut to fit.
WELL_FILLED = 0.8
# How much smaller a table is tried that turned out too large for the file.
LESS = 0.97
# At most so many times the n-grams that fit are pruned to fit.
MOST_DROPPED = 4


class Counting:
    """The n-grams of a run, and the text on which their weight is fitted.

    Attributes:
        order: the length of the longest n-grams; 0 if the run has none.
        learned: the text to train on.
        tuning: the text to fit the weight on; it may be empty.
    """

    def __init__(self, config: Config, train: Part, num_symbols: int) -> None:
        self._model, self._num_symbols = config.model, num_symbols
        self.order = order_of(config.model, len(train), num_symbols)
        self.learned, self.tuning = train, train.beginnings(0)
        if self.order and config.model.ngram_weight == "auto" and len(train) >= LEAST_CHARACTERS:
            num_tuning = int(min(max(len(train) * TUNING_SHARE, MIN_TUNING), MAX_TUNING, MAX_PREDICTIONS / num_symbols))
            self.learned, self.tuning = train.without_blocks(num_tuning, NUM_BLOCKS)
        self._ngrams: Ngrams | None = None
        self._also: list[Part] = []

    def count_also(self, part: Part) -> None:
        """Count another text as well: what a model had learned that this run starts from."""
        self._also.append(part)

    def reuse(self, mixture: Mixture | None) -> None:
        """Take over what was counted before this run was resumed."""
        if mixture and self.order:
            self._ngrams = mixture.ngrams

    def mixture(self, model: CharModel | None = None, num_read: int = 0) -> Mixture | None:
        """Return the n-grams with their weight; None if the run has none.

        Args:
            model: the net for which the weight is fitted.
            num_read: how many characters to read for that at most.
        """
        if not self.order:
            return None
        if self._ngrams is None:
            self.count()
        assert self._ngrams is not None
        weight = self._model.ngram_weight
        if weight == "auto":
            tuning = self.tuning.beginnings(min(num_read, MAX_FITTED // self._num_symbols))
            weight = fit_weight(model, tuning, self._ngrams) if model and len(tuning) else USUAL_WEIGHT
        return Mixture(self._ngrams, weight)

    def count(self) -> list[Level]:
        """Count the text, make the n-grams of the run if it has none yet, and return the counts.

        They reach to the longest n-grams of the run and of the baselines.
        """
        stretches: list[Ids] = []
        for part in (self.learned, *self._also):
            counted = part.without_blocks(MAX_COUNTED, 8 * NUM_BLOCKS)[1] if len(part) > MAX_COUNTED else part
            counted = counted.backwards() if self._model.direction == "backward" else counted
            stretches += [read(stretch, 0, len(stretch)) for stretch in counted.stretches]
        order = max(self.order, min(BASELINE_ORDER, longest_order(self._num_symbols)))
        levels = count(stretches, self._num_symbols, order)
        if self.order and self._ngrams is None:
            self._ngrams = self._table(levels[: self.order])
        return levels

    def _table(self, levels: list[Level]) -> Ngrams:
        """Return the n-grams that fit into the model file."""
        # The file of a net with n-grams has less than twice the size of the net's.
        most_bytes = 4 * self._model.spec(self._num_symbols).num_parameters
        most_ngrams = min(int(most_bytes / BYTES_PER_NGRAM), MAX_NGRAMS)
        while True:
            ngrams = self._best_table(levels, most_ngrams)
            arrays = pack(ngrams)
            share = sum(array.nbytes for array in arrays.values()) / most_bytes
            if share < 1 or ngrams.order == 1:
                # As the file will give them: probabilities are rounded.
                return unpack(arrays, self._num_symbols)
            most_ngrams = int(ngrams.num_ngrams / share * LESS)

    def _best_table(self, levels: list[Level], most_ngrams: int) -> Ngrams:
        """Return the n-grams of the length that predicts best, if so many are kept at most."""

        def table(order: int) -> Ngrams:
            shorter = levels[:order]
            return trie(shorter, smooth(shorter, self._num_symbols), self._num_symbols, THRESHOLD, most_ngrams)

        longest = self.order
        if self._model.ngram_order == "auto":
            # Of much longer n-grams too few would fit.
            totals = np.cumsum([len(level.symbols_N) for level in levels])
            longest = min(longest, max(2, int((totals <= MOST_DROPPED * most_ngrams).sum())))
        best = table(longest)
        if self._model.ngram_order != "auto" or best.num_ngrams < WELL_FILLED * most_ngrams or not len(self.tuning):
            return best
        # If many n-grams do not fit, shorter ones may predict better.
        nats = self._nats(best)
        for order in range(longest - 1, 2, -1):
            shorter = table(order)
            if (other := self._nats(shorter)) > nats:
                break
            best, nats = shorter, other
        return best

    def _nats(self, ngrams: Ngrams) -> float:
        """Return how well n-grams predict the text that is kept back, in nats per character."""
        tuning = self.tuning.backwards() if self._model.direction == "backward" else self.tuning
        return float(-np.log(np.concatenate([ngrams.score(stretch) for stretch in tuning.stretches])).mean())


def order_of(model: ModelConfig, num_characters: int, num_symbols: int) -> int:
    """Return the length of the longest n-grams; 0 if a run has none.

    Longer ones never predicted worse by more than 0.003 nats, because those that do not help are dropped. A table that
    is too large for the file may get shorter ones after all.
    """
    if model.ngram_order != "auto":
        return min(model.ngram_order, longest_order(num_symbols))
    if model.direction == "both" or num_characters < LEAST_CHARACTERS:
        return 0
    return min(MAX_ORDER, longest_order(num_symbols))
