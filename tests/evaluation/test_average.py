"""The mean of weights: made by NumPy in one line, measured by torch; what does not fit is refused."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from charlm.checkpoint import ModelFile, load_checkpoint
from charlm.errors import UsageError
from charlm.evaluation.average import average_models, measure_average, with_figures
from charlm.evaluation.evaluate import evaluate
from charlm.evaluation.scored_text import load_own_text
from charlm.inference.kneser_ney import count, smooth, trie
from charlm.inference.mixture import WEIGHT_NAME, Mixture
from charlm.vocab import Vocabulary
from tests.helpers.evaluation import module_of, random_ids
from tests.helpers.model_files import assert_same, bits
from tests.helpers.training import begin, interrupt

Make = Callable[..., ModelFile]
FILES = [Path(f"m{number}.safetensors") for number in range(3)]


def ngrams(seed: int, weight: float) -> dict[str, Any]:
    """Return the arrays of the trigrams of a random text."""
    levels = count([random_ids(300, seed)], 10, 3)
    return Mixture(trie(levels, smooth(levels, 10), 10), weight).arrays()


def save(*models: ModelFile) -> list[Path]:
    """Save models, and return their paths."""
    for path, model in zip(FILES, models, strict=False):
        model.save(path)
    return FILES[: len(models)]


@pytest.mark.parametrize(
    ("weights", "shares"), [(None, [1 / 3] * 3), ([1, 2, 1], [0.25, 0.5, 0.25]), ([0, 1, 0], [0, 1, 0])]
)
def test_each_weight_is_the_mean_in_float64(make_model: Make, weights: Any, shares: list[float]) -> None:
    """Rounded once; a model that alone counts stays as it is."""
    models = [make_model("gru", 2, seed=seed) for seed in range(3)]
    average = average_models(save(*models), weights).file
    for name, array in average.arrays.items():
        expected = sum(
            share * model.arrays[name].astype(np.float64) for share, model in zip(shares, models, strict=True)
        )
        assert bits(array) == bits(np.asarray(expected, np.float32))
    assert average.arrays.keys() == models[0].weights.keys()


def test_the_file_names_what_was_averaged(make_model: Make) -> None:
    """Each model with the hash of its file and its share; settings and text are those of the first."""
    models = [replace(make_model(seed=seed), metrics={"step": 10 * seed, "seconds": 1.5}) for seed in range(2)]
    paths = save(*models)
    average = average_models(paths, [1, 3]).file
    hashes = [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]
    assert average.metrics == {
        "step": 10,
        "seconds": 1.5,
        "averaged": [
            {"model": str(path), "sha256": sha256, "weight": share}
            for path, sha256, share in zip(paths, hashes, [0.25, 0.75], strict=True)
        ],
    }
    assert (average.config, average.corpus) == (models[0].config, models[0].corpus)
    average.save(Path("mean.safetensors"))
    assert_same(average, load_checkpoint(Path("mean.safetensors")))


def test_what_resumes_training_is_no_part_of_it(make_model: Make) -> None:
    """The optimiser's state is dropped."""
    model = make_model()
    moments = {f"optimizer.{name}.m": np.zeros_like(array) for name, array in model.arrays.items()}
    average = average_models(save(model, replace(model, arrays=model.arrays | moments))).file
    assert average.arrays.keys() == model.weights.keys()


def test_equal_ngrams_are_kept(make_model: Make) -> None:
    """With the mean of their weights, also if a model of the same text has none, as `last.safetensors`."""
    model = make_model()
    paths = save(
        replace(model, arrays=model.arrays | ngrams(1, 0.25)),
        model,
        replace(model, arrays=model.arrays | ngrams(1, 0.75)),
    )
    average = average_models(paths)
    assert average.notes == []
    found = Mixture.of(average.file)
    assert found
    assert found.weight == 0.5
    assert average_models(paths, [1, 5, 3]).file.arrays[WEIGHT_NAME] == (0.25 + 3 * 0.75) / 4
    assert bits(average.file.arrays["ngrams.packed"]) == bits(ngrams(1, 0.5)["ngrams.packed"])


def test_a_model_without_ngrams_may_have_another_text(make_model: Make) -> None:
    """Such as an imported one, whose text is unknown: only models with n-grams must have the same."""
    model = make_model()
    paths = save(replace(model, arrays=model.arrays | ngrams(1, 0.25)), replace(model, corpus={"name": "unknown"}))
    for given in (paths, paths[::-1]):
        average = average_models(given)
        assert average.notes == []
        assert bits(average.file.arrays["ngrams.weight"]) == bits(np.array(0.25, np.float32))


