"""Settings are read strictly, every problem is told with its place, and what is written reads back the same."""

from __future__ import annotations

import copy
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from charlm import config as config_module
from charlm.config import (
    Config,
    DataConfig,
    ModelConfig,
    TrainConfig,
    describe,
    load,
    override,
    parse_seconds,
    parse_yaml,
    validate,
)
from charlm.errors import ConfigError
from charlm.files import bundled_folder

SHIPPED = sorted(bundled_folder("configs").glob("*.yaml"))


def loaded(text: str | bytes, *overrides: str, **flags: Any) -> Config:
    """Load settings from a file `s.yaml` of this content."""
    path = Path("s.yaml")
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return load(path, overrides, flags)


def refusal(text: str | bytes, *overrides: str, **flags: Any) -> str:
    """Load what must be refused, and return what is said: one line."""
    with pytest.raises(ConfigError) as raised:
        loaded(text, *overrides, **flags)
    assert "\n" not in str(raised.value)
    return str(raised.value)


# What there is


@pytest.mark.parametrize("group", [ModelConfig, DataConfig, TrainConfig])
def test_every_setting_of_a_group_is_described(group: type[ModelConfig | DataConfig | TrainConfig]) -> None:
    """No setting is without words on what it is for."""
    assert [name for name, field in group.model_fields.items() if not field.description] == []


def test_every_setting_outside_a_group_is_described() -> None:
    """The settings that stand alone are described too."""
    groups = {"model", "data", "train"}
    assert {"vocab", "seed"} == set(Config.model_fields) - groups
    assert all(Config.model_fields[name].description for name in ("vocab", "seed"))


def test_the_list_of_settings_has_each_with_its_default() -> None:
    """`describe` has one line for each setting, by its dotted key, with the default that a run has without it."""
    lines = describe().splitlines()
    groups: list[tuple[str, type[BaseModel]]] = [
        ("model.", ModelConfig),
        ("data.", DataConfig),
        ("train.", TrainConfig),
    ]
    keys = {group + name for group, model in groups for name in model.model_fields} | {"vocab", "seed"}
    assert keys == {line.split(" ")[0] for line in lines}
    assert len(keys) == len(lines)
    assert any(line.startswith("model.hidden_size (default 512): ") for line in lines)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_file_loads(path: Path) -> None:
    """Each file in `configs/` is valid, by path and by name, and says nothing twice or in vain."""
    assert load(path) == load(path.stem)
    tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    dumped = load(path).model_dump()
    for group, values in tree.items():
        assert values.keys() <= dumped[group].keys()


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_a_shipped_file_is_named_after_its_cell(cell: str) -> None:
    """`gru.yaml` trains a GRU."""
    assert cell == load(cell).model.cell


def test_the_default_is_the_shipped_lstm() -> None:
    """Nothing chosen means `lstm.yaml`."""
    assert load("lstm") == load(None)
    assert load(None).model.cell == "lstm"


@pytest.mark.parametrize("text", ["", "\n", "# nothing but a remark\n", "---\n", "null\n", "{}\n", "\ufeff"])
def test_an_empty_file_means_all_defaults(text: str) -> None:
    """A file that says nothing changes nothing; a run lasts a minute then."""
    assert Config() == loaded(text)
    assert loaded(text).train.time == 60.0


def test_a_missing_group_means_its_defaults() -> None:
    """What a file does not mention has its default."""
    found = loaded("model:\n  cell: gru\n")
    assert found.model.cell == "gru"
    assert ModelConfig().hidden_size == found.model.hidden_size
    assert (DataConfig(), TrainConfig(time=60.0)) == (found.data, found.train)


@pytest.mark.parametrize("group", ["model", "data", "train"])
def test_a_group_with_nothing_in_it_means_its_defaults(group: str) -> None:
    """A group all of whose lines are remarks is as good as absent."""
    assert Config() == loaded(f"{group}:\n  # nothing: here\n")


def test_a_group_with_nothing_in_it_can_be_overridden() -> None:
    """`--set` fills a group that the file leaves empty."""
    assert loaded("model:\n", "model.cell=gru").model.cell == "gru"


def test_settings_are_frozen() -> None:
    """No setting changes after it was checked."""
    found = Config()
    with pytest.raises(ValidationError, match="frozen"):
        found.seed = 3  # type: ignore[misc]
    with pytest.raises(ValidationError, match="frozen"):
        found.model.hidden_size = 3  # type: ignore[misc]


def test_two_settings_share_nothing_that_changes() -> None:
    """What is done to the list of one cannot be seen in another."""
    first = loaded("")
    first.data.corpus.append("mine")
    assert loaded("").data.corpus == ["fables"]


