"""Models that read a text from its end write, predict, score and learn the mirror image of a forward model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from charlm.checkpoint import ModelFile
from charlm.cli.instrument import Instrument
from charlm.cli.live import TrainingDisplay
from charlm.cli.repl_commands import Conversation
from charlm.cli.repl_panel import panel_rows
from charlm.data.corpus import load_corpus
from charlm.evaluation.evaluate import evaluate
from charlm.inference.generate import generate
from charlm.inference.incremental import IncrementalReader
from charlm.inference.predict import predict
from charlm.inference.sampling import Sampling
from charlm.inference.stepper import Stepper
from charlm.nn.model import CharModel
from charlm.nn.runtime import Runtime
from charlm.run_folder import RunFolder
from charlm.settings.config_file import load_config
from charlm.training.events import BlockLearned
from charlm.training.trainer import Trainer
from charlm.vocab import Vocabulary, _BackwardByteDecoder
from tests.helpers.commands import answer, answers, call
from tests.helpers.terminal import Terminal
from tests.helpers.training import begin, interrupt, metrics

Make = Callable[..., ModelFile]
BYTES = "".join(map(chr, range(256)))
MIXED = "狐狸说\u3001\U0001f98a café\n兔子说\u3001\U0001f430 naïve\n"


def mirrored(model: ModelFile) -> ModelFile:
    """Return a model of the same weights that reads from the end."""
    return replace(model, config=model.config | {"model": model.config["model"] | {"direction": "backward"}})


def of_bytes(model: ModelFile) -> ModelFile:
    """Return the same weights as a model of bytes."""
    return replace(model, vocabulary=Vocabulary.of_bytes())


def written(
    model: ModelFile, prompt: str, seeds: list[int], sampling: Sampling | None = None, **options: Any
) -> list[str]:
    """Return what a model writes after a prompt."""
    stepper = Stepper(model)
    options = {"length": 60} | options
    return generate(stepper, prompt, sampling=sampling or Sampling(), seeds=seeds, **options).texts()


@pytest.fixture
def pair(make_model: Make) -> tuple[str, str]:
    """Write two model files of the same weights: one reads from the left, one from the right."""
    model = make_model("gru", 2)
    model.save(Path("forward.safetensors"))
    mirrored(model).save(Path("backward.safetensors"))
    return "forward.safetensors", "backward.safetensors"


# Writing


@pytest.mark.parametrize("prompt", ["", "a", "bad head\n", "\n\n"])
@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn", "mingru"])
def test_a_backward_model_writes_the_mirror_image(make_model: Make, cell: str, prompt: str) -> None:
    """With the same weights and seed, a forward model writes the reversed text after the reversed prompt."""
    model = make_model(cell, 2)
    for sampling in (Sampling(), Sampling(0.0), Sampling(1.3, top_k=4, top_p=0.9, min_p=0.05)):
        texts = written(mirrored(model), prompt, [1, 2, 3], sampling)
        assert texts == [text[::-1] for text in written(model, prompt[::-1], [1, 2, 3], sampling)]
        assert all(text.endswith(prompt) and len(text) == len(prompt) + 60 for text in texts)


def test_a_backward_text_begins_with_its_stop_text(make_model: Make) -> None:
    """The stop text is given in reading order, ends the text, is kept, and occurs only at its beginning."""
    for seed, text in enumerate(written(mirrored(make_model()), "a", list(range(20)), stop=["ab", "gc"], length=400)):
        grown = text[:-1]
        assert grown.startswith(("ab", "gc")), seed
        assert "ab" not in grown[1:]
        assert "gc" not in grown[1:]


def test_a_backward_model_counts_lines_from_the_end(make_model: Make) -> None:
    """The model stops after the given number of newlines, and the last newline comes first in the text."""
    for text in written(mirrored(make_model()), "a", list(range(10)), lines=3, length=2000):
        assert text.startswith("\n")
        assert text.count("\n") == 3


def test_the_command_prints_texts_that_end_with_the_prompt(pair: tuple[str, str]) -> None:
    """One text and several, as text and as JSON, with the prompt and without, all end where they should."""
    forward, backward = pair
    options = ["--length", "30", "--seed", "4"]
    alone = call("sample", "bad", "--model", backward, *options).stdout
    assert alone == call("sample", "dab", "--model", forward, *options).stdout[-2::-1] + "\n"
    assert alone.endswith("bad\n")
    without = call("sample", "bad", "--model", backward, *options, "--hide-prompt").stdout
    assert without.removesuffix("\n") == alone.removesuffix("bad\n").removesuffix("\n")
    rows = answers("sample", "bad", "--model", backward, *options, "--num", "3", "--json")
    assert [row["seed"] for row in rows] == [4, 5, 6]
    assert rows[0]["text"] + "\n" == alone
    hidden = answers("sample", "bad", "--model", backward, *options, "--num", "3", "--json", "--hide-prompt")
    assert [row["text"] + "bad" for row in hidden] == [row["text"] for row in rows]
    result = call("sample", "bad", "--model", backward, *options, "--num", "3")
    assert result.stdout == "---\n".join(row["text"] + "\n" for row in rows)


def test_a_sample_of_length_zero_is_the_prompt(pair: tuple[str, str]) -> None:
    """With a length of 0 the command prints the prompt alone."""
    assert call("sample", "bad", "--model", pair[1], "--length", "0", "--seed", "1").stdout == "bad\n"
    assert answers("sample", "-", "--model", pair[1], "-n", "0", "--json", stdin="bad\n\n")[0]["text"] == "bad\n"


def test_stop_and_lines_of_the_command_apply_from_the_end(pair: tuple[str, str]) -> None:
    """For a stop text and for a number of lines, the result is the mirror image of the forward model's."""
    options = ["--length", "500", "--seed", "1", "--num", "5", "--json"]
    forward, backward = (
        [row["text"] for row in answers("sample", "a", "--model", file, *options, "--stop", stop, "--lines", "4")]
        for file, stop in zip(pair, ("bg", "gb"), strict=True)
    )
    assert backward == [text[::-1] for text in forward]


