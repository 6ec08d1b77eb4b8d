"""Memory stays flat: training, sampling and typing for long hold no more memory than at the start."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from charlm.cells import CELLS
from charlm.checkpoint import ModelFile

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="resident memory is read from /proc"),
]

MAX_GROWTH_MB = 5
SYMBOLS = "\n .,abcdefghijklmnopqrstuvwxyz"

# Each program calls `note()` when it has warmed up and at intervals after that; `tell()` prints what it measured.
BEGINNING = """
import json, sys
from pathlib import Path

seen = []

def note():
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    seen.append(int(fields["VmRSS"].split()[0]) / 1024)

def tell(**more):
    print(json.dumps({"warm": seen[0], "end": seen[-1], "peak": max(seen), "notes": len(seen), **more}))
"""

# 2,500 steps with two reports every 5, and a validation and a save every 25; warm after 500.
TRAINS = """
from charlm.settings.config_file import load_config
from charlm.training import lifecycle as runs
from charlm.training.events import Record

text = "".join(f"{i} {i * i} the cat sat on the mat, said the frog.\\n" for i in range(1500))
Path("text.txt").write_text(text)
settings = ["hidden_size=96", "embedding_size=16", "dropout=0.2"]
if not sys.argv[1].startswith("min"):
    settings.append("weight_dropout=0.2")
overrides = [f"model.{setting}" for setting in (f"cell={sys.argv[1]}", *settings)]
overrides += [f"train.{setting}" for setting in ("steps=2500", "evaluations=100", "batch_size=16", "block_size=32")]
flags = {"data.corpus": ["text.txt"], "seed": 1, "train.precision": sys.argv[2], "train.threads": 1}
with runs.begin(load_config("lstm", overrides, flags), Path("run")) as training:
    training.learn(lambda event: isinstance(event, Record) and event.step >= 500 and note())
assert training.state.finished == "done" and training.state.step == 2500
tell()
"""

# A number of texts, each of a given length; warm after a twentieth.
SAMPLES = """
from charlm.inference.generate import generate
from charlm.inference.sampling import Sampling
from charlm.checkpoint import load_checkpoint
from charlm.inference.stepper import Stepper