# Where files are


def test_a_bundled_file_is_found_by_name_and_by_its_place() -> None:
    """`gru` and `configs/gru.yaml` are the bundled file, in any folder."""
    assert load("gru") == load("configs/gru.yaml") == load(Path("configs/gru.yaml"))


def test_the_name_of_a_bundled_file_means_that_file_and_a_path_the_users_own(own_folders: Path) -> None:
    """As with corpora: `gru` is charlm's, `./gru` and `configs/gru.yaml` are what lies there."""
    (own_folders / "configs").mkdir()
    for name in ("gru", "configs/gru.yaml"):
        (own_folders / name).write_text("seed: 77\n")
    assert load("gru").seed is None
    assert load("./gru").seed == load("configs/gru.yaml").seed == 77


def test_a_path_may_begin_with_a_tilde(own_folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`~` is the home folder, as in a shell."""
    monkeypatch.setenv("HOME", str(own_folders))
    (own_folders / "mine.yaml").write_text("seed: 5\n")
    assert load("~/mine.yaml").seed == 5


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [
        ("lsmt", "lstm"),
        ("gru.yaml", "gru"),
        ("nowhere/gru.yml", "gru"),
        ("configs/quik.yaml", "quick"),
        ("./rnn", "rnn"),
    ],
)
def test_a_missing_file_is_told_with_the_nearest_name(name: str, suggestion: str) -> None:
    """A name that is nearly a bundled one is told with it."""
    with pytest.raises(ConfigError) as raised:
        load(name)
    assert f"no settings file `{name}`" in str(raised.value)
    assert f"did you mean `{suggestion}`" in raised.value.hint


@pytest.mark.parametrize("name", ["xyz.yaml", "/", ".", "x\0y", "configs"])
def test_a_missing_file_is_told_with_those_that_there_are(name: str) -> None:
    """A name that is like none is told with all the bundled ones."""
    with pytest.raises(ConfigError) as raised:
        load(name)
    assert "did you mean" not in raised.value.hint
    assert all(path.stem in raised.value.hint for path in SHIPPED)


@pytest.mark.parametrize("name", ["configs/gru", "configs/gru.yml"])
def test_a_bundled_file_with_another_ending_is_told_like_any_missing_one(name: str) -> None:
    """The path that is said to be missing is the one that was given."""
    with pytest.raises(ConfigError) as raised:
        load(name)
    assert f"no settings file `{name}`" in str(raised.value)
    assert "did you mean `gru`" in raised.value.hint


def test_the_home_of_nobody_is_a_missing_file() -> None:
    """A user that does not exist has no settings."""
    with pytest.raises(ConfigError, match="~no-such-user"):
        load("~no-such-user/mine.yaml")


# What a file may not say


@pytest.mark.parametrize(
    ("text", "line", "key", "suggestion"),
    [
        ("model:\n  cell: gru\n  hiden_size: 3\n", 3, "model.hiden_size", "model.hidden_size"),
        ("\n\nmodle:\n  cell: gru\n", 3, "modle", "model"),
        ("seed: 1\nhidden_size: 3\n", 2, "hidden_size", "model.hidden_size"),
        ("learning_rat: 3\n", 1, "learning_rat", "train.learning_rate"),
        ("train:\n  lr: 1\n  batchsize: 3\n", 3, "train.batchsize", "train.batch_size"),
        ("{model: {cel: gru}}\n", 1, "model.cel", "model.cell"),
    ],
)
def test_an_unknown_key_is_told_with_its_line_and_the_nearest_one(
    text: str, line: int, key: str, suggestion: str
) -> None:
    """A typing error is found, not ignored."""
    assert f"s.yaml:{line}: `{key}` is not a setting, did you mean `{suggestion}`?" in refusal(text)


def test_an_unknown_key_that_is_like_no_other_is_told_alone() -> None:
    """Where nothing is near nothing is suggested."""
    message = refusal("zzzz: 1\n")
    assert "s.yaml:1: `zzzz` is not a setting" in message
    assert "did you mean" not in message


@pytest.mark.parametrize(
    ("text", "line", "key"),
    [
        ("seed: 1\nvocab: bytes\nseed: 1\n", 3, "seed"),
        ("model:\n  cell: lstm\n  cell: gru\n", 3, "model.cell"),
        ("model:\n  cell: lstm\ntrain:\n  steps: 3\nmodel:\n  cell: gru\n", 5, "model"),
        ('seed: 1\n"seed": 2\n', 2, "seed"),
        ("data: {corpus: a,\n corpus: b}\n", 2, "data.corpus"),
        ("data:\n  corpus: [{a: 1, a: 2}]\n", 2, "data.corpus.a"),
    ],
)
def test_a_key_that_is_set_twice_is_told_with_its_line(text: str, line: int, key: str) -> None:
    """YAML lets the last one win in silence; here the second is refused."""
    assert f"s.yaml:{line}: `{key}` is set twice" in refusal(text)


def test_an_alias_is_refused_with_its_line() -> None:
    """Settings are not built out of one another."""
    assert "s.yaml:3: aliases" in refusal("model: &m\n  cell: gru\ntrain: *m\n")


def test_a_merge_key_is_refused() -> None:
    """`<<` is no setting."""
    assert "s.yaml:2" in refusal("model:\n  <<: {cell: gru}\n")


def test_an_alias_bomb_is_refused_at_its_first_alias() -> None:
    """A few lines that stand for a thousand million values are never expanded."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{level}: &a{level} [{', '.join(10 * [f'*a{level - 1}'])}]" for level in range(1, 10)]
    assert "s.yaml:2: aliases" in refusal("\n".join(lines))


