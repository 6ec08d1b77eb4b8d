"""Settings are read strictly, every problem is reported with its place, and written settings read back the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from charlm.cells import CELLS
from charlm.errors import ConfigError
from charlm.settings.config import Config, DataConfig, ModelConfig, TrainConfig, VocabConfig
from charlm.settings.config_file import describe_settings, load_config, to_yaml
from charlm.settings.durations import parse_seconds
from tests.helpers.commands import within
from tests.helpers.settings_files import SHIPPED, durations, loaded, refusal

# Settings and their defaults


@pytest.mark.parametrize("group", [ModelConfig, VocabConfig, DataConfig, TrainConfig])
def test_every_setting_of_a_group_is_described(group: type[BaseModel]) -> None:
    """Every setting of a group has a description."""
    assert [name for name, field in group.model_fields.items() if not field.description] == []


def test_every_setting_outside_a_group_is_described() -> None:
    """Every setting outside the groups has a description."""
    groups = {"model", "vocab", "data", "train"}
    assert {"seed"} == set(Config.model_fields) - groups
    assert Config.model_fields["seed"].description


def test_the_list_of_settings_has_each_with_its_default() -> None:
    """`describe_settings` has one line for each setting, by its dotted key, with its default."""
    lines = describe_settings().splitlines()
    groups: list[tuple[str, type[BaseModel]]] = [
        ("model.", ModelConfig),
        ("vocab.", VocabConfig),
        ("data.", DataConfig),
        ("train.", TrainConfig),
    ]
    keys = {group + name for group, model in groups for name in model.model_fields} | {"seed"}
    assert keys == {line.split(" ")[0] for line in lines}
    assert len(keys) == len(lines)
    assert any(line.startswith("model.hidden_size (default 512): ") for line in lines)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_file_loads(path: Path) -> None:
    """Each file in `configs/` is valid, by path and by name, and has only known settings."""
    assert load_config(path) == load_config(path.stem)
    tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    dumped = load_config(path).model_dump()
    for group, values in tree.items():
        assert values.keys() <= dumped[group].keys()


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_a_shipped_file_is_named_after_its_cell(cell: str) -> None:
    """`gru.yaml` trains a GRU."""
    assert cell == load_config(cell).model.cell


def test_model_cell_takes_the_name_of_any_cell() -> None:
    """`model.cell` takes the name of any cell, and the error for another name lists them all."""
    for name in CELLS:
        assert ModelConfig(cell=name).cell == name
    with pytest.raises(ValidationError, match=f"should be one of {', '.join(CELLS)}"):
        ModelConfig(cell="grus")
    for cell in CELLS:
        assert loaded(f"model: {{cell: {cell}}}\n").model.cell == cell


def test_the_default_is_the_shipped_lstm() -> None:
    """`lstm.yaml` is used if no settings file is named."""
    assert load_config("lstm") == load_config(None)
    assert load_config(None).model.cell == "lstm"


@pytest.mark.parametrize("text", ["", "\n", "# nothing but a remark\n", "---\n", "null\n", "{}\n", "\ufeff"])
def test_an_empty_file_means_all_defaults(text: str) -> None:
    """An empty file means all defaults, and a run of one minute."""
    assert Config() == loaded(text)
    assert loaded(text).train.time == 60.0


def test_a_missing_group_means_its_defaults() -> None:
    """A setting that the file does not mention has its default."""
    found = loaded("model:\n  cell: gru\n")
    assert found.model.cell == "gru"
    assert ModelConfig().hidden_size == found.model.hidden_size
    assert (DataConfig(), TrainConfig(time=60.0)) == (found.data, found.train)


@pytest.mark.parametrize("group", ["model", "vocab", "data", "train"])
def test_an_empty_group_means_its_defaults(group: str) -> None:
    """A group that contains only comments is like a missing one."""
    assert Config() == loaded(f"{group}:\n  # nothing: here\n")


def test_an_empty_group_can_be_overridden() -> None:
    """`--set` fills a group that the file leaves empty."""
    assert loaded("model:\n", "model.cell=gru").model.cell == "gru"


@pytest.mark.parametrize(
    ("text", "kind", "filter"),
    [
        ("vocab: bytes\n", "bytes", "none"),
        ("vocab: characters\n", "characters", "none"),
        ("vocab:\n  kind: bytes\n", "bytes", "none"),
        ("vocab:\n  kind: bytes\n  filter: none\n", "bytes", "none"),
        ("vocab:\n  filter: letters\n", "characters", "letters"),
        ("vocab: {kind: characters, filter: letters}\n", "characters", "letters"),
        ("", "characters", "none"),
    ],
)
def test_a_vocab_is_a_group_or_a_word_for_its_kind(text: str, kind: str, filter: str) -> None:
    """`vocab: bytes` is short for `vocab: {kind: bytes}`."""
    vocab = loaded(text).vocab
    assert (vocab.kind, vocab.filter) == (kind, filter)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0.3", 0.3),
        ("[0.3]", [0.3]),
        ("[0, 0.95]", [0, 0.95]),
        ("[0.1, 0.2, 0.3]", [0.1, 0.2, 0.3]),
        ("auto", "auto"),
    ],
)
def test_a_dropout_is_one_number_or_one_for_each_layer(text: str, value: Any) -> None:
    """A dropout is a number, or a list with one number for each layer."""
    num_layers = len(value) if isinstance(value, list) else 2
    assert loaded(f"model: {{num_layers: {num_layers}, dropout: {text}}}\n").model.dropout == value


@pytest.mark.parametrize("cell", ["mingru", "minlstm"])
@pytest.mark.parametrize("share", ["0", "0.0", "auto"])
def test_a_cell_without_recurrent_weights_refuses_weight_dropout(cell: str, share: str) -> None:
    """A cell without recurrent weights takes no weight dropout above 0."""
    assert loaded(f"model: {{cell: {cell}, weight_dropout: {share}}}\n").model.cell == cell


@pytest.mark.parametrize(
    ("value", "shown"), [("words", "'words'"), ("5", "5"), ("[bytes]", "['bytes']"), ("''", "''"), ("true", "True")]
)
def test_a_vocab_that_is_neither_a_kind_nor_a_group_is_reported(value: str, shown: str) -> None:
    """An unknown word is reported as a wrong kind, any other value as no group."""
    message = refusal(f"\nvocab: {value}\n")
    assert "s.yaml:2: `vocab" in message
    assert f"(it is {shown})" in message


@pytest.mark.parametrize(
    ("lines", "key", "words"),
    [
        ("vocab:\n  kind: bytes\n  filter: letters\n", "vocab", ["letters", "bytes"]),
        ("model:\n  dropout: [0.1, 0.2]\n", "model", ["dropout", "2 numbers", "1 layer"]),
        ("model:\n  dropout: []\n", "model", ["dropout", "0 numbers", "1 layer"]),
        ("model:\n  num_layers: 3\n  dropout: [0, 0]\n", "model", ["dropout", "2 numbers", "3 layers"]),
        ("model:\n  cell: mingru\n  weight_dropout: 0.1\n", "model", ["weight_dropout", "mingru"]),
        ("model:\n  cell: minlstm\n  weight_dropout: 0.95\n", "model", ["weight_dropout", "minlstm"]),
    ],
)
def test_settings_of_a_group_that_conflict_are_reported(lines: str, key: str, words: list[str]) -> None:
    """The message names the group and the settings that conflict."""
    message = refusal(lines)
    assert message.startswith(f"s.yaml:1: `{key}`: ")
    assert [word for word in words if word not in message] == []


@pytest.mark.parametrize("count", [2, 8000])
def test_a_list_of_dropouts_of_wrong_length_is_refused_briefly(count: int) -> None:
    """The message is short, however long the list of dropouts is."""
    message = refusal(f"model: {{dropout: [{'0,' * count}]}}\n")
    assert "`model`: dropout" in message
    assert len(message) < 200


def test_settings_are_frozen() -> None:
    """A setting cannot be changed after it was checked."""
    found = Config()
    with pytest.raises(ValidationError, match="frozen"):
        found.seed = 3  # type: ignore[misc]
    with pytest.raises(ValidationError, match="frozen"):
        found.model.hidden_size = 3  # type: ignore[misc]


def test_two_configs_share_no_list() -> None:
    """A change of a list in one config has no effect on another."""
    first = loaded("")
    first.data.corpus.append("mine")
    assert loaded("").data.corpus == ["fables"]


# Finding files


def test_a_bundled_file_is_found_by_name_and_by_path() -> None:
    """`gru` and `configs/gru.yaml` mean the bundled file, in any folder."""
    assert load_config("gru") == load_config("configs/gru.yaml") == load_config(Path("configs/gru.yaml"))


def test_a_name_means_a_bundled_file_and_a_path_the_users_own(own_folders: Path) -> None:
    """`gru` is charlm's file; `./gru` and `configs/gru.yaml` are the user's, if they exist."""
    (own_folders / "configs").mkdir()
    for name in ("gru", "configs/gru.yaml"):
        (own_folders / name).write_text("seed: 77\n")
    assert load_config("gru").seed is None
    assert load_config("./gru").seed == load_config("configs/gru.yaml").seed == 77


def test_a_path_may_begin_with_a_tilde(own_folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`~` is the home folder, as in a shell."""
    monkeypatch.setenv("HOME", str(own_folders))
    (own_folders / "mine.yaml").write_text("seed: 5\n")
    assert load_config("~/mine.yaml").seed == 5


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
def test_a_missing_settings_file_gets_the_nearest_name(name: str, suggestion: str) -> None:
    """If a missing file is named almost like a bundled one, the error suggests that one."""
    with pytest.raises(ConfigError) as raised:
        load_config(name)
    assert f"no settings file `{name}`" in str(raised.value)
    assert f"did you mean `{suggestion}`" in raised.value.hint