num_texts, length = map(int, sys.argv[1:])
stepper = Stepper(load_checkpoint(Path("model.safetensors")))
counts = [0] * num_texts
pieces = generate(
    stepper, "the ", length=length, sampling=Sampling(0.7, top_k=20, top_p=0.95), seeds=range(num_texts),
    stop=["never"], lines=10**9,
)
for index, grown in pieces:
    counts[index] += len(grown)
    if index == 0 and counts[0] % (length // 20) == 0:
        note()
assert counts == [length] * num_texts
tell(characters=sum(counts))
"""

# 12,000 keys in lines of some dozens: letters, deletions, a moved cursor, accepted continuations, Enter; warm at 2,000.
TYPES = """
import random
from charlm.cli import repl
from charlm.cli.instrument import Instrument
from charlm.cli.repl_commands import Conversation
from charlm.cli.repl_panel import panel_rows
from charlm.checkpoint import load_checkpoint
from charlm.inference.incremental import IncrementalReader
from charlm.inference.stepper import Stepper

reader, keys = IncrementalReader(Stepper(load_checkpoint(Path("model.safetensors")))), random.Random(1)
instrument = Instrument(Conversation(reader, 10))
instrument.shows_gates = True
text = before_cursor = ghost = ""
counts = {"accepted": 0, "deleted": 0, "lines": 0}

def changed():
    # What the prompt does when its line changes: figures at the cursor, a continuation of the line, at times words.
    global ghost
    instrument.look(text, len(before_cursor))
    ghost = instrument.whole_ghost()
    if number % 20 == 0:
        instrument.word()
        panel_rows(instrument, 80, 24)

for number in range(12_000):
    key = keys.random()
    if key < 0.02 or len(text) > 200:
        counts["lines"] += 1
        reader.read(text)
        repl.prediction_table(reader.predict(10))
        text = before_cursor = ""
    elif key < 0.06 and ghost and before_cursor == text:
        counts["accepted"] += 1
        text = before_cursor = text + ghost
    elif key < 0.2:
        counts["deleted"] += 1
        text = text[: max(0, len(before_cursor) - 1)] + text[len(before_cursor) :]
        before_cursor = before_cursor[:-1]
    elif key < 0.25:
        before_cursor = text[: keys.randrange(len(text) + 1)]
    else:
        after = text[len(before_cursor) :]
        before_cursor += keys.choice("the quick brown fox, 7")
        text = before_cursor + after
    changed()
    if number >= 2000 and number % 500 == 0:
        note()
note()
assert min(counts.values()) > 100, counts
tell(**counts)
"""

# The prompt itself, with keys through a pipe: 400 lines of 30 keys, warm after 60.
CONVERSES = """
from prompt_toolkit.application import create_app_session
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput
from charlm.cli import repl
from charlm.checkpoint import load_checkpoint
from charlm.inference.incremental import IncrementalReader
from charlm.inference.stepper import Stepper

lines = 0

def show(text, predictions, names, top):
    global lines
    lines += 1
    repl.prediction_table(predictions[0])
    if lines >= 60 and lines % 20 == 0:
        note()
    keys.send_text(line() if lines < 400 else "exit\\r")

def line():
    words = f"the fox {lines} sat on a"
    return words + "\\x7f" * 3 + "\\x1b[C" + "\\x1b[D" * 2 + "x\\r"

repl.show_table = show
repl.print = lambda *_, **__: None
with create_pipe_input() as keys, create_app_session(input=keys, output=DummyOutput()):
    keys.send_text(line())
    repl.converse(IncrementalReader(Stepper(load_checkpoint(Path("model.safetensors")))), 10)
assert lines == 400
tell(lines=lines)
"""

# One line of 3,000 characters, key by key, cleared and typed again, five times; warm after the first.
LONG_LINES = """
from charlm.cli import repl
from charlm.checkpoint import load_checkpoint
from charlm.inference.incremental import IncrementalReader
from charlm.inference.stepper import Stepper

reader = IncrementalReader(Stepper(load_checkpoint(Path("model.safetensors"))))
reader.read("the ")
note()
for _ in range(5):
    for end in range(1, 3001):
        reader.read(("the fox and the hare " * 150)[:end])
    note()
    reader.read("")
empty = seen.pop(0)
tell(bytes_per_character=(seen[0] - empty) * 1048576 / 3000)
"""


def run(program: str, *arguments: str) -> dict[str, Any]:
    """Run a program in its own process and return the figures it prints, in MB."""
    command = [sys.executable, "-c", BEGINNING + program, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    shown = ", ".join(f"{name} {value:.1f}" for name, value in figures.items())
    print(f"{' '.join(arguments)} {shown}")
    return figures


def assert_flat(figures: dict[str, Any]) -> None:
    """Check that after the warm-up resident memory grew by no more than is allowed."""
    assert figures["notes"] >= 5
    assert figures["peak"] - figures["warm"] <= MAX_GROWTH_MB
    assert figures["end"] - figures["warm"] <= MAX_GROWTH_MB


@pytest.fixture
def model_file(make_model: Callable[..., ModelFile]) -> None:
    """Write a small model in two layers into the working folder."""
    make_model("lstm", 2, SYMBOLS, hidden_size=24).save(Path("model.safetensors"))


@pytest.mark.parametrize("precision", ["fp32", "auto"])
@pytest.mark.parametrize("cell", CELLS)
def test_memory_stays_flat_over_2500_training_steps(cell: str, precision: str) -> None:
    """Reports, validations, dropout masks and saves hold no more memory at step 2,500 than at step 500."""
    assert_flat(run(TRAINS, cell, precision))


@pytest.mark.usefixtures("model_file")
@pytest.mark.parametrize(("num_texts", "length"), [(1, 1_000_000), (64, 20_000)])
def test_memory_stays_flat_over_a_million_characters(num_texts: int, length: int) -> None:
    """One long text and 64 texts side by side need no more memory than their first twentieth."""
    figures = run(SAMPLES, str(num_texts), str(length))
    assert figures["characters"] == num_texts * length
    assert_flat(figures)


@pytest.mark.usefixtures("model_file")
def test_memory_stays_flat_over_12000_keystrokes() -> None:
    """Ten thousand keystrokes after the warm-up leave no states of deleted lines behind."""
    assert_flat(run(TYPES))


@pytest.mark.usefixtures("model_file")
def test_memory_stays_flat_over_400_lines_at_the_prompt() -> None:
    """The history, the undo stack and the suggestions of the prompt hold no more memory at line 400 than at line 60."""
    assert_flat(run(CONVERSES))


def test_a_long_line_keeps_little_memory_for_each_character(make_model: Callable[..., ModelFile]) -> None:
    """A character of a long line keeps less than half a state, and typing the line again adds nothing."""
    file = make_model("lstm", 2, SYMBOLS, hidden_size=256)
    file.save(Path("model.safetensors"))
    figures = run(LONG_LINES)
    one_state = (len(SYMBOLS) + 2 * 2 * 256) * np.dtype(np.float32).itemsize
    print(f"a character: {figures['bytes_per_character']:,.0f} bytes; a state: {one_state:,}")
    assert figures["bytes_per_character"] < one_state / 2
    assert_flat(figures)
