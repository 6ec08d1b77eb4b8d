"""Hostile settings files and overrides: each loads or is one line of error, in little time."""

from __future__ import annotations

import functools
import os
import random
import re
import statistics
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from charlm.errors import ConfigError, one_line
from charlm.settings.config import GROUPS, Config, Settings
from charlm.settings.config_file import load_config
from charlm.settings.strict_yaml import MAX_BYTES
from tests.helpers.commands import call, within
from tests.helpers.settings_files import NUMBERS, SHIPPED, durations, loaded, refusal


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("\n\nseed: !!int abc\n", 3),
        ("\n\nseed: !!bool abc\n", 3),
        ("\n\nseed: !!timestamp abc\n", 3),
        ("\n\nseed: !!timestamp 2001-99-99\n", 3),
        ("\n\nseed: !!int {!!value x: gru}\n", 3),
        ("\n\nseed: " + "9" * 5000 + "\n", 3),
        ('\n\nvocab: "\\UFFFFFFFF"\n', 3),
        ('\n\nvocab: "\\U00110000"\n', 3),
        ("\n\nseed: 3\0\n", 3),
        ("\n\nseed: \x1b\n", 3),
        ("model:\n  !!merge x: {cell: gru}\n", 2),
        ("model:\n  cell: !!str {!!value x: gru}\n", 2),
        ("\nseed: !!python/object/apply:os.getpid []\n", 2),
        ("%TAG ! tag:yaml.org,2002:python/\n---\nseed: !object:os.system x\n", 3),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_invalid_yaml_is_reported_with_its_line(text: str, line: int) -> None:
    """Tags, merged groups, very long numbers and control characters are refused with file and line."""
    assert f"s.yaml:{line}" in refusal(text)


@pytest.mark.parametrize("key", ['"a\\nb"', '"\\e[31mred"', '"\\a"', '"\\u202e"', '"\\x9b31m"', '"\\ud800"', '"\\r"'])
def test_an_unprintable_key_is_shown_as_an_escape(key: str) -> None:
    """No line end and no control sequence reaches the terminal from a settings file."""
    Path("s.yaml").write_text(f"\n{key}: 1\n", encoding="utf-8")
    result = call("train", "./s.yaml")
    assert result.exit_code == 2
    error, *hints = result.stderr.removesuffix("\n").split("\n")
    assert "s.yaml:2: " in error
    assert "``" not in error
    assert error.isprintable()
    assert [hint.partition(":")[0] for hint in hints] in ([], ["hint"])


@pytest.mark.parametrize("key", ["model.hidden_size", "train.steps", "data.corpus"])
def test_a_key_is_not_suggested_in_place_of_itself(key: str) -> None:
    """A dotted key at the top of a settings file gets another hint than the key itself."""
    assert f"did you mean `{key}`" not in refusal(f"{key}: 64\n")


def test_a_repeated_key_does_not_hide_other_problems() -> None:
    """All problems of a settings file are reported at once, repeated keys among them."""
    message = refusal("seed: 1\nseed: 2\nfoo: 3\nmodel:\n  cell: x\n  cell: gru\n")
    for part in ("s.yaml:2: `seed`", "s.yaml:3: `foo`", "s.yaml:6: `model.cell`"):
        assert part in message


def test_an_override_with_an_undecodable_key_is_reported() -> None:
    """A key that is not UTF-8 is reported as a part of `--set`, not of the settings file."""
    message = refusal("", "\udcff=1")
    assert "--set" in message
    assert "s.yaml" not in message


@pytest.mark.parametrize("text", ["seed=2\nvocab: bytes", "model.cell=gru\nhidden_size: 3", "seed=2\nfoo: 3\n"])
def test_an_override_of_several_lines_is_refused(text: str) -> None:
    """The lines of an override after the first are not dropped silently."""
    with pytest.raises(ConfigError, match=f"--set {text.partition('=')[0]}"):
        loaded("", text)


GROUPS_AND_ROOT: dict[str, type[Settings]] = {"": Config} | GROUPS
NUMERIC = [
    (group, name)
    for group, model in GROUPS_AND_ROOT.items()
    for name, field in model.model_fields.items()
    if re.search(r"\b(int|float)\b", str(field.annotation))
]


