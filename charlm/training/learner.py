"""Training on one block at a time: model, optimiser, batches and the state that is carried from block to block."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from charlm.checkpoint import MAX_NUMBER, Arrays
from charlm.data.batches import Batch, Batches, fit_batch
from charlm.data.corpus import Corpus
from charlm.data.holdout import Split, at_documents, hold_out
from charlm.nn.model import CharModel, Masks, State, draw_masks, tensor_of
from charlm.nn.runtime import Runtime
from charlm.settings.config import Config
from charlm.training.counting import Counting
from charlm.training.decisions import is_usable
from charlm.training.distributed import ALONE, World, shares, watched
from charlm.training.optimizer import Optimizer
from charlm.training.regularisation import Regularisation


class Learner:
    """Trains on the blocks of a text. It knows no clock, no run folder, and not how long the run is.

    Of several processes that train together, each reads its share of the streams; all have the same weights.

    Attributes:
        parts: the text, divided into the training part and the held-out parts.
        counting: the n-grams beside the model, and which of the training part it learns.
        num_streams: the streams read side by side (B); fewer in a short text.
        block_size: the characters per stream in a block (T); fewer in a short text.
        model: the model.
        parallel: the same, called in its place, so that the processes exchange their gradients.
        optimizer: updates the model's weights.
        batches: the blocks to read.
        carried: the state of its own streams after the last block, (L, B, H) for each part of the cell's state.
        gradient_norm: the norm of the gradient of the last block, before it was clipped.
    """

    def __init__(
        self, config: Config, corpus: Corpus, runtime: Runtime, parts: Split | None = None, world: World = ALONE
    ) -> None:
        assert config.seed is not None
        self._seed, self._dropout, self._runtime = config.seed, config.model.dropout, runtime
        train = config.train
        self.parts = at_documents(parts or hold_out(corpus, config.data), corpus, config.data)
        self.counting = Counting(config, self.parts.train, len(corpus.vocabulary))
        learned = self.counting.learned
        self.num_streams, self.block_size = fit_batch(
            learned.lengths_S.tolist(), train.batch_size, train.block_size, train.reset_probability
        )
        self.model = CharModel(config.model.spec(len(corpus.vocabulary)))
        self.model.initialise(torch.Generator().manual_seed(config.seed), config.model.initialiser)
        self.model.to(runtime.device)
        self.model.choose_kernel(runtime.lstm_by_blocks)
        self._world, self._streams = world, world.share(self.num_streams)
        self._accumulate = train.accumulate
        self.parallel = world.parallel(self.model)
        self.optimizer = Optimizer(
            self.model, train, runtime.dtype, scales_loss=runtime.precision == "fp16", world=world
        )
        sizes = (self.num_streams, self.block_size)
        self.batches = Batches(learned, self.model.spec, *sizes, config.seed, train.reset_probability)
        self.carried = self._start_state()
        self.gradient_norm = 0.0

    @property
    def characters_per_block(self) -> int:
        """The number of characters that are learned in a block."""
        return self.num_streams * self.block_size

    @property
    def is_finite(self) -> bool:
        """Whether weights, optimiser and carried state hold only numbers that a model file may hold."""
        tensors = (*self.model.parameters(), *self.optimizer.tensors(), *self.carried)
        # Written as `<=`, because a comparison with NaN is false.
        return self._world.all(all(bool((tensor.abs() <= MAX_NUMBER).all()) for tensor in tensors))

    @property
    def replicated(self) -> list[Tensor]:
        """The weights and the state of the optimiser, which are the same in all processes."""
        return [*self.model.parameters(), *self.optimizer.tensors()]

    def learn_block(self, step: int, rate: float, regularisation: Regularisation) -> float | None:
        """Compute the loss and gradients of a block, and update the weights unless a number is not finite.

        Args:
            step: the number of the block; together with the seed it determines all random numbers.
            rate: share of the full learning rate.
            regularisation: the strength of regularisation.

        Returns:
            the loss in nats per character; None if the block was skipped.
        """
        with watched():
            nats, after = self._compute_gradients(step, regularisation)
        self.gradient_norm = self.optimizer.clip()
        is_learned = is_usable(nats, self.gradient_norm)
        if is_learned:
            self.optimizer.step(rate, regularisation.weight_decay, step)
            self.carried = tuple(part_LBH.detach().float() for part_LBH in after)
        self.optimizer.clear()
        return nats if is_learned else None

    def _compute_gradients(self, step: int, regularisation: Regularisation) -> tuple[float, State]:
        """Compute the gradients of a block; return its loss in nats, and the own streams' state after it."""
        batch = self.batches.batch(step)
        same = [regularisation.dropout] * len(self.model.layers)
        dropout = self._dropout if isinstance(self._dropout, list) else same
        # Drawn from (seed, step) alone, so that there is no state of a generator to save.
        masks = draw_masks(self.model, self.num_streams, dropout, regularisation.weight_dropout, (self._seed, step))
        pieces = shares(self._streams, min(self._accumulate, self._streams.stop - self._streams.start))
        nats, states, num_targets_B = 0.0, [], batch.num_targets_B
        for streams in pieces:
            is_last = streams is pieces[-1]
            # The processes exchange their gradients once, with the last piece.
            with nullcontext() if is_last else self._world.without_exchange(self.parallel):
                loss, state = self._read(batch, masks, streams)
                share = float(num_targets_B[streams].sum() / max(1, num_targets_B.sum()))
                # The exchange takes the mean over the processes, and the loss of a block is the mean over its targets.
                self.optimizer.backward(loss * (share * self._world.size))
            nats += loss.item() * share
            states.append(state)
        return self._world.total(nats), tuple(torch.cat(parts, dim=1) for parts in zip(*states, strict=True))

    def _read(self, batch: Batch, masks: list[Masks], streams: slice) -> tuple[Tensor, State]:
        """Read some streams of a block; return the mean of their losses, and their state after it."""
        device, own = self._runtime.device, self._streams

        def own_of(array: NDArray[Any] | None) -> Tensor | None:
            return None if array is None else torch.from_numpy(array[:, streams]).to(device)

        targets_TB = torch.from_numpy(batch.targets_TB[:, streams]).to(device)
        inputs = [own_of(batch.right_SB), own_of(batch.resets_TB), own_of(batch.right_resets_SB)]
        begins_B1 = torch.from_numpy(batch.begins_B[streams]).to(device)[:, None]
        carried = [part_LBH[:, streams.start - own.start : streams.stop - own.start] for part_LBH in self.carried]
        starts = self.model.start_state(len(begins_B1))
        state = tuple(torch.where(begins_B1, start, part) for start, part in zip(starts, carried, strict=True))
        own_masks = [
            mask._replace(outputs_BH=None if mask.outputs_BH is None else mask.outputs_BH[streams]) for mask in masks
        ]
        with self._runtime.autocast():
            logits_TBV, after = self.parallel(own_of(batch.tokens_TB), state, own_masks, *inputs)
        logits_NV = logits_TBV.float().flatten(0, 1)
        if not batch.num_targets_B[streams].any():
            # The mean over no targets would not be a number. All weights have gradients, for the other processes.
            return logits_NV.sum() * 0, after
        return functional.cross_entropy(logits_NV, targets_TB.flatten()), after

    def arrays(self) -> Arrays:
        """Return copies of all arrays that an exact resume needs: weights, optimiser and the state of all streams."""
        carried = {
            f"carried.{index}": self._world.joined(part_LBH, dim=1).cpu().numpy().copy()
            for index, part_LBH in enumerate(self.carried)
        }
        return self.model.arrays() | self.optimizer.arrays() | carried

    def load_arrays(self, weights: Arrays, arrays: Arrays, *, is_same_text: bool) -> None:
        """Load the arrays that `arrays` returned; with another text the streams start with an empty state.

        Raises:
            KeyError, ValueError, RuntimeError: these are no arrays of such a run.
        """
        self.model.load_arrays(weights)
        self.optimizer.load_arrays(arrays)
        self.carried = self._start_state()
        if is_same_text:
            for index, part_LBH in enumerate(self.carried):
                layers, _, units = part_LBH.shape
                everyone_LBH = tensor_of(arrays, f"carried.{index}", torch.Size((layers, self.num_streams, units)))
                part_LBH.copy_(everyone_LBH[:, self._streams])

    def _start_state(self) -> State:
        own = self.model.start_state(self._streams.stop - self._streams.start)
        return tuple(part_LBH.detach().clone() for part_LBH in own)
