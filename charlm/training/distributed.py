"""Several processes that train one run together, started by torchrun: who they are, and what they agree on.

Each process owns a share of the streams. Gradients are averaged by torch's DistributedDataParallel. Everything that a
process decides by its own clock, files or signals is agreed upon here, so that all take the same way. A process that is
lost, or does not answer in time, is an error in all others.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from datetime import timedelta
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from charlm.errors import CharlmError, LostProcessError, UsageError, counted
from charlm.machine import ProcessPlace, process_place, usable_cores
from charlm.run_folder import resume_command

Value = TypeVar("Value")

# How long a process waits for the others. torchrun needs up to 30 s more to end one that hangs.
TIMEOUT_SECONDS = 25.0
# From so many numbers on, sending a result is faster than computing it.
MIN_DIVIDED = 2**16
# How long a process that reports an error waits for the store of torchrun.
REPORT_SECONDS = 3.0
# How often a process that computes something alone says that it is alive.
BEAT_SECONDS = 5.0
# What torch's errors about a lost process have in common.
SIGNS_OF_LOSS = ("gloo", "NCCL", "Connection", "Timed out", "timed out", "Socket", "store", "Broken pipe")
# What the processes tell one another, and later attempts, in the store of torchrun.
RUN_KEY, REPORTED_KEY = "charlm/run", "charlm/reported"


class World(ProcessPlace):
    """The processes of a run. Made without arguments, it is this process alone, and every method is trivial."""

    @property
    def is_first(self) -> bool:
        """Whether this process prints and writes."""
        return self.rank == 0

    def share(self, number: int) -> slice:
        """Return which of a number of streams belong to this process.

        Raises:
            UsageError: there are fewer of them than processes.
        """
        if number < self.size:
            raise UsageError(
                f"{counted(number, 'stream')} of text cannot be shared among {self.size} processes",
                "a longer text, a larger `train.batch_size` or fewer processes fit",
            )
        return shares(slice(0, number), self.size)[self.rank]

    def threads(self, asked: int | None) -> int | None:
        """Return how many threads each process has, so that those of a machine share its cores; None: all of them."""
        if asked or self.size == 1:
            return asked
        return usable_cores() if is_set_by_user() else max(1, usable_cores(obeys_openmp=False) // self.local_size)

    # What they agree on

    def agree(self, *values: float) -> tuple[float, ...]:
        """Return the values of the first process."""
        if self.size == 1:
            return values
        tensor = torch.tensor(values, dtype=torch.float64)
        with watched():
            dist.broadcast(tensor, 0)
        return tuple(tensor.tolist())

    def total(self, value: float) -> float:
        """Return the sum of a value over all processes."""
        return self._reduced(value, dist.ReduceOp.SUM)

    def any(self, value: bool) -> bool:
        """Return whether a value is true in at least one process."""
        return bool(self._reduced(value, dist.ReduceOp.MAX))

    def all(self, value: bool) -> bool:
        """Return whether a value is true in all processes."""
        return bool(self._reduced(value, dist.ReduceOp.MIN))

    def _reduced(self, value: float, operation: Any) -> float:
        if self.size == 1:
            return value
        tensor = torch.tensor([float(value)], dtype=torch.float64)
        with watched():
            dist.all_reduce(tensor, operation)
        return tensor.item()

    def together(self, work: Callable[[], Value]) -> Value:
        """Do something that may take long in every process, and return when all are ready."""
        if self.size == 1:
            return work()
        is_ready, errors = threading.Event(), []

        def beat() -> None:
            try:
                while not self.all(is_ready.wait(BEAT_SECONDS)):
                    pass
            except LostProcessError as error:
                errors.append(error)

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        value = work()
        is_ready.set()
        thread.join()
        if errors:
            raise errors[0]
        return value

    def from_first(self, work: Callable[[], Value]) -> Value:
        """Do something in the first process, however long it takes, and return its result in all of them.

        Raises:
            CharlmError: the first process has raised it; it is raised in all of them.
        """
        if self.size == 1:
            return work()
        values = [self.together(partial(_attempt, work) if self.is_first else _nothing)]
        with watched():
            dist.broadcast_object_list(values, 0)
        return cast(Value, _taken(values[0]))

    def from_first_of_machine(self, work: Callable[[], Value]) -> Value:
        """Do something in the first process of each machine, and return its result in all of that machine.

        Raises:
            CharlmError: one of them has raised it; it is raised in all processes.
        """
        if self.size == 1:
            return work()
        own = self.together(_nothing if self.local_rank else partial(_attempt, work))
        attempts: list[Any] = [None] * self.size
        with watched():
            dist.all_gather_object(attempts, own)
        values = [_taken(attempt) for attempt in attempts]
        return cast(Value, values[self.rank - self.local_rank])

    def joined(self, part: Tensor, dim: int) -> Tensor:
        """Return the parts of all processes side by side, as shared out by `share`."""
        if self.size == 1:
            return part
        parts: list[Tensor | None] = [None] * self.size
        with watched():
            dist.all_gather_object(parts, part.cpu())
        return torch.cat(cast(list[Tensor], parts), dim).to(part.device)

    def synchronise(self, tensors: Sequence[Tensor]) -> None:
        """Give all processes the tensors of the first one: another processor may round in another way."""
        for tensor in tensors if self.size > 1 else ():
            with watched():
                dist.broadcast(tensor.detach(), 0)

    def divided(self, compute: Callable[[Tensor], Tensor], tensors: Sequence[Tensor]) -> list[Tensor]:
        """Compute a tensor of the same shape from each tensor, and return all results in all processes.

        Args:
            compute: gives the same in every process; each process computes its share of the large tensors.
            tensors: the same in every process.
        """
        large = [index for index, tensor in enumerate(tensors) if tensor.numel() >= MIN_DIVIDED and self.size > 1]
        if len(large) < 2:
            return [compute(tensor) for tensor in tensors]
        owners, loads = dict[int, int](), [0] * self.size
        for index in sorted(large, key=lambda index: -tensors[index].numel()):
            owners[index] = loads.index(min(loads))
            loads[owners[index]] += tensors[index].numel()
        results, exchanges = [], []
        with watched():
            for index, tensor in enumerate(tensors):
                is_own = owners.get(index, self.rank) == self.rank
                results.append(compute(tensor).contiguous() if is_own else torch.empty_like(tensor))
                if index in owners:
                    exchanges.append(dist.broadcast(results[-1], owners[index], async_op=True))
            for exchange in exchanges:
                exchange.wait()
        return results

    def parallel(self, model: nn.Module) -> nn.Module:
        """Return what is called in place of a model, so that its gradients are averaged over all processes."""
        if self.size == 1:
            return model
        devices = [torch.cuda.current_device()] if next(model.parameters()).is_cuda else None
        with watched():
            return nn.parallel.DistributedDataParallel(model, device_ids=devices)

    def without_exchange(self, parallel: nn.Module) -> AbstractContextManager[Any]:
        """Return the context for the gradients of a part of a block: they stay in this process until the last part."""
        return parallel.no_sync() if isinstance(parallel, nn.parallel.DistributedDataParallel) else nullcontext()

    # What lasts longer than a process

    @contextmanager
    def on_run(self, path: Path) -> Iterator[None]:
        """Work on a run: torchrun keeps its path for a restart, and the loss of a process is reported with it."""
        if self.size > 1 and self.is_first:
            _store().set(RUN_KEY, str(path))
        try:
            yield
        except LostProcessError as error:
            hint = f"{resume_command(path)} continues it from its last save"
            raise LostProcessError(str(error), hint) from error

    def noted_run(self) -> Path | None:
        """Return the run of the attempt before this one; None if there is none."""
        if self.size == 1 or not self.attempt:
            return None
        noted = self.from_first(lambda: _store().get(RUN_KEY).decode() if _store().check([RUN_KEY]) else "")
        return Path(noted) if noted else None


ALONE = World()


def shares(streams: slice, number: int) -> list[slice]:
    """Divide streams into this many nearly equal parts, in order."""
    length = streams.stop - streams.start
    bounds = [streams.start + part * length // number for part in range(number + 1)]
    return [slice(*pair) for pair in pairwise(bounds)]


def is_set_by_user() -> bool:
    """Return whether the user has set `OMP_NUM_THREADS`; torchrun sets it to 1 if it is not set."""
    return os.environ.get("OMP_NUM_THREADS") != "1"


def _nothing() -> Any:
    return None


def _attempt(work: Callable[[], Any]) -> tuple[Any, CharlmError | None]:
    """Return the result of something, or the error that it raises."""
    try:
        return work(), None
    except CharlmError as error:
        return None, error


def _taken(attempt: tuple[Any, CharlmError | None] | None) -> Any:
    """Return the result of another process, or raise its error."""
    value, error = attempt or (None, None)
    if error:
        raise error
    return value


@contextmanager
def watched() -> Iterator[None]:
    """Report the loss of another process.

    Raises:
        LostProcessError: another process has ended, or has not answered in time.
    """
    try:
        yield
    except RuntimeError as error:
        if "allocate" in str(error) or not any(sign in str(error) for sign in SIGNS_OF_LOSS):
            raise
        raise LostProcessError(
            "another process of this run has ended, or has not answered in time",
            "torchrun with --max-restarts starts all of them again",
        ) from error


@contextmanager
def join() -> Iterator[World]:
    """Enter the world that torchrun has started this process in; elsewhere, yield a world of one process."""
    place = process_place()
    if place.size == 1:
        yield ALONE
        return
    world = World(*place)
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(world.local_rank % torch.cuda.device_count())
    with watched():
        dist.init_process_group(backend, timeout=timedelta(seconds=TIMEOUT_SECONDS))
    yield world
    # Not after an error: a thread may still wait for the others, and the end of the process closes everything.
    with suppress(RuntimeError):
        dist.destroy_process_group()


def is_first_to_report() -> bool:
    """Return whether no other process has reported an error of this attempt yet, so that a person reads one line."""
    place = process_place()
    if place.size == 1:
        return True
    try:
        return bool(_store(REPORT_SECONDS).add(f"{REPORTED_KEY}/{place.attempt}", 1) == 1)
    except (RuntimeError, ValueError, KeyError):
        # The store of torchrun is gone, so they cannot agree on one.
        return place.rank == 0


def _store(seconds: float = TIMEOUT_SECONDS) -> Any:
    """Return the store of torchrun, which lives as long as torchrun itself."""
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    return dist.TCPStore(host, port, is_master=False, timeout=timedelta(seconds=seconds))  # type: ignore[attr-defined]
