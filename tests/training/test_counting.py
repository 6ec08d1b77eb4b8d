"""A run counts n-grams beside its net, on text of the training part alone, and fits their weight on text of neither."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from charlm.checkpoint import load_checkpoint
from charlm.data.holdout import Part
from charlm.errors import ConfigError
from charlm.inference.mixture import WEIGHT_NAME, Mixture
from charlm.settings.config import Config, ModelConfig
from charlm.settings.config_file import load_config
from charlm.training import counting as module
from charlm.training.counting import LEAST_CHARACTERS, USUAL_WEIGHT, Counting
from charlm.training.final_evaluation import measure_best
from tests.helpers.commands import ONE_STEP, answer, call
from tests.helpers.evaluation import module_of
from tests.helpers.model_files import random_model
from tests.helpers.training import begin, interrupt, resume

WORDS = ["the", "cat", "sat", "on", "a", "mat", "and", "that", "dog", "ran", "to", "his", "log", "said", "one", "frog"]
# Words in random order, long enough for n-grams.
LONG = " ".join(np.random.default_rng(0).choice(WORDS, 9000))
ORDER = 3


def counting(train: Part, num_symbols: int = 9, **model: Any) -> Counting:
    """Return what is counted of a training part."""
    settings = ModelConfig(hidden_size=64, ngram_order=model.pop("ngram_order", ORDER), **model)
    return Counting(Config(model=settings, seed=1), train, num_symbols)


def random_part(length: int, *gaps: tuple[int, int]) -> Part:
    """Return random characters without those in the gaps."""
    ids = np.random.default_rng(1).integers(9, size=length).astype(np.uint8)
    edges = [0, *(edge for gap in gaps for edge in gap), length]
    return Part.between(ids, list(zip(edges[::2], edges[1::2], strict=True)))


@pytest.mark.parametrize("gaps", [(), ((5000, 9000), (40_000, 41_000))])
def test_text_for_the_weight_is_neither_learned_nor_counted(gaps: tuple[tuple[int, int], ...]) -> None:
    """One character in a hundred is kept back, in blocks that are spread; together it is the training part."""
    train = random_part(150_000, *gaps)
    parts = counting(train)
    places = Counter(
        place for part in (parts.learned, parts.tuning) for start, end in part.bounds_S2 for place in range(start, end)
    )
    assert set(places.values()) == {1}
    assert places.keys() == {place for start, end in train.bounds_S2 for place in range(start, end)}
    assert len(parts.tuning) == len(train) // 100
    assert len(parts.tuning.bounds_S2) == 8
    mixture = parts.mixture()
    assert mixture is not None
    learned = counting(parts.learned, ngram_weight=0.4).mixture()
    assert learned is not None
    assert mixture.arrays()["ngrams.packed"].tobytes() == learned.arrays()["ngrams.packed"].tobytes()


def test_a_short_text_or_two_directions_have_no_n_grams() -> None:
    """`auto` counts from 20,000 characters on, for a model of one direction; the settings can ask for it earlier."""
    short, long = random_part(LEAST_CHARACTERS - 1), random_part(LEAST_CHARACTERS)
    assert counting(short, ngram_order="auto").order == 0
    assert counting(short, ngram_order="auto").mixture() is None
    assert counting(long, ngram_order="auto").order == 9
    assert counting(long, ngram_order="auto", direction="both").order == 0
    assert counting(long, ngram_order=0).mixture() is None
    early = counting(short).mixture()
    assert early is not None
    assert early.weight == USUAL_WEIGHT
    with pytest.raises(ConfigError, match="one direction"):
        load_config("lstm", ["model.direction=both", "model.ngram_order=3"])


def test_the_table_is_smaller_than_the_net() -> None:
    """N-grams that matter least are dropped until the file has less than twice the size of the net's."""
    train = random_part(200_000)
    sizes = []
    for units in (2, 16, 40):
        settings = ModelConfig(hidden_size=units, ngram_order=9)
        mixture = Counting(Config(model=settings, seed=1), train, 9).mixture()
        assert mixture is not None
        sizes.append(sum(array.nbytes for array in mixture.arrays().values()))
        assert sizes[-1] < 4 * settings.spec(9).num_parameters
    assert sizes[0] < sizes[1] < sizes[2]


def test_a_small_table_takes_the_length_that_predicts_best() -> None:
    """Where many n-grams do not fit, `auto` takes the order whose table predicts the text kept back no worse."""
    random = np.random.default_rng(2)
    table = random.dirichlet(np.full(9, 0.3), size=81)
    ids = [0, 1]
    for _ in range(60_000):
        ids.append(int(random.choice(9, p=table[9 * ids[-2] + ids[-1]])))
    train = Part.of(np.array(ids, dtype=np.uint8))
    small = ModelConfig(hidden_size=4, embedding_size=4)
    chosen = Counting(Config(model=small, seed=1), train, 9)
    mixture = chosen.mixture()
    assert mixture is not None
    assert mixture.ngrams.order < chosen.order == 9
    fixed = Counting(Config(model=small.model_copy(update={"ngram_order": 9}), seed=1), train, 9).mixture()
    assert fixed is not None
    nats = [-np.log(each.ngrams.score(chosen.tuning.joined())).mean() for each in (mixture, fixed)]
    assert nats[0] <= nats[1]


