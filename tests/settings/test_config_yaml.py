"""The strict YAML of settings files: what is refused, and what plain scalars mean."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from charlm.errors import ConfigError
from charlm.settings.strict_yaml import parse_yaml
from tests.helpers.settings_files import loaded, refusal

# Refused YAML


@pytest.mark.parametrize(
    ("text", "line", "key", "suggestion"),
    [
        ("model:\n  cell: gru\n  hiden_size: 3\n", 3, "model.hiden_size", "model.hidden_size"),
        ("\n\nmodle:\n  cell: gru\n", 3, "modle", "model"),
        ("seed: 1\nhidden_size: 3\n", 2, "hidden_size", "model.hidden_size"),
        ("learning_rat: 3\n", 1, "learning_rat", "train.learning_rate"),
        ("train:\n  lr: 1\n  batchsize: 3\n", 3, "train.batchsize", "train.batch_size"),
        ("{model: {cel: gru}}\n", 1, "model.cel", "model.cell"),
        ("data:\n  file: a.txt\n", 2, "data.file", "data.corpus"),
        ("data:\n  path: a.txt\n", 2, "data.path", "data.corpus"),
        ("data:\n  text: a.txt\n", 2, "data.text", "data.corpus"),
        ("model:\n  units: 3\n", 2, "model.units", "model.hidden_size"),
        ("model:\n  layers: 3\n", 2, "model.layers", "model.num_layers"),
        ("model:\n  lr: 3\n", 2, "model.lr", "train.learning_rate"),
        ("train:\n  iterations: 3\n", 2, "train.iterations", "train.steps"),
        ("train:\n  Learning-Rate: 3\n", 2, "train.Learning-Rate", "train.learning_rate"),
        ("rnn_size: 3\n", 1, "rnn_size", "model.hidden_size"),
        ("training:\n  steps: 3\n", 1, "training", "train"),
    ],
)
def test_an_unknown_key_is_reported_with_line_and_nearest_key(text: str, line: int, key: str, suggestion: str) -> None:
    """A misspelled key is reported with its line, and the error suggests the nearest key."""
    assert f"s.yaml:{line}: `{key}` is not a setting, did you mean `{suggestion}`?" in refusal(text)


def test_an_unknown_key_like_no_other_is_reported_alone() -> None:
    """The error suggests nothing if no key is near."""
    for key in ("zzzz", "colour", "data.zzzz", "data.fingers", "train.verbose"):
        message = refusal(f"{key}: 1\n" if "." not in key else f"{key.replace('.', ': {')}: 1}}\n")
        assert f"s.yaml:1: `{key}` is not a setting" in message
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
def test_a_key_that_is_set_twice_is_reported_with_its_line(text: str, line: int, key: str) -> None:
    """In plain YAML the last value wins silently; here the second one is refused."""
    assert f"s.yaml:{line}: `{key}` is set twice" in refusal(text)


def test_an_alias_is_refused_with_its_line() -> None:
    """YAML aliases are refused in settings files."""
    assert "s.yaml:3: aliases" in refusal("model: &m\n  cell: gru\ntrain: *m\n")


def test_a_merge_key_is_refused() -> None:
    """The YAML merge key `<<` is refused."""
    assert "s.yaml:2" in refusal("model:\n  <<: {cell: gru}\n")


def test_an_alias_bomb_is_refused_at_its_first_alias() -> None:
    """A few lines that stand for a thousand million values are never expanded."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{level}: &a{level} [{', '.join(10 * [f'*a{level - 1}'])}]" for level in range(1, 10)]
    assert "s.yaml:2: aliases" in refusal("\n".join(lines))


def test_an_alias_to_itself_is_refused() -> None:
    """A value that contains itself is refused."""
    assert "aliases" in refusal("a: &a [*a]\n")


@pytest.mark.parametrize("opening", ["[", "{a: ", "- ", "? ", "[{a: "])
def test_deep_nesting_is_refused(opening: str) -> None:
    """Endless nesting is refused with its line, long before Python's own limit."""
    assert "s.yaml:1: nested" in refusal(opening * 2_000)


def test_moderate_nesting_is_no_syntax_error() -> None:
    """A moderately nested value is refused as a wrong value, not as too deep."""
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
def test_a_file_that_is_not_a_mapping_is_refused(text: bytes) -> None:
    """If the top level is no mapping, the error shows what settings look like."""
    message = refusal(text)
    assert "s.yaml" in message
    assert "key: value" in message


