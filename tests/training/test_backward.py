"""Models that read a text from its end: what they write, rank, score and learn, as if all were mirrored."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from charlm.checkpoint import ModelFile
from charlm.cli.live import TrainingDisplay
from charlm.cli.repl import toolbar_text
from charlm.config_file import load_config
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
from charlm.training.events import BlockLearned
from charlm.training.trainer import Trainer
from charlm.vocab import Vocabulary, _BackwardByteDecoder
from tests.helpers.commands import answer, call
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
    """Let a model write."""
    stepper = Stepper(model)
    options = {"length": 60} | options
    return generate(stepper, prompt, sampling=sampling or Sampling(), seeds=seeds, **options).texts()


@pytest.fixture
def pair(make_model: Make) -> tuple[str, str]:
    """A model file that reads from the left, and one of the same weights that reads from the right."""
    model = make_model("gru", 2)
    model.save(Path("forward.safetensors"))
    mirrored(model).save(Path("backward.safetensors"))
    return "forward.safetensors", "backward.safetensors"


# What it writes


@pytest.mark.parametrize("prompt", ["", "a", "bad head\n", "\n\n"])
@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn", "mingru"])
def test_it_writes_the_mirror_image(make_model: Make, cell: str, prompt: str) -> None:
    """The same weights, read from the left, write the reversed text after the reversed prompt with the same seed."""
    model = make_model(cell, 2)
    for sampling in (Sampling(), Sampling(0.0), Sampling(1.3, top_k=4, top_p=0.9, min_p=0.05)):
        texts = written(mirrored(model), prompt, [1, 2, 3], sampling)
        assert texts == [text[::-1] for text in written(model, prompt[::-1], [1, 2, 3], sampling)]
        assert all(text.endswith(prompt) and len(text) == len(prompt) + 60 for text in texts)


def test_a_stop_text_is_where_it_begins(make_model: Make) -> None:
    """It stands as it is read, is kept, and stands nowhere else."""
    for seed, text in enumerate(written(mirrored(make_model()), "a", list(range(20)), stop=["ab", "gc"], length=400)):
        grown = text[:-1]
        assert grown.startswith(("ab", "gc")), seed
        assert "ab" not in grown[1:]
        assert "gc" not in grown[1:]


def test_lines_are_counted_from_the_end(make_model: Make) -> None:
    """After so many newlines it is done, the last of them first in the text."""
    for text in written(mirrored(make_model()), "a", list(range(10)), lines=3, length=2000):
        assert text.startswith("\n")
        assert text.count("\n") == 3


def test_the_command_prints_texts_that_end_with_the_prompt(pair: tuple[str, str]) -> None:
    """One or several, as text or as JSON, with the prompt or without."""
    forward, backward = pair
    options = ["--length", "30", "--seed", "4"]
    alone = call("sample", "bad", "--model", backward, *options).stdout
    assert alone == call("sample", "dab", "--model", forward, *options).stdout[::-1]
    assert alone.endswith("bad")
    assert call("sample", "bad", "--model", backward, *options, "--hide-prompt").stdout == alone.removesuffix("bad")
    rows = answer("sample", "bad", "--model", backward, *options, "--num", "3", "--json")
    assert [row["seed"] for row in rows] == [4, 5, 6]
    assert rows[0]["text"] == alone
    hidden = answer("sample", "bad", "--model", backward, *options, "--num", "3", "--json", "--hide-prompt")
    assert [row["text"] + "bad" for row in hidden] == [row["text"] for row in rows]
    result = call("sample", "bad", "--model", backward, *options, "--num", "3")
    assert result.stdout == "".join(row["text"] + "\n" for row in rows)
    assert [line for line in result.stderr.splitlines() if "seed" in line] == [f"--- seed {seed}" for seed in (4, 5, 6)]


def test_nothing_new_is_the_prompt(pair: tuple[str, str]) -> None:
    """Of no length."""
    assert call("sample", "bad", "--model", pair[1], "--length", "0", "--seed", "1").stdout == "bad"
    assert answer("sample", "-", "--model", pair[1], "-n", "0", "--json", stdin="bad\n")[0]["text"] == "bad\n"


def test_stop_and_lines_of_the_command(pair: tuple[str, str]) -> None:
    """The mirror image of the stop text ends the mirror image."""
    options = ["--length", "500", "--seed", "1", "--num", "5", "--json"]
    forward, backward = (
        [row["text"] for row in answer("sample", "a", "--model", file, *options, "--stop", stop, "--lines", "4")]
        for file, stop in zip(pair, ("bg", "gb"), strict=True)
    )
    assert backward == [text[::-1] for text in forward]


def test_characters_it_lacks_are_told_with_their_place(pair: tuple[str, str]) -> None:
    """Counted from the beginning of the prompt, as it is written."""
    result = call("sample", "abZ", "--model", pair[1])
    assert result.exit_code == 1
    assert "position 2" in result.stderr
    assert call("sample", "abZ", "--model", pair[1], "--unknown", "skip", "-n", "5", "--seed", "1").exit_code == 0


# Bytes


@settings(max_examples=300, deadline=None)
@given(text=st.text(), cuts=st.lists(st.integers(0, 40), max_size=5))
def test_bytes_from_the_end_are_the_text_they_spell(text: str, cuts: list[int]) -> None:
    """However they are dealt out: the pieces, put before one another, are what Python's decoder makes of all."""
    data = text.encode()[::-1]
    decoder, found = _BackwardByteDecoder(), ""
    ends = sorted({min(cut, len(data)) for cut in cuts})
    for begin_, end in zip([0, *ends], [*ends, len(data)], strict=True):
        found = decoder.decode(list(data[begin_:end]), final=end == len(data)) + found
    assert decoder.decode([], final=True) + found == text