@pytest.mark.parametrize(("group", "name"), NUMERIC)
@pytest.mark.parametrize("value", ["-1e300", "1e300", "9" * 30, "-" + "9" * 30, "9" * 4000, "1e999", "!!float nan"])
def test_every_numeric_setting_has_bounds(group: str, name: str, value: str) -> None:
    """No numeric setting accepts an absurd value; the message names line and key and stays short."""
    message = refusal(f"{group}:\n  {name}: {value}\n" if group else f"\n{name}: {value}\n")
    assert "s.yaml:2" in message
    assert f"`{group}.{name}`".replace("`.", "`") in message or value.startswith("!!")
    assert len(message) < 500


def test_the_numeric_settings_were_found() -> None:
    """At least 28 settings are tested for their bounds."""
    assert len(NUMERIC) >= 28


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("seed", (1, 2, 3)),
        ("train.time", (10.0, 20.0, 30.0)),
        ("data.encoding", ("ascii", "cp1252", "latin-1")),
        ("data.corpus", (["a"], ["b"], ["c"])),
    ],
)
def test_a_flag_wins_over_set_over_file_over_default(key: str, values: tuple[Any, Any, Any]) -> None:
    """A setting that can be given in several places comes from the flag, else `--set`, the file, the default."""
    group, _, name = key.rpartition(".")

    def found(config: Config) -> Any:
        return getattr(getattr(config, group) if group else config, name)

    in_file, in_set, in_flag = values
    text = yaml.safe_dump({group: {name: in_file}} if group else {name: in_file})
    assert found(loaded("")) not in values
    assert found(loaded(text)) == in_file
    assert found(loaded(text, f"{key}={in_set}")) == in_set
    assert found(loaded(text, f"{key}={in_set}", **{key: in_flag})) == in_flag
    assert durations(loaded("train: {steps: 5}", "train.epochs=3", **{"train.time": "9s"})) == (None, None, 9.0)


@pytest.mark.parametrize("name", ["pipe", "/dev/zero", "/dev/null", "folder", "loop", "x" * 5000, "s.yaml/x", "\0"])
def test_settings_are_read_from_regular_files_only(name: str) -> None:
    """A pipe, a device, a folder, a link to itself or an impossible name is refused at once, by name."""
    os.mkfifo("pipe")
    Path("folder").mkdir()
    Path("loop").symlink_to("loop")
    Path("s.yaml").touch()
    with within(2), pytest.raises(ConfigError) as raised:
        load_config(name)
    assert one_line(name)[:1000] in str(raised.value)


def test_a_large_settings_file_is_refused_unread() -> None:
    """A file that is far too large for settings is not read into memory."""
    with Path("large.yaml").open("wb") as file:
        file.truncate(64 << 20)
    tracemalloc.start()
    try:
        with pytest.raises(ConfigError, match=r"`large\.yaml` is larger"):
            load_config("large.yaml")
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


