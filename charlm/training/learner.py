"""What learns: model, optimiser, streams and progress, a block at a time, and how all of it is written down."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

import torch
from torch.nn import functional

from charlm.checkpoint import MAX_NUMBER, Arrays, ModelFile
from charlm.config import Config
from charlm.data.batches import Batch, Batches, fit_batch
from charlm.data.corpus import Corpus
from charlm.data.holdout import split_ids
from charlm.errors import RunError
from charlm.nn.model import CharModel, State, draw_masks, tensor_of
from charlm.nn.runtime import Runtime
from charlm.run_folder import Logbook, RunFolder
from charlm.training.optimizer import Optimizer
from charlm.training.schedule import Clock, Projection, held_back, share_of
from charlm.training.state import Losses, Progress

# Fewer characters than these do not tell which of two models is better.
MIN_VALIDATION_CHARACTERS = 64
# Nats per character: what guesses worse than that has left all bounds.
MAX_LOSS = 1e6


class Learner:
    """The state of a run, with what changes it block by block.

    Attributes:
        config: the effective settings, seed included.
        corpus: the text.
        clock: how long it has taken, model and first block included, but not the reading of the text.
        logbook: where it is written down.
        notes: what a person should know before it starts.
    """

    def __init__(
        self, config: Config, corpus: Corpus, run: RunFolder, runtime: Runtime, clock: Clock | None = None
    ) -> None:
        assert config.seed is not None
        self.clock = clock or Clock()
        self.config, self.corpus, self.logbook, self.runtime = config, corpus, Logbook(run), runtime
        self.parts = split_ids(corpus.ids, config.data.validation_fraction, config.data.test_fraction)
        sizes = (config.train.batch_size, config.train.block_size)
        self.num_streams, self.block_size = fit_batch(len(self.parts.train), *sizes, config.train.reset_probability)
        self.notes = list(corpus.notes)
        if (self.num_streams, self.block_size) != sizes:
            self.notes.append(
                f"the text has {len(self.parts.train):,} characters to train on: "
                f"{self.num_streams} x {self.block_size} of them are read at a time"
            )
        if len(self.parts.validation) < MIN_VALIDATION_CHARACTERS:
            self.notes.append(
                f"{len(self.parts.validation)} characters are held out, too few to tell which model is best: "
                "the last one is kept"
            )
        num_symbols = len(corpus.vocabulary)
        self.model = CharModel(config.model.spec(num_symbols))
        self.model.initialise(torch.Generator().manual_seed(config.seed), config.model.initialiser)
        self.model.to(runtime.device)
        self.model.choose_kernel(runtime.lstm_by_blocks)
        self.optimizer = Optimizer(self.model, config.train, runtime.dtype)
        self.batches = Batches(
            self.parts.train,
            self.model.spec,
            self.num_streams,
            self.block_size,
            config.seed,
            config.train.reset_probability,
        )
        self.state = self._start_state()
        self.progress = Progress(smoothed_nats=math.log(num_symbols))
        self._regularise(num_epochs=0)
        self._projection = Projection()
        # Since the last record of either kind.
        self._since_record = Losses()

    @property
    def num_parameters(self) -> int:
        """How many numbers the model learns."""
        return self.model.spec.num_parameters

    @property
    def run(self) -> RunFolder:
        """Its folder."""
        return self.logbook.run

    @property
    def is_finite(self) -> bool:
        """Whether weights, optimiser and carried state are all numbers that can be gone on with."""
        tensors = (*self.model.parameters(), *self.optimizer.tensors(), *self.state)
        # Asked this way round it is NaN's answer too.
        return all(bool((tensor.abs() <= MAX_NUMBER).all()) for tensor in tensors)

    @property
    def epoch(self) -> float:
        """How often the training part has been read."""
        return self.batches.epoch(self.progress.step)

    @property
    def share(self) -> float:
        """How much of the run is done, from 0 to 1."""
        progress = self.progress
        lengths = (self.batches.batches_per_epoch, progress.reserved_seconds)
        return share_of(self.config.train, progress.step, progress.seconds, *lengths)

    def snapshot(self) -> ModelFile:
        """Return the state of the run: all that going on exactly needs."""
        carried = {f"carried.{index}": part.cpu().numpy().copy() for index, part in enumerate(self.state)}
        return self._model_file(self.model.arrays() | self.optimizer.arrays() | carried, asdict(self.progress))

    def restore(self, snapshot: ModelFile, is_new_text: bool = False) -> None:
        """Go on from a snapshot of the run.

        Args:
            snapshot: what `snapshot` returned.
            is_new_text: whether the text may be another one; then its streams begin with an empty state, and nothing
                that was measured on the old text counts.

        Raises:
            RunError: it is the state of another text, or no state of such a run.
        """
        self._take_over(snapshot, is_new_text)
        self.clock.go_on_from(self.progress.seconds)

    def _take_over(self, snapshot: ModelFile, is_new_text: bool = False) -> None:
        is_same_text = snapshot.corpus.get("sha256") == self.corpus.sha256
        if not (is_same_text or is_new_text):
            raise RunError(
                f"the text has changed since `{self.run.path}` was begun",
                "resume with the same text, or `--new-text` to go on with this one",
            )
        try:
            # Runs of before there was a smoothed loss go on as if it began now, and those without a plan have none.
            begun = {"smoothed_nats": self.progress.smoothed_nats, "reserved_seconds": 0.0, "evaluation_characters": 0}
            begun |= snapshot.metrics
            self.progress = Progress.from_json(begun)
            if snapshot.vocabulary != self.corpus.vocabulary:
                raise ValueError("its symbols are not those of the text")
            if self.progress.step > self.progress.skipped and not self.optimizer.is_described_by(snapshot.arrays):
                raise ValueError("the state of the optimiser is missing")
            self.model.load_arrays(snapshot.weights)
            self.optimizer.load_arrays(snapshot.arrays)
            self.state = self._start_state()
            if not is_same_text:
                self.forget_best()
            else:
                for index, part_LBH in enumerate(self.state):
                    part_LBH.copy_(tensor_of(snapshot.arrays, f"carried.{index}", part_LBH.shape))
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            reason = str(error).splitlines()[0]
            raise RunError(
                f"`{self.run.last}` holds no state that a run could go on from: {reason}",
                "its model can still be used with `--model`, or begin a new run",
            ) from error

    def forget_best(self) -> None:
        """Take the next model that is validated for the best so far."""
        self.progress.best_bits, self.progress.evaluations_without_gain = None, 0

    def reopen(self) -> None:
        """Let a finished run go on whose settings have changed, if by these it is not over."""
        self.progress.settled = False
        if self.share < 1:
            self.progress.finished = ""

    def learn_block(self, block: Batch, rate: float) -> None:
        """Go forward and back through one block and update the weights, unless a number is not finite."""
        device, progress = self.runtime.device, self.progress
        tokens_TB = torch.from_numpy(block.tokens_TB).to(device)
        targets_TB = torch.from_numpy(block.targets_TB).to(device)
        right_SB = None if block.right_SB is None else torch.from_numpy(block.right_SB).to(device)
        begins_B1 = torch.from_numpy(block.begins_B).to(device)[:, None]
        starts = self.model.start_state(self.num_streams)
        state = tuple(torch.where(begins_B1, start, part) for start, part in zip(starts, self.state, strict=True))
        # Drawn from (seed, step) alone: there is no state of a generator to save.
        seed = (self.config.seed or 0, progress.step)
        each, same = self.config.model.dropout, [progress.dropout] * len(self.model.layers)
        dropout = each if isinstance(each, list) else same
        masks = draw_masks(self.model, self.num_streams, dropout, progress.weight_dropout, seed)
        with self.runtime.autocast():
            logits_TBV, after = self.model(tokens_TB, state, masks, right_SB)
        loss = functional.cross_entropy(logits_TBV.float().flatten(0, 1), targets_TB.flatten())
        loss.backward()  # type: ignore[no-untyped-call]
        nats = loss.item()
        if nats <= MAX_LOSS and math.isfinite(self.optimizer.clip()):
            self.optimizer.step(rate, progress.weight_decay, progress.step)
            self.state = tuple(part_LBH.detach().float() for part_LBH in after)
            progress.count(nats)
            self._since_record.add(nats)
        else:
            progress.skip()
        self.optimizer.clear()

    def _start_state(self) -> State:
        return tuple(part_LBH.detach().clone() for part_LBH in self.model.start_state(self.num_streams))

    def _in_units(self, values: dict[str, Any]) -> dict[str, Any]:
        return self.corpus.vocabulary.in_units(values, self.model.spec.sees_both_sides)

    def _settle_regularisation(self) -> None:
        """Fix how much the model is held back from learning by heart, as soon as it is known how often it reads."""
        progress = self.progress
        num_epochs = None if progress.settled else self._epochs_planned()
        if num_epochs is not None:
            self._regularise(num_epochs)
            progress.settled = True

    def _regularise(self, num_epochs: float) -> None:
        given, progress, planned = self.config, self.progress, held_back(num_epochs, self.config.model.num_units)
        dropout, thinning, decay = given.model.dropout, given.model.weight_dropout, given.train.weight_decay
        # Where each layer has its own, they stand in the settings.
        own = 0.0 if isinstance(dropout, list) else dropout
        progress.dropout = planned.dropout if own == "auto" else own
        progress.weight_dropout = planned.weight_dropout if thinning == "auto" else thinning
        decays_by_itself = given.train.optimizer in ("muon", "adamw")
        progress.weight_decay = decay if decay != "auto" else planned.weight_decay if decays_by_itself else 0.0

    def _epochs_planned(self) -> float | None:
        """Return how often the text will have been read; None while a timed run does not know its pace yet."""
        settings, progress = self.config.train, self.progress
        if settings.time is None:
            return settings.epochs or (settings.steps or 0) / self.batches.batches_per_epoch
        learning_seconds = settings.time - progress.reserved_seconds
        steps = self._projection.steps(self.share, progress.step, progress.seconds, learning_seconds)
        return None if steps is None else self.batches.epoch(steps)

    def _model_file(self, arrays: Arrays, metrics: dict[str, Any]) -> ModelFile:
        corpus, runtime = self.corpus.facts(), self.runtime.facts()
        return ModelFile(arrays, self.corpus.vocabulary, self.config.model_dump(), metrics, corpus, runtime)
