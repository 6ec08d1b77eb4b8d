"""Runs on blocks of a text: what they learn, resume from and record, and what is said about the held-out part."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from charlm.checkpoint import load_checkpoint
from charlm.cli.train_session import verdict
from charlm.data.batches import NO_TARGET
from charlm.data.corpus import load_corpus
from charlm.data.holdout import split_at_end
from charlm.evaluation.evaluate import evaluate
from charlm.evaluation.scored_text import load_own_text
from charlm.training.final_evaluation import measure_best
from charlm.training.lifecycle import resume as resume_run
from charlm.training.regularisation import Regularisation
from charlm.training.trainer import Trainer
from tests.helpers.commands import SHORT, answer, assert_refused, call
from tests.helpers.evaluation import module_of
from tests.helpers.texts import write
from tests.helpers.training import assert_same_run, begin, interrupt, resume

LATIN = "the cat sat on the mat and the dog sat on the log, said the frog.\n" * 400
GREEK = "".join(chr(0x3B1 + ord(letter) - 97) if letter.isalpha() else letter for letter in LATIN)


def begin_on_two(name: str = "run", **changes: Any) -> Trainer:
    """Set up a run on two texts."""
    corpus = [write("latin.txt", LATIN), write("greek.txt", GREEK)]
    return begin(name, data__corpus=corpus, **changes)


def test_blocks_are_never_trained_on() -> None:
    """Every target of every block lies in the training part, whose stretches have both scripts, as the blocks have."""
    training = begin_on_two(data__test_fraction=0.1)
    parts, batches = training.learner.parts, training.learner.batches
    assert parts.is_spread
    for part in parts:
        text = training.corpus.vocabulary.decode(part.joined())
        assert text.count("t") == pytest.approx(text.count("\u03c4"), rel=0.2)
    # Each character becomes its own position.
    batches._part._ids = np.arange(len(training.corpus.ids), dtype=np.uint32)
    learned = {int(place) for step in range(batches.batches_per_epoch) for place in batches.batch(step).targets_TB.flat}
    allowed = {place for start, end in parts.train.bounds_S2 for place in range(start, end)}
    assert learned <= allowed
    assert len(learned) > 0.9 * len(allowed)


@pytest.mark.parametrize("direction", ["forward", "backward", "both"])
def test_a_run_on_several_texts_resumes_exactly(direction: str) -> None:
    """The resumed run equals an uninterrupted one bit for bit, over gaps as well."""
    whole, stopped = (begin_on_two(name, model__direction=direction) for name in ("whole", "stopped"))
    interrupt(whole, 1000)
    interrupt(stopped, 9)
    again = resume(stopped.run)
    interrupt(again, 1000)
    assert_same_run(whole, again)


def test_a_run_with_documents_divides_none_and_resumes_exactly() -> None:
    """Parts and streams follow the documents of the settings, and a resumed run has the same ones."""
    documents, reset = {"data__documents": "the |\u03c4\u03b7\u03b5 "}, {"data__reset_state_at_documents": True}
    plain = begin_on_two("plain", **documents)
    whole, stopped = (begin_on_two(name, **documents, **reset) for name in ("whole", "stopped"))
    text = plain.corpus.vocabulary.decode(plain.corpus.ids)
    edges = {edge for part in plain.learner.parts for edge in part.bounds_S2.ravel().tolist()} - {0, len(text)}
    assert edges
    assert all(text[edge - 1] == "\n" for edge in edges)
    steps = range(plain.learner.batches.batches_per_epoch)
    resets = [any(run.learner.batches.batch(step).resets_TB is not None for step in steps) for run in (whole, plain)]
    assert resets == [True, False]
    interrupt(whole, 1000)
    interrupt(stopped, 9)
    again = resume(stopped.run)
    assert again.learner.parts.facts() == whole.learner.parts.facts()
    interrupt(again, 1000)
    assert_same_run(whole, again)


def test_a_run_resumes_its_blocks_from_the_text_in_one_piece() -> None:
    """The two texts, joined to one file, are divided as they were, so that nothing held out is learned."""
    begun = begin_on_two(model__ngram_order=0)
    interrupt(begun, 9)
    joined = write("joined.txt", LATIN + GREEK)
    with resume_run(begun.run.path, [], {"data.corpus": [joined]}, is_new_text=False) as again:
        for mine, yours in zip(begun.learner.parts, again.learner.parts, strict=True):
            np.testing.assert_array_equal(mine.bounds_S2, yours.bounds_S2)
        interrupt(again, 1000)
        assert measure_best(again)
    model = load_checkpoint(again.run.best)
    scores = evaluate(module_of(model), begun.learner.parts.validation)
    assert model.metrics["validation_bits_per_character"] == pytest.approx(scores.bits_per_character, abs=1e-6)


def test_a_changed_record_of_blocks_is_refused_at_resume() -> None:
    """A model file is untrusted: the blocks in it must be blocks of the text."""
    begun = begin_on_two()
    interrupt(begun, 2)
    last = load_checkpoint(begun.run.last)
    last.corpus["held_out"]["validation"][0] = [5, 10**9]
    last.save(begun.run.last)
    assert "held-out blocks" in assert_refused(call("train", "--resume", str(begun.run.path)))


def test_a_validation_on_the_way_reads_all_blocks() -> None:
    """With fewer characters than are held out, each block gives its beginning, so that both scripts are validated."""
    training = begin_on_two(train__evaluation_characters=500)
    part = training.validation.part
    assert len(part) == 500
    assert len(part.bounds_S2) == len(training.learner.parts.validation.bounds_S2)
    text = training.corpus.vocabulary.decode(part.joined())
    assert text.count("t") == pytest.approx(text.count("\u03c4"), rel=0.3)


def test_a_run_says_how_its_text_is_held_out() -> None:
    """Blocks are counted; an end that is unlike the rest is named with the setting that helps, once."""
    (note,) = [note for note in begin_on_two().notes if "held out" in note]
    assert note.endswith("in 2 blocks spread over the text")
    at_end = begin_on_two("end", data__holdout="end")
    (note,) = [note for note in at_end.notes if "validation part" in note]
    assert "data.holdout=spread" in note


@pytest.mark.parametrize("holdout", ["spread", "end"])
def test_the_verdict_considers_an_unlike_validation_part(holdout: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A validation that rises from the start is not blamed on the training if the held-out part is another text."""
    training = begin_on_two(data__holdout=holdout)
    answers = iter([3.0, 4.0, 5.0, 6.0])
    monkeypatch.setattr(Trainer, "_validate", lambda self: next(answers))
    interrupt(training, 20)
    assert ("overfit" in verdict(training)) == (holdout == "spread")
    assert ("more about the validation part" in verdict(training)) == (holdout == "end")


