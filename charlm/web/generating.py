"""What `/predict`, `/score` and `/generate` answer, as the commands of these names print it. Knows no network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from charlm.inference.generate import GrowingText, draw_seed, prompt_symbols
from charlm.inference.predict import rank
from charlm.inference.sampling import Sampling
from charlm.inference.score import SymbolScores
from charlm.inference.stepper import Predictor
from charlm.inference.surprisal import surprisal_of, symbols_to_score
from charlm.vocab import Ids, TextFilter
from charlm.web.batching import News, Text
from charlm.web.bodies import GenerateBody, PredictBody, ScoreBody


class Predicting:
    """A text, and what may come after it."""

    def __init__(self, stepper: Predictor, body: PredictBody) -> None:
        self._stepper, self._body = stepper, body
        self.texts = [Text(*prompt_symbols(stepper, body.text, body.unknown))]

    def answer(self) -> dict[str, Any]:
        """Return what `charlm predict-next --json` prints."""
        logits_V = self.texts[0].next_logits_V
        assert logits_V is not None
        vocabulary = self._stepper.vocabulary
        read = TextFilter(vocabulary.filter)(self._body.text)
        return {"text": read} | rank(vocabulary, logits_V, self._body.top).to_json()


class Scoring:
    """A text, and what its characters cost.

    Raises:
        CorpusError: there is no character to score.
    """

    def __init__(self, stepper: Predictor, body: ScoreBody) -> None:
        self._stepper, self._body = stepper, body
        self._text, self._ids_T = symbols_to_score(stepper.vocabulary, body.text, body.unknown)
        self._order = slice(None, None, -1 if stepper.is_backward else 1)
        self.texts = [Text(self._ids_T[self._order], self._ids_T[:0], top=1, scores_reading=True)]

    def answer(self) -> dict[str, Any]:
        """Return what `charlm score --json` prints."""
        scored = self.texts[0].read_scores[self._order]
        scores = SymbolScores(
            np.array([each.bits for each in scored]),
            np.array([[symbol for symbol, _ in each.expected] for each in scored]),
            np.array([[bits for _, bits in each.expected] for each in scored]),
        )
        return surprisal_of(self._stepper, self._text, self._ids_T, scores, self._body.unknown).to_json(self._body.top)


def texts_to_grow(
    stepper: Predictor,
    prompts: Sequence[tuple[Ids, Ids]],
    seeds: Sequence[int],
    sampling: Sampling,
    length: int,
    stop: Sequence[str] = (),
    lines: int | None = None,
    top: int | None = None,
    scores_reading: bool = False,
) -> list[Text]:
    """Return texts that continue prompts, each with a seed of its own.

    Args:
        stepper: the model.
        prompts: for each text the symbols to read, and those that cannot come next.
        seeds: one for each text.
        sampling: how each symbol is drawn.
        length: how many symbols to draw for each.
        stop: strings that end a text.
        lines: ends a text after that many line ends.
        top: as for `Text`.
        scores_reading: as for `Text`.
    """
    return [
        Text(*prompt, length, sampling, GrowingText(stepper, seed, stop, lines), top, scores_reading)
        for prompt, seed in zip(prompts, seeds, strict=True)
    ]


class Generating:
    """A prompt, and the texts that continue it.

    Attributes:
        texts: what a batch works on.
    """

    def __init__(self, stepper: Predictor, body: GenerateBody) -> None:
        self._is_backward = stepper.is_backward
        seed = draw_seed() if body.seed is None else body.seed
        self._seeds = range(seed, seed + body.num)
        prompt = prompt_symbols(stepper, body.prompt, body.unknown)
        self.texts = texts_to_grow(
            stepper,
            [prompt] * body.num,
            self._seeds,
            body.sampling(body.temperature),
            body.length,
            stop=body.stop,
            lines=body.lines,
        )

    def answer(self, news: Sequence[News]) -> dict[str, Any]:
        """Return the new texts, without the prompt; with a backward model they stand before it."""
        parts: list[list[str]] = [[] for _ in self.texts]
        for each in news:
            parts[each.number].append(each.text)
        order = slice(None, None, -1 if self._is_backward else 1)
        return {
            "texts": [
                {"seed": seed, "text": "".join(part[order]), "end": text.end}
                for seed, part, text in zip(self._seeds, parts, self.texts, strict=True)
            ]
        }

    def events(self, news: Sequence[News]) -> list[dict[str, Any]]:
        """Return what a stream tells about news: the new characters of each text, and the ends.

        The pieces of a backward model stand before those that came earlier.
        """
        parts: dict[int, list[str]] = {}
        for each in news:
            parts.setdefault(each.number, []).append(each.text)
        order = slice(None, None, -1 if self._is_backward else 1)
        events = [{"number": number, "text": "".join(part[order])} for number, part in parts.items() if any(part)]
        ended = [each for each in news if each.end]
        return events + [{"number": each.number, "seed": self._seeds[each.number], "end": each.end} for each in ended]

    def last_events(self) -> list[dict[str, Any]]:
        """Return what a stream ends with."""
        return []
