"""What a run writes down beside its losses: norms of gradients, samples with their bits, and the n-grams to beat."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from charlm.checkpoint import load_checkpoint
from charlm.cli.train_session import verdict
from charlm.data.gaps import Gapped
from charlm.data.holdout import Part
from charlm.evaluation.baselines import kneser_ney, nats_by_order
from charlm.evaluation.compare import compare_runs
from charlm.evaluation.evaluate import in_reading_order
from charlm.evaluation.segments import sample
from charlm.inference.generate import generate
from charlm.inference.kneser_ney import count
from charlm.inference.sampling import Sampling
from charlm.inference.score import score_symbols
from charlm.inference.stepper import Stepper
from charlm.training import samples
from charlm.training.baseline import measure_baseline
from charlm.training.counting import Counting
from charlm.training.events import Baseline
from charlm.training.run import Run
from charlm.training.samples import is_sample_due
from charlm.training.trainer import Trainer
from tests.helpers.evaluation import NUM_SYMBOLS, random_ids
from tests.helpers.training import CAT_AND_DOG, Hours, begin, events_of, interrupt, records, resume, training_of

CHINESE = "子曰学而时习之不亦说乎有朋自远方来不亦乐乎人不知而不愠不亦君子乎。" * 30


def lines_of(training: Trainer) -> list[dict[str, Any]]:
    """Return all lines of `metrics.jsonl`, which must be strict JSON."""

    def refuse(constant: str) -> None:
        raise ValueError(constant)

    text = training.run.metrics.read_text(encoding="utf-8")
    return [json.loads(line, parse_constant=refuse) for line in text.splitlines()]


def test_a_record_has_the_mean_norm_of_its_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    """The norm is the mean over the blocks of the loss beside it, before the gradient is clipped."""
    norms: list[float] = []
    training = begin(train__steps=8, train__evaluations=2, train__clip_norm=0.01)
    clip = training.learner.optimizer.clip

    def listen() -> float:
        gradients = [weights.grad for weights in training.learner.model.parameters() if weights.grad is not None]
        norms.append(math.sqrt(sum(float((gradient**2).sum()) for gradient in gradients)))
        return clip()

    monkeypatch.setattr(training.learner.optimizer, "clip", listen)
    interrupt(training, 100)
    step, found = 0, records(training)
    for record in found:
        assert record["gradient_norm"] == pytest.approx(np.mean(norms[step : record["step"]]), rel=1e-4)
        step = record["step"]
    assert len(found) > 1


def test_a_validation_comes_with_a_sample_and_its_bits() -> None:
    """The sample is the text that `charlm sample` writes with the same seed, and `charlm score` gives its bits."""
    training = begin(train__steps=60, train__evaluations=2)
    interrupt(training, 1000)
    found = records(training)
    assert all(("sample" in record) == ("validation_bits_per_character" in record) for record in found)
    stepper = Stepper(load_checkpoint(training.run.last))
    (expected,) = generate(stepper, "", length=samples.LENGTH, sampling=Sampling(0.7), seeds=[0]).texts()
    assert found[-1]["sample"] == expected
    bits = score_symbols(stepper, stepper.vocabulary.encode(expected)).bits_T
    np.testing.assert_allclose(found[-1]["sample_bits"], bits, atol=0.006)


@pytest.mark.parametrize("kind", ["characters", "bytes"])
@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_every_character_of_a_sample_has_its_bits(kind: str, direction: str) -> None:
    """A Chinese character of a model of bytes has the bits of its bytes, also if the bytes spell no character."""
    training = begin(text=CHINESE, vocab__kind=kind, model__direction=direction)
    interrupt(training, 100)
    written = [line for line in lines_of(training) if "sample" in line]
    assert written
    for line in written:
        assert line["sample"]
        assert len(line["sample"]) == len(line["sample_bits"])
        assert all(bits >= 0 for bits in line["sample_bits"])
        line["sample"].encode()


def test_a_model_whose_numbers_overflow_writes_no_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    """The run continues; the line says that the validation overflowed."""
    training = begin(train__evaluations=1)
    monkeypatch.setattr(Trainer, "_validate", lambda self: math.inf)
    monkeypatch.setattr("charlm.training.trainer.write_sample", lambda *arguments: None)
    interrupt(training, 100)
    line = lines_of(training)[-1]
    assert line["validation_overflowed"] is True
    assert not {"sample", "sample_bits", "validation_bits_per_character"} & line.keys()
    assert "no validation yet" in verdict(training)


def test_a_sample_of_a_timed_run_takes_little_of_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow model writes fewer characters: at most 0.5 % of the time goes into one sample."""
    now = Hours()
    now.spend(monkeypatch, learn_block=10.0)
    step = Stepper.step

    def slow(*arguments: Any) -> Any:
        now.seconds += 1.0
        return step(*arguments)

    monkeypatch.setattr(Stepper, "step", slow)
    training = begin(now=now, train__steps=None, train__time=1000.0)
    interrupt(training, 1000)
    written = [line for line in records(training) if "sample" in line]
    assert 1 <= len(written) < len([line for line in records(training) if "validation_bits_per_character" in line])
    assert all(5 <= len(line["sample"]) <= 8 for line in written)
    assert all(len(line["sample"]) == len(line["sample_bits"]) for line in written)