@pytest.mark.parametrize("name", ["xyz.yaml", "/", ".", "x\0y", "configs"])
def test_a_missing_settings_file_gets_the_bundled_names(name: str) -> None:
    """If a missing file is named like no other, the error lists the bundled ones."""
    with pytest.raises(ConfigError) as raised:
        load_config(name)
    assert "did you mean" not in raised.value.hint
    assert all(path.stem in raised.value.hint for path in SHIPPED)


@pytest.mark.parametrize("name", ["configs/gru", "configs/gru.yml"])
def test_a_bundled_file_with_another_ending_is_a_missing_file(name: str) -> None:
    """The error names the path that was given, with its wrong ending."""
    with pytest.raises(ConfigError) as raised:
        load_config(name)
    assert f"no settings file `{name}`" in str(raised.value)
    assert "did you mean `gru`" in raised.value.hint


def test_the_home_of_an_unknown_user_is_a_missing_file() -> None:
    """A path in the home of a user who does not exist is a missing file."""
    with pytest.raises(ConfigError, match="~no-such-user"):
        load_config("~no-such-user/mine.yaml")


# Durations


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
        ("20sec", 20.0),
        ("20secs", 20.0),
        ("90 seconds", 90.0),
        ("1 second", 1.0),
        ("1min", 60.0),
        ("2 Minutes", 120.0),
        ("3 mins", 180.0),
        ("2 hours", 7200.0),
        ("1hr", 3600.0),
        ("2H", 7200.0),
        ("1h30m", 5400.0),
        ("1h 30min 5s", 5405.0),
        ("1 hour, 30 minutes", 5400.0),
        ("1m30s", 90.0),
    ],
)
def test_a_duration_is_a_number_of_seconds(text: str, seconds: float) -> None:
    """Units are seconds, minutes and hours, alone or together, in the usual spellings; a bare number is seconds."""
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
        "1:30",
        "30m 1h",
        "1h30",
        "5ms",
        "1m 1m",
        "h",
        "','",
        "5\u017f",
    ],
)
def test_an_invalid_duration_is_reported(text: str) -> None:
    """Words, nothing, negative numbers and more than a month are reported with key and value."""
    message = refusal(f"train:\n  time: {text}\n")
    assert "s.yaml:2: `train.time`" in message
    assert text[:9].strip("[]").lower() in message.lower()


