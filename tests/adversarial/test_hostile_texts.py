"""Hostile texts, names, prompts and consoles: used and shown unchanged, or refused in one line."""

from __future__ import annotations

import json
import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import BytesIOCopy, CliRunner

from charlm.checkpoint import ModelFile, load_checkpoint
from charlm.cli.app import app
from charlm.data import sources
from charlm.data.corpus import load_corpus
from charlm.errors import CorpusError
from charlm.inference.sampling import softmax
from charlm.inference.stepper import Stepper
from charlm.vocab import Vocabulary
from tests.helpers.commands import ONE_STEP, answer, answers, call, within
from tests.helpers.texts import cached_ids, text_of, write

# Control sequences that clear the screen, ring the bell, reverse the text and start a line.
CONTROLS = "\x1b[2J\x07\x9b31m\u202e\r\n"
PLANES = "".join(chr((plane << 16) + 0x1234) for plane in range(17)) + "\U0010ffff\uffff\ufdd0"
LONE_SURROGATE = b"ab\xed\xa0\x80c"  # half of a surrogate pair, which is not valid UTF-8


def learn(name: str, *arguments: str) -> tuple[Any, ModelFile]:
    """Train one step on a text with the command; return the JSON that it prints and the model."""
    run = f"run-{len(list(Path().glob('run-*')))}"
    return answer("train", "-c", name, *ONE_STEP, "--seed", "1", "--out", run, "--json", *arguments), load_checkpoint(
        Path(run, "best.safetensors")
    )


# Texts

TEXTS = {
    "one character": "a",
    "two characters": "ab",
    "one distinct character": "a" * 2000,
    "only line ends": "\n" * 300,
    "every kind of line end": "a\rb\nc\r\nd\n\re\x85f\u2028g\u2029h\x0bi\x0cj" * 30,
    "no line end": "abc def " * 100,
    "NUL": "a\0b\0\0" * 100,
    "control characters": "".join(map(chr, [*range(32), *range(127, 160)])) * 10,
    "control sequences": f"ab{CONTROLS}" * 50,
    "every plane": PLANES * 20,
    "marks of byte order": "a\ufeffb\ufffe" * 50,
    "combining marks": "e\u0301\u0302\u0303" * 100,
    "2,000 distinct characters": "".join(map(chr, range(0x4E00, 0x4E00 + 2000))),
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=list(TEXTS))
def test_any_text_is_learned_unchanged(text: str) -> None:
    """The symbols are exactly the characters of the text; training, sampling and evaluation succeed."""
    printed, model = learn(write("text.txt", text))
    assert sorted(set(text)) == list(model.vocabulary.symbols)
    assert model.corpus["characters"] == len(text)
    assert set(printed["sample"]) <= set(text)
    figures = answer("eval", "-m", "run-0", "-c", "text.txt", "--json")
    assert (figures["characters"], figures["nats_per_character"] >= 0) == (len(text), True)
    assert text_of(load_corpus(["text.txt"])) == text


def test_twenty_thousand_distinct_characters_are_learned() -> None:
    """A vocabulary of 20,000 characters is trained for two steps."""
    text = "".join(map(chr, range(0x4E00, 0x4E00 + 20_000))) * 2
    printed, model = learn(write("text.txt", text), "--set", "train.steps=2", "--set", "model.ngram_order=0")
    assert (len(model.vocabulary), printed["step"]) == (20_000, 2)
    assert load_corpus(["text.txt"]).ids.tolist() == [*range(20_000), *range(20_000)]


def test_a_lone_surrogate_is_invalid_utf8_and_valid_bytes() -> None:
    """`train` and `eval` refuse `ED A0 80` with its offset, and a vocabulary of bytes learns it."""
    name = write("alone.txt", LONE_SURROGATE * 20)
    learn(write("good.txt", "abc" * 50))
    for command in (["train", "-c", name, *ONE_STEP], ["eval", "-m", "run-0", "-c", name]):
        result = call(*command)
        assert result.exit_code == 1
        assert "`alone.txt` is not utf-8: byte 0xed at offset 2 " in result.stderr
    learn(name, "--set", "vocab=bytes")
    assert answer("eval", "-m", "run-1", "-c", name, "--json")["bytes"] == len(LONE_SURROGATE) * 20


