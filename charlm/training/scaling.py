"""How much faster several processes train than one: measured here, and estimated for GPUs by arithmetic.

With data parallelism each of N processes computes a share of a block, and all exchange their gradients. Computing takes
6 P C / (N F) seconds for P weights, C characters in a block and F operations a second: a multiplication and an addition
for each weight and character, and twice as much in the backward pass. A ring exchanges 4 P bytes of gradients in
8 P (N - 1) / (N W) seconds at W bytes a second. The quotient of the two, 4 (N - 1) F / (3 C W), does not depend on the
size of the model: only a larger block makes the exchange cheap. But a recurrent net also computes one character after
another, and no number of processes shortens that: each character takes at least the time of starting its kernels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from statistics import median
from time import perf_counter
from typing import Any, NamedTuple

import torch
import torch.distributed as dist

from charlm.data.corpus import load_corpus
from charlm.machine import usable_cores
from charlm.settings.config_file import load_config
from charlm.training.distributed import World, is_set_by_user
from charlm.training.learner import Learner
from charlm.training.regularisation import Regularisation
from charlm.training.sizing import choose_runtime

SIZES = (128, 512, 1024)
UNITS = tuple(1 << power for power in range(6, 18))
PLAIN = Regularisation(dropout=0.0, weight_dropout=0.0, weight_decay=0.0, settled=True)
BYTES_PER_NUMBER = 4


class Link(NamedTuple):
    """A kind of machine that the arithmetic is done for; orders of magnitude, not measured here.

    Attributes:
        name: of the machine.
        processes: N.
        operations: F, in bf16, of one GPU in products of a usual size.
        bytes_per_second: W, of the slowest link in the ring.
        start_seconds: of one character's kernels.
    """

    name: str
    processes: int
    operations: float
    bytes_per_second: float
    start_seconds: float


LINKS = (
    Link("8 GPUs of one machine", 8, 3e14, 3e11, 2e-5),
    Link("64 GPUs of 8 machines", 64, 3e14, 4e10, 2e-5),
)


@dataclass(frozen=True)
class Scaling:
    """What several processes gain with a model of one size; times in seconds, medians over blocks.

    Attributes:
        units: in its one layer.
        parameters: its weights.
        alone: a block in one process, with all cores.
        together: a block in all processes.
        share: the same without the exchange of gradients.
        exchange: all gradients once around, alone.
    """

    units: int
    parameters: int
    alone: float
    together: float
    share: float
    exchange: float

    @property
    def speed_up(self) -> float:
        """How many times as fast all processes are."""
        return self.alone / self.together

    def to_json(self) -> dict[str, Any]:
        """Return its fields, the speed, and the cost of DistributedDataParallel."""
        return asdict(self) | {"speed_up": self.speed_up, "cost": self.together - self.share}


def measure_scaling(world: World, rounds: int, units: int) -> Scaling:
    """Measure what the processes of a world gain; to be called in all of them.

    Args:
        world: the processes.
        rounds: how many blocks are measured.
        units: of the model.
    """
    flags = {"model.hidden_size": units, "model.ngram_order": 0, "seed": 0, "train.steps": 1}
    config, text = load_config("lstm", (), flags), load_corpus(["fables"])

    def alone() -> tuple[float, int]:
        # All cores, and not the one thread that torchrun sets.
        settings = config.train.model_copy(update={"threads": usable_cores(obeys_openmp=is_set_by_user())})
        learner = Learner(config, text, choose_runtime(config.model, settings))
        return _median(lambda step: learner.learn_block(step, 0.0, PLAIN), rounds), learner.model.spec.num_parameters

    seconds, num_parameters = world.from_first(alone)
    runtime = choose_runtime(config.model, config.train, world=world)
    learner = Learner(config, text, runtime, None, world)
    together = _median(lambda step: learner.learn_block(step, 0.0, PLAIN), rounds)
    by_itself = _share_of_a_block(learner, world)
    share = _median(by_itself, rounds)
    numbers = torch.zeros(num_parameters, device=runtime.device)
    exchange = _median(lambda _: dist.all_reduce(numbers), rounds)
    return Scaling(units, num_parameters, seconds, *world.agree(together, share, exchange))


def _share_of_a_block(learner: Learner, world: World) -> Callable[[int], object]:
    """Return a function that learns this process's share of a block, without an exchange of gradients."""

    def learn(step: int) -> object:
        with world.without_exchange(learner.parallel):
            return learner.learn_block(step, 0.0, PLAIN)

    return learn


def _median(work: Callable[[int], object], rounds: int) -> float:
    """Return the median time of some calls, without that of the first."""
    seconds = []
    for step in range(rounds + 1):
        began = perf_counter()
        work(step)
        seconds.append(perf_counter() - began)
    return median(seconds[1:])


def estimate(link: Link, num_parameters: int, block_characters: int, block_size: int) -> dict[str, Any]:
    """Return by arithmetic how long a block takes on one GPU and on all of them, and what limits it.

    Args:
        link: the machine.
        num_parameters: P.
        block_characters: C.
        block_size: T, the characters that are read one after another.
    """
    compute = 6 * num_parameters * block_characters / link.operations
    # Forward and backward.
    sequence = 2 * block_size * link.start_seconds
    size = BYTES_PER_NUMBER * num_parameters
    exchange = 2 * size * (link.processes - 1) / link.processes / link.bytes_per_second
    one, shared = max(compute, sequence), max(compute / link.processes, sequence)
    parts = {"computing": compute / link.processes, "one character after another": sequence, "exchange": exchange}
    return {
        "machine": link.name,
        "one_gpu_seconds": one,
        "all_seconds": shared + exchange,
        "speed_up": one / (shared + exchange),
        "gradient_bytes": size,
        "limit": max(parts, key=lambda name: parts[name]),
    }


def pays_from(link: Link, block_characters: int, block_size: int) -> int | None:
    """Return how many units a layer of an LSTM must have for all GPUs to be twice as fast as one; None if none has."""
    for units in UNITS:
        # Its four gates read its own outputs, and as many inputs.
        if estimate(link, 8 * units**2, block_characters, block_size)["speed_up"] >= 2:
            return units
    return None
