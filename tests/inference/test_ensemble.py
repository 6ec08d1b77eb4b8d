"""Several models together: the mean of their probabilities, compared with torch; and everything that reads with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import charlm
from charlm.checkpoint import ModelFile
from charlm.errors import ModelFileError, UsageError
from charlm.inference.ensemble import Ensemble
from charlm.inference.generate import generate
from charlm.inference.incremental import IncrementalReader
from charlm.inference.predict import predict
from charlm.inference.sampling import Sampling
from charlm.inference.score import score_symbols
from charlm.inference.stepper import Predictor, Stepper
from charlm.inference.words import predict_words
from charlm.vocab import Vocabulary
from tests.helpers.model_files import with_ngrams

SYMBOLS = "\n abcdefgh"
TEXT = "a bad cab had\na bad head"
Make = Callable[..., ModelFile]


def together(*files: ModelFile) -> Ensemble:
    """Make an ensemble of models that are called m0, m1, ..."""
    return Ensemble([(f"m{number}", Stepper(file)) for number, file in enumerate(files)])


def in_other_order(file: ModelFile, symbols: str) -> ModelFile:
    """Return the same model with its symbols in another order."""
    order = [file.vocabulary.symbols.index(symbol) for symbol in symbols]
    arrays = dict(file.arrays)
    arrays["embedding.weight"] = arrays["embedding.weight"][[*order, len(order)]]
    for name in ("output.weight", "output.bias"):
        arrays[name] = arrays[name][order]
    return replace(file, arrays=arrays, vocabulary=Vocabulary("characters", symbols))


def write(stepper: Predictor, prompts: list[str], **options: Any) -> list[str]:
    """Continue prompts by 30 characters with the seeds 1, 2, ..."""
    seeds = range(1, 1 + len(prompts))
    return generate(stepper, prompts, length=30, sampling=Sampling(**options), seeds=seeds).texts()


def test_the_prediction_is_the_mean_of_the_probabilities(make_model: Make) -> None:
    """Models of other cells, sizes and with n-grams; the oracle is the mean of torch's softmaxes."""
    files = [make_model(), make_model("gru", 2, hidden_size=7, seed=1), with_ngrams(make_model("rnn", seed=2))]
    ensemble = together(*files)
    texts = [ensemble.vocabulary.encode(text) for text in ("a bad", "cab", "")]
    logits_BV, _ = ensemble.read_each(texts)
    each = [torch.from_numpy(Stepper(file).read_each(texts)[0]) for file in files]
    expected = torch.stack([torch.softmax(one.double(), -1) for one in each]).mean(0)
    torch.testing.assert_close(torch.softmax(torch.from_numpy(logits_BV).double(), -1), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_model_given_several_times_is_that_model(make_model: Make, number: int) -> None:
    """Logits are equal bit for bit, so texts are too."""
    file = with_ngrams(make_model())
    ensemble, alone = together(*[file] * number), Stepper(file)
    ids_T = alone.vocabulary.encode(TEXT)
    assert np.array_equal(ensemble.read(ids_T)[0], alone.read(ids_T)[0])
    assert write(ensemble, ["ab", ""], temperature=0.7) == write(alone, ["ab", ""], temperature=0.7)


def test_models_may_know_the_symbols_in_another_order(make_model: Make) -> None:
    """Ids are translated by symbol: the same model with its rows in another order predicts the same."""
    file, other = make_model(), make_model("gru", seed=1)
    permuted = in_other_order(other, "hgfedcba \n")
    expected = score_symbols(together(file, other), file.vocabulary.encode(TEXT)).bits_T
    found = score_symbols(together(file, permuted), file.vocabulary.encode(TEXT)).bits_T
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert write(together(file, permuted), ["a"]) == write(together(file, other), ["a"])
    assert together(permuted, file).vocabulary == permuted.vocabulary


def test_a_text_costs_no_more_than_the_models_on_average(make_model: Make) -> None:
    """For each symbol; and at most one bit more than the better of two."""
    files = [make_model(), make_model(seed=1)]
    ids_T = files[0].vocabulary.encode(TEXT)
    each = np.array([score_symbols(Stepper(file), ids_T).bits_T for file in files])
    bits_T = score_symbols(together(*files), ids_T).bits_T
    assert (bits_T <= each.mean(0) + 1e-6).all()
    assert (bits_T <= each.min(0) + 1 + 1e-6).all()
    np.testing.assert_allclose(bits_T, -np.log2(np.exp2(-each).mean(0)), atol=1e-5)


def test_a_symbol_that_one_model_excludes_stays_possible(make_model: Make) -> None:
    """Extreme logits lose no precision, and the mean halves a probability at most."""
    sure = make_model()
    sure = replace(sure, arrays=sure.arrays | {"output.bias": np.array([1e5] + [-1e5] * 9, np.float32)})
    logits_BV, _ = together(sure, make_model(seed=1)).start()
    p_V = Sampling().probabilities(logits_BV)[0]
    alone_V = Sampling().probabilities(Stepper(make_model(seed=1)).start()[0])[0]
    np.testing.assert_allclose(p_V[1:], alone_V[1:] / 2, rtol=1e-6)


def test_a_text_does_not_depend_on_the_texts_beside_it(make_model: Make) -> None:
    """The state of an ensemble is divided and joined like that of a model."""
    ensemble = together(with_ngrams(make_model()), make_model("gru", 2, seed=1))
    prompts = ["a bad", "", "cab", "hhh"]
    beside = write(ensemble, prompts)
    for number, prompt in enumerate(prompts):
        alone = generate(ensemble, prompt, length=30, sampling=Sampling(), seeds=[1 + number]).texts()
        assert beside[number : number + 1] == alone


def test_a_text_that_is_edited_has_the_same_predictions(make_model: Make) -> None:
    """The prompt of `predict-next` reads with an ensemble, which has no gates to show."""
    ensemble = together(make_model(), make_model("gru", seed=1))
    reader = IncrementalReader(ensemble)
    for text in ("a ba", "a bad", "a b", "cab"):
        reader.read(text)
        assert reader.predict(3).candidates == predict(ensemble, text, 3).candidates
    assert (reader.has_gates, reader.last_changes()) == (False, [])
    assert IncrementalReader(Stepper(make_model())).has_gates


def test_words_are_those_of_the_mean(make_model: Make) -> None:
    """The probability of a word is that of its characters by the mean, and of a boundary."""
    ensemble = together(make_model(), make_model(seed=1))
    word = predict_words(ensemble, "a b", 1).words[0]
    ends = [f"a b{word.text}{end}" for end in "\n "]
    bits = [score_symbols(ensemble, ensemble.vocabulary.encode(text)).bits_T[3:].sum() for text in ends]
    assert word.probability == pytest.approx(np.exp2(-np.array(bits)).sum(), rel=1e-4)


def test_backward_models_write_before_the_prompt(make_model: Make) -> None:
    """Together as alone."""
    files = [make_model(direction="backward", seed=seed) for seed in (0, 1)]
    assert write(together(*files), ["bad"])[0].endswith("bad")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"symbols": "\n abcdefg"}, "`m1` does not know 'h', which `m0` knows"),
        ({"symbols": "\n abcdefghxyz"}, "`m0` does not know 'x', 'y', 'z', which `m1` knows"),
        ({"symbols": "\n ABCDEFGHIJ"}, "'d', 'e' and 3 more, which"),
        ({"symbols": Vocabulary.of_bytes()}, "`m0` reads characters, and `m1` reads bytes"),
        (
            {"symbols": Vocabulary("characters", SYMBOLS, "letters")},
            "`m1` reads letters only",
        ),
        ({"direction": "backward"}, "`m0` reads forward, and `m1` reads backward"),
    ],
)
def test_models_that_do_not_fit_are_refused(make_model: Make, options: dict[str, Any], message: str) -> None:
    """The message names both models and the first difference."""
    with pytest.raises(UsageError) as raised:
        together(make_model(), make_model(**options))
    assert message in str(raised.value)


