"""Overrides and flags over a settings file, and settings that are written and read back."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from charlm.errors import ConfigError, one_line
from charlm.settings.config import Config, DataConfig, ModelConfig, TrainConfig, VocabConfig
from charlm.settings.config_file import override_config, to_yaml, validate_settings
from charlm.settings.strict_yaml import parse_yaml
from tests.helpers.settings_files import durations, loaded, refusal

# Settings without an effect


@pytest.mark.parametrize(
    ("overrides", "useless", "other"),
    [
        (["train.optimizer=adamw", "train.matrix_learning_rate=0.1"], "train.matrix_learning_rate", "train.optimizer"),
        (["train.matrix_learning_rate=0.06", "train.optimizer=sgd"], "train.matrix_learning_rate", "train.optimizer"),
        (["train.step_factor=0.5"], "train.step_factor", "train.schedule"),
        (["train.step_after_epochs=3", "train.schedule=cosine"], "train.step_after_epochs", "train.schedule"),
        (["train.decay_fraction=0.3", "train.schedule=constant"], "train.decay_fraction", "train.schedule"),
        (["train.schedule=step", "train.decay_fraction=0.3"], "train.decay_fraction", "train.schedule"),
        (["train={schedule: constant, decay_fraction: 0.3}"], "train.decay_fraction", "train.schedule"),
    ],
)
def test_an_override_without_an_effect_is_refused(overrides: list[str], useless: str, other: str) -> None:
    """The error names the override and the setting that is the reason, for a file and for an earlier run."""
    message = refusal("", *overrides)
    assert f"`{useless}` has no effect with `{other}`" in message
    assert message.startswith("--set train")
    with pytest.raises(ConfigError, match=useless):
        override_config(loaded("").model_dump(), overrides, {})


def test_a_setting_without_an_effect_in_a_file_is_accepted() -> None:
    """The settings file of any run can be used again; the run notes what has no effect."""
    train = loaded("train:\n  schedule: constant\n  step_factor: 0.5\n  decay_fraction: 0.2\n").train
    assert (train.step_factor, train.decay_fraction) == (0.5, 0.2)
    assert {"step_factor", "decay_fraction"} <= {name for name, _, _ in train.idle_settings()}


def test_an_override_may_take_the_effect_of_a_files_setting() -> None:
    """Under `--set train.optimizer=adamw` a file's settings for muon fall back to their defaults."""
    file = "train: {optimizer: muon, matrix_learning_rate: 0.07}\n"
    assert loaded(file).train.matrix_learning_rate == 0.07
    config = loaded(file, "train.optimizer=adamw")
    assert config.train.matrix_learning_rate == TrainConfig().matrix_learning_rate
    assert loaded(to_yaml(config)) == config


def test_an_override_may_give_a_files_setting_its_effect() -> None:
    """An override may complete a file's settings for another schedule."""
    assert loaded("train: {step_factor: 0.5}\n", "train.schedule=step").train.step_factor == 0.5


@given(st.sampled_from(["linear", "cosine", "step", "constant"]), st.sampled_from(["muon", "adamw", "sgd"]))
def test_a_file_of_all_settings_is_accepted_with_defaults(schedule: str, optimizer: str) -> None:
    """The settings file of a run is accepted, although it holds settings without an effect."""
    config = loaded("", f"train.schedule={schedule}", f"train.optimizer={optimizer}")
    assert loaded(to_yaml(config)) == config


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
        ("vocab.kind=bytes", "vocab", "kind", "bytes"),
        ("vocab.filter=letters", "vocab", "filter", "letters"),
        ("vocab=bytes", "vocab", "kind", "bytes"),
        ("vocab={kind: bytes}", "vocab", "kind", "bytes"),
        ("model.initialiser=normal(0.01)", "model", "initialiser", "normal(0.01)"),
        ("model.dropout=[0.5]", "model", "dropout", [0.5]),
    ],
)
def test_an_override_is_a_dotted_key_and_a_value(text: str, group: str, key: str, value: Any) -> None:
    """The key ends at the first `=`; everything after it is the value, read as YAML."""
    assert value == getattr(getattr(loaded("", text), group), key)


def test_a_setting_outside_a_group_can_be_overridden() -> None:
    """A key without a dot is a setting outside the groups."""
    assert loaded("seed: 1\n", "seed=42").seed == 42


