"""Muon, AdamW and the classic optimisers: directions, groups, and a state that can be saved."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from charlm.nn.model import CharModel
from charlm.settings.config import TrainConfig
from charlm.spec import ModelSpec
from charlm.training.optimizer import GateMuon, Optimizer, orthogonalise


@pytest.mark.parametrize("shape", [(4, 32, 32), (3, 64, 16), (2, 16, 48)])
def test_orthogonalising_keeps_directions_and_evens_sizes(shape: tuple[int, int, int]) -> None:
    """By a singular value decomposition: the singular vectors stay, the values are near 1, except the smallest."""
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    matrices[0] *= 1000
    found = orthogonalise(matrices)
    for matrix, result in zip(matrices, found, strict=True):
        left, _, right = torch.linalg.svd(matrix, full_matrices=False)
        values = torch.diagonal(left.T @ result @ right.T)
        assert values.sort().values[2:].min() > 0.5
        assert values.min() > 0.2
        assert values.max() < 1.4


def test_a_step_of_muon_does_not_depend_on_the_gradients_size() -> None:
    """Multiplying the gradient by 1024 changes nothing, unlike in gradient descent."""
    steps = []
    for scale in (1.0, 1024.0):
        weight = torch.nn.Parameter(torch.zeros(8, 4))
        weight.grad = scale * torch.randn(8, 4, generator=torch.Generator().manual_seed(1))
        GateMuon([{"params": [weight]}], num_gates=2, lr=0.1).step()
        steps.append(weight.detach())
    torch.testing.assert_close(steps[0], steps[1], rtol=1e-6, atol=1e-6)


def test_muon_decays_weights_apart_from_the_gradient() -> None:
    """With a zero gradient a weight shrinks by rate times decay."""
    weight = torch.nn.Parameter(torch.ones(4, 4))
    weight.grad = torch.zeros(4, 4)
    GateMuon([{"params": [weight], "weight_decay": 0.1}], num_gates=1, lr=0.5).step()
    torch.testing.assert_close(weight.detach(), torch.full((4, 4), 0.95))


@pytest.mark.parametrize("shape", [(32, 32), (64, 16), (16, 48)])
def test_muon_of_one_gate_is_that_of_torch(shape: tuple[int, int]) -> None:
    """After three steps along random gradients, with decay, torch's update agrees within its own rounding and slack."""
    generator = torch.Generator().manual_seed(0)
    start, *gradients = (torch.randn(shape, generator=generator) for _ in range(4))
    ours, theirs = torch.nn.Parameter(start.clone()), torch.nn.Parameter(start.clone())
    group = {"params": [ours], "weight_decay": 0.1}
    optimizers = [
        GateMuon([group], num_gates=1, lr=0.05),
        torch.optim.Muon([theirs], lr=0.05, weight_decay=0.1, momentum=0.9, adjust_lr_fn="original"),
    ]
    for gradient in gradients:
        ours.grad, theirs.grad = gradient.clone(), gradient.clone()
        for optimizer in optimizers:
            optimizer.step()
    our_move, their_move = ((weight.detach() - start).flatten() for weight in (ours, theirs))
    assert torch.nn.functional.cosine_similarity(our_move, their_move, dim=0) > 0.98
    assert our_move.norm() == pytest.approx(their_move.norm().item(), rel=0.15)


@pytest.mark.parametrize("num_gates", [1, 3, 4])
def test_muon_on_gates_in_turns_takes_the_same_path(num_gates: int) -> None:
    """Under a constant gradient, the weights are the same as without turns once every gate has had its turn."""
    start = torch.randn(num_gates * 6, 6, generator=torch.Generator().manual_seed(0))
    weights = [torch.nn.Parameter(start.clone()) for _ in range(2)]
    optimizers = [
        GateMuon([{"params": [weight], "in_turns": in_turns}], num_gates=num_gates, lr=0.1)
        for weight, in_turns in zip(weights, (True, False), strict=True)
    ]
    for turn in range(optimizers[0].num_turns):
        for weight, optimizer in zip(weights, optimizers, strict=True):
            weight.grad = torch.randn(num_gates * 6, 6, generator=torch.Generator().manual_seed(1))
            optimizer.step(turn=turn)
        has_moved = (weights[0].detach() != start).view(num_gates, -1).all(1)
        assert has_moved.tolist() == [gate <= turn for gate in range(num_gates)]
    torch.testing.assert_close(weights[0].detach(), weights[1].detach())


