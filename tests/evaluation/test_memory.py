"""Scoring takes no more memory for a longer text, a larger vocabulary or a larger model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest
import torch

from charlm.checkpoint import ModelFile
from charlm.data.holdout import Part
from charlm.evaluation import baselines as baselines_module
from charlm.evaluation import evaluate as evaluation
from charlm.evaluation import segments
from charlm.evaluation.baselines import kneser_ney
from charlm.evaluation.evaluate import evaluate, evaluate_sample
from charlm.inference import kneser_ney as counting
from charlm.inference.kneser_ney import count, smooth, trie
from charlm.inference.mixture import Mixture
from charlm.nn.model import CharModel
from charlm.spec import ModelSpec
from tests.helpers.evaluation import module_of, random_ids
from tests.helpers.memory import resident_growth, traced_growth

MB = 1_000_000


@pytest.mark.parametrize(("num_symbols", "num_units", "window"), [(5000, 8, 48), (65, 256, 256)])
def test_blocks_take_little_memory(num_symbols: int, num_units: int, window: int) -> None:
    """64 streams side by side of a model with many symbols and n-grams, or with many units, take less than 60 MB."""
    model = CharModel(ModelSpec("lstm-peephole", num_symbols, 8, num_units, 1))
    model.initialise(torch.Generator().manual_seed(0))
    ids = np.random.default_rng(0).integers(num_symbols, size=64 * window).astype(np.uint16)
    levels = count([ids[:400]], num_symbols, 2)
    mixture = Mixture(trie(levels, smooth(levels, num_symbols), num_symbols), 0.5) if num_units == 8 else None
    evaluate(model, ids[:100], mixture=mixture)
    assert resident_growth(lambda: evaluate(model, ids, window, mixture=mixture)) < 60 * MB


@pytest.mark.parametrize("direction", ["forward", "both"])
def test_scores_do_not_depend_on_the_size_of_blocks(
    make_model: Callable[..., ModelFile], direction: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a few steps or of many, they give the same scores of a whole text and of a sample."""
    model, ids = module_of(make_model("lstm", direction=direction)), random_ids(4200)
    expected = evaluate(model, ids), evaluate_sample(model, ids, 500)
    monkeypatch.setattr(evaluation, "MAX_NUMBERS", 300)
    monkeypatch.setattr(evaluation, "MAX_NUMBERS_OF_LARGE_BLOCK", 30_000)
    for scores, before in zip((evaluate(model, ids), evaluate_sample(model, ids, 500)), expected, strict=True):
        assert scores.nats_per_character == pytest.approx(before.nats_per_character, abs=1e-6)
        assert (scores.characters, scores.top5_accuracy) == (before.characters, before.top5_accuracy)


def test_windows_of_a_long_text_are_made_some_at_a_time() -> None:
    """The first windows of a text of eight billion characters take as little memory as those of a short one."""
    part = Part.of(np.broadcast_to(np.uint8(0), (1 << 33,)))
    assert traced_growth(lambda: next(segments.windows(part, 1))) < 20 * MB


def test_windows_cover_each_stretch_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many are made at a time, they are those that a plain loop makes."""
    part = Part.between(random_ids(100), [(3, 40), (41, 42), (50, 100)])
    expected = [
        (first, min(first + 7, end), start, end)
        for start, end in part.bounds_S2.tolist()
        for first in range(start, end, 7)
    ]
    for together in (1, 2, 5, 100):
        monkeypatch.setattr(segments, "WINDOWS_TOGETHER", together)
        found = [
            edges
            for some in segments.windows(part, 7)
            for edges in zip(some.first_S, some.last_S, some.starts_S, some.ends_S, strict=True)
        ]
        assert found == expected


def test_counting_takes_little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of random text, a character that is counted takes less than 200 bytes, and one that is scored less than 40."""
    monkeypatch.setattr(baselines_module, "PIECE", 1 << 12)
    ids = np.random.default_rng(0).choice(60, p=np.arange(60, 0, -1) / 1830, size=100_000).astype(np.uint8)
    assert traced_growth(lambda: kneser_ney(ids, ids[:10], 60, 7)) < 200 * len(ids)
    assert traced_growth(lambda: kneser_ney(ids[:10], ids, 60, 7)) < 40 * len(ids)


def test_counting_in_pieces_of_any_size_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """The size of the pieces changes neither counts nor scores."""
    train, text = (Part.between(random_ids(400, seed), [(0, 150), (160, 161), (200, 400)]) for seed in (1, 2))

    def results() -> Iterator[Sequence[object]]:
        yield kneser_ney(train, text, 10, 5)
        for level in count(train.stretches, 10, 5):
            columns = (level.contexts_N, level.suffixes_N, level.symbols_N, level.occurrences_N, level.predecessors_N)
            yield [*map(np.ndarray.tolist, columns), level.num_contexts]

    expected = list(results())
    for size in (1, 2, 7):
        monkeypatch.setattr(counting, "PIECE", size)
        monkeypatch.setattr(baselines_module, "PIECE", size)
        assert list(results()) == expected