# How many times as long as a valid file of the same size; quadratic time would take hundreds.
MAX_TIMES = 10
MAX_SIZE = MAX_BYTES - 100
CROWDED: dict[str, Callable[[int], str]] = {
    "unknown keys": lambda size: "".join(f"key{number}: 1\n" for number in range(size // 12)),
    "keys that are nearly right": lambda size: (
        "model:\n" + "".join(f" hidden{number}: 1\n" for number in range(size // 16))
    ),
    "a flow mapping": lambda size: "{" + ",".join(f"a{number}" for number in range(size // 8)) + "}",
    "wrong items": lambda size: "data:\n  corpus: [" + "1," * (size // 2 - 50) + "]",
    "mappings in a list": lambda size: "data:\n  corpus: [" + "{a: 1}," * (size // 8) + "]",
    "a long key": lambda size: "? " + "x" * (size - 10) + "\n: 1",
    "brackets": lambda size: "[" * size,
    "blanks": lambda size: " " * (size - 10) + "a: 1",
}


@pytest.mark.parametrize("make", CROWDED.values(), ids=list(CROWDED))
def test_a_settings_file_full_of_errors_takes_little_time(make: Callable[[int], str]) -> None:
    """A file of the largest allowed size that is full of errors takes at most ten times as long as a valid one."""
    text = make(MAX_SIZE)

    def refuse() -> None:
        assert "s.yaml" in refusal(text)

    assert least_seconds(refuse) < MAX_TIMES * seconds_of_a_valid_file()


def least_seconds(work: Callable[[], object]) -> float:
    """Return the shortest of three times that a call takes."""
    seconds = []
    for _ in range(3):
        begin = time.process_time()
        work()
        seconds.append(time.process_time() - begin)
    return min(seconds)


@functools.cache
def seconds_of_a_valid_file() -> float:
    """Return how long a valid file of the largest allowed size takes."""
    item = "  - a/b.txt\n"
    Path("sound.yaml").write_text("data:\n  corpus:\n" + item * (MAX_SIZE // len(item) - 2), encoding="utf-8")
    return least_seconds(lambda: load_config("sound.yaml"))


def test_an_override_of_30000_dots_takes_little_time() -> None:
    """A key of 30,000 parts is refused within two seconds."""
    with within(2):
        assert "is not a setting" in refusal("", ".".join("a" * 30_000) + "=1")


# A thousand settings files

PIECES = ["&a ", "*a", "!!int ", "!!binary ", "<<: ", "? ", "- ", ": ", "---\n", "...\n", "\t", "\0", "\ufeff"]
PIECES += [*"[]{}'\"|>%#,\\\r\x85", "9" * 30, "1e999", "null", "true", "\U0001f600"]
NAMES = [name for group in GROUPS_AND_ROOT.values() for name in group.model_fields]
LEAVES = [None, True, 0, -1, 1.5, 10**30, float("nan"), "gru", "60s", "", "\x1b", "\U0001f600"]


def spoiled(chance: random.Random, data: bytes) -> bytes:
    """Damage a settings file in a few places."""
    for _ in range(chance.randrange(1, 6)):
        lines = data.split(b"\n")
        at, line = chance.randrange(len(data) + 1), chance.randrange(len(lines))
        piece = chance.choice([*PIECES, *NUMBERS, *NAMES]).encode("utf-8", "surrogateescape")
        lines[line] = chance.choice(
            [b"  " + lines[line], lines[line].partition(b":")[0] + b": " + piece, lines[line - 1]]
        )
        choices = [b"\n".join(lines), data[:at] + piece + data[at:], data[:at] + data[at + chance.randrange(20) :]]
        data = chance.choice([*choices, data[:at] + chance.randbytes(2) + data[at + 2 :]])
    return data


def tree(chance: random.Random, depth: int = 0) -> Any:
    """Make up a random tree of YAML, in which some keys are names of settings."""
    kind = chance.randrange(3 if depth < 5 else 1)
    if kind == 0:
        return chance.choice(LEAVES)
    if kind == 1:
        return [tree(chance, depth + 1) for _ in range(chance.randrange(4))]
    return {chance.choice([*NAMES, "", "x", 3, None]): tree(chance, depth + 1) for _ in range(chance.randrange(6))}


@pytest.mark.slow
def test_a_thousand_settings_files_load_or_are_refused() -> None:
    """A damaged or random settings file loads, or is a `ConfigError` that names the file."""
    chance = random.Random(20)
    seconds: list[float] = []
    messages: list[str] = []
    for number in range(1000):
        made_up = yaml.dump(tree(chance), allow_unicode=bool(number % 4)).encode()
        Path("s.yaml").write_bytes(spoiled(chance, chance.choice(SHIPPED).read_bytes()) if number % 2 else made_up)
        begin = time.perf_counter()
        try:
            load_config("s.yaml")
        except ConfigError as error:
            messages.append(str(error))
        seconds.append(time.perf_counter() - begin)
    median, longest = statistics.median(seconds) * 1e3, max(seconds) * 1e3
    print(f"1,000 settings files: {len(messages)} refused, median {median:.2f} ms, longest {longest:.1f} ms")
    assert all("s.yaml" in message for message in messages)
    assert 500 < len(messages) < 950
    assert median < 50