def test_an_alias_to_itself_is_refused() -> None:
    """A value that contains itself has no end."""
    assert "aliases" in refusal("a: &a [*a]\n")


@pytest.mark.parametrize("opening", ["[", "{a: ", "- ", "? ", "[{a: "])
def test_deep_nesting_is_refused(opening: str) -> None:
    """A file that nests without end is refused long before Python's own limit, with the line."""
    assert "s.yaml:1: nested" in refusal(opening * 10_000)


def test_nesting_within_reason_is_no_syntax_error() -> None:
    """It is refused for what it says, not for its depth."""
    assert "is not a setting" in refusal("zzzz: " + "[" * 20 + "]" * 20)


@pytest.mark.parametrize(
    "text",
    [
        b"- a\n- b\n",
        b"hello\n",
        b"5\n",
        b"true\n",
        b"!!set {a}\n",
    ],
)
def test_only_a_mapping_holds_settings(text: bytes) -> None:
    """A file whose top level is anything else is told what settings look like."""
    message = refusal(text)
    assert "s.yaml" in message
    assert "key: value" in message


@pytest.mark.parametrize(
    ("text", "offset"), [(b"\xff\xfes\0", 0), (b"seed: 1\n# caf\xe9\n", 13), (b"a: \xed\xa0\x80", 3)]
)
def test_bytes_that_are_not_utf8_are_told_with_their_offset(text: bytes, offset: int) -> None:
    """A file in another encoding is not guessed at."""
    message = refusal(text)
    assert "UTF-8" in message
    assert str(offset) in message


def test_a_byte_order_mark_and_crlf_change_nothing() -> None:
    """A file from Windows is a file like any other, and its lines have their numbers."""
    assert loaded(b"\xef\xbb\xbfseed: 3\r\nmodel:\r\n  cell: gru\r\n").seed == 3
    assert "s.yaml:2:" in refusal(b"\xef\xbb\xbfseed: 3\r\nzzzz: 4\r\n")


