"""The minimal character RNN that many have started with, written once more in NumPy, compared with a run of charlm.

It has one layer of 100 tanh units over one-hot characters, one stream, 25 characters between updates, gradients
clipped by value, and Adagrad: the settings below configure charlm so. `V` symbols, `I` inputs, `H` units, `T` steps.
"""

from __future__ import annotations

import math
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.nn.functional import cross_entropy

from charlm.files import bundled_folder
from charlm.nn.model import CharModel
from charlm.run_folder import RunFolder
from charlm.settings.config_file import load_config
from charlm.training.trainer import Trainer
from tests.helpers.training import records_of, training_of

Floats = NDArray[np.float64]
Weights = dict[str, Floats]

NUM_CHARACTERS = 20_000
NUM_STEPS = 2000
BLOCK = 25
UNITS = 100
FLAGS = {
    "model.cell": "rnn",
    "model.embedding_size": 0,
    "model.hidden_size": UNITS,
    "model.num_layers": 1,
    "model.dropout": 0,
    "model.weight_dropout": 0,
    "model.initialiser": "normal(0.01)",
    "train.steps": NUM_STEPS,
    "train.batch_size": 1,
    "train.block_size": BLOCK,
    "train.optimizer": "adagrad",
    "train.learning_rate": 0.1,
    "train.weight_decay": 0,
    "train.warmup_fraction": 0,
    "train.decay_fraction": 0,
    "train.clip_norm": None,
    "train.clip_value": 0.2,  # 5 for the sum of 25 losses is 5 / 25 for their mean
    "train.reset_probability": 0,
    "train.precision": "fp32",
    "train.threads": 1,
    "train.evaluations": 1,
    "data.corpus": "text.txt",
    "data.validation_fraction": 0,
}


# The program


def fresh(num_inputs: int, num_symbols: int, num_units: int, random: np.random.Generator) -> Weights:
    """Draw small weights; biases are 0."""
    shapes = {"Wxh": (num_units, num_inputs), "Whh": (num_units, num_units), "Why": (num_symbols, num_units)}
    biases = {"bh": np.zeros(num_units), "by": np.zeros(num_symbols)}
    return {name: random.normal(0, 0.01, shape) for name, shape in shapes.items()} | biases


def loss_and_gradients(
    weights: Weights, inputs: list[int], targets: list[int], h: Floats
) -> tuple[float, Weights, Floats]:
    """Read a block: return the sum of -ln p over it, the gradients, and the state after it."""
    Wxh, Whh, Why, bh, by = (weights[name] for name in ("Wxh", "Whh", "Why", "bh", "by"))
    states, probabilities, loss = [h], [], 0.0
    for i, target in zip(inputs, targets, strict=True):
        h = np.tanh(Wxh[:, i] + Whh @ h + bh)
        scores = Why @ h + by
        powers = np.exp(scores - scores.max())
        p = powers / powers.sum()
        loss -= math.log(p[target])
        states.append(h)
        probabilities.append(p)
    gradients = {name: np.zeros_like(weight) for name, weight in weights.items()}
    dh_next = np.zeros_like(h)
    for t in reversed(range(len(inputs))):
        dy = probabilities[t].copy()
        dy[targets[t]] -= 1
        gradients["Why"] += np.outer(dy, states[t + 1])
        gradients["by"] += dy
        draw = (Why.T @ dy + dh_next) * (1 - states[t + 1] ** 2)
        gradients["bh"] += draw
        gradients["Wxh"][:, inputs[t]] += draw
        gradients["Whh"] += np.outer(draw, states[t])
        dh_next = Whh.T @ draw
    return loss, gradients, h


