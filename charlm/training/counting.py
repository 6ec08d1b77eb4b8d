"""The n-grams beside the net of a run: which text is counted, how it is pruned, and what fixes their weight."""

from __future__ import annotations

from charlm.data.holdout import Part
from charlm.evaluation.mixing import fit_weight
from charlm.inference.kneser_ney import count, longest_order, smooth, trie
from charlm.inference.mixture import Mixture
from charlm.inference.ngrams import MAX_ORDER, Ngrams
from charlm.nn.model import CharModel
from charlm.settings.config import Config, ModelConfig
from charlm.vocab import Ids

# A good weight for every text that was tried, until it is fitted, and where too little text is there to fit it.
USUAL_WEIGHT = 0.4
# The share of the training part that is neither trained on nor counted, so that the weight can be fitted on it.
TUNING_SHARE = 0.01
MIN_TUNING, MAX_TUNING = 1_000, 20_000
# Predictions that are in memory at once.
MAX_PREDICTIONS = 1 << 24
# A shorter text has no n-grams if the settings leave it open.
LEAST_CHARACTERS = 20_000
# At most so many characters are counted: it takes less than 3 % of the time of a run, and 300 MB.
COUNTED_PER_SECOND, LEAST_COUNTED, MOST_COUNTED = 18_000, 1_000_000, 3_000_000
# An n-gram stays if it saves so many nats on the text that was counted. More are dropped if the table is too large.
THRESHOLD = 0.1
NUM_BLOCKS = 8


class Counting:
    """The n-grams of a run, and the text on which their weight is fitted.

    Attributes:
        order: the length of the longest n-grams; 0 if the run has none.
        learned: the text to train on.
        tuning: the text to fit the weight on; it may be empty.
    """

    def __init__(self, config: Config, train: Part, num_symbols: int) -> None:
        self._model, self._seconds, self._num_symbols = config.model, config.train.time, num_symbols
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
            self._ngrams = self._count()
        weight = self._model.ngram_weight
        if weight == "auto":
            tuning = self.tuning.beginnings(num_read)
            weight = fit_weight(model, tuning, self._ngrams) if model and len(tuning) else USUAL_WEIGHT
        return Mixture(self._ngrams, weight)

    def _count(self) -> Ngrams:
        most = MOST_COUNTED
        if self._seconds:
            most = int(min(max(LEAST_COUNTED, COUNTED_PER_SECOND * self._seconds), MOST_COUNTED))
        stretches: list[Ids] = []
        for part in (self.learned, *self._also):
            counted = part.without_blocks(most, 8 * NUM_BLOCKS)[1] if len(part) > most else part
            stretches += (counted.backwards() if self._model.direction == "backward" else counted).stretches
        levels = count(stretches, self._num_symbols, self.order)
        smoothed, threshold = smooth(levels, self._num_symbols), THRESHOLD
        limit = 4 * self._model.spec(self._num_symbols).num_parameters
        while True:
            ngrams = trie(levels, smoothed, self._num_symbols, threshold)
            if sum(array.nbytes for array in ngrams.arrays().values()) < limit or ngrams.order < 2:
                return ngrams
            threshold *= 1.3


def order_of(model: ModelConfig, num_characters: int, num_symbols: int) -> int:
    """Return the length of the longest n-grams; 0 if a run has none.

    Longer ones never predicted worse by more than 0.003 nats, because those that do not help are dropped.
    """
    if model.ngram_order != "auto":
        return min(model.ngram_order, longest_order(num_symbols))
    if model.direction == "both" or num_characters < LEAST_CHARACTERS:
        return 0
    return min(MAX_ORDER, longest_order(num_symbols))
