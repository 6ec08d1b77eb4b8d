"""A net and its n-grams predict together what their equation says, everywhere the same, and with the best weight."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from charlm.checkpoint import ModelFile, load_checkpoint
from charlm.data.holdout import Part
from charlm.errors import ModelFileError
from charlm.evaluation.evaluate import evaluate, evaluate_sample
from charlm.evaluation.mixing import fit_weight
from charlm.inference.kneser_ney import count, smooth, trie
from charlm.inference.mixture import Mixture
from charlm.inference.ngrams import Ngrams
from charlm.inference.sampling import draw, softmax
from charlm.inference.score import score_symbols
from charlm.inference.stepper import Stepper
from charlm.vocab import Ids
from tests.helpers.evaluation import NUM_SYMBOLS, module_of, random_ids


def counted(seed: int = 0, threshold: float = -1.0) -> Ngrams:
    """Return the trigrams of random characters."""
    levels = count([random_ids(400, seed)], NUM_SYMBOLS, 3)
    return trie(levels, smooth(levels, NUM_SYMBOLS), NUM_SYMBOLS, threshold)


def with_ngrams(file: ModelFile, weight: float = 0.6) -> ModelFile:
    """Return a model file with n-grams beside its net."""
    return replace(file, arrays=file.arrays | Mixture(counted(), weight).arrays())


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_torch_and_numpy_score_a_mixture_the_same(make_model: Callable[..., ModelFile], direction: str) -> None:
    """Blocks in torch and single characters in NumPy give the same bits, with a start symbol at the start."""
    file = with_ngrams(make_model("lstm", direction=direction))
    ids = random_ids(300, 5)
    found = evaluate(module_of(file), ids, mixture=Mixture.of(file))
    expected = score_symbols(Stepper(file), ids).bits_T.mean()
    assert found.bits_per_character == pytest.approx(expected, abs=1e-5)


def test_the_parts_of_a_mixture_are_scored_alone(make_model: Callable[..., ModelFile]) -> None:
    """The net's scores are those without n-grams, and those of the n-grams are the table's own."""
    file = with_ngrams(make_model("gru"))
    module, part = module_of(file), Part.between(random_ids(300, 5), [(0, 100), (130, 300)])
    mixture = Mixture.of(file)
    assert mixture is not None
    found = evaluate(module, part, mixture=mixture)
    assert found.net == evaluate(module, part)
    assert found.ngrams is not None
    # The rounded probabilities of a file do not quite sum to one; those that are scored do.
    p = np.concatenate([mixture.ngrams.score(stretch) for stretch in part.stretches])
    assert found.ngrams.nats_per_character == pytest.approx(-np.log(p).mean(), abs=5e-3)


def test_a_sample_of_segments_estimates_the_whole(make_model: Callable[..., ModelFile]) -> None:
    """Segments with a warm-up have the scores of the same places in the whole text."""
    file = with_ngrams(make_model("lstm"))
    module, ids, mixture = module_of(file), random_ids(6000, 7), Mixture.of(file)
    whole, sample = evaluate(module, ids, mixture=mixture), evaluate_sample(module, ids, 5000, mixture=mixture)
    assert sample.characters < 5000
    assert sample.standard_error_nats is not None
    assert abs(sample.nats_per_character - whole.nats_per_character) < 4 * sample.standard_error_nats


@pytest.mark.parametrize(("weight", "name"), [(0.0, "net"), (1.0, "ngrams")])
def test_a_weight_of_zero_or_one_leaves_one_of_them(
    make_model: Callable[..., ModelFile], weight: float, name: str
) -> None:
    """The mixture is then that part."""
    file = make_model("lstm")
    found = evaluate(module_of(file), random_ids(200, 3), mixture=Mixture(counted(), weight))
    alone = getattr(found, name)
    assert found.nats_per_character == pytest.approx(alone.nats_per_character, abs=1e-5)


def test_the_fitted_weight_is_the_best_one(make_model: Callable[..., ModelFile]) -> None:
    """No weight of a fine grid predicts the text better than the fitted one."""
    module, part, ngrams = module_of(make_model("lstm")), Part.of(random_ids(400)[:350]), counted(0, 0.2)
    nats = {w: evaluate(module, part, mixture=Mixture(ngrams, w)).nats_per_character for w in np.linspace(0, 1, 101)}
    fitted = fit_weight(module, part, ngrams)
    assert abs(fitted - min(nats, key=nats.__getitem__)) <= 0.01
    assert 0.05 < fitted < 0.999


@pytest.mark.parametrize("is_net_better", [True, False])
def test_a_weight_that_gains_next_to_nothing_is_left(make_model: Callable[..., ModelFile], is_net_better: bool) -> None:
    """Where a mixture gains less than 0.005 nats, the better of the two stands alone."""
    file = make_model("lstm")
    if is_net_better:
        # The net predicts each character from the one before, and the n-grams have seen another text.
        part, ngrams = Part.of(sampled(file, 600)), counted(0, 0.2)
        assert fit_weight(module_of(file), part, ngrams) == 0.0
    else:
        # The text repeats what was counted, and the weights of the net are random.
        text = np.tile(np.arange(10, dtype=np.uint8), 40)
        levels = count([text], 10, 3)
        assert fit_weight(module_of(file), Part.of(text), trie(levels, smooth(levels, 10), 10)) == 1.0


def sampled(file: ModelFile, length: int) -> Ids:
    """Draw a text from a model."""
    stepper, random = Stepper(file), np.random.default_rng(0)
    logits_BV, state = stepper.start()
    ids = []
    for _ in range(length):
        index = int(draw(softmax(logits_BV), random.random(1))[0])
        ids.append(index)
        logits_BV, state = stepper.step(np.array([index]), state)
    return np.array(ids, dtype=np.uint8)


def test_a_model_file_keeps_its_n_grams(make_model: Callable[..., ModelFile], tmp_path: Path) -> None:
    """A file with n-grams is saved and loaded, predicts the same, and its weights are still those of the net."""
    file = with_ngrams(make_model("lstm"))
    file.save(tmp_path / "m.safetensors")
    loaded = load_checkpoint(tmp_path / "m.safetensors")
    assert loaded.weights.keys() == make_model("lstm").weights.keys()
    ids = random_ids(50, 3)
    found, expected = (score_symbols(Stepper(each), ids).bits_T.tolist() for each in (loaded, file))
    assert found == expected


@pytest.mark.parametrize("weight", [-0.1, 1.5])
def test_a_weight_out_of_bounds_is_refused(make_model: Callable[..., ModelFile], weight: float) -> None:
    """A damaged or hostile weight is an error of the model file."""
    with pytest.raises(ModelFileError, match="weight of the n-grams"):
        Mixture.of(with_ngrams(make_model("lstm"), weight))


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("ngrams.sizes", np.zeros(2, dtype=np.float32)),
        ("ngrams.packed", np.zeros((2, 2), dtype=np.uint8)),
        ("ngrams.weight", np.zeros(1, dtype=np.float32)),
        ("ngrams.more", np.zeros(1, dtype=np.float32)),
    ],
)
def test_an_array_of_another_form_is_refused(
    make_model: Callable[..., ModelFile], tmp_path: Path, name: str, array: np.ndarray
) -> None:
    """The form of each array is checked before the file is read."""
    file = with_ngrams(make_model("lstm"))
    replace(file, arrays=file.arrays | {name: array}).save(tmp_path / "m.safetensors")
    with pytest.raises(ModelFileError, match="n-grams"):
        load_checkpoint(tmp_path / "m.safetensors")