def test_the_weight_is_fitted_on_what_fits_into_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """With many symbols it is the beginning of the text that is kept back for it; the rest is still not learned."""
    parts, fitted = counting(random_part(150_000)), []

    def fit_weight(model: object, part: Part, ngrams: object) -> float:
        fitted.append(len(part))
        return 0.5

    monkeypatch.setattr(module, "fit_weight", fit_weight)
    model = module_of(random_model())
    for max_fitted in (module.MAX_FITTED, 9 * 800):
        monkeypatch.setattr(module, "MAX_FITTED", max_fitted)
        parts.mixture(model, 10_000)
    assert fitted == [1500, 800]


def test_a_backward_model_counts_from_the_right() -> None:
    """Its n-grams are those of the reversed text."""
    train = random_part(3000)
    backward = counting(train, direction="backward").mixture()
    turned = counting(Part.of(train.joined()[::-1])).mixture()
    assert backward is not None
    assert turned is not None
    assert backward.arrays()["ngrams.packed"].tobytes() == turned.arrays()["ngrams.packed"].tobytes()


def test_the_best_model_has_n_grams_and_a_fitted_weight() -> None:
    """Net, n-grams and both are scored; both together are better than either, and `last` holds the net alone."""
    training = begin(text=LONG)
    training.learn()
    before = load_checkpoint(Path("run/best.safetensors"))
    assert float(before.arrays[WEIGHT_NAME]) == np.float32(USUAL_WEIGHT)
    scores = measure_best(training)
    best = load_checkpoint(Path("run/best.safetensors"))
    assert scores is not None
    assert scores.net is not None
    assert scores.ngrams is not None
    assert scores.nats_per_character <= min(scores.net.nats_per_character, scores.ngrams.nats_per_character) + 0.002
    fitted = training.learner.counting.mixture(training.learner.model, 10_000)
    assert fitted is not None
    assert float(best.arrays[WEIGHT_NAME]) == np.float32(fitted.weight)
    bits = [best.metrics[f"validation_{name}bits_per_character"] for name in ("", "net_", "ngrams_")]
    assert bits == [part.bits_per_character for part in (scores, scores.net, scores.ngrams)]
    assert not any(name.startswith("ngrams.") for name in load_checkpoint(Path("run/last.safetensors")).arrays)


def test_n_grams_leave_the_training_of_the_net_alone() -> None:
    """With a fixed weight nothing is kept back, and the net is that of a run without n-grams, bit for bit."""
    runs = [
        begin(name, LONG, model__ngram_order=order, model__ngram_weight=0.3) for name, order in (("a", 0), ("b", 4))
    ]
    for training in runs:
        training.learn()
    first, second = (training.learner.model.arrays() for training in runs)
    assert {name: array.tobytes() for name, array in first.items()} == {
        name: array.tobytes() for name, array in second.items()
    }


def test_a_resumed_run_has_the_same_n_grams() -> None:
    """The best model of a run that was interrupted is that of the run without a break, n-grams included."""
    whole = begin("whole", LONG)
    whole.learn()
    broken = begin("broken", LONG)
    interrupt(broken, 12)
    resumed = resume(broken.run)
    resumed.learn()
    for training in (whole, resumed):
        measure_best(training)
    first, second = (load_checkpoint(Path(name, "best.safetensors")).arrays for name in ("whole", "broken"))
    assert {name: array.tobytes() for name, array in first.items()} == {
        name: array.tobytes() for name, array in second.items()
    }


def test_a_run_from_a_model_also_counts_the_old_text() -> None:
    """`--from` counts both texts, so that what the old one had is still predicted."""
    Path("old.txt").write_text("quick brown foxes jump " * 900 + LONG[:3000], encoding="utf-8")
    Path("new.txt").write_text(LONG[:40_000], encoding="utf-8")
    options = ["--set", "train.precision=fp32", "--set", "train.threads=1"]
    call("train", "-c", "old.txt", *ONE_STEP, *options, "--out", "old")
    result = call("train", "--from", "old", "-c", "new.txt", *ONE_STEP[4:8], "--set", "train.steps=1", "--out", "new")
    assert result.exit_code == 0, result.stderr
    assert "the n-grams count the old text as well" in result.stderr
    mixture = Mixture.of(load_checkpoint(Path("new/best.safetensors")))
    assert mixture is not None
    vocabulary = load_checkpoint(Path("new/best.safetensors")).vocabulary
    p = mixture.ngrams.score(vocabulary.encode("quick brown foxes jump quick brown"))
    assert p[8:].mean() > 0.5


def test_eval_shows_net_and_n_grams_beside_the_model() -> None:
    """The rows of the net alone, the n-grams alone and both together have the figures of `--json`."""
    Path("text.txt").write_text(LONG, encoding="utf-8")
    call("train", "-c", "text.txt", *ONE_STEP, "--out", "run")
    shown = call("eval", "-m", "run").stdout
    figures = answer("eval", "-m", "run", "--json")
    rows = {"this model": figures, "its net": figures["net"], "its n-grams": figures["ngrams"]}
    for name, row in rows.items():
        assert f"{row['bits_per_character']:.4f}  {name}" in shown
    assert figures["bits_per_character"] < figures["net"]["bits_per_character"]
