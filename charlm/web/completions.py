"""Completions as OpenAI's `/v1/completions` gives them. A token is a symbol of the model. Knows no network."""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Iterable, Sequence
from typing import Any

from charlm.errors import did_you_mean
from charlm.inference.generate import draw_seed, prompt_symbols
from charlm.inference.stepper import Predictor
from charlm.vocab import Vocabulary
from charlm.web.batching import News, Score
from charlm.web.bodies import CompletionBody, Refusal
from charlm.web.generating import texts_to_grow


class Completing:
    """Prompts, and the completions of each.

    Args:
        stepper: the model.
        name: of the model.
        body: what is asked for.

    Attributes:
        texts: what a batch works on.

    Raises:
        Refusal: another model is asked for.
    """

    def __init__(self, stepper: Predictor, name: str, body: CompletionBody) -> None:
        if body.model is not None and body.model != name:
            hint = did_you_mean(body.model[:100], [name]) or f"this server has the model `{name}`"
            raise Refusal(404, "model_not_found", f"there is no model `{body.model[:100]}`", hint, "model")
        self._vocabulary, self._is_backward, self._body = stepper.vocabulary, stepper.is_backward, body
        read = [prompt_symbols(stepper, prompt, body.unknown) for prompt in body.prompt]
        # Without a prompt nothing of it is shown, though the model reads a line end.
        ids = [ids_T if prompt else ids_T[:0] for prompt, (ids_T, _) in zip(body.prompt, read, strict=True)]
        order = slice(None, None, -1 if self._is_backward else 1)
        prompts = [stepper.vocabulary.decode(ids_T[order]) for ids_T in ids]
        self._prompts = [prompt for prompt in prompts for _ in range(body.n)]
        self._num_read = sum(map(len, ids))
        seed = draw_seed() if body.seed is None else body.seed
        self.texts = texts_to_grow(
            stepper,
            [each for each in read for _ in range(body.n)],
            range(seed, seed + len(self._prompts)),
            body.sampling(body.temperature),
            body.max_tokens,
            stop=body.stop,
            top=body.logprobs,
            scores_reading=body.echo and body.logprobs is not None,
        )
        self._held = [_Held(body.stop, self._is_backward) for _ in self.texts]
        self._is_started = [False] * len(self.texts)
        self._lengths = [0 if body.echo or self._is_backward else len(prompt) for prompt in self._prompts]
        self._head = {
            "id": f"cmpl-{secrets.token_hex(12)}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": name,
        }

    def answer(self, news: Sequence[News]) -> dict[str, Any]:
        """Return all completions."""
        return self._head | {"choices": self._choices(news, range(len(self.texts))), "usage": self._usage()}

    def events(self, news: Sequence[News]) -> list[dict[str, Any]]:
        """Return what a stream tells about news, a chunk for each text; a backward text is one chunk."""
        numbers = dict.fromkeys(each.number for each in news)
        choices = self._choices(news, numbers)
        shown = [choice for choice in choices if any(choice[key] for key in ("text", "finish_reason", "logprobs"))]
        usage = {"usage": None} if self._body.stream_options.include_usage else {}
        return [self._head | {"choices": [choice]} | usage for choice in shown]

    def last_events(self) -> list[dict[str, Any] | str]:
        """Return what a stream ends with."""
        wants_usage = self._body.stream_options.include_usage
        return [*([self._head | {"choices": [], "usage": self._usage()}] if wants_usage else []), "[DONE]"]

    def _usage(self) -> dict[str, int]:
        num_drawn = sum(text.num_drawn for text in self.texts)
        return {
            "prompt_tokens": self._num_read,
            "completion_tokens": num_drawn,
            "total_tokens": self._num_read + num_drawn,
        }

    def _choices(self, news: Sequence[News], numbers: Iterable[int]) -> list[dict[str, Any]]:
        """Return what is new of some of the texts."""
        shown: dict[int, list[News]] = {number: [] for number in numbers}
        for each in news:
            shown[each.number] += self._held[each.number].release(each)
        return [self._choice(number, items) for number, items in shown.items()]

    def _choice(self, number: int, items: list[News]) -> dict[str, Any]:
        text, prompt = self.texts[number], self._prompts[number] if self._body.echo else ""
        drawn = [item.text for item in items]
        scores = [item.score for item in items if item.score is not None]
        if self._is_backward:
            # What is new stands before the prompt, which is therefore shown with it.
            parts = [*reversed(drawn), prompt] if items and text.end else []
            scores = [*reversed(scores), *reversed(text.read_scores)]
        else:
            is_first = bool(items) and not self._is_started[number]
            parts = [prompt, *drawn] if is_first else drawn
            scores = [*text.read_scores, *scores] if is_first else scores
            self._is_started[number] |= is_first
        end = items[-1].end if items else None
        reason = None if end is None else "stop" if end == "stop" else "length"
        logprobs = None if self._body.logprobs is None or not items else self._logprobs(number, scores)
        return {"index": number, "text": "".join(parts), "logprobs": logprobs, "finish_reason": reason}

    def _logprobs(self, number: int, scores: Sequence[Score]) -> dict[str, Any]:
        """Return the scores of symbols in the form of OpenAI: natural logarithms, of the distribution as learned."""
        offsets = []
        for score in scores:
            continues = self._vocabulary.kind == "bytes" and 0x80 <= score.symbol < 0xC0
            offsets.append(max(0, self._lengths[number] - continues))
            self._lengths[number] += not continues
        return {
            "tokens": [_token(self._vocabulary, score.symbol) for score in scores],
            "token_logprobs": [-score.bits * math.log(2) for score in scores],
            "top_logprobs": [
                {_token(self._vocabulary, symbol): -bits * math.log(2) for symbol, bits in score.expected}
                for score in scores
            ],
            "text_offset": offsets,
        }


