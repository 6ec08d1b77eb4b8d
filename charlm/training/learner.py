"""Training on one block at a time: model, optimiser, batches and the state that is carried from block to block."""

from __future__ import annotations

import torch
from torch.nn import functional

from charlm.checkpoint import MAX_NUMBER, Arrays
from charlm.data.batches import Batches, fit_batch
from charlm.data.corpus import Corpus
from charlm.data.documents import document_starts
from charlm.data.holdout import Split, hold_out
from charlm.nn.model import CharModel, State, draw_masks, tensor_of
from charlm.nn.runtime import Runtime
from charlm.settings.config import Config
from charlm.training.counting import Counting
from charlm.training.decisions import is_usable
from charlm.training.optimizer import Optimizer
from charlm.training.regularisation import Regularisation


class Learner:
    """Trains on the blocks of a text. It knows no clock, no run folder, and not how long the run is.

    Attributes:
        parts: the text, divided into the training part and the held-out parts.
        counting: the n-grams beside the model, and which of the training part it learns.
        num_streams: the streams read side by side (B); fewer in a short text.
        block_size: the characters per stream in a block (T); fewer in a short text.
        model: the model.
        optimizer: updates the model's weights.
        batches: the blocks to read.
        carried: the state after the last block, (L, B, H) for each part of the cell's state.
    """

    def __init__(self, config: Config, corpus: Corpus, runtime: Runtime, parts: Split | None = None) -> None:
        assert config.seed is not None
        self._seed, self._dropout, self._runtime = config.seed, config.model.dropout, runtime
        train = config.train
        self.parts = parts or hold_out(corpus, config.data)
        self.counting = Counting(config, self.parts.train, len(corpus.vocabulary))
        learned = self.counting.learned
        self.num_streams, self.block_size = fit_batch(
            learned.lengths_S.tolist(), train.batch_size, train.block_size, train.reset_probability
        )
        self.model = CharModel(config.model.spec(len(corpus.vocabulary)))
        self.model.initialise(torch.Generator().manual_seed(config.seed), config.model.initialiser)
        self.model.to(runtime.device)
        self.model.choose_kernel(runtime.lstm_by_blocks)
        self.optimizer = Optimizer(self.model, train, runtime.dtype)
        sizes = (self.num_streams, self.block_size)
        documents = config.data.documents if config.data.reset_state_at_documents else None
        starts_D = document_starts(corpus, documents) if documents else None
        self.batches = Batches(learned, self.model.spec, *sizes, config.seed, train.reset_probability, starts_D)
        self.carried = self._start_state()

    @property
    def characters_per_block(self) -> int:
        """The number of characters that are learned in a block."""
        return self.num_streams * self.block_size

    @property
    def is_finite(self) -> bool:
        """Whether weights, optimiser and carried state hold only numbers that a model file may hold."""
        tensors = (*self.model.parameters(), *self.optimizer.tensors(), *self.carried)
        # Written as `<=`, because a comparison with NaN is false.
        return all(bool((tensor.abs() <= MAX_NUMBER).all()) for tensor in tensors)

    def learn_block(self, step: int, rate: float, regularisation: Regularisation) -> float | None:
        """Compute the loss and gradients of a block, and update the weights unless a number is not finite.

        Args:
            step: the number of the block; together with the seed it determines all random numbers.
            rate: share of the full learning rate.
            regularisation: the strength of regularisation.

        Returns:
            the loss in nats per character; None if the block was skipped.
        """
        nats, after = self._compute_gradients(step, regularisation)
        is_learned = is_usable(nats, self.optimizer.clip())
        if is_learned:
            self.optimizer.step(rate, regularisation.weight_decay, step)
            self.carried = tuple(part_LBH.detach().float() for part_LBH in after)
        self.optimizer.clear()
        return nats if is_learned else None

    def _compute_gradients(self, step: int, regularisation: Regularisation) -> tuple[float, State]:
        """Compute the gradients of a block; return its loss in nats and the state after it."""
        block, device = self.batches.batch(step), self._runtime.device
        tokens_TB = torch.from_numpy(block.tokens_TB).to(device)
        targets_TB = torch.from_numpy(block.targets_TB).to(device)
        right_SB = None if block.right_SB is None else torch.from_numpy(block.right_SB).to(device)
        begins_B1 = torch.from_numpy(block.begins_B).to(device)[:, None]
        starts = self.model.start_state(self.num_streams)
        state = tuple(torch.where(begins_B1, start, part) for start, part in zip(starts, self.carried, strict=True))
        same = [regularisation.dropout] * len(self.model.layers)
        dropout = self._dropout if isinstance(self._dropout, list) else same
        # Drawn from (seed, step) alone, so that there is no state of a generator to save.
        masks = draw_masks(self.model, self.num_streams, dropout, regularisation.weight_dropout, (self._seed, step))
        with self._runtime.autocast():
            logits_TBV, after = self.model(tokens_TB, state, masks, right_SB)
        loss = functional.cross_entropy(logits_TBV.float().flatten(0, 1), targets_TB.flatten())
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.item(), after

    def arrays(self) -> Arrays:
        """Return copies of all arrays that an exact resume needs: weights, optimiser and carried state."""
        carried = {f"carried.{index}": part.cpu().numpy().copy() for index, part in enumerate(self.carried)}
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
                part_LBH.copy_(tensor_of(arrays, f"carried.{index}", part_LBH.shape))

    def _start_state(self) -> State:
        return tuple(part_LBH.detach().clone() for part_LBH in self.model.start_state(self.num_streams))
