"""How far back a model sees: every figure as from torch or from steps by hand, whatever is read side by side."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from threading import Event
from threading import enumerate as enumerate_threads
from typing import Any

import numpy as np
import pytest
import torch

from charlm.checkpoint import ModelFile
from charlm.errors import ModelFileError, UsageError
from charlm.inference import reach
from charlm.inference.language_model import LanguageModel
from charlm.inference.reach import change_effect, evenly_spaced, loss_by_context
from charlm.inference.sampling import softmax
from charlm.inference.stepper import Stepper
from tests.helpers.evaluation import module_of, random_ids
from tests.helpers.model_files import with_ngrams

Make = Callable[..., ModelFile]
# More places than a short text has, so that all of them are taken.
ALL = 1000


def from_fresh(file: ModelFile, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Let torch read a text from the initial state, and return the logarithms of what follows, and the state."""
    module = module_of(file)
    with torch.inference_mode():
        logits, state = module(torch.from_numpy(ids.astype(np.int64))[:, None], module.start_state(1))
    parts = torch.cat([part.flatten() for part in state]).double().numpy()
    return torch.log_softmax(logits[-1, 0].double(), dim=0).numpy(), parts


@pytest.mark.parametrize("settings", [{}, {"embedding_size": 0}, {"initial_state": "learned"}], ids=str)
@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn", "mingru"])
def test_the_loss_of_a_context_is_that_of_torch(make_model: Make, cell: str, settings: dict[str, Any]) -> None:
    """Each character is predicted by torch from exactly so many characters, and all rows are about the same ones."""
    file, ids = make_model(cell, 2, **settings), random_ids(19)
    rows = loss_by_context(Stepper(file), [ids], 8, ALL)
    assert [(row.context, row.characters, row.net_bits) for row in rows] == [
        (context, 11, None) for context in (1, 2, 4, 8, None)
    ]
    for row in rows[:-1]:
        assert row.context is not None
        nats = [-from_fresh(file, ids[place - row.context : place])[0][ids[place]] for place in range(8, 19)]
        assert row.bits == pytest.approx(np.mean(nats) / np.log(2), abs=1e-5)


@pytest.mark.parametrize("direction", ["forward", "backward"])
@pytest.mark.parametrize("has_ngrams", [False, True])
def test_the_full_context_costs_what_the_text_costs(make_model: Make, direction: str, has_ngrams: bool) -> None:
    """The last row is the mean of `score` over the same characters: a backward model predicts what comes before."""
    file = make_model("gru", 2, direction=direction)
    file = with_ngrams(file) if has_ngrams else file
    model, text = LanguageModel(file), file.vocabulary.decode(random_ids(50))
    row = model.loss_by_context(text, 8, ALL)[-1]
    bits = model.score(text)
    assert row.bits == pytest.approx(float((bits[:-8] if direction == "backward" else bits[8:]).mean()), abs=1e-9)
    net = LanguageModel(replace(file, arrays=file.weights)).score(text)
    if has_ngrams:
        assert row.net_bits == pytest.approx(float((net[:-8] if direction == "backward" else net[8:]).mean()), abs=1e-9)


def test_a_model_with_ngrams_has_a_figure_for_both(make_model: Make) -> None:
    """The first is that of a step by hand of the mixture, the second that of the net alone."""
    net = make_model("lstm")
    stepper, ids = Stepper(with_ngrams(net)), random_ids(12)
    for row in loss_by_context(stepper, [ids], 4, ALL)[:-1]:
        bits = []
        for place in range(4, 12):
            state = stepper.before(1)
            for index in ids[place - (row.context or 0) : place]:
                logits_BV, state = stepper.step(np.array([index]), state)
            bits.append(-np.log2(softmax(logits_BV)[0, ids[place]]))
        assert row.bits == pytest.approx(float(np.mean(bits)), abs=1e-9)
    alone = loss_by_context(Stepper(net), [ids], 4, ALL)
    mixed = loss_by_context(stepper, [ids], 4, ALL)
    assert [row.net_bits for row in mixed] == pytest.approx([row.bits for row in alone], abs=1e-9)
    effects = change_effect(stepper, [ids]), change_effect(Stepper(net), [ids])
    for found, wanted in zip(*effects, strict=True):
        assert (found.net_bits, found.state_share) == pytest.approx((wanted.bits, wanted.state_share), abs=1e-9)
        assert found.bits != pytest.approx(wanted.bits, abs=1e-3)