def test_a_run_that_holds_nothing_out_has_no_baseline() -> None:
    """It has no validations either, but the norms of its gradients."""
    training = begin(data__validation_fraction=0.0)
    events = events_of(training)
    assert not [event for event in events if isinstance(event, Baseline)]
    assert all("gradient_norm" in line and "baseline" not in line for line in lines_of(training))


def test_a_model_of_both_sides_has_neither_sample_nor_baseline() -> None:
    """It cannot write, and n-grams do not fill blanks."""
    training = begin(model__direction="both")
    interrupt(training, 100)
    assert not [line for line in lines_of(training) if {"sample", "baseline"} & line.keys()]
    assert "validation_bits_per_masked_character" in lines_of(training)[-1]


@pytest.mark.parametrize("order", [0, 9])
@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_the_baseline_is_the_best_of_the_n_grams(direction: str, order: int) -> None:
    """It reads the characters of the validations after counting the training part, in the order of the model."""
    training = begin(model__direction=direction, model__ngram_order=order, train__evaluation_characters=100)
    (baseline,) = [event for event in events_of(training) if isinstance(event, Baseline)]
    model, parts = training.learner.model, training.learner.parts
    train, text = (in_reading_order(model, Part.of(part)) for part in (parts.train, training.validation.part))
    bits = [nats / math.log(2) for nats in kneser_ney(train, text, len(training.corpus.vocabulary), 7)]
    assert len(text) == 100
    assert baseline.bits_per_character == pytest.approx(min(bits))
    assert baseline.order == 1 + int(np.argmin(bits))
    line = lines_of(training)[0]
    assert (line["step"], line["baseline"]) == (0, f"{baseline.order}-gram Kneser-Ney")
    assert line["baseline_bits_per_character"] == baseline.bits_per_character


def test_the_baseline_reads_what_validations_read_of_documents() -> None:
    """Where the state of a net is reset, the places of a validation count the gaps between the documents, too."""
    bounds, documents_D = [(0, 300), (1000, 5000)], np.array([70, 71, 1400, 2000, 2001, 4990])
    part = replace(Part.between(random_ids(6000), bounds), documents_D=documents_D)
    levels = count([random_ids(9000, 1)], NUM_SYMBOLS, 3)
    found = measure_baseline(cast(Counting, SimpleNamespace(count=lambda: levels)), part, 1000, NUM_SYMBOLS)

    # What stands at each place is its position.
    numbered = Part.between(np.arange(6000, dtype=np.uint16), bounds)
    gapped = Gapped(replace(numbered, documents_D=documents_D))
    segments = sample(gapped, 1000)
    each = [gapped.read(np.arange(*ends)[:, None]) for ends in zip(segments.first_S, segments.last_S, strict=True)]
    scored = np.concatenate([reading.ids_TB[~reading.is_gap_TB] for reading in each])
    is_scored_M = np.isin(np.concatenate(numbered.stretches), scored)
    assert 0 < is_scored_M.sum() < sum(len(reading.ids_TB) for reading in each)
    means = [nats_M[is_scored_M].mean() for nats_M in nats_by_order(levels, part, NUM_SYMBOLS)]
    assert found.bits_per_character == pytest.approx(min(means) / math.log(2))


def test_a_resumed_run_measures_its_baseline_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The event comes again, from the line that is there."""
    training = begin()
    interrupt(training, 5)
    again = resume(training.run)
    monkeypatch.setattr("charlm.training.trainer.measure_baseline", None)
    assert [event for event in events_of(again) if isinstance(event, Baseline)]
    assert len([line for line in lines_of(again) if "baseline" in line]) == 1


def test_another_text_has_another_baseline_and_curve() -> None:
    """The baseline of the old text does not count, and the curve starts anew with the first record on the new text."""
    training = begin(train__steps=40)
    interrupt(training, 30)
    Path("text.txt").write_text(CAT_AND_DOG[::-1], encoding="utf-8")
    other = training_of(training.config, training.run)
    other.restore(load_checkpoint(training.run.last), is_new_text=True)
    interrupt(other, 100)
    lines = lines_of(other)
    baselines = [line for line in lines if "baseline" in line]
    assert [line["step"] for line in baselines] == [0, 30]
    assert baselines[0]["text_sha256"] != baselines[1]["text_sha256"]
    (first,) = [line for line in lines if "new_text" in line]
    assert first["step"] == min(line["step"] for line in lines if line["step"] > 30)


def test_a_long_run_samples_at_some_of_its_validations() -> None:
    """About ten samples are spread over a run, however often it validates."""
    for evaluations in (1, 4, 10, 17, 100, 1000):
        shares = [number / evaluations for number in range(1, evaluations + 1)]
        due = sum(is_sample_due(share, evaluations) for share in shares)
        assert min(evaluations, 5) <= due <= 10


def test_programs_that_read_records_skip_the_baseline() -> None:
    """`Run.records` and `charlm compare` see records alone."""
    training = begin()
    interrupt(training, 100)
    run = Run(training.run.path)
    assert all("epoch" in record for record in run.records)
    (row,) = compare_runs([run.path]).rows
    assert row.steps == 20
    assert len(row.curve) == len([record for record in run.records if "validation_bits_per_character" in record])
