"""Models reach known entropies and do not undercut them, and held-out text and measurements teach them nothing."""

from __future__ import annotations

import functools
import math
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from charlm.cells import CELLS
from charlm.checkpoint import ModelFile, load_checkpoint
from charlm.cli.train_session import verdict
from charlm.evaluation.dynamic import evaluate_dynamically
from charlm.evaluation.evaluate import Scores, evaluate
from charlm.evaluation.scored_text import load_own_text
from charlm.nn.model import CharModel
from charlm.training.trainer import Trainer
from charlm.training.validation import MIN_VALIDATION_CHARACTERS
from charlm.vocab import Ids
from tests.helpers.commands import SHORT, SMALL, call
from tests.helpers.evaluation import module_of
from tests.helpers.training import CAT_AND_DOG, begin, interrupt, metrics

Floats = NDArray[np.float64]

SYMBOLS = "abcde"
NUM_CHARACTERS = 80_000
HELD_OUT = 0.25
# The largest excess of a trained model over its source, and the standard errors by which it may be below by chance.
MAX_EXCESS = 0.03
STANDARD_ERRORS = 4


class Source:
    """A Markov source of order 2 over five characters, its table drawn from a Dirichlet distribution."""

    def __init__(self, seed: int) -> None:
        size = len(SYMBOLS)
        # p_AAV[a, b, c] is the probability of c after a b.
        self.p_AAV: Floats = np.random.default_rng(seed).dirichlet([0.5] * size, size=(size, size))

    def draw(self, length: int, seed: int) -> NDArray[np.int64]:
        """Draw ids."""
        cumulative_AAV = self.p_AAV.cumsum(axis=-1)[..., :-1]
        ids, before, last = np.zeros(length, dtype=np.int64), 0, 0
        for position, drawn in enumerate(np.random.default_rng(seed).random(length)):
            before, last = last, int((cumulative_AAV[before, last] <= drawn).sum())
            ids[position] = last
        return ids

    def nats(self, ids: NDArray[np.int64]) -> Floats:
        """Return -ln p of every character but the first two, each given the two before it."""
        nats: Floats = -np.log(self.p_AAV[ids[:-2], ids[1:-1], ids[2:]])
        return nats

    def entropy_rate(self, order: int = 2) -> float:
        """Return the long-run mean of -ln p, given the `order` characters before each character."""
        size = len(SYMBOLS)
        step = np.zeros((size * size, size * size))
        for a, b, c in np.ndindex(size, size, size):
            step[a * size + b, b * size + c] = self.p_AAV[a, b, c]
        pairs = np.linalg.matrix_power(step, 1 << 12)[0].reshape(size, size)
        joint = pairs[..., None] * self.p_AAV
        if order == 1:
            joint = joint.sum(axis=0)
        return float(-(joint * np.log(joint / joint.sum(axis=-1, keepdims=True))).sum())


def layers_for(cell: str) -> int:
    """Return the number of layers that a cell needs to learn these texts.

    If the gates do not see the state, the state of one layer is a sum of separate contributions of the characters, and
    logits linear in it cannot express which characters came together; a second layer can.
    """
    return 1 if CELLS[cell].products else 2


@functools.cache
def source_and_ids() -> tuple[Source, NDArray[np.int64]]:
    """Return a source and a text of it."""
    source = Source(seed=1)
    return source, source.draw(NUM_CHARACTERS, seed=2)


def learned(cell: str) -> tuple[Trainer, NDArray[np.int64]]:
    """Train a small model on a text of the source; return it and the text's ids."""
    _, ids = source_and_ids()
    training = begin(
        text="".join(SYMBOLS[index] for index in ids),
        model__cell=cell,
        model__num_layers=layers_for(cell),
        model__hidden_size=48,
        data__validation_fraction=HELD_OUT,
        train__steps=150 if CELLS[cell].products else 300,
        train__batch_size=48,
        train__block_size=12,
        train__learning_rate=0.01,
        train__evaluations=1,
    )
    interrupt(training, 1000)
    np.testing.assert_array_equal(training.corpus.ids, ids)
    return training, ids