def test_no_unit_of_several_models_is_held(make_model: Make) -> None:
    """Without a unit, holding changes nothing."""
    ensemble = together(make_model(), make_model())
    assert ensemble.holding({}) is ensemble
    with pytest.raises(UsageError, match="belongs to one model"):
        ensemble.holding({"1.1": 0.5})


def test_weights_that_overflow_are_refused(make_model: Make) -> None:
    """As with one model."""
    huge = make_model("rnn")
    huge = replace(huge, arrays=huge.arrays | {"output.weight": np.full((10, 12), 3e38, np.float32)})
    with pytest.raises(ModelFileError, match="overflow"):
        predict(together(make_model(), huge), "abc", 3)


def test_a_program_loads_several_models(make_model: Make) -> None:
    """`charlm.load` with several paths; errors name the model."""
    files = [make_model(), make_model("gru", seed=1), make_model(direction="both")]
    for number, file in enumerate(files):
        file.save(Path(f"m{number}"))
    model = charlm.load("m0", Path("m1"))
    assert model.generate("bad", length=30, seed=1, temperature=1) == write(together(*files[:2]), ["bad"])[0]
    _, state = model.step("ab")
    assert np.array_equal(model.step("c", state)[0], model.step("abc")[0])
    assert model.surprisal("bad").bits == pytest.approx(model.score("bad").sum())
    for others, error, message in (
        (["m2"], UsageError, "`m2`: this model reads from both sides"),
        (["nowhere"], ModelFileError, "nowhere"),
    ):
        with pytest.raises(error, match=message):
            charlm.load("m0", *others)
    with pytest.raises(TypeError):
        charlm.load(None, "m0")  # type: ignore[call-overload]