# Folders and names


def test_special_files_in_a_folder_are_skipped() -> None:
    """Pipes, sockets, devices, broken and circular links block nothing, and no file is read twice."""
    write("folder/b.txt", "b")
    write("folder/empty.txt", "")
    os.mkfifo("folder/a-pipe")
    Path("folder/around").symlink_to(".")
    Path("folder/back").symlink_to("../folder")
    Path("folder/self").symlink_to("self")
    Path("folder/nowhere").symlink_to("nothing")
    Path("folder/device").symlink_to("/dev/zero")
    with within(5), socket.socket(socket.AF_UNIX) as door:
        door.bind("folder/socket")
        assert text_of(load_corpus(["folder"])) == "b"


def test_a_pattern_matches_no_pipe() -> None:
    """A pipe in a folder is not read for the pattern `folder/*`."""
    write("folder/b.txt", "b")
    os.mkfifo("folder/a-pipe")
    with within(5):
        assert text_of(load_corpus(["folder/*"])) == "b"


def test_a_pattern_matches_each_file_once() -> None:
    """A file that a pattern reaches in several ways is read once."""
    write("folder/sub/deep/b.txt", "b")
    assert text_of(load_corpus(["folder/**/**/*.txt"])) == "b"


@pytest.mark.parametrize("links", [1, 2])
def test_a_pattern_does_not_follow_circular_links(links: int) -> None:
    """Links that lead back into the folder cause no endless search and no error."""
    write("folder/b.txt", "b")
    for number in range(links):
        Path(f"folder/around{number}").symlink_to(".")
    with within(5):
        assert text_of(load_corpus(["folder/**"])) == "b"


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is closed to the superuser")
def test_an_unreadable_folder_is_reported() -> None:
    """A folder that cannot be read is an error, because without it the text would be another."""
    write("folder/a.txt", "a")
    write("folder/closed/b.txt", "b")
    Path("folder/closed").chmod(0)
    with pytest.raises(CorpusError, match="closed"):
        load_corpus(["folder"])


@pytest.mark.parametrize("name", ["a\nb.txt", "\x1b[31mred.txt", os.fsdecode(b"\xff\xfe.txt"), "\u202egnp.txt", "--"])
def test_a_text_file_may_have_any_name(name: str) -> None:
    """A file with an odd name is learned, alone and in a folder, and its run is evaluated and resumed."""
    write(f"folder/{name}", "abc abc\n" * 40)
    learn("folder")
    learn(f"folder/{name}")
    assert call("eval", "-m", "run-1").exit_code == 0
    resumed = call("train", "--resume", "run-1", "--set", "train.steps=2", "--sample-length", "0")
    assert resumed.exit_code == 0, resumed.stderr


@pytest.mark.parametrize("stem", ["a" * 250, "\u4e2d" * 83], ids=["letters", "ideographs"])
def test_a_text_file_may_have_the_longest_possible_name(stem: str) -> None:
    """The run folder of a file with a very long name has as much of the name as a folder can have."""
    result = call("train", "-c", write(f"{stem}.txt", "abc abc\n" * 40), *ONE_STEP)
    assert result.exit_code == 0, result.stderr


# Files that change, caches that are damaged