@given(value=st.text() | st.integers() | st.none() | st.lists(st.integers()))
@settings(max_examples=50, deadline=None)
@example("1" * 400 + "h")
@example("٣s")
def test_a_duration_is_seconds_or_left_to_be_refused(value: Any) -> None:
    """`parse_seconds` turns any duration into a number and leaves any other value as it is."""
    found = parse_seconds(value)
    assert found is value or (isinstance(value, str) and isinstance(found, float))


def test_the_error_about_a_duration_shows_what_is_one() -> None:
    """The error has examples, for words and for values that are no text."""
    for text in ("20 parsecs", "[60]", "true"):
        assert "should be a time, as in 60s, 15m or 2h" in refusal(f"train:\n  time: {text}\n")


def test_a_long_number_is_read_as_a_duration_at_once() -> None:
    """Reading a duration takes time in proportion to its length."""
    with within(1.0):
        assert parse_seconds("1" * 100_000 + "x") == "1" * 100_000 + "x"


def test_digits_of_other_scripts_are_no_duration() -> None:
    """A duration is written in ASCII digits, like any number in YAML."""
    assert "train.time" in refusal("train:\n  time: ٣s\n")


@pytest.mark.parametrize(("text", "key"), [("steps: 500", "steps"), ("epochs: 2.5", "epochs"), ("time: 5s", "time")])
def test_a_given_duration_replaces_the_default_minute(text: str, key: str) -> None:
    """If a file gives one duration, the default minute does not apply."""
    found = loaded(f"train:\n  {text}\n").train
    assert [key] == [name for name in ("steps", "epochs", "time") if getattr(found, name) is not None]


