"""The size of the net that predicts best when its time is over, on this machine and for this text.

A small net reads a text often in the same time; a large net needs few readings and overfits. The time of a block is
measured. The improvement per block is predicted by a rule that is fitted on runs.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch.nn import functional

from charlm.data.batches import fit_batch
from charlm.data.corpus import Corpus
from charlm.data.holdout import hold_out
from charlm.nn.model import CharModel
from charlm.nn.runtime import Runtime, use_threads
from charlm.nn.speed_trials import Work
from charlm.settings.config import Config, ModelConfig, TrainConfig
from charlm.spec import ModelSpec
from charlm.training.distributed import ALONE, World
from charlm.training.optimizer import Optimizer

SIZES = (64, 80, 96, 128, 160, 192, 256, 320, 384, 512, 640, 768, 1024)
# Without a time limit a smaller net saves nothing.
SIZE_WITHOUT_TIME = 512
# The size is found for this cell; other cells get the size at which they have as many weights.
REFERENCE_CELL = "lstm"
# Used before the size is known, and for one-hot inputs.
TYPICAL_UNITS, TYPICAL_INPUTS = 256, 64
# The share of its time that a run may spend on measuring.
MEASURING_SHARE = 0.03
MEASURED_SIZES = (64, 128, 256, 512)
BLOCKS_MEASURED = 2
CHARACTERS_PER_BLOCK = 64 * 64
# The time of a large block grows with the square of the size.
EXPONENT_BEYOND = 2.0
# The share of its time that a run spends on blocks; the rest goes to validations, saves and the last scoring.
SHARE_OF_BLOCKS = 0.9
# With more weights than these for each character of the text a net overfits, however it is regularised.
WEIGHTS_PER_CHARACTER = 10
# How far the weights of a size may be from those of an equal model, as a share, before other sizes are tried.
ALIKE = 0.02
# Sizes that lose more than this, in nats, are reported as far from the best.
FAR = 0.05


class Fit(NamedTuple):
    """The predicted loss without the part that depends on the text alone, in nats for blocks of 64 x 64 characters.

    capacity H^-p + learning N^-q + memorising R, for H units, N blocks and R readings of the text by 512 units. A net
    of half the size needs twice as many readings to overfit as much.
    """

    capacity: float
    p: float
    learning: float
    q: float
    memorising: float


# Least squares over 44 runs of an lstm, with a constant for each text: 166,000 characters of fables, a million of tiny
# Shakespeare, a source tree of 1.2 million; 64 to 1024 units, 30 to 3,200 blocks, up to 80 readings. The predictions
# are off by 0.061 nats (root mean square), much of which is the same for neighbouring sizes.
FIT = Fit(2.85, 0.37, 9.9, 0.665, 0.0055)


def choose_runtime(
    model: ModelConfig, train: TrainConfig, before: dict[str, Any] | None = None, world: World = ALONE
) -> Runtime:
    """Measure which arithmetic is fast on this machine for such a run, or keep that of a resumed run."""
    num_streams, threads = max(1, train.batch_size // world.size), world.threads(train.threads)
    work = Work(model.cell, model.embedding_size or TYPICAL_INPUTS, model.num_units, num_streams)
    runtime = world.from_first(lambda: Runtime.choose(train.device, train.precision, threads, work, before))
    use_threads(threads)
    return replace(runtime, processes=world.size)


def fit_to_machine(config: Config, text: Corpus, world: World = ALONE) -> tuple[Config, Runtime, str]:
    """Choose the size of a run and its device; return the settings, the runtime, and the reason for the size."""
    model, data = config.model, config.data
    typical = model.model_copy(update={"cell": REFERENCE_CELL, "hidden_size": TYPICAL_UNITS})
    train = config.train.model_copy(update={"threads": world.threads(config.train.threads)})
    num_characters = len(hold_out(text, data).train)

    def chosen() -> Sized:
        # The first process measures while the others wait, so that it decides for all.
        return settle(config, num_characters, len(text.vocabulary), lambda: choose_runtime(typical, train), world.size)

    sized = world.from_first(chosen)
    model = model.model_copy(update={"hidden_size": sized.size})
    return (
        config.model_copy(update={"model": model}),
        choose_runtime(model, config.train, world=world),
        sized.reason,
    )


class Sized(NamedTuple):
    """A size and the reason for it.

    Attributes:
        size: units in each recurrent layer.
        reason: for a person; empty if there is nothing to report.
    """

    size: int
    reason: str


def settle(
    config: Config,
    num_characters: int,
    num_symbols: int,
    choose_runtime: Callable[[], Runtime],
    num_processes: int = 1,
) -> Sized:
    """Choose the size if the settings leave it open; otherwise return what is wrong with the given one.

    Args:
        config: the settings.
        num_characters: how many there are to train on.
        num_symbols: V.
        choose_runtime: returns where `REFERENCE_CELL` would train.
        num_processes: that share the streams of a block.
    """
    given, seconds = config.model.hidden_size, config.train.time
    if seconds is None:
        size = given if given != "auto" else equal_size(config.model, SIZE_WITHOUT_TIME, num_symbols)
        return Sized(size, "")
    batch = fit_batch(num_characters, config.train.batch_size, config.train.block_size, config.train.reset_probability)
    block = math.prod(batch)
    own = max(1, batch[0] // num_processes), batch[1]
    measured = measure(_maker(config, num_symbols, own, choose_runtime()), MEASURING_SHARE * seconds)
    times = config.model.spec(num_symbols, size=1).num_stacks

    def outlook(size: int) -> tuple[float, float]:
        blocks = SHARE_OF_BLOCKS * seconds / (times * seconds_of_block(size, measured))
        return predicted(size, blocks * block, num_characters), blocks * block / num_characters

    limit = WEIGHTS_PER_CHARACTER * num_characters
    fitting = [size for size in SIZES if _num_weights(config.model, REFERENCE_CELL, size, num_symbols) <= limit]
    best = min(fitting or SIZES[:1], key=lambda size: outlook(size)[0])
    readings = _times(outlook(best)[1])
    if given == "auto":
        size = equal_size(config.model, best, num_symbols)
        like = "" if size == best else f", with the weights of {best} of an {REFERENCE_CELL}"
        return Sized(size, f"{size} units are predicted to be best{like}: they should read the text {readings}")
    alike = reference_size(config.model, given, num_symbols)
    if outlook(alike)[0] - outlook(best)[0] <= FAR:
        return Sized(given, "")
    better = equal_size(config.model, best, num_symbols)
    return Sized(
        given,
        f"{given} units should read the text {_times(outlook(alike)[1])} in this time; "
        f"{better} would read it {readings}, and are predicted to be better",
    )


def _times(number: float) -> str:
    return f"{number:,.0f} times" if number >= 100 else f"{number:.1f} times" if number >= 1 else f"{number:.2g} times"


def predicted(size: int, characters: float, num_characters: int, rule: Fit = FIT) -> float:
    """Return the predicted loss in nats, without the part that is the same for all sizes.

    Args:
        size: units of the reference cell.
        characters: learned from until the end.
        num_characters: of the text.
        rule: the fitted numbers.
    """
    readings = characters / num_characters * size / SIZE_WITHOUT_TIME
    blocks = max(characters, 1.0) / CHARACTERS_PER_BLOCK
    return float(rule.capacity * size**-rule.p + rule.learning * blocks**-rule.q + rule.memorising * readings)


def seconds_of_block(size: int, measured: Mapping[int, float]) -> float:
    """Return the time of a block of some size: by a power law between measured sizes, by the square beyond them."""
    sizes = sorted(measured)
    if size >= sizes[-1]:
        return float(measured[sizes[-1]] * (size / sizes[-1]) ** EXPONENT_BEYOND)
    if size <= sizes[0]:
        return measured[sizes[0]]
    low, high = next(pair for pair in itertools.pairwise(sizes) if pair[0] <= size <= pair[1])
    exponent = math.log(measured[high] / measured[low]) / math.log(high / low)
    return float(measured[low] * (size / low) ** exponent)


def measure(make: Callable[[int], Callable[[], None]], limit: float) -> dict[int, float]:
    """Return the seconds that a block takes, for as many of `MEASURED_SIZES` as there is time for, at least the first.

    Args:
        make: returns for a size a function that trains on one block.
        limit: the most seconds that all measurements should take.
    """
    # Do first what happens once per process, such as loading the optimisers.
    make(MEASURED_SIZES[0])()
    seconds: dict[int, float] = {}
    began = time.perf_counter()
    for size in MEASURED_SIZES:
        # A block of twice the size takes up to four times as long, and the first block is a warm-up.
        if seconds and time.perf_counter() - began + 4 * (BLOCKS_MEASURED + 1) * seconds[max(seconds)] > limit:
            break
        learn = make(size)
        learn()
        blocks = []
        for _ in range(BLOCKS_MEASURED):
            block_began = time.perf_counter()
            learn()
            blocks.append(time.perf_counter() - block_began)
        seconds[size] = min(blocks)
    return seconds


def warm_up(config: Config, num_symbols: int) -> None:
    """Learn one character, so that the first of several runs does not lose time to what a process does only once."""
    runtime = choose_runtime(config.model, config.train)
    _maker(config, num_symbols, (1, 1), runtime)(MEASURED_SIZES[0])()


def equal_size(model: ModelConfig, reference: int, num_symbols: int) -> int:
    """Return the size at which a model has about as many weights as one of the reference cell of a given size."""
    target = _num_weights(model, REFERENCE_CELL, reference, num_symbols)
    sizes = range(8, 16 * reference + 8, 8)
    return reference if model.cell == REFERENCE_CELL else _nearest(model, model.cell, sizes, target, num_symbols)


def reference_size(model: ModelConfig, size: int, num_symbols: int) -> int:
    """Return the size at which a model of the reference cell has about as many weights as the given model."""
    target = _num_weights(model, model.cell, size, num_symbols)
    return (
        size
        if model.cell == REFERENCE_CELL
        else _nearest(model, REFERENCE_CELL, range(1, size + 1), target, num_symbols)
    )


def size_like(model: ModelConfig, other: ModelConfig, num_symbols: int) -> int:
    """Return the size at which a model has about as many weights as another model, which has its size already.

    A multiple of 8, which trains faster, if it comes within `ALIKE` of the other; otherwise the nearest size of all.
    """
    target, units = _num_weights(other, other.cell, other.num_units, num_symbols), other.num_units
    if model.cell == other.cell:
        return units
    size = _nearest(model, model.cell, range(8, 16 * units + 8, 8), target, num_symbols)
    if abs(_num_weights(model, model.cell, size, num_symbols) - target) <= ALIKE * target:
        return size
    return _nearest(model, model.cell, range(max(1, size - 8), size + 8), target, num_symbols)


def _nearest(model: ModelConfig, cell: str, sizes: range, target: int, num_symbols: int) -> int:
    return min(sizes, key=lambda size: abs(_num_weights(model, cell, size, num_symbols) - target))


def _num_weights(model: ModelConfig, cell: str, size: int, num_symbols: int) -> int:
    return replace(model.spec(num_symbols, size), cell=cell).num_parameters


def _maker(
    config: Config, num_symbols: int, batch: tuple[int, int], runtime: Runtime
) -> Callable[[int], Callable[[], None]]:
    model, (num_streams, block_size) = config.model, batch
    tokens_TB = torch.zeros(block_size, num_streams, dtype=torch.long, device=runtime.device)

    def make(size: int) -> Callable[[], None]:
        net = CharModel(ModelSpec(REFERENCE_CELL, num_symbols, model.embedding_size, size, model.num_layers))
        net.initialise(torch.Generator().manual_seed(0))
        net.to(runtime.device)
        net.choose_kernel(runtime.lstm_by_blocks)
        optimizer, turns = Optimizer(net, config.train, runtime.dtype), itertools.count()

        def learn() -> None:
            with runtime.autocast():
                logits_TBV, _ = net(tokens_TB, net.start_state(num_streams))
            loss = functional.cross_entropy(logits_TBV.float().flatten(0, 1), tokens_TB.flatten())
            loss.backward()  # type: ignore[no-untyped-call]
            if math.isfinite(optimizer.clip()):
                optimizer.step(0.0, 0.0, next(turns))
            optimizer.clear()

        return learn

    return make