@pytest.mark.parametrize(
    ("text", "offset"), [(b"\xff\xfes\0", 0), (b"seed: 1\n# caf\xe9\n", 13), (b"a: \xed\xa0\x80", 3)]
)
def test_bytes_that_are_not_utf8_are_reported_with_their_offset(text: bytes, offset: int) -> None:
    """A file in another encoding is refused with the offset of the first wrong byte."""
    message = refusal(text)
    assert "UTF-8" in message
    assert str(offset) in message


def test_a_byte_order_mark_and_crlf_change_nothing() -> None:
    """A file from Windows reads like any other, with the same line numbers."""
    assert loaded(b"\xef\xbb\xbfseed: 3\r\nmodel:\r\n  cell: gru\r\n").seed == 3
    assert "s.yaml:2:" in refusal(b"\xef\xbb\xbfseed: 3\r\nzzzz: 4\r\n")


def test_a_too_large_settings_file_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A large text that is given as a settings file is not parsed."""
    monkeypatch.setattr("charlm.settings.strict_yaml.MAX_BYTES", 1234)
    assert loaded("seed: 3\n" + "#" * 1226).seed == 3
    message = refusal("seed: 3\n" + "#" * 1227)
    assert "s.yaml" in message
    assert "1,234" in message


@pytest.mark.parametrize(
    ("text", "line"), [("seed: 3\nmodel: [\n", 3), ("a: 'b\n", 2), ("seed: 1\n\tcell: 2\n", 2), ("a: b: c\n", 1)]
)
def test_a_syntax_error_is_reported_with_its_line(text: str, line: int) -> None:
    """A syntax error in YAML is reported with its line, and the hint shows how settings are written."""
    with pytest.raises(ConfigError, match=f"s.yaml:{line}: ") as raised:
        loaded(text)
    assert "`key: value`" in raised.value.hint


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
    """Tags, several documents, keys that are not words, and endless numbers are refused in one line."""
    assert "s.yaml" in refusal(text)


WORDS = ["a", "1", ":", ": ", "- ", "\n", "\n  ", "[", "]", "{", "}", ",", "'", '"', "&a ", "*a", "!!bool ", "!!int "]
WORDS += ["!!timestamp ", "!!binary ", "!!set ", "!x ", "<<", "? ", "|\n", ">\n", "---\n", "...", "%YAML 1.2\n"]
WORDS += ["#", "~"]


@given(text=st.lists(st.sampled_from(WORDS), max_size=12).map("".join) | st.text(max_size=30))
@settings(max_examples=200, deadline=None)
@example("!!bool a")
@example("!!timestamp 1")
def test_any_text_is_a_mapping_or_refused(text: str) -> None:
    """For any text the parser returns a mapping or raises a `ConfigError`."""
    try:
        tree, lines, _ = parse_yaml(text.encode(), "s.yaml")
    except ConfigError:
        return
    assert isinstance(tree, dict)
    assert all(place.startswith("s.yaml:") for place in lines.values())


@given(data=st.binary(max_size=30))
@settings(max_examples=50, deadline=None)
def test_any_bytes_are_a_mapping_or_refused(data: bytes) -> None:
    """For any bytes the parser returns a mapping or raises a `ConfigError`."""
    with suppress(ConfigError):
        assert isinstance(parse_yaml(data, "s.yaml").values, dict)


# Plain scalars


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
def test_a_plain_scalar_means_what_it_looks_like(text: str, value: Any) -> None:
    """Numbers are decimal, `3e-4` is a number, and only `true` and `false` are booleans."""
    tree, _, _ = parse_yaml(f"value: {text}\n".encode(), "s.yaml")
    assert (type(value), value) == (type(tree["value"]), tree["value"])


@given(number=st.integers(-(10**20), 10**20) | st.floats(allow_nan=False, allow_infinity=False))
@settings(max_examples=50, deadline=None)
def test_a_number_written_by_python_reads_back(number: float) -> None:
    """Every finite number reads back as the same number of the same type."""
    tree, _, _ = parse_yaml(f"value: {number!r}\n".encode(), "s.yaml")
    assert (type(number), number) == (type(tree["value"]), tree["value"])


NO_INITIALISERS = ["normal(0)", "normal(0.0)", "normal(-1)", "normal(nan)", "normal(\u0663)", "normal", "gauss(1)", ""]
NO_INITIALISERS += ["uniform(1e99)", "uniform(10.01)", "uniform( 1)"]


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
        ("model", "cell", "5", "5"),
        ("model", "dropout", "often", "'often'"),
        ("model", "dropout", "0.99", "0.99"),
        ("model", "dropout", "-0.1", "-0.1"),
        ("model", "dropout", "true", "True"),
        *[("model", "initialiser", f"'{name}'", f"'{name}'") for name in NO_INITIALISERS],
        ("model", "initialiser", "", "None"),
        ("model", "initialiser", '"normal(1)\\n"', "'normal(1)\\n'"),
        *[("model", "dropout", shares, shares) for shares in ("[0.1, 0.96]", "[-0.1]", "[[0.1]]")],
        ("model", "dropout", "[auto]", "['auto']"),
        ("model", "dropout", "[true]", "[True]"),
        ("model", "dropout", "[.nan]", "['.nan']"),
        ("model", "weight_dropout", "[0.1]", "[0.1]"),
        ("model", "direction", "up", "'up'"),
        ("model", "initial_state", "one", "'one'"),
        ("vocab", "kind", "words", "'words'"),
        ("vocab", "kind", "null", "None"),
        ("vocab", "filter", "digits", "'digits'"),
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
        ("train", "optimizer", "newton", "'newton'"),
        ("train", "precision", "fp8", "'fp8'"),
        ("train", "device", "gpu", "'gpu'"),
        ("train", "threads", "0", "0"),
        ("train", "patience", "0", "0"),
        ("train", "sample_every", "0", "0"),
    ],
)
def test_a_wrong_value_is_reported_with_its_key(group: str, key: str, value: str, shown: str) -> None:
    """A wrong type or a value out of bounds is reported with line, key and value."""
    message = refusal(f"{group}:\n  # a remark\n  {key}: {value}\n")
    assert f"s.yaml:3: `{group}.{key}`" in message
    assert f"(it is {shown})" in message or not shown


@pytest.mark.parametrize("value", ["-1", "1.5"])
def test_a_wrong_value_outside_a_group_is_reported(value: str) -> None:
    """Settings outside the groups are checked like the others."""
    message = refusal(f"\nseed: {value}\n")
    assert "s.yaml:2: `seed`" in message
    assert value in message


@pytest.mark.parametrize(("value", "good"), [(2**63 - 1, True), (2**63, False), (0, True)])
def test_a_seed_fits_into_63_bits(value: int, good: bool) -> None:
    """Seeds of up to 63 bits are accepted, and no others."""
    if good:
        assert value == loaded(f"seed: {value}\n").seed
    else:
        assert str(value) in refusal(f"seed: {value}\n")


def test_a_wrong_value_is_reported_once() -> None:
    """A wrong value for a setting that takes a word or a number is one problem, not two."""
    assert refusal("model:\n  dropout: often\n").count("model.dropout") == 1


def test_a_value_in_place_of_a_group_is_reported_plainly() -> None:
    """The error for a value in place of a group contains no class names."""
    message = refusal("train: 5\n")
    assert "s.yaml:1: `train`" in message
    assert "TrainConfig" not in message


def test_a_long_value_is_cut_in_the_message() -> None:
    """A value of a hundred thousand characters is cut in the message."""
    assert len(refusal("seed: " + "x" * 100_000 + "\n")) < 1000


def test_all_problems_of_a_file_are_reported_at_once() -> None:
    """Unknown keys, wrong types and values out of bounds are reported together in one line, each once."""
    message = refusal(
        "model:\n  cell: transformer\n  hidden_size: 0\n"
        "train:\n  batch_size: x\n  stepps: 5\n"
        "vocab: 7\nseed: -1\nfoo: 1\n"
    )
    for place in ("2: `model.cell`", "3: `model.hidden_size`", "5: `train.batch_size`", "6: `train.stepps`"):
        assert message.count(f"s.yaml:{place}") == 1
    for place in ("7: `vocab`", "8: `seed`", "9: `foo`"):
        assert message.count(f"s.yaml:{place}") == 1


def test_wrong_settings_exit_with_2() -> None:
    """Wrong settings end the command with exit code 2, like wrong arguments."""
    with pytest.raises(ConfigError) as raised:
        loaded("foo: 1\n")
    assert raised.value.exit_code == 2
    assert raised.value.hint