def test_a_backward_model_sees_what_follows(make_model: Make) -> None:
    """A backward model on a text has the figures of the same layers from the left on the reversed text."""
    forward, ids = make_model("gru"), random_ids(40)
    backward = make_model("gru", direction="backward")
    for measure in (loss_by_context, change_effect):
        assert measure(Stepper(backward), [ids]) == measure(Stepper(forward), [ids[::-1]])


def test_nothing_is_carried_from_stretch_to_stretch(make_model: Make) -> None:
    """Two stretches of one length have the mean of their figures, in any context."""
    stepper, one, other = Stepper(make_model()), random_ids(30, 1), random_ids(30, 2)
    both, *each = (loss_by_context(stepper, some, 8, ALL) for some in ([one, other], [one], [other]))
    assert [row.bits for row in both] == pytest.approx(np.mean([[row.bits for row in rows] for rows in each], axis=0))


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_the_effect_of_a_change_is_that_of_torch(make_model: Make, cell: str) -> None:
    """Of two different characters each is replaced by the other, and torch reads both texts."""
    file, ids = make_model(cell, 2), random_ids(24) % 2
    rows = change_effect(Stepper(file), [ids], 4, ALL)
    divergences: dict[int, list[float]] = {1: [], 2: [], 4: []}
    norms: dict[int, list[float]] = {1: [], 2: [], 4: []}
    for place in range(4, 21):
        for distance in divergences:
            text, changed = ids[place - 4 : place + distance].copy(), ids[place - 4 : place + distance].copy()
            changed[4] = 1 - changed[4]
            (log_p, state), (log_q, other) = from_fresh(file, text), from_fresh(file, changed)
            divergences[distance].append((np.exp(log_p) * (log_p - log_q)).sum() / np.log(2))
            norms[distance].append(float(np.linalg.norm(state - other)))
    assert [(row.distance, row.characters) for row in rows] == [(1, 17), (2, 17), (4, 17)]
    for row in rows:
        assert row.bits == pytest.approx(np.mean(divergences[row.distance]), abs=1e-5)
        assert row.state_share == pytest.approx(np.mean(norms[row.distance]) / np.mean(norms[1]), abs=1e-5)


def test_a_seed_repeats_the_changes(make_model: Make) -> None:
    """The same seed gives the same figures, and another one others."""
    stepper, ids = Stepper(make_model()), random_ids(60)
    first = change_effect(stepper, [ids], seed=1)
    assert change_effect(stepper, [ids], seed=1) == first != change_effect(stepper, [ids], seed=2)


def test_no_character_takes_its_own_place() -> None:
    """Every replaced character becomes another one of the text, also where one is much more frequent."""
    text = np.bincount([3] * 50 + [5])
    replaced = np.array([3] * 30 + [5])
    assert reach._others(text, replaced, 1).tolist() == [5] * 30 + [3]