@pytest.mark.parametrize(
    "lines", ["  steps: 5\n  time: 60s\n", "  steps: 5\n  epochs: 2\n", "  epochs: 1\n  time: 1\n  steps: 1\n"]
)
def test_two_durations_in_one_file_are_refused(lines: str) -> None:
    """Two durations in one file are refused, because it is not clear which one is meant."""
    message = refusal(f"train:\n{lines}")
    assert "s.yaml:1" in message
    assert all(line.split(":")[0].strip() in message.partition("; ")[2] for line in lines.splitlines())


def test_an_override_of_one_duration_replaces_another() -> None:
    """`--set train.steps=500` over a file of 60 seconds means 500 steps; the last duration counts."""
    text = "train:\n  time: 60s\n"
    assert durations(loaded(text, "train.steps=500")) == (500, None, None)
    assert durations(loaded(text, "train.steps=500", "train.epochs=2")) == (None, 2.0, None)
    assert durations(loaded(text, "train.steps=500", **{"train.time": "5s"})) == (None, None, 5.0)
    assert durations(loaded(text, "train.steps=null")) == (None, None, 60.0)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_run_writes_down_all_of_a_shipped_file(path: Path) -> None:
    """A shipped file reads back the same from a run's `config.yaml`, also where null is not the default."""
    config = load_config(path)
    assert loaded(to_yaml(config)) == config


def test_a_model_of_both_directions_refuses_sample_every() -> None:
    """A model of both directions fills blanks and writes no text, so it cannot show samples."""
    assert "sample_every" in refusal("model: {direction: both}\ntrain: {sample_every: 5}\n")


def test_the_list_of_settings_has_the_values_of_a_choice() -> None:
    """The line of a setting with a fixed choice lists all of its values."""
    lines = describe_settings().splitlines()
    assert any(
        line.startswith("model.direction ") and line.endswith("one of forward, backward, both") for line in lines
    )


def test_a_conflict_is_reported_at_the_override() -> None:
    """If an override conflicts with the file, the error names the override."""
    with pytest.raises(ConfigError) as raised:
        load_config("lstm", ["model.dropout=[0.1, 0.2]"])
    assert str(raised.value).startswith("--set model.dropout: ")


@pytest.mark.parametrize(
    ("text", "group", "key", "value"),
    [
        ("model.cell=LSTM", "model", "cell", "lstm"),
        ("model.cell=Rnn-ReLU", "model", "cell", "rnn-relu"),
        ("model.hidden_size=AUTO", "model", "hidden_size", "auto"),
        ("model.initialiser=Normal(1E-3)", "model", "initialiser", "normal(1e-3)"),
        ("model.direction=Both", "model", "direction", "both"),
        ("model.dropout=Auto", "model", "dropout", "auto"),
        ("vocab=Bytes", "vocab", "kind", "bytes"),
        ("vocab.filter=LETTERS", "vocab", "filter", "letters"),
        ("train.optimizer=AdamW", "train", "optimizer", "adamw"),
        ("train.schedule=Cosine", "train", "schedule", "cosine"),
        ("train.precision=BF16", "train", "precision", "bf16"),
        ("train.device=CPU", "train", "device", "cpu"),
        ("data.corpus=My Novel.txt", "data", "corpus", ["My Novel.txt"]),
    ],
)
def test_names_are_read_in_any_case(text: str, group: str, key: str, value: Any) -> None:
    """Names are saved as charlm writes them; the name of a text stays as it is."""
    assert value == getattr(getattr(loaded("", text), group), key)
    assert f"{key}: {value}" in to_yaml(loaded("", text)) or isinstance(value, list)


def test_a_bundled_settings_file_is_named_in_any_case() -> None:
    """`charlm train GRU` takes the bundled file, unless there is a file of that name."""
    assert load_config("GRU").model.cell == "gru"
    Path("GRU").write_text("model: {cell: rnn}\n", encoding="utf-8")
    assert load_config("GRU").model.cell == "rnn"


def test_an_unknown_cell_gets_the_nearest_name() -> None:
    """The error for an unknown cell suggests the nearest name, in whatever case it was given."""
    assert "did you mean `lstm`?" in refusal("model: {cell: LSMT}\n")
