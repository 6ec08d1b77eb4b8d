"""Muon for the recurrent layers' matrices, gate by gate, and AdamW for the rest, or a classic. Knows no data."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from inspect import unwrap
from typing import Any, NamedTuple, TypeVar, cast

import numpy as np
import torch
from torch import Tensor, nn

from charlm.checkpoint import Arrays
from charlm.nn.model import CharModel, tensor_of
from charlm.settings.config import TrainConfig
from charlm.training.distributed import ALONE, World

# The quintic of Jordan et al. 2024 ("Muon"): it drives singular values towards 1 fast, not precisely.
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
ITERATIONS = 4
# At each step one gate of a recurrent matrix is updated, in turn; a matrix of one gate is updated every third step.
MIN_TURNS = 3
NEVER_NEGATIVE = ("step", "exp_avg_sq", "square_avg", "sum")
# In fp16: the factor of the loss, at first and at most, and the array that keeps it.
FIRST_SCALE, MAX_SCALE = 2.0**12, 2.0**32
LOSS_SCALE = "optimizer.loss_scale"
# The decay of the running mean of squares, as in char-rnn (Karpathy 2015); torch's default is slower.
RMSPROP_DECAY = 0.95

AnyOptimizer = TypeVar("AnyOptimizer", bound=torch.optim.Optimizer)


def orthogonalise(matrices_GOI: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Replace each matrix by one with the same singular vectors and singular values near 1.

    Args:
        matrices_GOI: G matrices, each (O, I).
        dtype: of the products; bfloat16 is precise enough for a direction to step in.

    Source: Jordan et al. 2024, "Muon: an optimizer for hidden layers". There the iteration starts with a matrix of
    Frobenius norm 1. Here it starts with one whose singular values' fourth powers add up to 1, which the first product
    yields anyway. That is as safe and several times as large, so four iterations are enough where the paper needs five.
    """
    a, b, c = NEWTON_SCHULZ
    x = matrices_GOI.to(dtype)
    x = x / (torch.linalg.matrix_norm(x, keepdim=True) + 1e-7)
    is_tall = x.shape[-2] > x.shape[-1]
    if is_tall:
        x = x.mT
    gram = x @ x.mT
    size = torch.linalg.matrix_norm(gram, keepdim=True).sqrt() + 1e-7
    x, gram = x / size, gram / size**2
    for iteration in range(ITERATIONS):
        if iteration:
            gram = x @ x.mT
        polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.baddbmm(x, polynomial, x, beta=a)
    return (x.mT if is_tall else x).to(matrices_GOI.dtype)


class Move(NamedTuple):
    """How Muon moves a part of a matrix.

    Attributes:
        weights_GOI: a view of the weights of its gates.
        ahead_GOI: the gradient with its momentum, whose orthogonal form is the direction.
        rate: the length of the step.
    """

    weights_GOI: Tensor
    ahead_GOI: Tensor
    rate: float


