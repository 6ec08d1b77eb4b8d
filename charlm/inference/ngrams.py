"""An n-gram model as a trie in flat arrays: the distribution of the next character after any context."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from charlm.inference.sampling import Floats
from charlm.vocab import Ids

MAX_ORDER = 9
# Keeps the logarithm finite.
MIN_PROBABILITY = 2.0**-24

# For each stream the nodes of the contexts of 0, 1, 2, ... characters that end the text so far, (B, K); -1 for unseen.
Contexts = NDArray[np.int64]


class Ngrams:
    """The n-grams that were seen, with their probabilities, and a backoff for what was not seen.

    A node of the trie is an n-gram; node 0 is the empty one. The nodes stand level by level, and the children of a
    node side by side in the order of their symbols. With a context `c`, and the context `c'` without its first symbol,

        p(s | c) = p of the child of c with symbol s     if c has such a child
                   backoff(c) p(s | c')                  otherwise, with 1/V below the empty context

    Args:
        symbols_N: the last symbol of each n-gram except the empty one.
        p_N: its probability after the symbols before it.
        backoff_M: of each n-gram that may have children, the empty one first.
        children_M: how many children each of these has.
        num_symbols: V.

    Attributes:
        symbols_N, p_N, backoff_M, children_M, num_symbols: as above.
        order: the length of the longest n-grams, K.

    Raises:
        ValueError: the arrays are not those of a trie.
    """

    def __init__(
        self,
        symbols_N: NDArray[Any],
        p_N: NDArray[Any],
        backoff_M: NDArray[Any],
        children_M: NDArray[Any],
        num_symbols: int,
    ) -> None:
        self.symbols_N, self.p_N, self.backoff_M = symbols_N.astype(np.int64), p_N, backoff_M
        self.children_M = children_M.astype(np.int64)
        self.num_symbols = num_symbols
        if symbols_N.shape != p_N.shape or backoff_M.shape != children_M.shape:
            raise ValueError("arrays of n-grams differ in length")
        # Node n + 1 is n-gram n. Keys leave room for the start symbol V, which follows no context.
        ends_M = 1 + self.children_M.cumsum()
        self._first_M = ends_M - self.children_M
        self.order = self._check(ends_M)
        parents_N = np.repeat(np.arange(len(children_M)), self.children_M)
        self._keys_N = parents_N * (num_symbols + 1) + self.symbols_N
        if not (np.diff(self._keys_N) > 0).all():
            raise ValueError("n-grams are out of order")
        # After the empty context, which is in every distribution.
        self._p_V = np.full(num_symbols, self.backoff_M[0] / num_symbols, np.float32)
        self._p_V[self.symbols_N[: self.children_M[0]]] = self.p_N[: self.children_M[0]]

    def _check(self, ends_M: NDArray[np.int64]) -> int:
        """Check that the arrays describe a trie, and return its height."""
        num_ngrams, num_inner = len(self.symbols_N), len(ends_M)
        if not 1 <= num_inner <= num_ngrams + 1 or ends_M[-1] != num_ngrams + 1 or (self.children_M < 0).any():
            raise ValueError("n-grams do not form a trie")
        if not ((self.symbols_N >= 0) & (self.symbols_N < self.num_symbols)).all():
            raise ValueError("n-grams have symbols that are not in the vocabulary")
        if not ((self.p_N > 0) & (self.p_N <= 1)).all() or not ((self.backoff_M > 0) & (self.backoff_M < 1e4)).all():
            raise ValueError("n-grams have numbers that are no probabilities")
        order, end = 0, 1
        while end < num_ngrams + 1:
            # The children of a level are the next level.
            next_end = int(ends_M[min(end, num_inner) - 1])
            order += 1
            if next_end <= end or order > MAX_ORDER:
                raise ValueError("n-grams do not form a trie")
            end = next_end
        return order

    @property
    def num_ngrams(self) -> int:
        """How many n-grams the trie has, of all lengths."""
        return len(self.symbols_N)

    def start(self, num_streams: int) -> Contexts:
        """Return the contexts at the start of a text: only the empty one."""
        contexts_BK = np.full((num_streams, max(1, self.order)), -1)
        contexts_BK[:, 0] = 0
        return contexts_BK

    def step(self, ids_B: NDArray[Any], contexts_BK: Contexts) -> Contexts:
        """Return the contexts after one more symbol in each stream; the id V, the start of a text, empties them."""
        after_BK = np.zeros_like(contexts_BK)
        after_BK[:, 1:] = self._children(contexts_BK[:, :-1], ids_B[:, None])
        return after_BK

    def probabilities(self, contexts_BK: Contexts) -> Floats:
        """Return the distribution of the next symbol in each stream, shape (B, V), float32."""
        num_streams, num_lengths = contexts_BK.shape
        if num_streams == 1:
            return self._probabilities_of_one(contexts_BK[0])
        is_inner_BK, entries_C, ngrams_C = self.seen_after(contexts_BK)
        backoff_BK = np.where(is_inner_BK, self.backoff_M[np.where(is_inner_BK, contexts_BK, 0)], 1.0)
        # A child of one context is scaled by the backoffs of all longer contexts.
        scale_BK = np.ones((num_streams, num_lengths + 1), np.float32)
        scale_BK[:, :-1] = backoff_BK.astype(np.float32)[:, ::-1].cumprod(axis=1)[:, ::-1]
        p_BV = scale_BK[:, 1:2] * self._p_V
        # Those of longer contexts come later and take the place of the shorter ones'.
        p_C = self.p_N[ngrams_C] * scale_BK[:, 1:].ravel()[entries_C]
        p_BV[entries_C // num_lengths, self.symbols_N[ngrams_C]] = p_C
        return np.asarray(p_BV / p_BV.sum(axis=1, keepdims=True), np.float32)

    def seen_after(self, contexts_BK: Contexts) -> tuple[NDArray[np.bool_], NDArray[np.int64], NDArray[np.int64]]:
        """Return the children of all contexts but the empty one, those of longer contexts later.

        Returns:
            which contexts have a backoff, (B, K); for each of the C children the place of its context in that array,
            row by row; and its n-gram.
        """
        is_inner_BK = (contexts_BK >= 0) & (contexts_BK < len(self.children_M))
        longer_BK = is_inner_BK & (np.arange(contexts_BK.shape[1]) > 0)
        inner_E = np.where(longer_BK, contexts_BK, 0).ravel()
        numbers_E = np.where(longer_BK.ravel(), self.children_M[inner_E], 0)
        within_C = np.arange(numbers_E.sum()) - np.repeat(numbers_E.cumsum() - numbers_E, numbers_E)
        ngrams_C = np.repeat(self._first_M[inner_E] - 1, numbers_E) + within_C
        return is_inner_BK, np.repeat(np.arange(len(numbers_E)), numbers_E), ngrams_C

    def _probabilities_of_one(self, contexts_K: Contexts) -> Floats:
        """Return the same for one stream, bit for bit, in less time."""
        nodes = [node for node in contexts_K[1:].tolist() if 0 <= node < len(self.children_M)]
        scales = [np.float32(1)]
        for node in reversed(nodes):
            scales.append(scales[-1] * np.float32(self.backoff_M[node]))
        p_1V = self._p_V[None] * scales.pop()
        for node in nodes:
            start, scale = self._first_M.item(node) - 1, scales.pop()
            children = slice(start, start + self.children_M.item(node))
            p_1V[0, self.symbols_N[children]] = self.p_N[children] * scale
        return np.asarray(p_1V / p_1V.sum(axis=1, keepdims=True), np.float32)

    def log_probabilities(self, contexts_BK: Contexts) -> Floats:
        """Return the logarithm of the distribution, shape (B, V), float32; never less than that of 2^-24."""
        return np.log(np.maximum(self.probabilities(contexts_BK), np.float32(MIN_PROBABILITY)))

    def score(self, ids_M: Ids) -> NDArray[np.float64]:
        """Return the probability of each symbol of a text after those before it, shape (M,)."""
        p_M = np.full(len(ids_M), 1 / self.num_symbols)
        contexts_M = np.zeros(len(ids_M), np.int64)
        for _ in range(self.order):
            found_M = self._children(contexts_M, ids_M)
            is_inner_M = (contexts_M >= 0) & (contexts_M < len(self.backoff_M))
            backoff_M = np.where(is_inner_M, self.backoff_M[np.where(is_inner_M, contexts_M, 0)], 1.0)
            p_M = np.where(found_M >= 0, self.p_N[np.maximum(found_M - 1, 0)], backoff_M * p_M)
            # The next longer context of a symbol is the n-gram that ends right before it.
            contexts_M = np.concatenate([[-1], found_M[:-1]])
        return p_M

    def _children(self, contexts: Contexts, symbols: NDArray[Any]) -> Contexts:
        """Return the node of each context with one more symbol, or -1 if it or its context was never seen."""
        wanted = contexts * (self.num_symbols + 1) + symbols.astype(np.int64)
        places = np.minimum(self._keys_N.searchsorted(wanted), len(self._keys_N) - 1)
        return np.where(self._keys_N[places] == wanted, places + 1, -1)