def trained(
    text: list[int],
    weights: Weights,
    num_steps: int,
    start_id: int | None = None,
    rate: float = 0.1,
    bias_rate: float | None = None,
    clip: float = 5,
    epsilon: float = 1e-8,
) -> tuple[float, list[float]]:
    """Train like the original program; return the smoothed loss and the loss of each block, in nats per character.

    Args:
        text: ids.
        weights: the initial ones.
        num_steps: the number of blocks.
        start_id: if given, each pass starts with this input, and its first target is the first character.
        rate: the learning rate of Adagrad.
        bias_rate: the learning rate of the units' bias, if it differs.
        clip: the largest absolute value of each number of a gradient.
        epsilon: the number added to Adagrad's squares.
    """
    weights = {name: weight.copy() for name, weight in weights.items()}
    squares = {name: np.zeros_like(weight) for name, weight in weights.items()}
    smoothed = math.log(len(weights["by"])) * BLOCK
    whole_inputs, whole_targets = (text[:-1], text[1:]) if start_id is None else ([start_id, *text[:-1]], text)
    position, h, losses = 0, np.zeros(UNITS), []
    for _ in range(num_steps):
        inputs, targets = (part[position : position + BLOCK] for part in (whole_inputs, whole_targets))
        loss, gradients, h = loss_and_gradients(weights, inputs, targets, h)
        losses.append(loss / BLOCK)
        smoothed = 0.999 * smoothed + 0.001 * loss
        for name, gradient in gradients.items():
            gradient.clip(-clip, clip, out=gradient)
            squares[name] += gradient**2
            step = bias_rate if bias_rate and name == "bh" else rate
            weights[name] -= step * gradient / np.sqrt(squares[name] + epsilon)
        position += BLOCK
        if position + BLOCK > len(whole_targets):
            position, h = 0, np.zeros(UNITS)
    return smoothed / BLOCK, losses


def test_min_char_rnn_gradients_match_finite_differences() -> None:
    """On a tiny case, every weight is moved a little in both directions."""
    random = np.random.default_rng(1)
    weights = {name: random.normal(0, 0.5, weight.shape) for name, weight in fresh(4, 3, 5, random).items()}
    inputs, targets, h = [3, 0, 2, 2, 1, 0], [0, 2, 2, 1, 0, 1], random.normal(0, 0.5, 5)
    _, gradients, _ = loss_and_gradients(weights, inputs, targets, h)
    for name, weight in weights.items():
        for index in np.ndindex(weight.shape):
            kept, losses = weight[index], []
            for moved in (kept + 1e-5, kept - 1e-5):
                weight[index] = moved
                losses.append(loss_and_gradients(weights, inputs, targets, h)[0])
            weight[index] = kept
            assert gradients[name][index] == pytest.approx((losses[0] - losses[1]) / 2e-5, abs=1e-8), name


# Charlm


@pytest.fixture
def text() -> list[int]:
    """Write the start of the fables to a file and return its ids: whole blocks, so that every pass is the same."""
    whole = (bundled_folder("corpora") / "fables.txt").read_text(encoding="utf-8")[:NUM_CHARACTERS]
    Path("text.txt").write_text(whole, encoding="utf-8")
    symbols = sorted(set(whole))
    return [symbols.index(character) for character in whole]


def started(seed: int, **changes: Any) -> Trainer:
    """Set up charlm's run."""
    flags = FLAGS | {"seed": seed} | {key.replace("__", "."): value for key, value in changes.items()}
    return training_of(load_config("lstm", (), flags), RunFolder.create(Path(f"run{seed}"), ""))