def test_a_muon_step_in_bf16_is_precise_enough() -> None:
    """The direction equals that of float32 within a percent."""
    matrices = torch.randn(3, 24, 32, generator=torch.Generator().manual_seed(0))
    full, half = (orthogonalise(matrices, dtype).flatten() for dtype in (torch.float32, torch.bfloat16))
    assert torch.nn.functional.cosine_similarity(full, half, dim=0) > 0.99


def test_muon_takes_the_recurrent_matrices_and_adamw_all_else() -> None:
    """AdamW has the embedding, biases and output."""
    optimizer, _ = stepped("muon")
    slots = {name.rpartition(".")[2] for name in optimizer.arrays()}
    momenta = {name for name in optimizer.arrays() if name.endswith(".momentum")}
    assert slots == {"momentum", "step", "exp_avg", "exp_avg_sq"}
    assert momenta == {
        f"optimizer.layers.{layer}.weight_{side}_l0.momentum" for layer in (0, 1) for side in ("ih", "hh")
    }


@pytest.mark.parametrize("name", ["muon", "adamw", "adam", "rmsprop", "adagrad", "sgd"])
def test_an_optimiser_with_a_saved_state_continues_exactly(name: str) -> None:
    """Three steps in a row equal two steps, a new optimiser with the old one's arrays, and one more, bit for bit."""
    _, straight = stepped(name, 3)
    optimizer, model = stepped(name, 2)
    arrays = optimizer.arrays()
    resumed = Optimizer(model, TrainConfig.model_validate({"optimizer": name, "steps": 3}))
    resumed.load_arrays(arrays)
    learn(model, resumed, 2)
    for key, array in straight.arrays().items():
        np.testing.assert_array_equal(model.arrays()[key], array)


def test_clipping_bounds_the_norm_and_keeps_the_direction() -> None:
    """A long gradient is shortened as a whole, not element by element."""
    model = CharModel(ModelSpec("rnn", 3, 2, 2, 1))
    optimizer = Optimizer(model, TrainConfig(clip_norm=1.0, steps=1))
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 7.0)
    before = optimizer.clip()
    gradients = torch.cat([parameter.grad.ravel() for parameter in model.parameters() if parameter.grad is not None])
    assert before == pytest.approx(7.0 * len(gradients) ** 0.5)
    assert gradients.norm().item() == pytest.approx(1.0, rel=1e-4)
    assert len(gradients.unique()) == 1


def test_clipping_by_value_bounds_each_number() -> None:
    """Without a bound for the norm, small values do not change."""
    model = CharModel(ModelSpec("rnn", 3, 2, 2, 1))
    optimizer = Optimizer(model, TrainConfig(clip_norm=None, clip_value=5.0, steps=1))
    for index, parameter in enumerate(model.parameters()):
        parameter.grad = torch.full_like(parameter, (-1.0) ** index * 4 * index)
    before = optimizer.clip()
    expected = [min(4.0 * index, 5.0) * (-1) ** index for index in range(len(list(model.parameters())))]
    for value, parameter in zip(expected, model.parameters(), strict=True):
        assert parameter.grad is not None
        assert (parameter.grad == value).all()
    sizes = [4.0 * index * parameter.numel() ** 0.5 for index, parameter in enumerate(model.parameters())]
    assert before == pytest.approx(np.linalg.norm(sizes))


# For each optimiser, one step of one weight: from gradient and memory to what is subtracted, as its source defines it.
EQUATIONS: dict[str, Callable[[float, dict[str, float], int], float]] = {}


def equation(name: str) -> Callable[[Any], Any]:
    """Add a function to the table."""
    return lambda function: EQUATIONS.setdefault(name, function)


@equation("adam")
def adam(gradient: float, memory: dict[str, float], step: int) -> float:
    """Kingma & Ba 2015, algorithm 1."""
    memory["m"] = 0.9 * memory.get("m", 0.0) + 0.1 * gradient
    memory["v"] = 0.999 * memory.get("v", 0.0) + 0.001 * gradient**2
    return memory["m"] / (1 - 0.9**step) / (math.sqrt(memory["v"] / (1 - 0.999**step)) + 1e-8)


@equation("rmsprop")
def rmsprop(gradient: float, memory: dict[str, float], step: int) -> float:
    """Tieleman & Hinton 2012, lecture 6e, with the decay of char-rnn."""
    memory["v"] = 0.95 * memory.get("v", 0.0) + 0.05 * gradient**2
    return gradient / (math.sqrt(memory["v"]) + 1e-8)


