"""What a run will ask of a machine: memory, reckoned before anything is made of that size, and time, by trying."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from charlm.cells import CELLS
from charlm.checkpoint import expected_shapes
from charlm.corpus import Corpus
from charlm.errors import TrainingError
from charlm.evaluate import evaluate
from charlm.machine import usable_bytes
from charlm.settings import Config
from charlm.streams import fit
from charlm.train import Training

BYTES_PER_NUMBER = 4
# A weight has a gradient, up to two moments, and all but the gradient once more in the last good state.
NUMBERS_PER_WEIGHT = 7
TRIAL_BLOCKS = 5
TRIAL_SECONDS = 10.0


@dataclass(frozen=True)
class Forecast:
    """What a run will take, had it the machine to itself.

    Attributes:
        parameters: how many numbers the model learns.
        model_bytes: size of the model file to share.
        memory_bytes: the largest resident memory of the trial.
        characters_per_second: how many it learned from.
        steps: blocks until the end.
        epochs: how often the training part will have been read.
        seconds: until the end, validations included.
    """

    parameters: int
    model_bytes: int
    memory_bytes: int
    characters_per_second: float
    steps: int
    epochs: float
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Return its fields."""
        return asdict(self)


def check_memory(config: Config, text: Corpus) -> None:
    """Refuse a run that this machine cannot hold, before it tries.

    Raises:
        TrainingError: it would need more than all of the machine's memory.
    """
    characters = fit(len(text.ids), config.train.batch_size, config.train.block_size, config.train.reset_probability)
    needed = least_memory_bytes(config.model.model_dump(), len(text.vocabulary), math.prod(characters))
    there = usable_bytes()
    if needed > there:
        raise TrainingError(
            f"this run needs at least {needed / 1e9:,.1f} GB of memory, this machine has {there / 1e9:,.1f}",
            "`model.hidden_size`, `model.num_layers`, `train.batch_size` or `train.block_size` may be smaller",
        )


def least_memory_bytes(model: Mapping[str, Any], num_symbols: int, characters: int) -> int:
    """Return what weights and activations need at the least.

    Args:
        model: the group of settings.
        num_symbols: V.
        characters: of one training block: B times T.
    """
    weights = sum(math.prod(shape) for shape in expected_shapes({"model": model}, num_symbols).values())
    gates, num_stacks = len(CELLS[model["cell"]].gates), 2 if model.get("direction") == "both" else 1
    one_hot = 0 if model["embedding_size"] else num_stacks * num_symbols
    # Of each character: every gate and the state of every layer, and its logits with their gradient.
    of_layers = num_stacks * model["num_layers"] * model["hidden_size"] * (gates + 1)
    per_character: int = of_layers + 2 * num_symbols + one_hot
    half = BYTES_PER_NUMBER // 2
    return BYTES_PER_NUMBER * NUMBERS_PER_WEIGHT * weights + half * characters * per_character


def forecast(training: Training) -> Forecast:
    """Try a few blocks of a run that is then thrown away, and reckon from them."""
    settings = training.config.train
    seconds_of_blocks: list[float] = []
    began = time.monotonic()
    for step in range(TRIAL_BLOCKS + 1):
        block_began = time.monotonic()
        training.learn_block(training.streams.block(step), rate=0.0)
        seconds_of_blocks.append(time.monotonic() - block_began)
        if time.monotonic() - began > TRIAL_SECONDS:
            break
    training.snapshot()
    # The first block of a process takes far longer than all others.
    per_block = median(seconds_of_blocks[1:] or seconds_of_blocks)
    evaluation_began = time.monotonic()
    part = training.parts.validation[: settings.evaluation_characters]
    if len(part):
        evaluate(training.model, part)
    evaluations = settings.evaluations * (time.monotonic() - evaluation_began)
    if settings.time is None:
        steps = settings.steps or round((settings.epochs or 0) * training.streams.blocks_per_epoch)
        seconds = steps * per_block + evaluations
    else:
        seconds = settings.time
        steps = max(1, round(seconds / per_block))
    return Forecast(
        parameters=training.num_parameters,
        model_bytes=BYTES_PER_NUMBER * training.num_parameters,
        memory_bytes=_peak_bytes(),
        characters_per_second=training.num_streams * training.block_size / per_block,
        steps=steps,
        epochs=training.streams.epoch(steps),
        seconds=seconds,
    )


def _peak_bytes() -> int:
    try:
        import resource
    except ImportError:  # not on Windows
        return 0
    peak = int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    return peak if sys.platform == "darwin" else peak * 1024