def test_a_file_that_is_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A text taken for settings is refused unread."""
    monkeypatch.setattr(config_module, "MAX_BYTES", 1234)
    assert loaded("seed: 3\n" + "#" * 1226).seed == 3
    message = refusal("seed: 3\n" + "#" * 1227)
    assert "s.yaml" in message
    assert "1,234" in message


@pytest.mark.parametrize(
    ("text", "line"), [("seed: 3\nmodel: [\n", 3), ("a: 'b\n", 2), ("seed: 1\n\tcell: 2\n", 2), ("a: b: c\n", 1)]
)
def test_a_syntax_error_is_told_with_its_line(text: str, line: int) -> None:
    """What YAML cannot read is told where it cannot."""
    assert f"s.yaml:{line}: " in refusal(text)


@pytest.mark.parametrize(
    "text",
    [
        "seed: !!python/object/apply:os.getpid []\n",
        "!!python/object:os.system x\n",
        "seed: !!int abc\n",
        "seed: !!float abc\n",
        "seed: !!bool abc\n",
        "seed: !!timestamp abc\n",
        "seed: !!binary x\n",
        "seed: !!omap [a]\n",
        "seed: !!map a\n",
        "seed: !mine 3\n",
        "seed: 1\n---\nseed: 2\n",
        "seed: 3\0",
        "? [a]\n: 3\n",
        "? {a: 1}\n: 3\n",
        "1: 3\n",
        "true: 3\n",
        "model:\n  null: 3\n",
        "seed: " + "9" * 5000 + "\n",
        "seed: " + "9" * 25 + "\n",
    ],
    ids=lambda text: text[:40],
)
def test_odd_yaml_is_refused_like_any_other_mistake(text: str) -> None:
    """Tags, several documents, keys that are no words, endless numbers: one line that names the file."""
    assert "s.yaml" in refusal(text)


WORDS = ["a", "1", ":", ": ", "- ", "\n", "\n  ", "[", "]", "{", "}", ",", "'", '"', "&a ", "*a", "!!bool ", "!!int "]
WORDS += [
    "!!timestamp ",
    "!!binary ",
    "!!set ",
    "!x ",
    "<<",
    "? ",
    "|\n",
    ">\n",
    "---\n",
    "...",
    "%YAML 1.2\n",
    "#",
    "~",
]


@given(text=st.lists(st.sampled_from(WORDS), max_size=12).map("".join) | st.text(max_size=30))
@settings(max_examples=200, deadline=None)
@example("!!bool a")
@example("!!timestamp 1")
def test_any_text_is_a_mapping_or_refused(text: str) -> None:
    """No text makes the parser raise anything but a `ConfigError`."""
    try:
        tree, lines = parse_yaml(text.encode(), "s.yaml")
    except ConfigError:
        return
    assert isinstance(tree, dict)
    assert all(place.startswith("s.yaml:") for place in lines.values())


@given(data=st.binary(max_size=30))
@settings(max_examples=50, deadline=None)
def test_any_bytes_are_a_mapping_or_refused(data: bytes) -> None:
    """No bytes make the parser raise anything but a `ConfigError`."""
    with suppress(ConfigError):
        assert isinstance(parse_yaml(data, "s.yaml")[0], dict)


# What plain words mean


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3e-4", 3e-4),
        ("1e3", 1000.0),
        ("1E+3", 1000.0),
        (".5", 0.5),
        ("5.", 5.0),
        ("-.5e1", -5.0),
        ("017", 17),
        ("08", 8),
        ("-3", -3),
        ("+3", 3),
        ("0", 0),
        ("12:30", "12:30"),
        ("1_000", "1_000"),
        ("0x1F", "0x1F"),
        ("0o17", "0o17"),
        ("0b1", "0b1"),
        (".inf", ".inf"),
        (".nan", ".nan"),
        ("nan", "nan"),
        ("inf", "inf"),
        ("1e", "1e"),
        ("e3", "e3"),
        (".", "."),
        ("2001-02-03", "2001-02-03"),
        ("true", True),
        ("false", False),
        ("True", "True"),
        ("yes", "yes"),
        ("no", "no"),
        ("on", "on"),
        ("off", "off"),
        ("y", "y"),
        ("n", "n"),
        ("null", None),
        ("~", None),
        ("", None),
        ("Null", "Null"),
        ("=", "="),
        ("'3'", "3"),
        ('"true"', "true"),
        ("gru", "gru"),
    ],
)
def test_a_plain_word_means_what_it_looks_like(text: str, value: Any) -> None:
    """Numbers are decimal, `3e-4` is one, and only `true` and `false` are true and false."""
    tree, _ = parse_yaml(f"value: {text}\n".encode(), "s.yaml")
    assert (type(value), value) == (type(tree["value"]), tree["value"])


@given(number=st.integers(-(10**20), 10**20) | st.floats(allow_nan=False, allow_infinity=False))
@settings(max_examples=50, deadline=None)
def test_a_number_as_python_writes_it_is_that_number(number: float) -> None:
    """Every finite number is read as the same number of the same type."""
    tree, _ = parse_yaml(f"value: {number!r}\n".encode(), "s.yaml")
    assert (type(number), number) == (type(tree["value"]), tree["value"])


@pytest.mark.parametrize(
    ("group", "key", "value", "shown"),
    [
        ("model", "hidden_size", "big", "'big'"),
        ("model", "hidden_size", "64.5", "64.5"),
        ("model", "hidden_size", "1e3", "1000.0"),
        ("model", "hidden_size", "12:30", "'12:30'"),
        ("model", "hidden_size", "yes", "'yes'"),
        ("model", "hidden_size", "true", "True"),
        ("model", "hidden_size", "null", "None"),
        ("model", "hidden_size", "'64'", "'64'"),
        ("model", "hidden_size", "[64]", "[64]"),
        ("model", "hidden_size", "0", "0"),
        ("model", "hidden_size", "-5", "-5"),
        ("model", "hidden_size", "99999999", "99999999"),
        ("model", "num_layers", "17", "17"),
        ("model", "cell", "transformer", "'transformer'"),
        ("model", "cell", "LSTM", "'LSTM'"),
        ("model", "cell", "5", "5"),
        ("model", "dropout", "often", "'often'"),
        ("model", "dropout", "0.99", "0.99"),
        ("model", "dropout", "-0.1", "-0.1"),
        ("model", "dropout", "true", "True"),
        ("data", "corpus", "3", "3"),
        ("data", "corpus", "[3]", "3"),
        ("data", "corpus", "[]", "[]"),
        ("data", "corpus", "{no: 1}", ""),
        ("data", "encoding", "5", "5"),
        ("data", "validation_fraction", "0.7", "0.7"),
        ("data", "validation_fraction", "-0.1", "-0.1"),
        ("data", "test_fraction", "10%", "'10%'"),
        ("train", "learning_rate", "no", "'no'"),
        ("train", "learning_rate", "true", "True"),
        ("train", "learning_rate", "0", "0"),
        ("train", "learning_rate", "-1", "-1"),
        ("train", "learning_rate", ".inf", "'.inf'"),
        ("train", "learning_rate", ".nan", "'.nan'"),
        ("train", "learning_rate", "1e999", "inf"),
        ("train", "learning_rate", "1e-3x", "'1e-3x'"),
        ("train", "steps", "0", "0"),
        ("train", "steps", "1.5", "1.5"),
        ("train", "epochs", "0", "0"),
        ("train", "warmup_fraction", "1.1", "1.1"),
        ("train", "reset_probability", "2", "2"),
        ("train", "optimizer", "sgd", "'sgd'"),
        ("train", "precision", "fp16", "'fp16'"),
        ("train", "device", "gpu", "'gpu'"),
        ("train", "threads", "0", "0"),
        ("train", "patience", "0", "0"),
    ],
)
def test_a_value_that_does_not_fit_is_told_with_its_key(group: str, key: str, value: str, shown: str) -> None:
    """A wrong type or a value out of bounds is told with line, key and value."""
    message = refusal(f"{group}:\n  # a remark\n  {key}: {value}\n")
    assert f"s.yaml:3: `{group}.{key}`" in message
    assert f"(it is {shown})" in message or not shown


@pytest.mark.parametrize(("key", "value"), [("vocab", "words"), ("vocab", "5"), ("seed", "-1"), ("seed", "1.5")])
def test_a_value_outside_a_group_that_does_not_fit_is_told(key: str, value: str) -> None:
    """The settings that stand alone are checked like the others."""
    message = refusal(f"\n{key}: {value}\n")
    assert f"s.yaml:2: `{key}`" in message
    assert value in message


@pytest.mark.parametrize(("value", "good"), [(2**63 - 1, True), (2**63, False), (0, True)])
def test_a_seed_fits_into_63_bits(value: int, good: bool) -> None:
    """Any seed the random numbers can take is taken, and none beyond."""
    if good:
        assert value == loaded(f"seed: {value}\n").seed
    else:
        assert str(value) in refusal(f"seed: {value}\n")


def test_a_value_that_does_not_fit_is_told_once() -> None:
    """A setting that may be a word or a number is one problem, not two."""
    assert refusal("model:\n  dropout: often\n").count("model.dropout") == 1


def test_a_group_that_is_none_is_told_in_plain_words() -> None:
    """A value in place of a group is told without the names of classes."""
    message = refusal("train: 5\n")
    assert "s.yaml:1: `train`" in message
    assert "TrainConfig" not in message


def test_a_long_value_is_cut_in_the_message() -> None:
    """Nobody reads a message of a hundred thousand characters."""
    assert len(refusal("seed: " + "x" * 100_000 + "\n")) < 1000


def test_all_problems_of_a_file_are_told_at_once() -> None:
    """Unknown keys, wrong types and values out of bounds are told together, each once, in one line."""
    message = refusal(
        "model:\n  cell: transformer\n  hidden_size: 0\n"
        "train:\n  batch_size: x\n  stepps: 5\n"
        "vocab: words\nseed: -1\nfoo: 1\n"
    )
    for place in ("2: `model.cell`", "3: `model.hidden_size`", "5: `train.batch_size`", "6: `train.stepps`"):
        assert message.count(f"s.yaml:{place}") == 1
    for place in ("7: `vocab`", "8: `seed`", "9: `foo`"):
        assert message.count(f"s.yaml:{place}") == 1


def test_the_exit_code_is_that_of_a_wrong_call() -> None:
    """Wrong settings exit with 2."""
    with pytest.raises(ConfigError) as raised:
        loaded("foo: 1\n")
    assert raised.value.exit_code == 2
    assert raised.value.hint


# How long


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("60s", 60.0),
        ("15m", 900.0),
        ("15min", 900.0),
        ("2h", 7200.0),
        ("1.5m", 90.0),
        ("0.5s", 0.5),
        ("90", 90.0),
        ("1.5", 1.5),
        ("1e3", 1000.0),
        ("'90'", 90.0),
        ("' 60 s '", 60.0),
        ("720h", 30 * 86400.0),
    ],
)
def test_a_duration_is_a_number_of_seconds(text: str, seconds: float) -> None:
    """Units are seconds, minutes and hours; a bare number is seconds."""
    assert seconds == loaded(f"train:\n  time: {text}\n").train.time
    assert seconds == loaded("", f"train.time={text}").train.time


@pytest.mark.parametrize(
    "text",
    [
        "abc",
        "0s",
        "0",
        "-1",
        "-5s",
        "1.2.3s",
        ".",
        ".s",
        "s",
        "1d",
        "60S ago",
        "721h",
        "inf",
        "true",
        "[60]",
        "9" * 400,
    ],
)
def test_a_duration_that_is_none_is_told(text: str) -> None:
    """Words, nothing, less than nothing, more than a month: told with key and value."""
    message = refusal(f"train:\n  time: {text}\n")
    assert "s.yaml:2: `train.time`" in message
    assert text[:9].strip("[]").lower() in message.lower()


@given(value=st.text() | st.integers() | st.none() | st.lists(st.integers()))
@settings(max_examples=50, deadline=None)
@example("1" * 400 + "h")
@example("٣s")
def test_a_duration_is_seconds_or_left_to_be_refused(value: Any) -> None:
    """Whatever is given, there is a number where it looks like a duration and the thing itself elsewhere."""
    found = parse_seconds(value)
    assert found is value or (isinstance(value, str) and isinstance(found, float))


def test_digits_of_other_scripts_are_no_duration() -> None:
    """A number is written with the digits that YAML knows."""
    assert "train.time" in refusal("train:\n  time: ٣s\n")


@pytest.mark.parametrize(("text", "key"), [("steps: 500", "steps"), ("epochs: 2.5", "epochs"), ("time: 5s", "time")])
def test_one_duration_is_the_only_one(text: str, key: str) -> None:
    """Where one is given the default minute is gone."""
    found = loaded(f"train:\n  {text}\n").train
    assert [key] == [name for name in ("steps", "epochs", "time") if getattr(found, name) is not None]


@pytest.mark.parametrize(
    "lines", ["  steps: 5\n  time: 60s\n", "  steps: 5\n  epochs: 2\n", "  epochs: 1\n  time: 1\n  steps: 1\n"]
)
def test_two_durations_in_one_file_are_refused(lines: str) -> None:
    """Nobody has to guess which of them counts."""
    message = refusal(f"train:\n{lines}")
    assert "s.yaml:1" in message
    assert all(line.split(":")[0].strip() in message.partition("; ")[2] for line in lines.splitlines())


def test_an_override_of_one_duration_replaces_another() -> None:
    """500 steps over a file of 60 seconds are 500 steps, and so on with each that follows."""
    text = "train:\n  time: 60s\n"
    assert durations(loaded(text, "train.steps=500")) == (500, None, None)
    assert durations(loaded(text, "train.steps=500", "train.epochs=2")) == (None, 2.0, None)
    assert durations(loaded(text, "train.steps=500", **{"train.time": "5s"})) == (None, None, 5.0)
    assert durations(loaded(text, "train.steps=null")) == (None, None, 60.0)


def durations(found: Config) -> tuple[int | None, float | None, float | None]:
    """Return the three ways of saying how long."""
    return found.train.steps, found.train.epochs, found.train.time


# Overrides


@pytest.mark.parametrize(
    ("text", "group", "key", "value"),
    [
        ("model.hidden_size=32", "model", "hidden_size", 32),
        ("train.learning_rate=3e-4", "train", "learning_rate", 3e-4),
        ("model.cell=gru", "model", "cell", "gru"),
        ("model.cell='gru'", "model", "cell", "gru"),
        ("data.corpus=[a, b]", "data", "corpus", ["a", "b"]),
        ("data.corpus=a", "data", "corpus", ["a"]),
        ("data.corpus=a=b", "data", "corpus", ["a=b"]),
        ("data.corpus=a#b", "data", "corpus", ["a#b"]),
        ("data.corpus='1984'", "data", "corpus", ["1984"]),
        (" model.hidden_size = 32 ", "model", "hidden_size", 32),
        ("model={hidden_size: 32}", "model", "hidden_size", 32),
        ("train.patience=null", "train", "patience", None),
    ],
)
def test_an_override_is_a_dotted_key_and_a_value(text: str, group: str, key: str, value: Any) -> None:
    """The value is YAML, everything after the first `=`."""
    assert value == getattr(getattr(loaded("", text), group), key)


def test_a_setting_outside_a_group_can_be_overridden() -> None:
    """A key without a dot is one of the settings that stand alone."""
    found = loaded("seed: 1\n", "seed=42", "vocab=bytes")
    assert (found.seed, found.vocab) == (42, "bytes")


def test_an_override_leaves_the_rest_of_its_group() -> None:
    """What is not overridden is as the file says."""
    found = loaded("model:\n  cell: gru\n  num_layers: 2\n", "model.num_layers=3")
    assert (found.model.cell, found.model.num_layers) == ("gru", 3)


def test_the_later_override_wins_and_a_flag_wins_over_all() -> None:
    """File, then `--set` in order, then flags."""
    text = "seed: 1\n"
    assert loaded(text).seed == 1
    assert loaded(text, "seed=2").seed == 2
    assert loaded(text, "seed=2", "seed=3").seed == 3
    assert loaded(text, "seed=2", "seed=3", seed=4).seed == 4


def test_an_override_mends_what_the_file_has_wrong() -> None:
    """Only what counts in the end is checked."""
    assert loaded("seed: x\n", "seed=2").seed == 2


@pytest.mark.parametrize("text", ["model.hidden_size", "=3", " =3", "", "model.hidden_size:3"])
def test_an_override_that_is_no_assignment_is_told(text: str) -> None:
    """`key=value` is the form, and an example shows it."""
    with pytest.raises(ConfigError) as raised:
        loaded("", text)
    assert f"--set {text}" in str(raised.value)
    assert "key=value" in str(raised.value)
    assert "=" in raised.value.hint


@pytest.mark.parametrize(
    "text", ["seed=[1", "seed=*a", "data.corpus=x: y", "seed=- a", "seed=!!bool x", "seed=\0", "data.corpus=\udcff"]
)
def test_an_override_that_is_no_yaml_is_told(text: str) -> None:
    """A value that cannot be read is told as it was given."""
    with pytest.raises(ConfigError) as raised:
        loaded("", text)
    assert text in str(raised.value)


@pytest.mark.parametrize(
    ("text", "key", "suggestion"),
    [
        ("model.hiden_size=32", "model.hiden_size", "model.hidden_size"),
        ("hidden_size=32", "hidden_size", "model.hidden_size"),
        ("modle.hidden_size=32", "modle", "model"),
        ("model={hiden_size: 32}", "model.hiden_size", "model.hidden_size"),
    ],
)
def test_an_override_of_an_unknown_key_is_told_with_the_nearest(text: str, key: str, suggestion: str) -> None:
    """The place is the override itself, not the file, and the key is the unknown one."""
    message = refusal("seed: 1\n", text)
    assert f"--set {text.partition('=')[0]}" in message
    assert f"`{key}` is not a setting, did you mean `{suggestion}`?" in message
    assert "s.yaml" not in message


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("model.hidden_size=x", "model.hidden_size"),
        ("model.hidden_size=", "model.hidden_size"),
        ("train.learning_rate=-1", "train.learning_rate"),
        ("seed=1.5", "seed"),
        ("model=3", "model"),
        ("model.cell.x=3", "model.cell"),
        ("seed.x=3", "seed"),
    ],
)
def test_an_override_with_a_wrong_value_is_told_as_one(text: str, key: str) -> None:
    """The place is the override itself, and the key is the one it sets."""
    message = refusal("model:\n  num_layers: 1\n", text)
    assert message.startswith(f"--set {text.partition('=')[0]}: `{key}`")


def test_a_key_below_a_value_is_told() -> None:
    """A setting of the file that is no group has nothing below it."""
    assert "--set seed.x" in refusal("seed: 1\n", "seed.x=3")


def test_a_flag_with_a_wrong_value_is_told_as_one() -> None:
    """The place is the flag as it is typed."""
    message = refusal("", **{"train.steps": 0})
    assert "--steps" in message
    assert "`train.steps`" in message


def test_whole_numbers_are_taken_for_real_ones() -> None:
    """A learning rate of 1, a value with `=` in it and a plain 42 are what they seem."""
    found = loaded("", "train.learning_rate=1", "seed=42", "data.corpus=a=b.txt")
    assert (type(found.train.learning_rate), found.train.learning_rate) == (float, 1.0)
    assert (found.seed, found.data.corpus) == (42, ["a=b.txt"])


def test_an_earlier_run_is_overridden_without_being_changed() -> None:
    """The settings of a run that is gone on with stay as they are in its model file."""
    tree = loaded("model:\n  cell: gru\ntrain:\n  time: 60s\n").model_dump(exclude_none=True)
    before = copy.deepcopy(tree)
    found = override(tree, ["train.steps=9", "model.num_layers=2"], {"train.batch_size": 8})
    assert durations(found) == (9, None, None)
    assert (found.model.cell, found.model.num_layers, found.train.batch_size) == ("gru", 2, 8)
    assert before == tree


def test_a_wrong_setting_of_an_earlier_run_is_told() -> None:
    """There is no file to name, so the run is named."""
    with pytest.raises(ConfigError, match=r"the run.*`foo` is not a setting"):
        override({"foo": 1}, [], {})


# There and back

ALPHABET = st.characters(exclude_categories=["Cs", "Cc"]) | st.sampled_from("0123456789eE.-+: #'\"\n")
MODELS = st.builds(
    ModelConfig,
    cell=st.sampled_from(["lstm", "gru", "rnn"]),
    embedding_size=st.integers(1, 4096),
    hidden_size=st.integers(1, 16384),
    num_layers=st.integers(1, 16),
    dropout=st.just("auto") | st.floats(0, 0.95, exclude_max=True),
)
DATA = st.builds(
    DataConfig,
    corpus=st.lists(st.text(ALPHABET), min_size=1, max_size=3),
    encoding=st.sampled_from(["utf-8", "latin-1"]),
    validation_fraction=st.floats(0, 0.5),
    test_fraction=st.floats(0, 0.5),
)
DURATIONS: st.SearchStrategy[dict[str, Any]] = (
    st.builds(dict, steps=st.integers(1, 10**9))
    | st.builds(dict, epochs=st.floats(0, 10**6, exclude_min=True))
    | st.builds(dict, time=st.floats(0, 30 * 86400, exclude_min=True))
)
TRAINING = st.builds(
    lambda duration, **others: TrainConfig(**duration, **others),
    DURATIONS,
    batch_size=st.integers(1, 65536),
    optimizer=st.sampled_from(["muon", "adamw"]),
    learning_rate=st.floats(0, 10, exclude_min=True),
    weight_decay=st.floats(0, 10),
    patience=st.none() | st.integers(1, 10**6),
    threads=st.none() | st.integers(1, 1024),
)
CONFIGS = st.builds(
    Config,
    model=MODELS,
    data=DATA,
    train=TRAINING,
    vocab=st.sampled_from(["characters", "bytes"]),
    seed=st.none() | st.integers(0, 2**63 - 1),
)


@given(config=CONFIGS)
@settings(max_examples=50, deadline=None)
def test_settings_read_back_as_they_were_written(config: Config) -> None:
    """`to_yaml` and the reader are inverses, and so are plain values and the check of them."""
    assert config == validate(*parse_yaml(config.to_yaml().encode(), "s.yaml"), "s.yaml")
    assert config == override(config.model_dump(exclude_none=True), [], {})


@pytest.mark.parametrize(
    "name",
    [
        *"~='\"*\x07\u2028\ufeff😀\udcff",
        "",
        "1984",
        "3e-4",
        "1e3",
        "08",
        "017",
        "1_000",
        "0x10",
        "12:30",
        "yes",
        "true",
    ],
)
def test_the_name_of_a_file_that_looks_like_something_else_reads_back(name: str) -> None:
    """A corpus may be called like a number, or like nothing that can be printed."""
    config = Config(data=DataConfig(corpus=[name]))
    assert config == validate(*parse_yaml(config.to_yaml().encode(), "s.yaml"), "s.yaml")


@pytest.mark.parametrize(
    "name", ["null", "<<", "- a", "# a", "a: b", " a ", "a\nb", "a\x85b", "**/*.py", "&a", "!a", "%a"]
)
def test_the_name_of_a_file_that_looks_like_yaml_reads_back(name: str) -> None:
    """A corpus may be called like a piece of YAML."""
    config = Config(data=DataConfig(corpus=[name]))
    assert config == validate(*parse_yaml(config.to_yaml().encode(), "s.yaml"), "s.yaml")


def test_the_order_of_the_written_settings_is_that_of_the_documentation() -> None:
    """A written file begins with the model and leaves out what is not set."""
    text = Config(seed=7).to_yaml()
    assert list(yaml.safe_load(text)) == ["model", "data", "train", "vocab", "seed"]
    assert "null" not in text
    assert "seed" not in Config().to_yaml()