def test_no_figure_depends_on_what_is_read_together(make_model: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Groups of any size and any number of cores give the same bits."""
    stepper, ids = Stepper(with_ngrams(make_model())), random_ids(200)
    before = loss_by_context(stepper, [ids], 16), change_effect(stepper, [ids], 16)
    monkeypatch.setattr(reach, "STREAMS_TOGETHER", 7)
    monkeypatch.setattr(reach, "usable_cores", lambda: 3)
    assert (loss_by_context(stepper, [ids], 16), change_effect(stepper, [ids], 16)) == before


@pytest.mark.parametrize("measure", [loss_by_context, change_effect])
@pytest.mark.parametrize("lengths", [[200], [60, 5, 90]], ids=str)
def test_all_that_is_read_is_reported(make_model: Make, measure: Callable[..., Any], lengths: list[int]) -> None:
    """The last report is that all characters were read, and no report is beyond it; the figures are the same."""
    stepper, texts = Stepper(make_model()), [random_ids(length) for length in lengths]
    reports: list[tuple[int, int]] = []
    figures = measure(stepper, texts, 16, 40, progress=lambda *report: reports.append(report))
    assert figures == measure(stepper, texts, 16, 40)
    assert reports[-1][0] == reports[-1][1]
    assert all(0 <= done <= total for done, total in reports)


def test_ctrl_c_ends_all_that_is_read_side_by_side(make_model: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """After an interruption each core takes at most one more step: nobody waits for the end of the others."""
    stepper, steps = Stepper(make_model()), []
    advance = stepper.advance
    is_interrupted = Event()

    def step(*arguments: Any) -> Any:
        steps.append(is_interrupted.is_set())
        assert is_interrupted.wait(60)
        return advance(*arguments)

    def interrupt(done: int, total: int) -> None:
        is_interrupted.set()
        raise KeyboardInterrupt

    monkeypatch.setattr(stepper, "advance", step)
    monkeypatch.setattr(reach, "usable_cores", lambda: 2)
    monkeypatch.setattr(reach, "REPORT_EVERY", 0)
    for measure in (loss_by_context, change_effect):
        steps.clear()
        is_interrupted.clear()
        with pytest.raises(KeyboardInterrupt):
            measure(stepper, [random_ids(600)], 256, progress=interrupt)
        assert len(steps) <= 2 + 2
    assert not any(thread.name.startswith("reach") for thread in enumerate_threads())


def test_a_long_text_is_not_read_from_its_start(make_model: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no row for all characters then, and the others stay."""
    stepper, ids = Stepper(make_model()), random_ids(50)
    rows = loss_by_context(stepper, [ids], 8)
    monkeypatch.setattr(reach, "MAX_READ", 49)
    assert loss_by_context(stepper, [ids], 8) == rows[:-1]


@pytest.mark.parametrize(("length", "context", "longest"), [(2, 9, 1), (3, 99, 1), (16, 9, 8), (15, 9, 4), (99, 9, 8)])
def test_contexts_are_powers_of_two_that_fit(make_model: Make, length: int, context: int, longest: int) -> None:
    """The longest is at most what was asked for, and at most half of the text."""
    rows = loss_by_context(Stepper(make_model()), [random_ids(length)], context)
    assert rows[-2].context == longest
    assert rows[-1].context is None


def test_places_are_spread_evenly_and_have_room() -> None:
    """Every place has its characters before and after it in its own text, and no place comes twice."""
    texts = [np.zeros(size, np.uint8) for size in (100, 3, 10, 200)]
    places = evenly_spaced(texts, 30, 5, 4)
    assert len({tuple(place) for place in places.tolist()}) == 30
    assert {int(text) for text, _ in places} == {0, 3}
    assert all(5 <= place < len(texts[text]) - 4 for text, place in places)
    positions = np.array([place for text, place in places if text == 3])
    assert set(np.diff(positions)) <= {9, 10}
    every = evenly_spaced(texts, 999, 5, 4).tolist()
    assert every == [[text, place] for text, size in ((0, 100), (2, 10), (3, 200)) for place in range(5, size - 4)]


@pytest.mark.parametrize(
    ("text", "options", "said"),
    [
        ("", {}, "too short: it has 0 characters"),
        ("a", {}, "too short: it has 1 character"),
        ("abcabc", {"max_context": 0}, "at least 1, not 0"),
        ("abcabc", {"num_targets": 0}, "at least 1, not 0"),
        ("aaaaaa", {"seed": 1}, "only one different character"),
        ("abcabc", {"seed": -1}, "a seed must be 0 or more"),
        ("abcabc", {"max_distance": -3}, "at least 1, not -3"),
        ("abcabc", {"num_changes": 0}, "at least 1, not 0"),
    ],
)
def test_what_cannot_be_measured_is_refused(make_model: Make, text: str, options: dict[str, Any], said: str) -> None:
    """A text that is too short, or a number out of its bounds, is a `UsageError`."""
    model = LanguageModel(make_model())
    method = model.change_effect if {"seed", "max_distance", "num_changes"} & set(options) else model.loss_by_context
    with pytest.raises(UsageError, match=said):
        method(text, **options)


def test_a_state_that_overflows_is_refused(make_model: Make) -> None:
    """Weights of an untrusted file give an error and no figures that are no numbers."""
    file = make_model("rnn-relu")
    large = {name: array * np.float32(1e9) for name, array in file.weights.items()}
    model = LanguageModel(replace(file, arrays=large))
    for method in (model.loss_by_context, model.change_effect):
        with pytest.raises(ModelFileError, match="overflows"):
            method("abcdefgh" * 20)


def test_a_model_of_both_sides_is_refused(make_model: Make) -> None:
    """It has no context that ends before a character."""
    model = LanguageModel(make_model(direction="both"))
    for method in (model.loss_by_context, model.change_effect):
        with pytest.raises(UsageError, match="both sides"):
            method("abcabc")
