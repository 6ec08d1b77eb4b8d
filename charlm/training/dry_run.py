"""What a run will need: its memory, computed before anything is allocated, and its time, measured on a few blocks."""

from __future__ import annotations

import math
import sys
import time
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from charlm.data.batches import fit_batch
from charlm.data.corpus import Corpus
from charlm.data.holdout import hold_out
from charlm.errors import TrainingError
from charlm.evaluation.evaluate import evaluate
from charlm.machine import give_back_freed_memory, process_place, resident_bytes, usable_bytes
from charlm.nn.runtime import Runtime
from charlm.settings.config import Config
from charlm.settings.durations import Interval
from charlm.training.keeping import BYTES_PER_NUMBER, num_kept
from charlm.training.learner import Learner
from charlm.training.regularisation import Regularisation

# The numbers that each optimiser keeps for a weight; under Muon some weights are AdamW's.
MOMENTS = {"muon": 1, "adamw": 2, "adam": 2, "rmsprop": 1, "adagrad": 1, "sgd": 0}
# The memory of what torch loads to exchange gradients, which is its compiler.
EXCHANGE_CODE_BYTES = 75_000_000
# Bytes for each number of a block, measured on runs of every cell. They are more than the 4 or 2 bytes of the number,
# because some numbers are always in full precision, and because the kept memory of freed tensors has gaps.
BLOCK_BYTES_PER_NUMBER = {"fp32": 5.0, "bf16": 3.25, "fp16": 3.25}
TRIAL_BLOCKS = 5
TRIAL_SECONDS = 10.0


@dataclass(frozen=True)
class Estimate:
    """What a run will take if it has the machine to itself.

    Attributes:
        parameters: the number of trainable parameters.
        model_bytes: size of the model file to share.
        memory_bytes: the largest resident memory of the trial.
        characters_per_second: the pace of training.
        steps: blocks until the end.
        epochs: how often the training part will have been read.
        seconds: until the end, validations included.
        kept_models: how many models `train.keep_every` keeps, each as large as the model file to share.
    """

    parameters: int
    model_bytes: int
    memory_bytes: int
    characters_per_second: float
    steps: int
    epochs: float
    seconds: float
    kept_models: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return its fields."""
        return asdict(self)


def check_memory(config: Config, text: Corpus, runtime: Runtime) -> None:
    """Refuse a run that needs more memory than this machine, or the container around it, has.

    Raises:
        TrainingError: it needs more than all of the memory.
    """
    # Each of the processes that torchrun has started on this machine needs as much.
    needed, there = process_place().local_size * least_memory_bytes(config, text, runtime), usable_bytes()
    if needed > there:
        raise TrainingError(
            f"this run needs at least {needed / 1e9:,.2f} GB of memory, "
            f"this machine or container has {there / 1e9:,.2f}",
            "`model.hidden_size`, `model.num_layers`, `train.batch_size` or `train.block_size` may be smaller",
        )


def least_memory_bytes(config: Config, text: Corpus, runtime: Runtime) -> float:
    """Return how many bytes of main memory this process will need: those it has now, and those that the run adds."""
    weights = BYTES_PER_NUMBER * config.model.spec(len(text.vocabulary)).num_parameters
    state = (1 + MOMENTS[config.train.optimizer]) * weights
    # While a state is saved, memory also holds the last good one, the new one, its arrays as bytes, and the file.
    saving = 4 * state
    # Several processes exchange their gradients through copies.
    exchange, code = (weights, EXCHANGE_CODE_BYTES) if runtime.processes > 1 else (0, 0)
    # The run uses again what the trials of the machine have freed.
    give_back_freed_memory()
    loaded = resident_bytes() + code
    if runtime.device.type == "cuda":
        return loaded + saving
    learning = 2 * state + weights + exchange + _block_bytes(config, text, runtime)
    return loaded + max(state + saving, learning)


def _block_bytes(config: Config, text: Corpus, runtime: Runtime) -> float:
    """Return the bytes that a block keeps in the forward pass and allocates in the backward pass."""
    train, spec = config.train, config.model.spec(len(text.vocabulary))
    lengths = hold_out(text, config.data).train.lengths_S.tolist()
    num_streams, size = fit_batch(lengths, train.batch_size, train.block_size, train.reset_probability)
    num_characters = math.ceil(num_streams / runtime.processes / train.accumulate) * size
    cell = spec.recurrence
    # The number of blocks that each stack of layers reads; the right context is up to half a block longer.
    blocks = [1.0, 1.5] if spec.sees_both_sides else [1.0]
    # The minimal cells are computed in full precision, and keep the inputs and outputs of each function.
    of_unit = len(cell.gates) + len(cell.state) if cell.products else 2 * (len(cell.gates) + len(cell.state))
    per_number = BLOCK_BYTES_PER_NUMBER[runtime.precision if cell.products else "fp32"]
    # Each layer also keeps its outputs before and after dropout; backward allocates as much for one layer at a time.
    of_layers = (sum(blocks) * spec.num_layers + max(blocks)) * (of_unit + 2) * spec.hidden_size
    # The inputs, a copy and their gradient; the logits, a copy, their probabilities and gradient.
    of_ends = 3 * sum(blocks) * spec.num_inputs + 4 * spec.num_symbols
    return num_characters * per_number * (of_layers + of_ends)


def estimate_run(config: Config, text: Corpus, runtime: Runtime) -> Estimate:
    """Try a few blocks of a run, and estimate the whole run from them. Nothing is written to disk.

    Args:
        config: the settings, with a size and a seed.
        text: the text.
        runtime: where it would train.
    """
    settings, learner = config.train, Learner(config, text, runtime)
    per_block = _seconds_per_block(config, learner)
    # A run also holds a copy of its state when it saves it.
    learner.arrays()
    evaluation_began = time.monotonic()
    part = learner.parts.validation.beginnings(settings.evaluation_characters)
    if len(part):
        evaluate(learner.model, part)
    evaluations = settings.evaluations * (time.monotonic() - evaluation_began)
    if settings.time is None:
        steps = settings.steps or round((settings.epochs or 0) * learner.batches.batches_per_epoch)
        seconds = steps * per_block + evaluations
    else:
        seconds = settings.time
        steps = max(1, round(seconds / per_block))
    num_parameters, epochs = learner.model.spec.num_parameters, learner.batches.epoch(steps)
    every = settings.keep_every
    return Estimate(
        parameters=num_parameters,
        model_bytes=BYTES_PER_NUMBER * num_parameters,
        memory_bytes=_peak_bytes(),
        characters_per_second=learner.characters_per_block / per_block,
        steps=steps,
        epochs=epochs,
        seconds=seconds,
        kept_models=0 if every is None else num_kept(Interval.parse(every), steps, epochs, seconds),
    )


def _seconds_per_block(config: Config, learner: Learner) -> float:
    """Return the seconds that a block takes, tried at a learning rate of 0."""
    regularisation = Regularisation.planned(config, num_epochs=0, settled=False)
    seconds_of_blocks: list[float] = []
    began = time.monotonic()
    for step in range(TRIAL_BLOCKS + 1):
        block_began = time.monotonic()
        learner.learn_block(step, 0.0, regularisation)
        seconds_of_blocks.append(time.monotonic() - block_began)
        if time.monotonic() - began > TRIAL_SECONDS:
            break
    # The first block of a process takes far longer than all others.
    return median(seconds_of_blocks[1:] or seconds_of_blocks)


def _peak_bytes() -> int:
    try:
        import resource
    except ImportError:  # not on Windows
        return 0
    peak = int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    return peak if sys.platform == "darwin" else peak * 1024
