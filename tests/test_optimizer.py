"""Muon and AdamW: directions, groups, and a state that can be written down."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from charlm.config import TrainConfig
from charlm.model import CharModel
from charlm.optimizer import GateMuon, Optimizer, orthogonalise


@pytest.mark.parametrize("shape", [(4, 32, 32), (3, 64, 16), (2, 16, 48)])
def test_orthogonalising_keeps_the_directions_and_evens_their_sizes(shape: tuple[int, int, int]) -> None:
    """Against a singular value decomposition: same singular vectors, all values near 1, each matrix for itself."""
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    matrices[0] *= 1000
    found = orthogonalise(matrices)
    for matrix, result in zip(matrices, found, strict=True):
        left, _, right = torch.linalg.svd(matrix, full_matrices=False)
        values = torch.diagonal(left.T @ result @ right.T)
        assert values.min() > 0.5
        assert values.max() < 1.4


def test_a_step_of_muon_has_the_same_size_whatever_the_gradient() -> None:
    """Multiplying the gradient by 1024 changes nothing, unlike in gradient descent."""
    steps = []
    for scale in (1.0, 1024.0):
        weight = torch.nn.Parameter(torch.zeros(8, 4))
        weight.grad = scale * torch.randn(8, 4, generator=torch.Generator().manual_seed(1))
        GateMuon([weight], num_gates=2, lr=0.1, weight_decay=0.0).step()
        steps.append(weight.detach())
    torch.testing.assert_close(steps[0], steps[1], rtol=1e-6, atol=1e-6)


def test_muon_decays_weights_apart_from_the_gradient() -> None:
    """With a gradient of nothing a weight shrinks by rate times decay."""
    weight = torch.nn.Parameter(torch.ones(4, 4))
    weight.grad = torch.zeros(4, 4)
    GateMuon([weight], num_gates=1, lr=0.5, weight_decay=0.1).step()
    torch.testing.assert_close(weight.detach(), torch.full((4, 4), 0.95))


def test_muon_takes_the_recurrent_matrices_and_adamw_all_else() -> None:
    """Embedding, biases and output are AdamW's."""
    optimizer, _ = stepped("muon")
    slots = {name.rpartition(".")[2] for name in optimizer.arrays()}
    momenta = {name for name in optimizer.arrays() if name.endswith(".momentum")}
    assert slots == {"momentum", "step", "exp_avg", "exp_avg_sq"}
    assert momenta == {
        f"optimizer.layers.{layer}.weight_{side}_l0.momentum" for layer in (0, 1) for side in ("ih", "hh")
    }


@pytest.mark.parametrize("name", ["muon", "adamw"])
def test_a_state_that_was_written_down_goes_on_exactly(name: str) -> None:
    """Three steps in one go, and two steps, a new optimiser with the old one's arrays, and one more, are bit-equal."""
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
    model = CharModel("rnn", 3, 2, 2, 1)
    optimizer = Optimizer(model, TrainConfig(clip_norm=1.0, steps=1))
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 7.0)
    before = optimizer.clip()
    gradients = torch.cat([parameter.grad.ravel() for parameter in model.parameters() if parameter.grad is not None])
    assert before == pytest.approx(7.0 * len(gradients) ** 0.5)
    assert gradients.norm().item() == pytest.approx(1.0, rel=1e-4)
    assert len(gradients.unique()) == 1


def stepped(name: str, steps: int = 1) -> tuple[Optimizer, CharModel]:
    """Train a small model for a few steps."""
    model = CharModel("gru", 5, embedding_size=4, hidden_size=6, num_layers=2)
    model.initialise(torch.Generator().manual_seed(0))
    optimizer = Optimizer(model, TrainConfig.model_validate({"optimizer": name, "steps": 3}))
    for step in range(steps):
        learn(model, optimizer, step)
    return optimizer, model


def learn(model: CharModel, optimizer: Optimizer, step: int) -> None:
    """Take one step on random characters that depend on the step."""
    tokens_TB = torch.randint(5, (4, 3), generator=torch.Generator().manual_seed(step))
    logits_TBV, _ = model(tokens_TB, model.zero_state(3))
    torch.nn.functional.cross_entropy(logits_TBV.flatten(0, 1), tokens_TB.flatten()).backward()
    optimizer.clip()
    optimizer.step(0.5, weight_decay=0.1)
    optimizer.clear()


@pytest.mark.parametrize("name", ["muon", "adamw"])
def test_only_the_recurrent_layers_matrices_decay(name: str) -> None:
    """Without gradients to follow, a step at full rate shrinks them by rate times decay, and nothing else."""
    model = CharModel("lstm", 5, embedding_size=4, hidden_size=6, num_layers=1)
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
