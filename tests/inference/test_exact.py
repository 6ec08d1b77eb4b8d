"""The exact stepper predicts what the stepper predicts, with the same bits on every CPU."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from charlm.cells import CELLS
from charlm.checkpoint import ModelFile
from charlm.errors import UsageError
from charlm.inference.exact import ExactArray, ExactLinear, natural_logarithm
from charlm.inference.exact_stepper import ExactStepper
from charlm.inference.score import score_symbols
from charlm.inference.stepper import Stepper
from tests.helpers.machines import OLDER_CPU
from tests.helpers.model_files import with_ngrams

SYMBOLS = "\n abcdefgh"
# The model and the text of the test in other processes, which prints a digest of what is predicted.
PREDICTS = """
import hashlib, sys
from pathlib import Path
import numpy as np
from charlm.checkpoint import load_checkpoint
from charlm.inference.exact import ExactArray, ExactLinear
from charlm.inference.exact_stepper import ExactStepper
file = load_checkpoint(Path(sys.argv[1]))
ids_TB = np.random.default_rng(1).integers(len(file.vocabulary), size=(60, int(sys.argv[2])))
exact, state = ExactStepper(file), ExactStepper(file).before(int(sys.argv[2]))
digest = hashlib.sha256()
for ids_B in ids_TB:
    state = exact.advance(ids_B, state)
    # Frequencies are so coarse that a difference in the last bit of a state seldom changes them.
    digest.update(b"".join(part.values.tobytes() for layer in state.layers for part in layer))
    digest.update(exact.frequencies(state).tobytes())
# The tables hide nearly all differences of sums.
random = np.random.default_rng(2)
product = ExactLinear(random.normal(size=(512, 300)).astype(np.float32), np.zeros(512))
digest.update(product(ExactArray(random.normal(size=(12, 300)))).values.tobytes())
print(digest.hexdigest(), hashlib.sha256(np.tanh(np.linspace(-3, 3, 1000)).tobytes()).hexdigest())
"""


def exact_bits(file: ModelFile, ids_T: np.ndarray) -> np.ndarray:
    """Return what each symbol of a text costs by the frequencies of the exact stepper."""
    stepper = ExactStepper(file)
    state, bits = stepper.before(1), []
    for previous, index in zip([stepper.num_symbols, *ids_T[:-1]], ids_T, strict=True):
        state = stepper.advance(np.array([previous]), state)
        (frequencies_V,) = stepper.frequencies(state)
        assert frequencies_V.min() >= 1
        bits.append(np.log2(frequencies_V.sum()) - np.log2(frequencies_V[index]))
    return np.array(bits)


def test_the_functions_are_those_of_numpy() -> None:
    """Tables differ from NumPy by half a step of the argument times the slope; far arguments have the last entry."""
    x = np.concatenate([np.linspace(-17, 17, 5001), [-1e30, -1e300, 0, 1e30, 1e300]])
    near = np.abs(x) < 100
    found = ExactArray(x)
    np.testing.assert_allclose(found.tanh().values, np.tanh(x), atol=2.5e-4)
    np.testing.assert_allclose(found.sigmoid().values, 0.5 * np.tanh(0.5 * x) + 0.5, atol=6.2e-5)
    softplus = found.logaddexp(found.new_zeros(())).values
    np.testing.assert_allclose(softplus[near], np.logaddexp(x[near], 0), atol=1.3e-4)
    assert softplus[-1] == 1e300
    steps = ExactArray(np.arange(-16, 17) / 2048)
    np.testing.assert_allclose(steps.tanh().values, np.tanh(steps.values), rtol=1e-13)
    np.testing.assert_allclose(steps.sigmoid().values, 1 / (1 + np.exp(-steps.values)), rtol=1e-13)
    assert natural_logarithm(10) == np.log(10)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e9])
def test_a_product_is_that_of_whole_numbers(scale: float) -> None:
    """Sums equal those of Python's fractions to the bit, also of the largest inputs, in any order of the inputs."""
    random = np.random.default_rng(3)
    weight_OI = (random.normal(size=(7, 300)) * scale).astype(np.float32)
    x_BI = random.normal(size=(5, 300)) * [[1], [1e-3], [30], [1e4], [1e300]]
    product = ExactLinear(weight_OI, np.zeros(7))
    found_BO = product(ExactArray(x_BI)).values
    # 53 bits, less 25 for the inputs and 9 for their number.
    unit = Fraction(2) ** (int(np.frexp(np.abs(weight_OI).max())[1]) - 19)
    rounded_BI = [[round(Fraction(min(max(x, -1024), 1024)) * 2**15) for x in row] for row in x_BI.tolist()]
    rounded_OI = [[round(Fraction(w) / unit) for w in row] for row in weight_OI.tolist()]
    expected = [
        [float(sum(w * x for w, x in zip(ws, xs, strict=True)) * unit / 2**15) for ws in rounded_OI]
        for xs in rounded_BI
    ]
    assert found_BO.tolist() == expected
    order = random.permutation(300)
    again = ExactLinear(weight_OI[:, order], np.zeros(7))(ExactArray(x_BI[:, order]))
    assert again.values.tolist() == expected