def test_unknown_characters_are_reported_with_their_position(pair: tuple[str, str]) -> None:
    """The position counts from the beginning of the prompt as it is written."""
    result = call("sample", "abZ", "--model", pair[1])
    assert result.exit_code == 1
    assert "position 2" in result.stderr
    assert call("sample", "abZ", "--model", pair[1], "--unknown", "skip", "-n", "5", "--seed", "1").exit_code == 0


# Bytes


@settings(max_examples=300, deadline=None)
@given(text=st.text(), cuts=st.lists(st.integers(0, 40), max_size=5))
def test_bytes_read_from_the_end_decode_to_their_text(text: str, cuts: list[int]) -> None:
    """However the bytes are split, the decoded pieces joined from the right equal what Python's decoder returns."""
    data = text.encode()[::-1]
    decoder, found = _BackwardByteDecoder(), ""
    ends = sorted({min(cut, len(data)) for cut in cuts})
    for begin_, end in zip([0, *ends], [*ends, len(data)], strict=True):
        found = decoder.decode(list(data[begin_:end]), final=end == len(data)) + found
    assert decoder.decode([], final=True) + found == text


@settings(max_examples=300, deadline=None)
@given(data=st.binary(max_size=40))
def test_invalid_bytes_from_the_end_become_marks(data: bytes) -> None:
    """No error occurs, each byte gives at most one mark, no byte is held for ever, and valid text is decoded."""
    decoder = _BackwardByteDecoder()
    found = ""
    for count, byte in enumerate(reversed(data), start=1):
        found = decoder.decode([byte]) + found
        assert len(found.encode("utf-8")) >= count - 3 or "\ufffd" in found
    found = decoder.decode([], final=True) + found
    assert len(found) <= len(data)
    assert ("\ufffd" in found) == ("\ufffd" in data.decode("utf-8", "replace"))
    assert [c for c in found if c.isascii()] == [chr(byte) for byte in data if byte < 0x80]


def test_a_byte_model_writes_before_any_prompt(make_model: Make) -> None:
    """The text has characters of several bytes: random bytes become marks, and the prompt stays whole."""
    model = mirrored(of_bytes(make_model(symbols=BYTES)))
    model.save(Path("bytes.safetensors"))
    for prompt in ("狐狸", "\U0001f98a", "é", ""):
        rows = answers("sample", prompt, "--model", "bytes.safetensors", "-n", "200", "--num", "4", "--json")
        assert all(row["text"].endswith(prompt) for row in rows)
        assert any("\ufffd" in row["text"] for row in rows)
        assert all(row["text"].encode() for row in rows)


def test_a_backward_byte_model_learns_multibyte_characters() -> None:
    """Chinese characters and emoji are whole in the text of a model that has overfit to them."""
    snapshot = learned(MIXED * 40, "bytes")
    end = MIXED[-8:]
    (text,) = written(snapshot, end, [0], Sampling(0.0), length=len((MIXED * 2).encode()) - len(end.encode()))
    print(repr(text))
    assert text == MIXED * 2


# Predicting


def test_backward_predictions_are_those_of_the_mirror_image(pair: tuple[str, str]) -> None:
    """This holds for a single text and for each line of standard input."""
    forward, backward = pair
    texts = ["bad", "head", "", "a\tZ"]
    options = ["--json", "--unknown", "skip", "--top", "4"]
    result = call("predict-next", "--model", backward, *options, stdin="".join(f"{text}\n" for text in texts))
    assert (result.exit_code, len(result.stdout.splitlines())) == (0, 4)
    for line, text in zip(result.stdout.splitlines(), texts, strict=True):
        assert line == call("predict-next", text, "--model", backward, *options).stdout.rstrip("\n")
        mirror = answer("predict-next", text[::-1], "--model", forward, *options)
        assert answer("predict-next", text, "--model", backward, *options) == mirror | {"text": text}