@pytest.mark.parametrize("others", [ngrams(1, 0.9), ngrams(2, 0.9), {}], ids=["the same", "others", "none"])
def test_a_model_that_counts_alone_keeps_its_ngrams(make_model: Make, others: dict[str, Any]) -> None:
    """With the weights 1 and 0, the average is the first model, whatever n-grams the other has."""
    nets, tables = [make_model(seed=seed) for seed in range(2)], [ngrams(1, 0.3), others]
    models = [replace(net, arrays=net.arrays | table) for net, table in zip(nets, tables, strict=True)]
    paths = save(*models)
    for weights, expected in (([1, 0], models[0]), ([0, 2], models[1])):
        average = average_models(paths, weights)
        assert average.notes == []
        assert average.file.arrays.keys() == expected.arrays.keys()
        assert all(bits(array) == bits(expected.arrays[name]) for name, array in average.file.arrays.items())


@pytest.mark.parametrize("has_other_counts", [True, False])
def test_different_ngrams_are_dropped_with_a_note(make_model: Make, has_other_counts: bool) -> None:
    """Counts of another text; or of the same counts, that one of the models learned another text."""
    first = make_model()
    first = replace(first, arrays=first.arrays | ngrams(1, 0.5))
    changed: dict[str, Any] = {"arrays": first.arrays | ngrams(2, 0.5)}
    if not has_other_counts:
        changed = {"corpus": {"sha256": "1" * 64}}
    other = replace(first, **changed)
    average = average_models(save(first, other))
    assert Mixture.of(average.file) is None
    assert ("different n-grams" if has_other_counts else "learned different texts") in average.notes[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cell": "gru"}, "`m0.safetensors` has model.cell lstm, and `m1.safetensors` has gru"),
        ({"num_layers": 2}, "model.num_layers 1, and `m1.safetensors` has 2"),
        ({"hidden_size": 13}, "model.hidden_size 12, and `m1.safetensors` has 13"),
        ({"embedding_size": 6}, "model.embedding_size 5"),
        ({"direction": "backward"}, "model.direction forward"),
        ({"initial_state": "learned"}, "model.initial_state zero"),
        ({"symbols": "\n abcdefgx"}, "`m1.safetensors` does not know 'h', which `m0.safetensors` knows"),
        ({"symbols": Vocabulary("characters", "\n abcdefhg")}, "the same characters in another order"),
    ],
)
def test_models_that_do_not_fit_are_refused(make_model: Make, options: dict[str, Any], message: str) -> None:
    """The message names both models and the first difference."""
    with pytest.raises(UsageError) as raised:
        average_models(save(make_model(), make_model(**options)))
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1], "1 weight for 2 models"),
        ([1, -1], "0 or more"),
        ([0, 0], "not all 0"),
        ([1, float("nan")], "0 or more"),
        ([1, float("inf")], "0 or more"),
    ],
)
def test_wrong_weights_are_refused(make_model: Make, weights: list[float], message: str) -> None:
    """One for each model, 0 or more."""
    with pytest.raises(UsageError, match=message):
        average_models(save(make_model(), make_model(seed=1)), weights)


def test_one_model_or_the_same_twice_is_refused(make_model: Make) -> None:
    """Also under another name of the same file."""
    (path,) = save(make_model())
    with pytest.raises(UsageError, match="at least two"):
        average_models([path])
    with pytest.raises(UsageError, match="given twice"):
        average_models([path, path.absolute()])


def test_it_is_measured_on_the_held_out_text() -> None:
    """The figures of the average and of each model are those of torch, and stand in its file."""
    training = begin(train__keep_every=6, model__ngram_order=3)
    interrupt(training, 18)
    paths = list(training.run.kept_models().values())[-2:]
    average = average_models(paths).file
    found = measure_average(average, paths)
    text = load_own_text(average)
    models = [average, *map(load_checkpoint, paths)]
    expected = [evaluate(module_of(model), text.ids, mixture=Mixture.of(model)) for model in models]
    for measured, scores in zip([found.average, *found.members], expected, strict=True):
        assert measured.bits == pytest.approx(scores.bits_per_character, abs=1e-5)
        assert scores.net
        assert measured.net_bits == pytest.approx(scores.net.bits_per_character, abs=1e-5)
    assert (found.text, found.characters, found.total) == (text.name, len(text.ids), len(text.ids))
    metrics = with_figures(average, found).metrics
    assert metrics["validation_bits_per_character"] == found.average.bits
    assert metrics["validation_net_bits_per_character"] == found.average.net_bits