# From the command line


def test_eval_finds_the_blocks_wherever_the_text_is() -> None:
    """The figures are the same from the texts, from one file with both, and from standard input."""
    latin, greek = LATIN[:12_000], GREEK[:12_000]
    names = [write("latin.txt", latin), write("greek.txt", greek)]
    call("train", "-c", names[0], "-c", names[1], *SHORT, "--out", "run", "--sample-length", "0")
    before = answer("eval", "-m", "run", "--json", "--no-baselines", "--dynamic")
    both = write("texts/both.txt", latin + greek)
    Path("greek.txt").unlink()
    result = call("eval", "-m", "run")
    assert result.exit_code == 1
    assert (
        "hint: if the text is elsewhere now: `charlm eval --model run --part validation --corpus FILE`" in result.stderr
    )
    options = ["-m", "run", "--part", "validation", "--json", "--no-baselines", "--dynamic"]
    assert answer("eval", *options, "-c", both) == before | {"corpus": f"validation part of {both}"}
    from_pipe = answer("eval", *options, "-c", "-", stdin=latin + greek)
    assert from_pipe == before | {"corpus": "validation part of standard input"}
    assert "is not the one" in assert_refused(call("eval", *options, "-c", "latin.txt"))
    whole = call("eval", "-m", "run", "-c", both)
    assert "note: the model learned most of this text; `--part validation`" in whole.stderr
    assert whole.exit_code == 0