class _Held:
    """Holds back what may become a stop string, because a completion ends before it.

    A text that grows at its beginning is held back until it is complete.
    """

    def __init__(self, stops: Sequence[str], is_backward: bool) -> None:
        self._order = slice(None, None, -1 if is_backward else 1)
        self._stops = [stop[self._order] for stop in stops]
        self._is_backward = is_backward
        self._items: list[News] = []

    def release(self, item: News) -> list[News]:
        """Take what is new, and return what may be shown."""
        self._items.append(item)
        if item.end is None and self._is_backward:
            return []
        tail = "".join(each.text[self._order] for each in self._items)
        if item.end == "stop":
            self._cut(max((len(stop) for stop in self._stops if tail.endswith(stop)), default=0))
            # Its end is told in any case.
            self._items.append(News(item.number, "", None, item.end))
        num_held = 0 if item.end else self._num_open(tail)
        num_shown, num_free = 0, len(tail) - num_held
        while num_shown < len(self._items) and (num_free := num_free - len(self._items[num_shown].text)) >= 0:
            num_shown += 1
        shown, self._items = self._items[:num_shown], self._items[num_shown:]
        return shown

    def _num_open(self, tail: str) -> int:
        """Return how many characters at the end may become a stop string."""
        # Little more is held than what may become one, so that this is short, whatever the stop strings are.
        for start in range(len(tail)):
            held = tail[start:]
            if any(len(held) < len(stop) and stop.startswith(held) for stop in self._stops):
                return len(held)
        return 0

    def _cut(self, num_characters: int) -> None:
        """Drop so many characters at the end, with their scores."""
        while num_characters > 0 and self._items:
            item = self._items.pop()
            num_characters -= len(item.text)
            if num_characters < 0:
                # Its symbol has also shown that bytes before it are no character.
                self._items.append(News(item.number, item.text[self._order][:-num_characters][self._order], None, None))
        # Bytes of a character that was dropped, and which came before its last one.
        while self._items and num_characters == 0 and not self._items[-1].text and self._items[-1].end is None:
            self._items.pop()


def _token(vocabulary: Vocabulary, symbol: int) -> str:
    """Return a symbol as text; a byte that is no character in itself is named as OpenAI names it."""
    if vocabulary.kind == "bytes" and symbol >= 0x80:
        return f"bytes:\\x{symbol:02x}"
    return vocabulary.symbols[symbol]