@settings(max_examples=60, deadline=None)
@given(texts=st.lists(st.text("abcdefgh \nZé", max_size=12), max_size=8))
def test_an_edited_line_is_ranked_like_a_new_one(texts: list[str], make_model: Make) -> None:
    """The ranking depends only on the text as it is now, whatever was typed before."""
    stepper = Stepper(mirrored(make_model("gru")))
    reader = IncrementalReader(stepper)
    for text in texts:
        reader.read(text)
        # A line of unknown characters alone is not an empty line, so it starts no new text.
        if text:
            assert reader.predict(5) == predict(stepper, text, 5, "skip")
        assert set(reader.unknown_characters) == set(text) & {"Z", "é"}
        assert reader.continuation(10) == ""
        instrument = Instrument(Conversation(reader, 5))
        instrument.look(text, len(text))
        assert panel_rows(instrument, 80, 20)


def test_a_byte_model_reads_a_line_from_its_end(make_model: Make) -> None:
    """The bytes of each character are read from the end too."""
    stepper = Stepper(mirrored(of_bytes(make_model(symbols=BYTES))))
    reader = IncrementalReader(stepper)
    for text in ("é", "é狐", "\U0001f98aé狐", "\U0001f98a"):
        reader.read(text)
        assert reader.predict(5) == predict(stepper, text, 5)


# Learning


@pytest.mark.parametrize("window", [None, 7, 1000])
def test_a_backward_model_scores_a_text_from_its_end(make_model: Make, window: int | None) -> None:
    """The same weights score the reversed text from its beginning alike."""
    model = make_model("lstm", 2)
    ids = model.vocabulary.encode("had a bad cab\nfade ha gag hedge\nbeach" * 3)
    nets = []
    for file in (model, mirrored(model)):
        net = CharModel(file.spec)
        net.load_arrays(file.weights)
        nets.append(net)
    assert evaluate(nets[1], ids, window) == evaluate(nets[0], ids[::-1], window)
    assert evaluate(nets[1], ids, window) != evaluate(nets[0], ids, window)


def learned(text: str, kind: Literal["characters", "bytes"]) -> ModelFile:
    """Train a small backward model to its end."""
    Path("text.txt").write_text(text, encoding="utf-8")
    flags = {
        "model.direction": "backward",
        "model.hidden_size": 64,
        "model.dropout": 0.0,
        "model.weight_dropout": 0.0,
        "train.steps": 200,
        "train.batch_size": 4,
        "train.block_size": 48,
        "train.precision": "fp32",
        "train.threads": 1,
        "vocab": kind,
        "seed": 3,
        "data.corpus": "text.txt",
    }
    config = load_config("lstm", (), flags)
    run, runtime = RunFolder.create(Path("learned"), ""), Runtime.choose("cpu", "fp32", 1)
    training = Trainer(config, load_corpus(["text.txt"], kind=kind), run, runtime)
    interrupt(training, 1000)
    return training.snapshot()


def test_an_overfit_backward_model_recites_its_text() -> None:
    """After the last words, an overfit model writes the words that came before them."""
    text = "the cat sat on the mat and the dog sat on the log, said the frog. "
    snapshot = learned(text * 30, "characters")
    (recited,) = written(snapshot, "said the frog. ", [0], Sampling(0.0), length=2 * len(text) - 15)
    assert recited == text * 2


# Samples during training


def shown(training: Trainer) -> None:
    """Train as the command does."""
    with TrainingDisplay(training) as display:
        training.learn(display.show)


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_samples_during_training_change_nothing(direction: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A run that shows samples has the same bits as a run that shows none."""
    quiet = begin("quiet", model__direction=direction)
    interrupt(quiet, 1000)
    loud = begin("loud", model__direction=direction, train__sample_every=6)
    capsys.readouterr()
    shown(loud)
    reported = capsys.readouterr()
    steps = [line for line in reported.err.splitlines() if line.startswith("--- step")]
    assert [step.partition(",")[0] for step in steps] == [f"--- step {step}" for step in (6, 12, 18)]
    assert all(step.endswith(" bits/char") and ", smoothed " in step for step in steps)
    assert reported.out == ""
    assert metrics(quiet) == metrics(loud)
    for name, array in quiet.snapshot().arrays.items():
        np.testing.assert_array_equal(array, loud.snapshot().arrays[name])


def test_a_sample_during_training_sends_no_terminal_escapes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Escape characters of the text are shown as visible marks, as in every sample on a terminal."""
    monkeypatch.setenv("TERM", "xterm")
    reported = Terminal()
    monkeypatch.setattr("sys.stderr", reported)
    training = begin(text="\x1b]0;owned\x07\x9b" * 100, train__sample_every=2, train__steps=3)
    display = TrainingDisplay(training)
    display.show(BlockLearned(step=2, share=0.5, bits_per_character=1.0))
    assert "--- step 2" in reported.getvalue()
    assert not {"\x1b", "\x07", "\x9b"} & set(reported.getvalue())