@equation("adagrad")
def adagrad(gradient: float, memory: dict[str, float], step: int) -> float:
    """Duchi et al. 2011, the diagonal form."""
    memory["sum"] = memory.get("sum", 0.0) + gradient**2
    return gradient / (math.sqrt(memory["sum"]) + 1e-10)


@equation("sgd")
def sgd(gradient: float, memory: dict[str, float], step: int) -> float:
    """Gradient descent."""
    return gradient


@pytest.mark.parametrize("name", EQUATIONS)
def test_a_classic_steps_as_its_source_says(name: str) -> None:
    """Every weight, of matrices and of all others, agrees over five steps at changing rates."""
    model = CharModel(ModelSpec("lstm", 3, 2, 2, 1))
    model.initialise(torch.Generator().manual_seed(0))
    optimizer = Optimizer(model, TrainConfig.model_validate({"optimizer": name, "learning_rate": 0.1, "steps": 5}))
    random = np.random.default_rng(3)
    expected = {key: array.astype(np.float64) for key, array in model.arrays().items()}
    memories: dict[str, dict[str, float]] = {key: {} for key in expected}
    for step in range(1, 6):
        rate = 1.0 / step
        for key, parameter in model.named_parameters():
            gradient = random.normal()
            parameter.grad = torch.full_like(parameter, gradient)
            expected[key] -= 0.1 * rate * EQUATIONS[name](gradient, memories[key], step)
        optimizer.step(rate, weight_decay=0.0)
    for key, array in model.arrays().items():
        np.testing.assert_allclose(array, expected[key], rtol=1e-5, atol=1e-6)


def stepped(name: str, steps: int = 1) -> tuple[Optimizer, CharModel]:
    """Train a small model for a few steps."""
    model = CharModel(ModelSpec("gru", 5, embedding_size=4, hidden_size=6, num_layers=2))
    model.initialise(torch.Generator().manual_seed(0))
    optimizer = Optimizer(model, TrainConfig.model_validate({"optimizer": name, "steps": 3}))
    for step in range(steps):
        learn(model, optimizer, step)
    return optimizer, model


def learn(model: CharModel, optimizer: Optimizer, step: int) -> None:
    """Take one step on random characters that depend on the step number."""
    tokens_TB = torch.randint(5, (4, 3), generator=torch.Generator().manual_seed(step))
    logits_TBV, _ = model(tokens_TB, model.start_state(3))
    torch.nn.functional.cross_entropy(logits_TBV.flatten(0, 1), tokens_TB.flatten()).backward()
    optimizer.clip()
    optimizer.step(0.5, weight_decay=0.1)
    optimizer.clear()


@pytest.mark.parametrize("name", ["muon", "adamw"])
def test_only_the_recurrent_layers_matrices_decay(name: str) -> None:
    """With zero gradients, a step at full rate shrinks them by rate times decay, and changes nothing else."""
    model = CharModel(ModelSpec("lstm", 5, embedding_size=4, hidden_size=6, num_layers=1))
    model.initialise(torch.Generator().manual_seed(0))
    settings = TrainConfig.model_validate({"optimizer": name, "steps": 3})
    before = model.arrays()
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    Optimizer(model, settings).step(1.0, weight_decay=0.5)
    rate = settings.matrix_learning_rate if name == "muon" else settings.learning_rate
    for key, after in model.arrays().items():
        kept = 1 - rate * 0.5 if key.startswith("layers.") and ".weight_" in key else 1.0
        np.testing.assert_allclose(after, before[key] * kept, rtol=1e-5)


@pytest.mark.parametrize("cell", ["mingru", "minlstm"])
def test_muon_trains_a_net_without_matrices_to_orthogonalise(cell: str) -> None:
    """One layer that sees only one-hot inputs has an embedding alone, and no weights are left for Muon."""
    model = CharModel(ModelSpec(cell, 5, embedding_size=0, hidden_size=6, num_layers=1))
    model.initialise(torch.Generator().manual_seed(0))
    before = model.arrays()
    optimizer = Optimizer(model, TrainConfig.model_validate({"optimizer": "muon", "steps": 3}))
    learn(model, optimizer, step=0)
    assert all((model.arrays()[name] != before[name]).any() for name in before if "weight" in name)
    assert {name.rpartition(".")[2] for name in optimizer.arrays()} == {"step", "exp_avg", "exp_avg_sq"}
