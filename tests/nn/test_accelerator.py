"""A graphics processor computes the same as the CPU. Run this with -m slow -s on a machine that has one."""

from __future__ import annotations

import pytest
import torch

from charlm.cells import CELLS
from charlm.checkpoint import load_checkpoint
from charlm.evaluation import bench
from charlm.evaluation.evaluate import evaluate
from charlm.nn.layers import make_layer
from charlm.nn.model import CharModel
from charlm.spec import ModelSpec
from tests.helpers.commands import SHORT, answer, call
from tests.helpers.training import begin, interrupt, resume

DEVICES = [name for name, part in (("cuda", torch.cuda), ("mps", torch.backends.mps)) if part.is_available()]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not DEVICES, reason="this machine has no graphics processor that torch can use"),
]


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> str:
    """Return the name of each device."""
    return str(request.param)


@pytest.mark.parametrize("cell", CELLS)
def test_a_layer_on_a_device_equals_the_layer_on_the_cpu(cell: str, device: str) -> None:
    """A layer's outputs and gradients on the device equal those on the CPU, to the precision of float32."""
    generator = torch.Generator().manual_seed(0)
    here = make_layer(cell, 24, 32)
    for parameter in here.parameters():
        torch.nn.init.uniform_(parameter, -0.3, 0.3, generator=generator)
    there = make_layer(cell, 24, 32).to(device)
    there.load_state_dict(here.state_dict())
    x_TBE = torch.randn(12, 4, 24, generator=generator)
    found = []
    for layer, name in ((here, "cpu"), (there, device)):
        parts = tuple(torch.zeros(1, 4, 32, device=name) for _ in CELLS[cell].state)
        y_TBH, _ = layer(x_TBE.to(name), parts if len(parts) > 1 else parts[0])
        y_TBH.square().sum().backward()
        found.append(
            [y_TBH.cpu(), *(parameter.grad.cpu() for parameter in layer.parameters() if parameter.grad is not None)]
        )
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


@pytest.mark.filterwarnings("ignore:RNN module weights are not part of single contiguous chunk")
@pytest.mark.parametrize("initial_state", ["zero", "learned"])
@pytest.mark.parametrize("cell", CELLS)
def test_streams_are_set_back_on_a_device_as_on_the_cpu(cell: str, initial_state: str, device: str) -> None:
    """Logits and gradients of a block with resets equal those on the CPU."""
    generator, found = torch.Generator().manual_seed(0), []
    tokens_TB, resets_TB = torch.randint(8, (12, 4), generator=generator), torch.rand(12, 4, generator=generator) < 0.2
    for name in ("cpu", device):
        model = CharModel(ModelSpec(cell, 7, 6, 8, 2, initial_state=initial_state))  # type: ignore[arg-type]
        model.initialise(torch.Generator().manual_seed(1))
        model.to(name)
        logits_TBV, _ = model(tokens_TB.to(name), model.start_state(4), (), None, resets_TB.to(name))
        logits_TBV = logits_TBV * ~resets_TB.to(name)[..., None]
        gradients = torch.autograd.grad(logits_TBV.square().sum(), list(model.parameters()))
        found.append([logits_TBV.cpu(), *(gradient.cpu() for gradient in gradients)])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("precision", ["fp32", "auto"])
@pytest.mark.parametrize("cell", ["lstm", "gru", "mingru"])
def test_a_run_on_a_device_learns_and_resumes(cell: str, precision: str, device: str) -> None:
    """A run is interrupted, resumed and finished, and has learned; its model also works on the CPU."""
    training = begin(
        model__cell=cell, train__device=device, train__precision=precision, train__steps=40, model__hidden_size=64
    )
    interrupt(training, 15)
    training = resume(training.run)
    interrupt(training, 10**6)
    assert training.state.finished == "done"
    file = load_checkpoint(training.run.best)
    model = CharModel(ModelSpec(cell, len(file.vocabulary), 8, 64, 1))
    model.load_arrays(file.weights)
    here = evaluate(model, training.learner.parts.validation).nats_per_character
    there = evaluate(training.learner.model, training.learner.parts.validation).nats_per_character
    assert here == pytest.approx(there, rel=1e-3)
    assert here < 2.5
    assert call("sample", "the c", "--model", str(training.run.path), "--length", "20").exit_code == 0


def test_training_reports_the_times_of_the_devices(text: str) -> None:
    """`charlm train` reports how long a block takes on each device."""
    result = call("train", "--corpus", text, *SHORT, "--out", "run", "--sample-length", "0")
    assert result.exit_code == 0
    assert "a block takes" in result.stderr


def test_bench_measures_training_on_a_device(capsys: pytest.CaptureFixture[str]) -> None:
    """`charlm bench` measures training on the device; the test prints its table."""
    found = answer("bench", "--only", "training", "--rounds", "3", "--json")
    with capsys.disabled():
        for row in found["rows"]:
            figures = f"{row['charlm']:>12,.0f}{row['beside']:>12,.0f} {row['ratio']:.2f}"
            print(f"\n{row['name']:<24}{figures} {row['arithmetic']}")
    assert len(found["rows"]) > len(bench.STOCK)