MODELS = {cell: {"cell": cell} for cell in CELLS} | {
    "two layers": {"num_layers": 2, "initial_state": "learned"},
    "one-hot": {"embedding_size": 0, "cell": "gru"},
    "n-grams": {"cell": "gru-reset-before", "num_layers": 2},
}


@pytest.mark.parametrize("name", MODELS)
def test_a_text_costs_what_it_costs_the_stepper(make_model: Callable[..., ModelFile], name: str) -> None:
    """Rounding changes the mean by less than 0.002 bits a character, and no probability above 2^-16 by 1%."""
    file = make_model(symbols=SYMBOLS, hidden_size=24, **MODELS[name])
    file = with_ngrams(file) if name == "n-grams" else file
    ids_T = np.random.default_rng(2).integers(len(SYMBOLS), size=150).astype(np.uint8)
    expected_T = score_symbols(Stepper(file), ids_T).bits_T
    found_T = exact_bits(file, ids_T)
    assert abs(found_T.mean() - expected_T.mean()) < 0.002
    np.testing.assert_allclose(np.minimum(found_T, 16), np.minimum(expected_T, 16), atol=0.015)


@pytest.mark.parametrize("name", MODELS)
def test_exact_streams_do_not_depend_on_others(make_model: Callable[..., ModelFile], name: str) -> None:
    """A stream has the same frequencies alone and among others."""
    file = make_model(symbols=SYMBOLS, hidden_size=20, **MODELS[name])
    stepper = ExactStepper(with_ngrams(file) if name == "n-grams" else file)
    ids_TB = np.random.default_rng(5).integers(len(SYMBOLS), size=(20, 9))
    together, alone = stepper.before(9), stepper.before(1)
    for ids_B in ids_TB:
        together, alone = stepper.advance(ids_B, together), stepper.advance(ids_B[4:5], alone)
        assert stepper.frequencies(together)[4].tolist() == stepper.frequencies(alone)[0].tolist()
    some = together.streams([8, 4])
    assert stepper.frequencies(some)[1].tolist() == stepper.frequencies(alone)[0].tolist()


def test_older_cpus_and_threads_predict_the_same(
    make_model: Callable[..., ModelFile], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A process with fewer instructions and two threads of BLAS finds the same sums, states and frequencies."""
    with_ngrams(make_model(num_layers=2, symbols=SYMBOLS, hidden_size=160)).save(Path("model"))
    monkeypatch.setattr(sys, "argv", ["", "model", "12"])
    exec(PREDICTS, {})
    exact, numpy = capsys.readouterr().out.split()
    command = [sys.executable, "-c", PREDICTS, "model", "12"]
    environment = os.environ | OLDER_CPU | {"OMP_NUM_THREADS": "2"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    exact_elsewhere, numpy_elsewhere = done.stdout.split()
    assert exact_elsewhere == exact
    # Where NumPy itself computes the same, the comparison proves nothing.
    assert numpy_elsewhere != numpy or not OLDER_CPU["NPY_DISABLE_CPU_FEATURES"]


def test_a_model_of_both_sides_predicts_nothing_next(make_model: Callable[..., ModelFile]) -> None:
    """It is refused in words."""
    with pytest.raises(UsageError, match="reads from both sides"):
        ExactStepper(make_model(direction="both"))


def test_the_probe_differs_between_models(make_model: Callable[..., ModelFile]) -> None:
    """The digest is the same for the same model, and another for a model with one other weight."""
    file = make_model()
    other = dict(file.arrays)
    other["output.bias"] = other["output.bias"] + np.float32(0.01)
    probes = [ExactStepper(model).probe() for model in (file, file, replace(file, arrays=other))]
    assert probes[0] == probes[1] != probes[2]
