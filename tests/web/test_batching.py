"""Texts of many requests side by side: each is the text that it is alone, whatever joins and leaves."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from charlm.checkpoint import ModelFile
from charlm.errors import ModelFileError
from charlm.inference.generate import generate, prompt_symbols
from charlm.inference.sampling import Sampling
from charlm.inference.score import score_symbols
from charlm.inference.stepper import Stepper
from charlm.vocab import Vocabulary
from charlm.web.batching import Batch, News, Text, Work
from charlm.web.generating import texts_to_grow
from tests.helpers.model_files import random_model

KINDS: dict[str, dict[str, Any]] = {
    "lstm": {"num_layers": 2},
    "gru": {"cell": "gru"},
    "bytes": {"symbols": Vocabulary.of_bytes()},
    "backward": {"direction": "backward"},
}
LONG = 100_000


@contextmanager
def batch_of(stepper: Stepper, texts: int = 128, waiting: int = 256) -> Iterator[Batch]:
    """Run a batch."""
    batch = Batch(stepper, texts, waiting)
    try:
        yield batch
    finally:
        batch.close()


def grown(stepper: Stepper, prompt: str, seed: int, length: int, sampling: Sampling, **options: Any) -> Text:
    """Return one text to grow."""
    return texts_to_grow(stepper, [prompt_symbols(stepper, prompt)], [seed], sampling, length, **options)[0]


async def all_news(batch: Batch, work: Work) -> list[News]:
    """Start work and wait for all of it."""
    assert batch.add(work)
    return await work.news(until_end=True)


def text_of(news: list[News], is_backward: bool) -> str:
    """Join the pieces of a text."""
    return "".join([each.text for each in news][:: -1 if is_backward else 1])


@pytest.mark.parametrize("settings", KINDS.values(), ids=list(KINDS))
def test_a_text_does_not_depend_on_the_others(settings: dict[str, Any]) -> None:
    """Texts of many lengths, prompts and ways to draw, which join one after the other, are those of `generate`."""
    stepper = Stepper(random_model(**settings))
    cases = [
        ("ab\n"[: seed % 4] * (1 + seed % 3), seed, 5 + 3 * seed, Sampling((0.7, 1.0, 0.0)[seed % 3], top_p=0.9), stop)
        for seed, stop in enumerate([(), ("a",), ("bc", "gg"), ()] * 5)
    ]

    async def one_after_the_other(batch: Batch) -> list[list[News]]:
        running = []
        for prompt, seed, length, sampling, stop in cases:
            work = Work([grown(stepper, prompt, seed, length, sampling, stop=stop)], 60)
            running.append(asyncio.create_task(all_news(batch, work)))
            await asyncio.sleep(0)
        return await asyncio.gather(*running)

    # Some of them wait until others leave.
    with batch_of(stepper, texts=7) as batch:
        found = asyncio.run(one_after_the_other(batch))
    for (prompt, seed, length, sampling, stop), news in zip(cases, found, strict=True):
        alone = generate(stepper, prompt, length=length, sampling=sampling, seeds=[seed], stop=stop)
        assert [text_of(news, stepper.is_backward)] == alone.texts(with_prompt=False)
        assert len(news) == length or news[-1].end == "stop"


def test_what_is_read_is_scored_as_by_score(make_model: Callable[..., ModelFile]) -> None:
    """The bits of the symbols of a prompt, and what was expected, are bit for bit those of `score_symbols`."""
    stepper = Stepper(make_model())
    ids_T = stepper.vocabulary.encode("abc abc\nhh")
    expected = score_symbols(stepper, ids_T, top=3)
    text = Text(ids_T, ids_T[:0], top=3, scores_reading=True)
    with batch_of(stepper) as batch:
        asyncio.run(all_news(batch, Work([text], 60)))
    assert [score.bits for score in text.read_scores] == expected.bits_T.tolist()
    assert [[symbol for symbol, _ in score.expected] for score in text.read_scores] == expected.expected_TK.tolist()
    assert [[bits for _, bits in score.expected] for score in text.read_scores] == expected.expected_bits_TK.tolist()


def test_a_work_that_is_left_makes_room(make_model: Callable[..., ModelFile]) -> None:
    """A text that waits starts as soon as nobody wants the one before it any more."""
    stepper = Stepper(make_model())

    async def leave_the_first(batch: Batch) -> list[News]:
        first = Work([grown(stepper, "a", 1, LONG, Sampling())], 60)
        assert batch.add(first)
        await first.news()
        second = asyncio.create_task(all_news(batch, Work([grown(stepper, "b", 2, 3, Sampling())], 60)))
        batch.leave(first)
        return await second

    with batch_of(stepper, texts=1) as batch:
        assert len(asyncio.run(leave_the_first(batch))) == 3


def test_time_ends_a_text_with_what_was_written(make_model: Callable[..., ModelFile]) -> None:
    """A text that is stepped, and one that still waits, end with the reason `time`."""
    stepper = Stepper(make_model())
    works = [Work([grown(stepper, "a", 1, LONG, Sampling())], 60) for _ in range(2)]

    async def let_time_pass(batch: Batch) -> list[list[News]]:
        assert all(batch.add(work) for work in works)
        await works[0].news()
        for work in works:
            work.deadline = 0
        return [await work.news(until_end=True) for work in works]

    with batch_of(stepper, texts=1) as batch:
        first, second = asyncio.run(let_time_pass(batch))
    assert first[-1] == second[-1] == News(0, "", None, "time")
    assert works[0].texts[0].num_drawn > 0
    assert (len(second), works[1].texts[0].num_drawn) == (1, 0)


def test_too_many_texts_are_refused(make_model: Callable[..., ModelFile]) -> None:
    """Beyond those that are stepped and those that may wait, no work is taken; nor when the batch ends."""
    stepper = Stepper(make_model())

    def work(num: int) -> Work:
        return Work([grown(stepper, "a", seed, LONG, Sampling()) for seed in range(num)], 60)

    with batch_of(stepper, texts=2, waiting=3) as batch:
        assert [batch.add(work(num)) for num in (6, 3, 3, 2, 1)] == [False, True, False, True, False]
        batch.end_all()
        assert not batch.add(work(1))


def test_a_text_that_overflows_leaves_the_others(make_model: Callable[..., ModelFile]) -> None:
    """An error about the weights comes to the text that made them overflow, and to no other."""
    model = make_model("rnn", symbols="ab", embedding_size=0)
    weights = {name: array.copy() for name, array in model.arrays.items()}
    weights["layers.0.weight_ih_l0"][:, 1] = np.nan  # for a b
    stepper = Stepper(replace(model, arrays=weights))
    good, bad = (Work([grown(stepper, prompt, 1, 5, Sampling(), stop=("b",))], 60) for prompt in "ab")

    async def both(batch: Batch) -> list[News]:
        assert batch.add(bad)
        assert batch.add(good)
        with pytest.raises(ModelFileError, match="overflow"):
            await bad.news(until_end=True)
        return await good.news(until_end=True)

    with batch_of(stepper) as batch:
        assert asyncio.run(both(batch))


def test_an_unexpected_error_ends_its_texts_alone(
    make_model: Callable[..., ModelFile], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those who wait get the error, it is reported, and the next text is written."""
    stepper = Stepper(make_model())
    reported: list[Exception] = []
    batch = Batch(stepper, 8, 8, reported.append)
    steps = [RuntimeError("broken")]
    step = stepper.step
    monkeypatch.setattr(stepper, "step", lambda *given: (_ for _ in ()).throw(steps.pop()) if steps else step(*given))

    async def two(batch: Batch) -> list[News]:
        with pytest.raises(RuntimeError, match="broken"):
            await all_news(batch, Work([grown(stepper, "a", 1, 5, Sampling())], 60))
        return await all_news(batch, Work([grown(stepper, "a", 1, 5, Sampling())], 60))

    assert len(asyncio.run(two(batch))) == 5
    assert list(map(str, reported)) == ["broken"]
    batch.close()