def test_an_override_leaves_the_rest_of_its_group() -> None:
    """Settings that are not overridden keep the value of the file."""
    found = loaded("model:\n  cell: gru\n  num_layers: 2\n", "model.num_layers=3")
    assert (found.model.cell, found.model.num_layers) == ("gru", 3)


def test_the_later_override_wins_and_a_flag_wins_over_all() -> None:
    """The file comes first, then `--set` in order, then flags; the last one wins."""
    text = "seed: 1\n"
    assert loaded(text).seed == 1
    assert loaded(text, "seed=2").seed == 2
    assert loaded(text, "seed=2", "seed=3").seed == 3
    assert loaded(text, "seed=2", "seed=3", seed=4).seed == 4


def test_an_override_can_correct_an_error_of_the_file() -> None:
    """Settings are checked after the overrides, so an override can replace a wrong value."""
    assert loaded("seed: x\n", "seed=2").seed == 2


@pytest.mark.parametrize(
    ("text", "overrides", "found"),
    [
        ("vocab: bytes\n", ["vocab.kind=characters"], ("characters", "none")),
        ("vocab: characters\n", ["vocab.filter=letters"], ("characters", "letters")),
        ("", ["vocab=characters", "vocab.filter=letters"], ("characters", "letters")),
        ("", ["vocab.kind=bytes", "vocab=characters"], ("characters", "none")),
        ("vocab:\n  filter: letters\n", ["vocab.kind=characters"], ("characters", "letters")),
    ],
)
def test_the_short_form_of_vocab_is_overridden_like_its_group(
    text: str, overrides: list[str], found: tuple[str, str]
) -> None:
    """`--set` changes `vocab: bytes` in the same way as `vocab: {kind: bytes}`."""
    vocab = loaded(text, *overrides).vocab
    assert (vocab.kind, vocab.filter) == found


def test_the_vocab_of_an_earlier_run_may_be_a_word() -> None:
    """Model files older than `vocab.filter` hold `characters` or `bytes` in place of a group."""
    values = loaded("").model_dump(exclude_none=True)
    for kind in ("characters", "bytes"):
        found = override_config(values | {"vocab": kind}, ["train.steps=3"], {})
        assert found.vocab == VocabConfig(kind=kind, filter="none")


@pytest.mark.parametrize("text", ["model.hidden_size", "=3", " =3", "", "model.hidden_size:3"])
def test_an_override_without_an_equals_sign_is_reported(text: str) -> None:
    """The error shows the form `key=value` with an example."""
    with pytest.raises(ConfigError) as raised:
        loaded("", text)
    assert f"--set {text}" in str(raised.value)
    assert "key=value" in str(raised.value)
    assert "as in" in str(raised.value)


@pytest.mark.parametrize(
    "text", ["seed=[1", "seed=*a", "data.corpus=x: y", "seed=- a", "seed=!!bool x", "seed=\0", "data.corpus=\udcff"]
)
def test_an_override_that_is_not_yaml_is_reported(text: str) -> None:
    """The error shows an unreadable value as it was given, in printable characters."""
    with pytest.raises(ConfigError) as raised:
        loaded("", text)
    assert one_line(text) in str(raised.value)


@pytest.mark.parametrize(
    ("text", "key", "suggestion"),
    [
        ("model.hiden_size=32", "model.hiden_size", "model.hidden_size"),
        ("hidden_size=32", "hidden_size", "model.hidden_size"),
        ("modle.hidden_size=32", "modle", "model"),
        ("model={hiden_size: 32}", "model.hiden_size", "model.hidden_size"),
    ],
)
def test_an_override_of_an_unknown_key_gets_the_nearest_key(text: str, key: str, suggestion: str) -> None:
    """The error names the override and the nearest key, not the file."""
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
        ("vocab=words", "vocab"),
        ("vocab=5", "vocab"),
        ("vocab.filter=digits", "vocab.filter"),
        ("model.dropout=[0.96]", "model.dropout"),
        ("model.initialiser=gauss(1)", "model.initialiser"),
    ],
)
def test_a_wrong_value_in_an_override_is_reported(text: str, key: str) -> None:
    """The error names the override and the key that it sets."""
    message = refusal("model:\n  num_layers: 1\n", text)
    assert re.match(rf"--set {re.escape(text.partition('=')[0])}: `{re.escape(key)}(\.kind)?`", message)


def test_a_key_below_a_value_is_reported() -> None:
    """The error says that a setting with a plain value is not a group."""
    assert "--set seed.x" in refusal("seed: 1\n", "seed.x=3")