@settings(max_examples=300, deadline=None)
@given(data=st.binary(max_size=40))
def test_bytes_that_are_no_text_become_marks(data: bytes) -> None:
    """No error, one mark a byte at most, nothing waits for ever, and what is text among them is found."""
    decoder = _BackwardByteDecoder()
    found = ""
    for count, byte in enumerate(reversed(data), start=1):
        found = decoder.decode([byte]) + found
        assert len(found.encode("utf-8")) >= count - 3 or "\ufffd" in found
    found = decoder.decode([], final=True) + found
    assert len(found) <= len(data)
    assert ("\ufffd" in found) == ("\ufffd" in data.decode("utf-8", "replace"))
    assert [c for c in found if c.isascii()] == [chr(byte) for byte in data if byte < 0x80]


def test_a_model_of_bytes_writes_before_any_prompt(make_model: Make) -> None:
    """With characters of several bytes: random ones become marks, and the prompt stays whole."""
    model = mirrored(of_bytes(make_model(symbols=BYTES)))
    model.save(Path("bytes.safetensors"))
    for prompt in ("狐狸", "\U0001f98a", "é", ""):
        rows = answer("sample", prompt, "--model", "bytes.safetensors", "-n", "200", "--num", "4", "--json")
        assert all(row["text"].endswith(prompt) for row in rows)
        assert any("\ufffd" in row["text"] for row in rows)
        assert all(row["text"].encode() for row in rows)


def test_a_model_of_bytes_learns_characters_of_several() -> None:
    """Chinese and emoji, learned by heart from their end, are whole again when they are written."""
    snapshot = learned(MIXED * 40, "bytes")
    end = MIXED[-8:]
    (text,) = written(snapshot, end, [0], Sampling(0.0), length=len((MIXED * 2).encode()) - len(end.encode()))
    print(repr(text))
    assert text == MIXED * 2


# What may stand before


def test_predictions_are_those_of_the_mirror_image(pair: tuple[str, str]) -> None:
    """One-shot and for each line of standard input."""
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
def test_a_line_that_is_edited_is_read_as_if_new(texts: list[str], make_model: Make) -> None:
    """Whatever was typed before, the ranking is that of the text as it now is."""
    stepper = Stepper(mirrored(make_model("gru")))
    reader = IncrementalReader(stepper)
    for text in texts:
        reader.read(text)
        # A line of nothing but unknown characters is not an empty line: it begins no new one.
        if text:
            assert reader.predict(5) == predict(stepper, text, 5, "skip")
        assert set(reader.unknown_characters) == set(text) & {"Z", "é"}
        assert reader.continuation(10) == ""
        assert toolbar_text(reader)


def test_a_line_of_bytes_is_read_from_its_end(make_model: Make) -> None:
    """The bytes of each character too."""
    stepper = Stepper(mirrored(of_bytes(make_model(symbols=BYTES))))
    reader = IncrementalReader(stepper)
    for text in ("é", "é狐", "\U0001f98aé狐", "\U0001f98a"):
        reader.read(text)
        assert reader.predict(5) == predict(stepper, text, 5)


# What it learns


@pytest.mark.parametrize("window", [None, 7, 1000])
def test_a_text_is_scored_from_its_end(make_model: Make, window: int | None) -> None:
    """As the same weights score the reversed text from its beginning."""
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


def test_it_recites_its_text_from_the_end() -> None:
    """From the last words on, what it writes before them is what stood there."""
    text = "the cat sat on the mat and the dog sat on the log, said the frog. "
    snapshot = learned(text * 30, "characters")
    (recited,) = written(snapshot, "said the frog. ", [0], Sampling(0.0), length=2 * len(text) - 15)
    assert recited == text * 2


# What is shown meanwhile


def shown(training: Trainer) -> None:
    """Train as the command does."""
    with TrainingDisplay(training) as display:
        training.learn(display.show)


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_samples_on_the_way_change_nothing(direction: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Shown after each so many blocks; the run is the same run."""
    quiet = begin("quiet", model__direction=direction)
    interrupt(quiet, 1000)
    loud = begin("loud", model__direction=direction, train__sample_every=6)
    capsys.readouterr()
    shown(loud)
    told = capsys.readouterr()
    steps = [line for line in told.err.splitlines() if line.startswith("--- step")]
    assert [step.partition(",")[0] for step in steps] == [f"--- step {step}" for step in (6, 12, 18)]
    assert all(step.endswith(" bits/char") and ", smoothed " in step for step in steps)
    assert told.out == ""
    assert metrics(quiet) == metrics(loud)
    for name, array in quiet.snapshot().arrays.items():
        np.testing.assert_array_equal(array, loud.snapshot().arrays[name])


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        """Say yes."""
        return True


def test_a_sample_on_the_way_does_not_talk_to_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a text holds of escapes is shown as such, as in every sample on a terminal."""
    monkeypatch.setenv("TERM", "xterm")
    told = Terminal()
    monkeypatch.setattr("sys.stderr", told)
    training = begin(text="\x1b]0;owned\x07\x9b" * 100, train__sample_every=2, train__steps=3)
    display = TrainingDisplay(training)
    display.show(BlockLearned(step=2, share=0.5, bits_per_character=1.0))
    assert "--- step 2" in told.getvalue()
    assert not {"\x1b", "\x07", "\x9b"} & set(told.getvalue())