def weights_of(model: CharModel) -> Weights:
    """Return charlm's weights; of its two biases of the units, only the sum counts."""
    arrays = {name: array.astype(np.float64) for name, array in model.arrays().items()}
    layer = {name: arrays[f"layers.0.{name}_l0"] for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")}
    biases = {"bh": layer["bias_ih"] + layer["bias_hh"], "by": arrays["output.bias"]}
    return {"Wxh": layer["weight_ih"], "Whh": layer["weight_hh"], "Why": arrays["output.weight"]} | biases


def test_a_block_has_the_loss_and_gradients_of_min_char_rnn(text: list[int]) -> None:
    """They agree to 1e-5 with the same weights, in the first block of a text and in one in its middle, with a state."""
    num_symbols = max(text) + 1
    model = CharModel(load_config("lstm", (), FLAGS).model.spec(num_symbols))
    model.initialise(torch.Generator().manual_seed(0), "normal(0.1)")
    with torch.no_grad():
        for bias in ("layers.0.bias_ih_l0", "layers.0.bias_hh_l0", "output.bias"):
            model.get_parameter(bias).normal_(generator=torch.Generator().manual_seed(len(bias)))
    weights, h = weights_of(model), np.zeros(UNITS)
    state = model.start_state(1)
    for position in (0, BLOCK):
        # Charlm's first input is a start symbol, which the original does not have.
        inputs, targets = [num_symbols, *text][position : position + BLOCK], text[position : position + BLOCK]
        loss, gradients, h = loss_and_gradients(weights, inputs, targets, h)
        logits_TBV, state = model(torch.tensor(inputs)[:, None], state)
        nats = cross_entropy(logits_TBV[:, 0], torch.tensor(targets))
        model.zero_grad()
        nats.backward()
        state = tuple(part.detach() for part in state)
        np.testing.assert_allclose(state[0][0, 0].numpy(), h, atol=1e-5)
        assert nats.item() == pytest.approx(loss / BLOCK, abs=1e-5)
        found = {name: parameter.grad for name, parameter in model.named_parameters()}
        names = {"Wxh": "layers.0.weight_ih_l0", "Whh": "layers.0.weight_hh_l0", "Why": "output.weight"}
        names |= {"bh": "layers.0.bias_ih_l0", "by": "output.bias"}
        for name, theirs in names.items():
            gradient = found[theirs]
            assert gradient is not None
            np.testing.assert_allclose(gradient.numpy(), gradients[name] / BLOCK, atol=1e-5, err_msg=name)
        # Each bias has the gradient of their sum.
        both = [found[f"layers.0.bias_{kind}_l0"] for kind in ("ih", "hh")]
        torch.testing.assert_close(*both, atol=1e-7, rtol=1e-5)


def test_a_run_of_charlm_is_a_run_of_min_char_rnn(text: list[int]) -> None:
    """They agree to 1e-5 in every block, over two and a half passes, if the program has charlm's three differences.

    These are the start symbol; the step of the bias, twice as large because charlm has two of them and Adagrad's
    steps do not depend on the size of a gradient; and an epsilon that torch adds elsewhere. The rate is 0.01: at the
    usual 0.1 the first updates are chaotic, and rounding alone makes two runs diverge within five blocks.
    """
    text = text[:2000]
    Path("text.txt").write_text(Path("text.txt").read_text(encoding="utf-8")[:2000], encoding="utf-8")
    num_symbols = len(set(text))
    text = [sorted(set(text)).index(i) for i in text]
    clipped = {"train__learning_rate": 0.01, "train__clip_value": 1 / BLOCK, "model__initialiser": "normal(0.1)"}
    training = started(1, **clipped)
    weights, num_steps, found = weights_of(training.learner.model), 200, []
    for step in range(num_steps):
        before = training.state.nats
        training.state.count(training.learner.learn_block(step, 1.0, training.state.regularisation))
        found.append(training.state.nats - before)
    differences = {"start_id": num_symbols, "rate": 0.01, "bias_rate": 0.02, "clip": 1, "epsilon": 1e-20}
    smoothed, losses = trained(text, weights, num_steps, **differences)  # type: ignore[arg-type]
    np.testing.assert_allclose(found, losses, atol=1e-5)
    assert training.state.smoothed_nats == pytest.approx(smoothed, abs=1e-6)
    # Each difference counts: without it the two runs diverge.
    for change in ({"start_id": None}, {"bias_rate": None}, {"clip": 5}):
        _, others = trained(text, weights, num_steps, **differences | change)
        assert np.abs(np.array(others) - losses).max() > 1e-3, change


@pytest.mark.slow
def test_charlm_learns_as_fast_as_min_char_rnn(text: list[int]) -> None:
    """After 2,000 blocks of 25 characters the smoothed losses of eight runs each are equal within noise.

    Noise: from seed to seed the smoothed loss has a standard deviation of 0.05 to 0.09 nats per character on either
    side, because the first updates are chaotic. The tolerance is three standard errors of the difference of the two
    means, about 0.1. Charlm differs in having two bias vectors for the units, which together step twice as far, a start
    symbol at the start of each pass, and another epsilon.
    """
    num_symbols, programs, charlms = len(set(text)), [], []
    for seed in range(8):
        weights = fresh(num_symbols, num_symbols, UNITS, np.random.default_rng(seed))
        programs.append(trained(text, weights, NUM_STEPS)[0])
        training = started(seed)
        assert (training.learner.num_streams, training.learner.block_size) == (1, BLOCK)
        *_, record = records_of(training)
        assert training.state.step == NUM_STEPS
        charlms.append(record.smoothed_bits_per_character * math.log(2))
    means, deviations = (
        [function(losses) for losses in (programs, charlms)] for function in (statistics.mean, statistics.stdev)
    )
    error = math.hypot(*deviations) / math.sqrt(len(programs))
    print(
        f"smoothed nats per character after {NUM_STEPS:,} blocks, 8 seeds each: program {means[0]:.4f} "
        f"(deviation {deviations[0]:.4f}), charlm {means[1]:.4f} ({deviations[1]:.4f}), error {error:.4f}"
    )
    assert max(deviations) < 0.15
    assert abs(means[0] - means[1]) < 3 * error