def test_a_two_sided_model_fills_a_passage_of_one_block() -> None:
    """The passage that a run shows at its end does not reach over a gap."""
    names = [write("latin.txt", LATIN[:10_000]), write("greek.txt", GREEK[:10_100])]
    options = [*SHORT, "--set", "model.direction=both", "--set", "data.validation_fraction=0.2"]
    result = call("train", "-c", names[0], "-c", names[1], *options, "--out", "run")
    assert result.exit_code == 0, result.stderr
    first = load_own_text(load_checkpoint(Path("run/best.safetensors"))).ids.stretches[0]
    shown = load_corpus(names).vocabulary.decode(first[:15]).replace("\n", " ")
    assert f"{shown}_" in result.stdout


# Runs of versions that held out only the end


def test_an_old_run_keeps_its_split() -> None:
    """A file without `data.holdout` held out the end, and is scored to the last digit as ever."""
    files = Path(__file__).parents[1] / "files"
    run = Path(shutil.copytree(files / "old_run", "run"))
    shutil.copy(files / "bottles.txt", ".")
    model = load_checkpoint(run / "best.safetensors")
    assert model.config["data"]["holdout"] == "end"
    ids = load_corpus(["bottles.txt"]).ids
    expected = evaluate(module_of(model), ids[int(0.9 * len(ids)) :])
    found = answer("eval", "-m", str(run), "--json")
    assert found["nats_per_character"] == expected.nats_per_character
    assert found["characters"] == len(split_at_end(ids, 0.1, 0.0).validation)


def test_an_old_run_on_several_texts_resumes_with_its_end() -> None:
    """It goes on as it would have with the end named in its settings."""
    runs = [begin_on_two(name, data__holdout="end") for name in ("named", "old")]
    for run in runs:
        interrupt(run, 9)
    last = load_checkpoint(runs[1].run.last)
    del last.config["data"]["holdout"]
    last.save(runs[1].run.last)
    for number, run in enumerate(runs):
        runs[number] = resume(run.run)
        interrupt(runs[number], 1000)
    assert not runs[1].learner.parts.is_spread
    assert_same_run(*runs)


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_the_loss_of_a_block_is_the_mean_over_its_documents(direction: str) -> None:
    """A block costs what its documents cost alone, also if it is learned in parts; the gaps count for nothing."""
    lines = [f"{'ab' * (number % 4 + 1)}\n" for number in range(12)]
    for parts in (1, 2):
        training = begin(
            f"run{parts}", "".join(lines), model__direction=direction, data__documents="a", train__accumulate=parts,
            data__reset_state_at_documents=True, data__validation_fraction=0.0, train__reset_probability=1.0,
            train__batch_size=2, train__block_size=100, model__ngram_order=0,
        )  # fmt: skip
        learner = training.learner
        batch = learner.batches.batch(0)
        nats = learner.learn_block(0, 0.0, Regularisation(0.0, 0.0, 0.0, settled=True))
        stretches = []
        for targets_T in batch.targets_TB.T:
            ids = targets_T[targets_T != NO_TARGET]
            text = training.corpus.vocabulary.decode(ids[::-1] if direction == "backward" else ids)
            stretches += text.splitlines(keepends=True)
        scores = [evaluate(learner.model, training.corpus.vocabulary.encode(text)) for text in stretches]
        total = sum(score.nats_per_character * score.characters for score in scores)
        assert nats == pytest.approx(total / sum(score.characters for score in scores), rel=1e-5)