def test_a_wrong_value_of_a_flag_is_reported() -> None:
    """The error names the flag as the user typed it."""
    message = refusal("", **{"train.steps": 0})
    assert "--steps" in message
    assert "`train.steps`" in message


def test_a_whole_number_is_accepted_as_a_real_one() -> None:
    """A learning rate may be given as 1; a value may contain `=`; 42 is a whole number."""
    found = loaded("", "train.learning_rate=1", "seed=42", "data.corpus=a=b.txt")
    assert (type(found.train.learning_rate), found.train.learning_rate) == (float, 1.0)
    assert (found.seed, found.data.corpus) == (42, ["a=b.txt"])


def test_an_earlier_run_is_overridden_without_being_changed() -> None:
    """Overrides of a resumed run do not change the settings in its model file."""
    tree = loaded("model:\n  cell: gru\ntrain:\n  time: 60s\n").model_dump(exclude_none=True)
    before = copy.deepcopy(tree)
    found = override_config(tree, ["train.steps=9", "model.num_layers=2"], {"train.batch_size": 8})
    assert durations(found) == (9, None, None)
    assert (found.model.cell, found.model.num_layers, found.train.batch_size) == ("gru", 2, 8)
    assert before == tree


def test_a_wrong_setting_of_an_earlier_run_is_reported() -> None:
    """The error names the run, because there is no file to name."""
    with pytest.raises(ConfigError, match=r"the run.*`foo` is not a setting"):
        override_config({"foo": 1}, [], {})


# Writing and reading back

ALPHABET = st.characters(exclude_categories=["Cs", "Cc"]) | st.sampled_from("0123456789eE.-+: #'\"\n")
SHARES = st.floats(0, 0.95)
MODELS = st.integers(1, 16).flatmap(
    lambda num_layers: st.builds(
        ModelConfig,
        cell=st.sampled_from(["lstm", "gru", "rnn", "lstm-peephole"]),
        embedding_size=st.integers(0, 4096),
        hidden_size=st.integers(1, 16384),
        num_layers=st.just(num_layers),
        direction=st.sampled_from(["forward", "backward", "both"]),
        initial_state=st.sampled_from(["zero", "learned"]),
        initialiser=st.sampled_from(["auto", "glorot", "orthogonal", "normal(1e-3)", "uniform(0.08)", "uniform(10)"]),
        dropout=st.just("auto") | SHARES | st.lists(SHARES, min_size=num_layers, max_size=num_layers),
        weight_dropout=st.just("auto") | SHARES,
    )
)
VOCABS = st.builds(VocabConfig, kind=st.just("characters"), filter=st.sampled_from(["none", "letters"]))
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
    vocab=VOCABS | st.sampled_from(["characters", "bytes"]),
    seed=st.none() | st.integers(0, 2**63 - 1),
)


@given(config=CONFIGS)
@settings(max_examples=50, deadline=None)
def test_settings_read_back_as_they_were_written(config: Config) -> None:
    """`to_yaml` and `load_config` are inverses, and so are plain values and their validation."""
    assert config == validate_settings(parse_yaml(to_yaml(config).encode(), "s.yaml").values, {}, "s.yaml")
    assert config == override_config(config.model_dump(exclude_none=True), [], {})


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
def test_a_file_name_that_looks_like_another_value_reads_back(name: str) -> None:
    """The name of a corpus may look like a number, or be unprintable."""
    config = Config(data=DataConfig(corpus=[name]))
    assert config == validate_settings(parse_yaml(to_yaml(config).encode(), "s.yaml").values, {}, "s.yaml")


@pytest.mark.parametrize(
    "name", ["null", "<<", "- a", "# a", "a: b", " a ", "a\nb", "a\x85b", "**/*.py", "&a", "!a", "%a"]
)
def test_a_file_name_that_looks_like_yaml_reads_back(name: str) -> None:
    """The name of a corpus may look like YAML."""
    config = Config(data=DataConfig(corpus=[name]))
    assert config == validate_settings(parse_yaml(to_yaml(config).encode(), "s.yaml").values, {}, "s.yaml")


def test_settings_are_written_in_the_documented_order() -> None:
    """A written file begins with the model and lacks settings that are not set."""
    text = to_yaml(Config(seed=7))
    assert list(yaml.safe_load(text)) == ["model", "vocab", "data", "train", "seed"]
    assert "null" not in text
    assert "seed" not in to_yaml(Config())