@pytest.mark.parametrize("name", ["folder", "folder/*.txt", "folder/a.txt"])
def test_a_file_deleted_before_it_is_read_is_reported(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is found and then deleted is a `CorpusError` that names it."""
    write("folder/a.txt", "text")
    original = sources._checked

    def checked_and_gone(path: Path) -> object:
        source = original(path)
        path.unlink()
        return source

    monkeypatch.setattr(sources, "_checked", checked_and_gone)
    with pytest.raises(CorpusError, match=r"`folder/a\.txt`"):
        load_corpus([name])


@pytest.mark.parametrize(
    "change",
    [
        {"symbols": None},
        {"symbols": [97, 97]},
        {"symbols": ["a"]},
        {"symbols": [-1]},
        {"symbols": [2**70]},
        {"symbols": [101, 116]},
        {"symbols": {}},
        {"characters": None},
        {"characters": 0},
        {"characters": "4"},
        {"marked": None},
        {"marked": [99]},
        {"marked": ["0"]},
        {"symbols": []},
    ],
    ids=str,
)
def test_an_invalid_cache_description_is_replaced(tmp_path: Path, change: dict[str, object]) -> None:
    """A text is encoded again if its description lacks a field (None) or has an impossible value."""
    name = write("a.txt", "text")
    load_corpus([name])
    (path,) = (tmp_path / "cache" / "encoded").glob("*.json")
    description = json.loads(path.read_bytes()) | change
    path.write_text(json.dumps({key: value for key, value in description.items() if value is not None}))
    assert text_of(load_corpus([name])) == "text"


def test_a_deeply_nested_cache_description_is_replaced(tmp_path: Path) -> None:
    """A text is encoded again if its description has brackets deeper than Python can parse."""
    name = write("a.txt", "text")
    load_corpus([name])
    (path,) = (tmp_path / "cache" / "encoded").glob("*.json")
    path.write_bytes(b"[" * 100_000)
    assert text_of(load_corpus([name])) == "text"


@pytest.mark.parametrize("command", ["train", "eval"])
def test_cached_ids_out_of_range_are_not_used(tmp_path: Path, command: str) -> None:
    """Ids beyond the vocabulary are encoded again, or the damage is reported in one line."""
    name = write("text.txt", "abc abc\n" * 40)
    learn(name)
    for path in cached_ids(tmp_path):
        ids = np.fromfile(path, dtype=np.uint8)
        ids[::50] = 200
        ids.tofile(path)
    result = call(*{"train": ["train", "-c", name, *ONE_STEP], "eval": ["eval", "-m", "run-0"]}[command])
    assert result.exit_code == 0 or result.stderr.startswith("error: ")


def test_the_cache_tells_surrogates_from_their_character() -> None:
    """A vocabulary of two surrogates and one of the character that they encode have separate cache entries."""
    name = write("a.txt", "a\U0001f600")
    halves, whole = Vocabulary("characters", "a\ud83d\ude00"), Vocabulary("characters", "a\U0001f600")
    assert load_corpus([name], vocabulary=halves, unknown="skip").ids.tolist() == [0]
    assert load_corpus([name], vocabulary=whole, unknown="skip").ids.tolist() == [0, 1]


# Prompts and consoles


@pytest.mark.parametrize("prompt", [PLANES, "\udcff\udc80", "a\0\x1b[31m\x9b\r\n\x7f", "\u202e\ufeff", "\ud800"])
def test_any_prompt_is_returned_unchanged_in_json(make_model: Callable[..., ModelFile], prompt: str) -> None:
    """Characters of every plane, lone surrogates and control characters pass through both kinds of vocabulary."""
    make_model(symbols="".join(sorted(set(prompt)))).save(Path("own.safetensors"))
    make_model(symbols=Vocabulary.of_bytes()).save(Path("bytes.safetensors"))
    ids = {"own": [sorted(set(prompt)).index(c) for c in prompt], "bytes": [*prompt.encode("utf-8", "surrogatepass")]}
    for name in ids:
        (sample,) = answers("sample", prompt, "-m", f"{name}.safetensors", "--length", "4", "--json")
        assert sample["text"][: len(prompt)] == prompt
        predicted = answer("predict-next", prompt, "-m", f"{name}.safetensors", "--json")
        stepper = Stepper(load_checkpoint(Path(f"{name}.safetensors")))
        logits_BV, _ = stepper.read(ids[name])
        assert predicted["text"] == prompt
        assert predicted["candidates"][0]["probability"] == pytest.approx(softmax(logits_BV).max())


@pytest.mark.parametrize("command", ["sample", "predict-next"])
def test_a_million_unknown_characters_take_little_time(model: str, command: str) -> None:
    """A prompt of a million unknown characters is refused, or skipped, within five seconds."""
    unknown = "".join(map(chr, range(0x4E00, 0x9F00))) * 50
    with within(5):
        assert call(command, "-", "-m", model, stdin=unknown.encode()).exit_code == 1
        assert call(command, "-", "-m", model, "--unknown", "skip", stdin=f"{unknown}abc".encode()).exit_code == 0


@pytest.mark.parametrize("charset", ["ascii", "cp1252", "latin-1"])
def test_a_console_of_any_charset_shows_escapes(
    make_model: Callable[..., ModelFile], charset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Samples, tables, errors and names that a console cannot print appear as escapes, JSON as valid JSON."""
    monkeypatch.setattr(BytesIOCopy, "isatty", lambda stream: True)
    make_model(symbols="\n\u4e00\u4e8c\u4e09").save(Path("zh.safetensors"))
    write("\u4e00.txt", "\u4e00\u4e8c\u4e09\n" * 40)
    console = CliRunner(charset=charset)

    def run(*arguments: str) -> Any:
        return console.invoke(app, arguments, catch_exceptions=False)

    assert run("sample", "\u4e00", "-m", "zh.safetensors", "--seed", "1").stdout.startswith("\\u4e00")
    assert "'\\u4e8c'" in run("predict-next", "\u4e00", "-m", "zh.safetensors").stdout
    assert "'\\u4e01'" in run("sample", "\u4e01", "-m", "zh.safetensors").stderr
    assert "\\u4e00.txt" in run("eval", "-m", "zh.safetensors", "-c", "\u4e00.txt").stdout
    assert "\\u4e01" in run("train", "\u4e01").stderr
    trained = run("train", "-c", "\u4e00.txt", *ONE_STEP, "--out", "\u4e8c")
    assert (trained.exit_code, "\\u4e8c" in trained.stderr) == (0, True)
    assert json.loads(run("sample", "\u4e00", "-m", "zh.safetensors", "--json").stdout)["text"][0] == "\u4e00"
    assert json.loads(run("predict-next", "\u4e00", "-m", "zh.safetensors", "--json").stdout)["text"] == "\u4e00"


@pytest.mark.parametrize(("option", "value"), [("--stop", "\u00e9"), ("--unknown", "replace=\u00e9")])
def test_an_option_means_the_same_under_an_ascii_locale(
    make_model: Callable[..., ModelFile], option: str, value: str
) -> None:
    """Option values that Python passes on as surrogates under an ASCII locale are decoded."""
    make_model(symbols="a\u00e9").save(Path("small.safetensors"))
    arguments = ["sample", "aXa", "-m", "small.safetensors", "--seed", "1", "--length", "99", "--unknown", "skip"]
    as_read = value.encode().decode("ascii", "surrogateescape")
    assert call(*arguments, option, as_read).stdout == call(*arguments, option, value).stdout != ""


def test_a_vocabulary_sends_no_control_sequences(make_model: Callable[..., ModelFile]) -> None:
    """Tables and errors show every symbol of a vocabulary as printable text."""
    make_model(symbols="".join(sorted({*CONTROLS, *"a\x08\u2028\u200b\ufeff\U000e0001"}))).save(Path("odd.safetensors"))
    table = call("predict-next", "a", "-m", "odd.safetensors", "--top", "99").stdout
    refused = call("predict-next", "\x1c\u200c", "-m", "odd.safetensors").stderr
    assert all(line.isprintable() for line in (table + refused).split("\n"))


@pytest.mark.parametrize(
    "arguments",
    [
        ["eval", "-m", "small.safetensors", "-c", CONTROLS],
        ["train", "-c", CONTROLS, *ONE_STEP, "--out", f"run{CONTROLS}", "--json"],
        ["train", CONTROLS],
        ["train", "-c", f"no{CONTROLS}"],
        ["train", "--set", f"{CONTROLS}=1"],
        ["train", "--resume", f"no{CONTROLS}"],
        ["sample", "-m", f"no{CONTROLS}"],
    ],
    ids=lambda arguments: repr(" ".join(arguments[:4])),
)
def test_a_file_name_sends_no_control_sequences(model: str, arguments: list[str]) -> None:
    """Names of files, folders and keys are shown as printable text in results, errors and progress."""
    write(CONTROLS, "abc abc\n" * 40)
    result = call(*arguments)
    assert not set("\x1b\x07\x9b\u202e\r") & set(result.stdout + result.stderr)
    assert result.exit_code == 0 or len(result.stderr.splitlines()) <= 2


# Slow tests


def hostile_text(chance: random.Random) -> str:
    """Make up a text of a few odd characters, often repeated."""
    ranges = [(0, 32), (32, 127), (127, 256), (0x300, 0x370), (0x590, 0x700), (0x2000, 0x2070), (0x4E00, 0x9FFF)]
    ranges += [(0xE000, 0xF8FF), (0xFE00, 0xFFFF), (0x1F300, 0x1FAFF), (0xE0000, 0xE0100), (0x10FF00, 0x10FFFF)]
    few = [chr(chance.randint(*chance.choice(ranges))) for _ in range(chance.choice([1, 2, 5, 50, 500]))]
    text = "".join(chance.choices([*few, "\r", "\n", "\r\n"], k=chance.choice([1, 2, 3, 10, 100, 1000, 5000])))
    return text.removeprefix("\ufeff") or "a"


@pytest.mark.slow
def test_a_hundred_hostile_texts_are_learned() -> None:
    """Each text, in one of several encodings, as characters or as bytes, is trained on, sampled and evaluated."""
    chance, seconds = random.Random(7), []
    for number in range(100):
        text, encoding = hostile_text(chance), chance.choice(["utf-8", "utf-16-le", "utf-32-be", "utf-7", "gb18030"])
        kind = chance.choice(["characters", "characters", "bytes"])
        name = write(f"{number}.txt", text.encode(encoding))
        begin = time.perf_counter()
        printed, model = learn(name, "--encoding", encoding, "--set", f"vocab={kind}")
        assert kind == "bytes" or sorted(set(text)) == list(model.vocabulary.symbols), number
        assert kind == "bytes" or set(printed["sample"]) <= set(text), number
        figures = answer("eval", "-m", f"run-{number}", "-c", name, "--encoding", encoding, "--json")
        assert figures[kind] == (len(text) if kind == "characters" else len(text.encode(encoding))), number
        seconds.append(time.perf_counter() - begin)
    print(f"100 hostile texts: none failed, {sum(seconds):.1f} s, longest {max(seconds):.2f} s")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is measured through /proc")
def test_a_line_of_100_megabytes_is_read_in_little_memory() -> None:
    """A text of 100 MB without a line end is encoded in less than 150 MB of memory and trained on."""
    with Path("line.txt").open("wb") as file:
        for _ in range(100):
            file.write("abc def \u4e2d".encode() * 90_909 + b"a")
    begin = time.perf_counter()
    program = (
        "from charlm.data.corpus import load_corpus\n"
        "print(len(load_corpus(['line.txt']).ids))\n"
        "print(open('/proc/self/status').read())"
    )
    output = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True).stdout.split()
    megabytes = int(output[output.index("VmHWM:") + 1]) / 1024
    print(f"100 MB on one line: {time.perf_counter() - begin:.1f} s and {megabytes:.0f} MB to encode")
    printed, _ = learn("line.txt", "--set", "data.validation_fraction=0.001")
    assert (int(output[0]), printed["step"]) == (100 * (90_909 * 9 + 1), 1)
    assert megabytes < 150


@pytest.mark.slow
def test_a_prompt_of_a_million_characters_is_read(model: str) -> None:
    """A prompt of a million known characters is read and printed whole."""
    begin = time.perf_counter()
    (sample,) = answers("sample", "-", "-m", model, "--length", "1", "--json", stdin=b"abcdefgh" * 125_000)
    print(f"a prompt of a million characters: {time.perf_counter() - begin:.1f} s")
    assert len(sample["text"]) == 1_000_001
