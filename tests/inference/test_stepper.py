"""The NumPy stepper agrees with the torch module that is loaded from the same file."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from charlm.cells import CELLS
from charlm.checkpoint import ModelFile
from charlm.errors import UsageError
from charlm.inference.stepper import Stack, Stepper
from tests.helpers.evaluation import module_of

SYMBOLS = {3: "\nab", 70: "".join(map(chr, range(48, 118))), 300: "".join(map(chr, range(0x4E00, 0x4E00 + 300)))}


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("num_layers", [1, 2, 3])
@pytest.mark.parametrize("num_symbols", SYMBOLS)
def test_steps_equal_one_block_of_the_module(
    make_model: Callable[..., ModelFile], cell: str, num_layers: int, num_symbols: int
) -> None:
    """T steps in NumPy give the logits of one block in torch, to 1e-5, from the start of the text."""
    file = make_model(cell, num_layers, SYMBOLS[num_symbols], hidden_size=24)
    ids_T = np.random.default_rng(4).integers(num_symbols, size=40)
    module = module_of(file)
    tokens_TB = torch.tensor([num_symbols, *ids_T])[:, None]
    with torch.inference_mode():
        expected_TBV, expected_state = module(tokens_TB, module.start_state(1))

    stepper = Stepper(file)
    logits_BV, state = stepper.start()
    found = [logits_BV]
    for index in ids_T:
        logits_BV, state = stepper.step(np.array([index]), state)
        found.append(logits_BV)
    np.testing.assert_allclose(np.concatenate(found), expected_TBV[:, 0].numpy(), atol=1e-5)
    for layer in range(num_layers):
        for part, expected_LBH in zip(state[layer], expected_state, strict=True):
            np.testing.assert_allclose(part, expected_LBH[layer].numpy(), atol=1e-5)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("hidden_size", [12, 100, 160])
def test_a_stream_does_not_depend_on_other_streams(
    make_model: Callable[..., ModelFile], cell: str, hidden_size: int
) -> None:
    """A stream has the same logits alone and among others, bit for bit, below and above the block of rows."""
    assert_streams_are_independent(Stepper(make_model(cell, 2, SYMBOLS[300], hidden_size)))


@pytest.mark.parametrize("num_symbols", [917, 1378])
def test_threads_of_the_products_change_no_bit_of_a_stream(
    make_model: Callable[..., ModelFile], num_symbols: int
) -> None:
    """BLAS uses several threads at full size, and the number of symbols is no multiple of the rows."""
    symbols = "".join(map(chr, range(0x4E00, 0x4E00 + num_symbols)))
    assert_streams_are_independent(Stepper(make_model("lstm", 1, symbols, hidden_size=512)))


@pytest.mark.parametrize("cell", CELLS)
def test_cores_that_share_the_streams_change_no_bit(
    make_model: Callable[..., ModelFile], cell: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of forty streams that three cores share has the same logits, bit for bit."""
    monkeypatch.setattr("charlm.inference.stepper.usable_cores", lambda: 3)
    monkeypatch.setattr("charlm.inference.stepper.MIN_STREAMS_PER_THREAD", 13)
    assert_streams_are_independent(Stepper(make_model(cell, 2, SYMBOLS[300], 40)), num_streams=40)


def assert_streams_are_independent(stepper: Stepper, num_streams: int = 9) -> None:
    """Step many streams together and three of them alone, and compare every bit."""
    ids_BT = np.random.default_rng(5).integers(300, size=(num_streams, 12))
    together = []
    _, state = stepper.start(num_streams)
    for ids_B in ids_BT.T:
        logits_BV, state = stepper.step(ids_B, state)
        together.append(logits_BV)
    for stream in (0, num_streams // 2, num_streams - 1):
        _, state = stepper.start()
        for step, index in enumerate(ids_BT[stream]):
            logits_BV, state = stepper.step(np.array([index]), state)
            np.testing.assert_array_equal(logits_BV[0], together[step][stream])


def test_a_kept_state_is_not_changed_by_later_steps(make_model: Callable[..., ModelFile]) -> None:
    """Stepping from one state twice gives the same logits twice."""
    stepper = Stepper(make_model("lstm", 2))
    _, kept = stepper.start()
    once, _ = stepper.step(np.array([3]), kept)
    stepper.step(np.array([5]), kept)
    again, _ = stepper.step(np.array([3]), kept)
    np.testing.assert_array_equal(once, again)


def test_logits_and_states_stay_in_float32(make_model: Callable[..., ModelFile]) -> None:
    """No step doubles the width of a number, and with it what is read from memory."""
    logits_BV, state = Stepper(make_model("gru", 2)).start()
    assert {logits_BV.dtype, *(part.dtype for layer in state for part in layer)} == {np.dtype(np.float32)}


@pytest.mark.parametrize("cell", CELLS)
def test_the_gates_of_a_step_come_with_the_same_state(make_model: Callable[..., ModelFile], cell: str) -> None:
    """The state is that of `step` to the bit, and each gate has a number for each stream and unit."""
    stack = Stack(make_model(cell, 2, hidden_size=24))
    state, ids_B = stack.start(3), np.array([2, 5, 2])
    looked, gates = stack.look(ids_B, state)
    for layer, parts in enumerate(stack.step(ids_B, state)):
        for part, looked_part in zip(parts, looked[layer], strict=True):
            np.testing.assert_array_equal(part, looked_part)
        assert tuple(gates[layer]) == CELLS[cell].gates
        assert {gate.shape for gate in gates[layer].values()} == {(3, 24)}
        assert {gate.dtype for gate in gates[layer].values()} == {np.dtype(np.float32)}


def test_a_learned_initial_state_is_that_of_every_stream(make_model: Callable[..., ModelFile]) -> None:
    """The learned state of each layer is repeated for every stream."""
    file = make_model("lstm", 2, initial_state="learned")
    for layer, parts in enumerate(Stack(file).start(3)):
        for part, part_BH in enumerate(parts):
            np.testing.assert_array_equal(part_BH, np.tile(file.arrays["initial_state"][part, layer], (3, 1)))


def test_a_backward_model_steps_as_a_forward_one(make_model: Callable[..., ModelFile]) -> None:
    """The same weights compute the same logits in both directions, and `is_backward` tells them apart."""
    steppers = [Stepper(make_model("gru", 2, direction=direction)) for direction in ("forward", "backward")]
    assert [stepper.is_backward for stepper in steppers] == [False, True]
    (one, _), (other, _) = (stepper.step(np.array([4]), stepper.start()[1]) for stepper in steppers)
    np.testing.assert_array_equal(one, other)


def test_the_stepper_refuses_a_model_of_both_sides(make_model: Callable[..., ModelFile]) -> None:
    """A model that needs the characters on the right gives a hint to `charlm fill`."""
    with pytest.raises(UsageError, match="both sides") as raised:
        Stepper(make_model("lstm", direction="both"))
    assert "charlm fill" in raised.value.hint


def test_a_file_without_a_direction_reads_forward(make_model: Callable[..., ModelFile]) -> None:
    """Files from before the settings of direction and initial state keep their meaning."""
    file = make_model("gru", 1)
    for name in ("direction", "initial_state", "initialiser"):
        del file.config["model"][name]
    stepper, known = Stepper(file), Stepper(make_model("gru", 1))
    assert not stepper.is_backward
    np.testing.assert_array_equal(stepper.start()[0], known.start()[0])