def nats_of_each(model: CharModel, ids: Ids) -> Floats:
    """Return -ln p of every character, read in one stream from the start of a text."""
    tokens_TB = torch.from_numpy(np.append(model.output.out_features, ids[:-1]).astype(np.int64))[:, None]
    with torch.no_grad():
        logits_TBV, _ = model(tokens_TB, model.start_state(1))
    log_p_TV: Floats = torch.log_softmax(logits_TBV[:, 0].double(), dim=-1).numpy()
    return -log_p_TV[np.arange(len(ids)), ids]


def standard_error(values: Floats) -> float:
    """Return the standard error of the mean of these values."""
    return float(values.std() / math.sqrt(len(values)))


# The other cells take as long, and their equations are tested one by one.
QUICK = ("lstm", "gru", "mingru")
some_cells = pytest.mark.parametrize(
    "cell", [cell if cell in QUICK else pytest.param(cell, marks=pytest.mark.slow) for cell in CELLS]
)


@some_cells
def test_a_source_is_learned_to_its_entropy_and_not_below(cell: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On held-out text each cell costs at most 3 % more than the source itself, and is never lower beyond chance.

    The bound: given all characters before it, a character costs any model on average at least as much as the source
    that draws it. So the mean difference over the held-out characters, each paired with itself, is at least -4
    of its standard errors. One character of context alone would cost 50 % more, so the state must be used.
    """
    source, _ = source_and_ids()
    training, ids = learned(cell)
    held_out = training.learner.parts.validation.joined()
    assert len(held_out) == HELD_OUT * NUM_CHARACTERS
    truth = source.nats(ids[-len(held_out) - 2 :])
    found = nats_of_each(training.learner.model, held_out)
    scored = evaluate(training.learner.model, held_out).nats_per_character
    rate = source.entropy_rate()
    assert abs(truth.mean() - rate) < STANDARD_ERRORS * standard_error(truth)
    assert source.entropy_rate(order=1) > 1.4 * rate
    assert rate < 0.7 * math.log(len(SYMBOLS))

    difference = found - truth
    print(
        f"{cell}: {scored:.4f} nats, the source {truth.mean():.4f} (entropy rate {rate:.4f}), "
        f"excess {difference.mean() / truth.mean():.2%}, {difference.mean() / standard_error(difference):+.1f} errors"
    )
    assert scored - truth.mean() > -STANDARD_ERRORS * standard_error(difference)
    # Streams side by side start from a state that is nearly that of one stream.
    assert scored == pytest.approx(found.mean(), rel=0.01)
    monkeypatch.setattr("charlm.evaluation.segments.MAX_STREAMS", 1)
    assert evaluate(training.learner.model, held_out).nats_per_character == pytest.approx(found.mean(), abs=1e-4)
    assert scored < (1 + MAX_EXCESS) * truth.mean()
    assert scored < (1 + MAX_EXCESS) * rate


@some_cells
def test_each_cell_scores_an_overfit_text_at_next_to_nothing(cell: str) -> None:
    """The finished model needs under 0.05 nats for each of 100 random characters, by the ordinary evaluation."""
    training = begin(
        text="".join(np.random.default_rng(8).choice(list("abcdefgh \n"), size=100)),
        model__cell=cell,
        model__num_layers=layers_for(cell),
        model__hidden_size=64,
        data__validation_fraction=0.0,
        train__batch_size=1,
        train__block_size=25,
        train__steps=120,
        train__weight_decay=0.0,
    )
    interrupt(training, 1000)
    assert len(training.learner.parts.train) == 100
    scores = evaluate(training.learner.model, training.learner.parts.train)
    print(f"{cell}: {scores.nats_per_character:.4f} nats")
    assert scores.nats_per_character < 0.05
    assert scores.top1_accuracy > 0.98
    assert evaluate(training.learner.model, training.learner.parts.train.joined()[::-1]).nats_per_character > 1


def arrays_after(name: str, **changes: Any) -> dict[str, NDArray[Any]]:
    """Train to the end and return all arrays of the last model's file: weights, optimiser, carried state."""
    training = begin(name, **changes)
    interrupt(training, 1000)
    assert training.state.finished == "done"
    arrays = load_checkpoint(training.run.last).arrays
    for array_name, array in training.learner.model.arrays().items():
        np.testing.assert_array_equal(array, arrays[array_name])
    assert {array_name.partition(".")[0] for array_name in arrays} >= {"layers", "output", "optimizer", "carried"}
    return arrays


def assert_equal(one: dict[str, NDArray[Any]], other: dict[str, NDArray[Any]]) -> None:
    """Compare arrays by name, bit for bit."""
    assert one.keys() == other.keys()
    for name, array in one.items():
        assert array.tobytes() == other[name].tobytes(), name


@some_cells
def test_another_held_out_text_gives_the_same_last_model(cell: str) -> None:
    """The held-out text may be anything: weights, optimiser and carried state are the same bit for bit.

    The characters and their number stay the same, because the vocabulary is that of the whole text. Not even the
    first validation or test character is an input.
    """
    changes: dict[str, Any] = {"model__cell": cell, "data__validation_fraction": 0.1, "data__test_fraction": 0.1}
    changes |= {"train__steps": 40, "train__reset_probability": 0.1, "model__dropout": 0.3}
    text = CAT_AND_DOG[:600]
    train_end = int(len(text) * 0.8)
    other_text = text[:train_end] + "".join(random.Random(1).choices(sorted(set(text)), k=len(text) - train_end))
    runs = []
    for name, given in (("one", text), ("other", other_text)):
        runs.append(begin(name, given, **changes))
        interrupt(runs[-1], 1000)
    one, other = runs
    assert one.epoch > 3
    assert one.corpus.vocabulary.symbols == other.corpus.vocabulary.symbols
    assert len(one.learner.parts.train) == train_end
    assert not np.array_equal(one.learner.parts.validation.joined(), other.learner.parts.validation.joined())
    assert_equal(load_checkpoint(one.run.last).arrays, load_checkpoint(other.run.last).arrays)
    key = "validation_bits_per_character"
    assert [record.get(key) for record in metrics(one)] != [record.get(key) for record in metrics(other)]
    assert [{**record, key: 0} for record in metrics(one)] == [{**record, key: 0} for record in metrics(other)]


@pytest.mark.parametrize(
    ("num_characters", "validation", "test", "batch", "block"),
    [(900, 0.1, 0.0, 4, 10), (900, 0.1, 0.2, 3, 7), (901, 0.5, 0.0, 64, 64), (777, 0.01, 0.01, 5, 9),
     (50, 0.5, 0.4, 4, 4)],
)  # fmt: skip
def test_no_held_out_position_reaches_a_gradient(
    monkeypatch: pytest.MonkeyPatch, num_characters: int, validation: float, test: float, batch: int, block: int
) -> None:
    """In a text whose every character is its own position, all inputs and targets lie before the held-out part.

    The test checks the model's input whenever gradients are kept, and the targets of the loss, over several epochs
    whose blocks have different offsets.
    """
    training = begin(
        text="".join(map(chr, range(0x4E00, 0x4E00 + num_characters))),
        data__validation_fraction=validation,
        data__test_fraction=test,
        train__batch_size=batch,
        train__block_size=block,
        train__steps=None,
        train__epochs=5.0,
        train__reset_probability=0.2,
    )
    np.testing.assert_array_equal(training.corpus.ids, np.arange(num_characters))
    read: set[int] = set()
    taught: set[int] = set()
    forward, loss = training.learner.model.forward, torch.nn.functional.cross_entropy

    def spy_forward(tokens_TB: torch.Tensor, *arguments: Any) -> Any:
        if torch.is_grad_enabled():
            read.update(tokens_TB.flatten().tolist())
        return forward(tokens_TB, *arguments)

    def spy_loss(logits: torch.Tensor, targets: torch.Tensor, **options: Any) -> torch.Tensor:
        taught.update(targets.flatten().tolist())
        return loss(logits, targets, **options)

    monkeypatch.setattr(training.learner.model, "forward", spy_forward)
    monkeypatch.setattr(torch.nn.functional, "cross_entropy", spy_loss)
    interrupt(training, 10_000)
    assert training.state.finished == "done"
    train, *others = (part.joined() for part in training.learner.parts)
    held_out = {*others[0].tolist(), *others[1].tolist()}
    assert len(held_out) == num_characters - len(training.learner.parts.train) > 0
    start = num_characters
    assert not (read | taught) & held_out
    assert taught <= set(train.tolist())
    assert read - {start} <= set(train.tolist())
    assert len(taught) > 0.9 * len(training.learner.parts.train)
    for part in others:
        assert not np.shares_memory(train, part)


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_validation_changes_no_trained_bit(optimizer: str) -> None:
    """One evaluation or eight, of 5 characters or of all, give the same weights, optimiser and carried state."""
    changes: dict[str, Any] = {
        "train__optimizer": optimizer,
        "train__steps": 48,
        "train__reset_probability": 0.2,
        "model__dropout": 0.3,
        "model__weight_dropout": 0.3,
    }
    runs = [
        arrays_after(f"run-{evaluations}-{characters}", **changes,
                     train__evaluations=evaluations, train__evaluation_characters=characters)
        for evaluations in (1, 8) for characters in (5, 20_000)
    ]  # fmt: skip
    for other in runs[1:]:
        assert_equal(runs[0], other)


EVALUATIONS: dict[str, Callable[[CharModel, Ids], Scores]] = {
    "carried": evaluate,
    "windows": lambda model, ids: evaluate(model, ids, window=7),
    "dynamic": evaluate_dynamically,
}


@pytest.fixture
def short_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    """A text of a thousand characters is read in two streams."""
    monkeypatch.setattr("charlm.evaluation.segments.MIN_CHARACTERS_PER_STREAM", 400)


@pytest.mark.parametrize("name", EVALUATIONS)
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("mode", [True, False])
@pytest.mark.usefixtures("short_streams")
def test_evaluation_changes_no_state(make_model: Callable[..., ModelFile], name: str, cell: str, mode: bool) -> None:
    """Weights, pending gradients, `requires_grad`, the mode, and torch's, NumPy's and Python's random states stay."""
    module = module_of(make_model(cell, 2)).train(mode)
    module.layers[0].train(not mode)
    parameters = list(module.parameters())
    ids = np.random.default_rng(6).integers(10, size=100 if name == "dynamic" else 1000).astype(np.uint8)
    tokens_TB = torch.from_numpy(ids[:20].astype(np.int64))[:, None]
    module(tokens_TB, module.start_state(1))[0].sum().backward()

    def everything() -> list[Any]:
        weights = [(weight.tolist(), None if weight.grad is None else weight.grad.tolist()) for weight in parameters]
        modes = [part.training for part in module.modules()], [weight.requires_grad for weight in parameters]
        generators = torch.get_rng_state().tolist(), str(np.random.get_state()), random.getstate()  # noqa: NPY002
        return [weights, modes, generators, torch.is_grad_enabled(), torch.is_inference_mode_enabled()]

    before = everything()
    EVALUATIONS[name](module, ids)
    assert everything() == before


@pytest.mark.parametrize("num_symbols", [1, 2, 10, 95, 300])
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("window", [None, 64])
@pytest.mark.usefixtures("short_streams")
def test_a_uniform_model_scores_exactly_log2_of_the_vocabulary(
    make_model: Callable[..., ModelFile], num_symbols: int, cell: str, window: int | None
) -> None:
    """The output weights are zero, so the score is exact to the last bit of a float32, whatever the rest computes."""
    module, ids = uniform(make_model, num_symbols, cell)
    scores = evaluate(module, ids, window)
    assert scores.characters == len(ids)
    assert scores.bits_per_character == pytest.approx(math.log2(num_symbols), rel=2**-23, abs=0)
    assert scores.perplexity_per_character == pytest.approx(num_symbols, rel=1e-6)


def test_a_uniform_model_is_right_no_more_often_than_chance(make_model: Callable[..., ModelFile]) -> None:
    """If all characters are equally probable, top-1 and top-5 accuracy are those of one and five guesses, not 100 %."""
    module, _ = uniform(make_model, 10, "lstm")
    scores = evaluate(module, np.tile(np.arange(10, dtype=np.uint8), 50))
    assert (scores.top1_accuracy, scores.top5_accuracy) == (0.1, 0.5)


def test_too_little_held_out_gives_no_verdict() -> None:
    """The best model is unknown then: the last model is kept, and in this run an earlier one scored better."""
    odd = CAT_AND_DOG[:400] + "qxzj vkw " * 5
    training = begin(text=odd, train__steps=200, train__evaluations=40, model__hidden_size=64)
    interrupt(training, 1000)
    assert 0 < len(training.learner.parts.validation) < MIN_VALIDATION_CHARACTERS
    found = [record.get("validation_bits_per_character", math.inf) for record in metrics(training)]
    assert min(found) < found[-1]
    assert "was the best" not in verdict(training)


def test_the_best_model_is_measured_again_after_a_resume() -> None:
    """If the resumed run measures more of the held-out part, a lucky score on less of it does not stand for ever."""
    easy = "-" * 100
    text = "".join(CAT_AND_DOG[start : start + 400] + easy for start in range(0, 2400, 400))
    Path("text.txt").write_text(text + easy[:70] + CAT_AND_DOG[:230], encoding="utf-8")
    for options, glance, steps in (
        (["-c", "text.txt", *SMALL, "--seed", "1", "--out", "run"], 64, 60),
        (["--resume", "run"], 20_000, 240),
    ):
        changes = ["--set", f"train.evaluation_characters={glance}", "--set", f"train.steps={steps}"]
        call("train", *options, *changes, "--sample-length", "0")
    figures = []
    for name in ("best", "last"):
        file = load_checkpoint(Path(f"run/{name}.safetensors"))
        train = load_checkpoint(Path("run/last.safetensors")).config["train"]
        measured = load_own_text(file).ids.beginnings(train["evaluation_characters"])
        figures.append(evaluate(module_of(file), measured).bits_per_character)
    best, last = figures
    assert best <= last


def test_a_score_is_in_the_unit_it_is_reported_in() -> None:
    """In a vocabulary of bytes a Chinese character is three symbols: bits per symbol are not bits per character."""
    options = [*SHORT, "--set", "vocab=bytes", "--set", "model.ngram_order=0", "--sample-length", "0"]
    call("train", "-c", "fables-zh", *options, "--out", "run")
    file = load_checkpoint(Path("run/best.safetensors"))
    held_out = load_own_text(file).ids.joined()
    reported = re.search(r"([\d.]+) bits per (character|byte)", call("eval", "-m", "run", "--no-baselines").stdout)
    assert reported
    units = {"byte": len(held_out), "character": len(held_out.tobytes().decode(errors="ignore"))}
    bits = evaluate(module_of(file), held_out).bits_per_character * len(held_out)
    assert float(reported[1]) * units[reported[2]] == pytest.approx(bits, rel=1e-3)


def uniform(make_model: Callable[..., ModelFile], num_symbols: int, cell: str) -> tuple[CharModel, Ids]:
    """Return a model that finds all characters equally probable, and a text."""
    module = module_of(make_model(cell, 1, "".join(map(chr, range(0x4E00, 0x4E00 + num_symbols)))))
    with torch.no_grad():
        module.output.weight.zero_()
        module.output.bias.zero_()
    return module, np.random.default_rng(6).integers(num_symbols, size=1001).astype(np.uint16)