class GateMuon(torch.optim.Optimizer):
    """Muon on matrices whose rows belong to several gates; each gate's part is orthogonalised by itself.

    Momentum 0.9 in Nesterov's form, decoupled weight decay, step size scaled by sqrt(max(1, O / I)). In a group with
    `in_turns` only one gate moves at each step, and its step is longer by the number of turns: less work for the
    same distance. On tiny Shakespeare, 200 blocks of 1x256, seeds 1 and 2, the lstm ends at 1.6298 and 1.6279 nats.
    With all gates at each step, and five iterations, it ends at 1.6263 and 1.6258. The gru ends at 1.6290 and 1.6238
    (with all gates 1.6280 and 1.6201).
    """

    # See `_without_compiler`.
    add_param_group = unwrap(torch.optim.Optimizer.add_param_group)

    def __init__(
        self,
        groups: list[dict[str, Any]],
        num_gates: int,
        lr: float,
        dtype: torch.dtype = torch.float32,
        world: World = ALONE,
    ) -> None:
        super().__init__(groups, {"lr": lr, "weight_decay": 0.0, "momentum": 0.9, "in_turns": False})
        self._num_gates, self._dtype, self._world = num_gates, dtype, world
        self.num_turns = max(num_gates, MIN_TURNS)

    @torch.no_grad()
    def step(self, closure: Any = None, turn: int = 0) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient; of a group with `in_turns` the gate whose turn it is."""
        moves = [
            self._move(parameter, parameter.grad, group, turn)
            for group in self.param_groups
            for parameter in group["params"]
            if parameter.grad is not None
        ]
        # A matrix with a single gate has no turn at most steps.
        moves = [move for move in moves if len(move.ahead_GOI)]
        directions = self._world.divided(partial(orthogonalise, dtype=self._dtype), [move.ahead_GOI for move in moves])
        for move, direction_GOI in zip(moves, directions, strict=True):
            move.weights_GOI.add_(direction_GOI, alpha=-move.rate)

    def _move(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any], turn: int) -> Move:
        """Update the momentum of a parameter, let it decay, and return how it is to be moved."""
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        momentum = state["momentum"].mul_(group["momentum"]).add_(gradient)
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        gates, times = slice(None), 1
        if group["in_turns"]:
            gate, times = turn % self.num_turns, self.num_turns
            gates = slice(gate, gate + 1)
        shape = (self._num_gates, -1, parameter.shape[-1])
        ahead_GOI = gradient.view(shape)[gates].add(momentum.view(shape)[gates], alpha=group["momentum"])
        scale = times * max(1.0, ahead_GOI.shape[-2] / ahead_GOI.shape[-1]) ** 0.5
        return Move(parameter.view(shape)[gates], ahead_GOI, group["lr"] * scale)


def _without_compiler(optimizer: type[AnyOptimizer]) -> type[AnyOptimizer]:
    """Return an optimiser of torch that does not load torch's compiler, which takes more than a second and 70 MB.

    Torch wraps two methods, and the wrappers load the compiler to tell it to leave the methods alone. Nothing here is
    compiled.
    """
    methods = {"add_param_group": unwrap(optimizer.add_param_group), "step": torch.no_grad()(unwrap(optimizer.step))}
    return cast(type[AnyOptimizer], type(optimizer.__name__, (optimizer,), methods))


AdamW = _without_compiler(torch.optim.AdamW)
Adam = _without_compiler(torch.optim.Adam)
RMSprop = _without_compiler(torch.optim.RMSprop)
Adagrad = _without_compiler(torch.optim.Adagrad)
SGD = _without_compiler(torch.optim.SGD)
# The arrays that each optimiser keeps for a weight.
SLOTS: dict[type[torch.optim.Optimizer], tuple[str, ...]] = {
    GateMuon: ("momentum",),
    AdamW: ("step", "exp_avg", "exp_avg_sq"),
    Adam: ("step", "exp_avg", "exp_avg_sq"),
    RMSprop: ("step", "square_avg"),
    Adagrad: ("step", "sum"),
    SGD: (),
}


class Optimizer:
    """All the optimisers of a model behind one step, with a state that can be saved."""

    def __init__(
        self,
        model: CharModel,
        settings: TrainConfig,
        dtype: torch.dtype = torch.float32,
        *,
        scales_loss: bool = False,
        world: World = ALONE,
    ) -> None:
        """Make the optimisers.

        Args:
            model: whose weights they update.
            settings: which ones, and their rates.
            dtype: of Muon's products.
            scales_loss: whether gradients are computed in fp16, whose smallest numbers a loss of usual size is below.
            world: the processes that have the same gradients, and divide Muon's products among them.
        """
        device = model.output.weight.device.type
        self._scaler = torch.amp.GradScaler(device, init_scale=FIRST_SCALE, enabled=scales_loss)
        named = dict(model.named_parameters())
        matrices = {name: named[name] for name in model.spec.recurrent_matrices}
        rest = {name: parameter for name, parameter in named.items() if name not in matrices}
        self._names: dict[Tensor, str] = {parameter: name for name, parameter in named.items()}
        self._optimizers: list[torch.optim.Optimizer]
        if settings.optimizer == "muon":
            # The first layer's weights for its input are narrow and cost little. Either group may be empty: a minimal
            # cell of one layer with one-hot inputs has no matrices.
            narrow = [matrices.pop(name) for name in list(matrices) if name.endswith("layers.0.weight_ih_l0")]
            groups: list[dict[str, Any]] = [{"params": list(matrices.values()), "in_turns": True}, {"params": narrow}]
            muon = GateMuon(groups, len(model.spec.recurrence.gates), settings.matrix_learning_rate, dtype, world)
            self._optimizers = [muon, _classic("adamw", [list(rest.values())], settings)]
        else:
            self._optimizers = [_classic(settings.optimizer, [[*matrices.values()], [*rest.values()]], settings)]
        # In both cases the last group holds all weights but the matrices.
        *self._decayed, _ = self._groups()
        self._parameters = list(named.values())
        self._clip_norm, self._clip_value = settings.clip_norm, settings.clip_value
        for group in self._groups():
            group["full_lr"] = group["lr"]

    def backward(self, loss: Tensor) -> None:
        """Compute the gradients of a loss, and add them to those that are there."""
        self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]

    def clip(self) -> float:
        """Shorten the whole gradient to the largest norm allowed, then its numbers; return the norm it had."""
        if self._scaler.is_enabled():
            for optimizer in self._optimizers:
                self._scaler.unscale_(optimizer)
            # The scale falls if a number is not finite, whose block is then skipped.
            self._scaler.update()
        norm = float(nn.utils.clip_grad_norm_(self._parameters, self._clip_norm or math.inf))
        if self._clip_value is not None:
            nn.utils.clip_grad_value_(self._parameters, self._clip_value)
        return norm

    def step(self, rate: float, weight_decay: float, turn: int = 0) -> None:
        """Update the weights, and let the matrices decay.

        Args:
            rate: share of the full learning rates.
            weight_decay: of the matrices.
            turn: the number of the block: which gate muon updates.
        """
        for group in self._decayed:
            group["weight_decay"] = weight_decay
        for group in self._groups():
            group["lr"] = group["full_lr"] * rate
        for optimizer in self._optimizers:
            if isinstance(optimizer, GateMuon):
                optimizer.step(turn=turn)
            else:
                optimizer.step()

    @property
    def num_turns(self) -> int:
        """How many steps it takes until every weight has been updated."""
        return max(getattr(optimizer, "num_turns", 1) for optimizer in self._optimizers)

    def clear(self) -> None:
        """Clear the gradients."""
        for parameter in self._parameters:
            parameter.grad = None

    def tensors(self) -> Iterator[Tensor]:
        """Yield every tensor of its state."""
        for optimizer in self._optimizers:
            for state in optimizer.state.values():
                yield from state.values()

    def arrays(self) -> Arrays:
        """Return its state by name, `optimizer.<weight>.<slot>`, as NumPy copies."""
        arrays = {
            f"optimizer.{self._names[parameter]}.{slot}": tensor.detach().cpu().numpy().copy()
            for optimizer in self._optimizers
            for parameter, state in optimizer.state.items()
            for slot, tensor in state.items()
        }
        if self._scaler.is_enabled():
            state = self._scaler.state_dict()
            arrays[LOSS_SCALE] = np.array([state["scale"], state["_growth_tracker"]], np.float32)
        return arrays

    def is_described_by(self, arrays: Arrays) -> bool:
        """Return whether arrays hold the state of an optimiser that has taken a step; some optimisers have no state."""
        return not any(SLOTS[type(optimizer)] for optimizer in self._optimizers) or _has_state(arrays)

    def load_arrays(self, arrays: Arrays) -> None:
        """Load the state that `arrays` returned.

        Raises:
            ValueError: it is not the state of these optimisers.
        """
        has_state = _has_state(arrays)
        if self._scaler.is_enabled() and LOSS_SCALE in arrays:
            scale, tracker = tensor_of(arrays, LOSS_SCALE, torch.Size((2,))).tolist()
            if not (0 < scale <= MAX_SCALE and 0 <= tracker <= MAX_SCALE):
                raise ValueError(f"`{LOSS_SCALE}` is out of its bounds")
            self._scaler.load_state_dict(self._scaler.state_dict() | {"scale": scale, "_growth_tracker": int(tracker)})
        for optimizer in self._optimizers:
            slots = SLOTS[type(optimizer)]
            optimizer.state.clear()
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    keys = {slot: f"optimizer.{self._names[parameter]}.{slot}" for slot in slots}
                    if has_state and slots:
                        optimizer.state[parameter] = {
                            # Step counts are kept on the CPU whatever the device.
                            slot: torch.empty((), device="cpu") if slot == "step" else torch.empty_like(parameter)
                            for slot in slots
                        }
                        for slot, tensor in optimizer.state[parameter].items():
                            tensor.copy_(tensor_of(arrays, keys[slot], tensor.shape))
                            if slot in NEVER_NEGATIVE and bool((tensor < 0).any()):
                                raise ValueError(f"`{keys[slot]}` is negative")

    def _groups(self) -> list[dict[str, Any]]:
        return [group for optimizer in self._optimizers for group in optimizer.param_groups]


def _classic(name: str, groups: list[list[nn.Parameter]], settings: TrainConfig) -> torch.optim.Optimizer:
    parameters = [{"params": group} for group in groups]
    rate = settings.learning_rate
    if name == "adamw":
        return AdamW(parameters, lr=rate, betas=(0.9, 0.99), weight_decay=0.0)
    if name == "adam":
        return Adam(parameters, lr=rate)
    if name == "rmsprop":
        return RMSprop(parameters, lr=rate, alpha=RMSPROP_DECAY)
    if name == "adagrad":
        return Adagrad(parameters, lr=rate)
    return SGD(parameters, lr=rate)


def _has_state(arrays: Arrays) -> bool:
    return any(name.startswith("optimizer.") and name != LOSS_SCALE for name in arrays)
