"""YAML and overrides to validated, frozen settings. Knows every setting's meaning and bounds; runs nothing."""

from __future__ import annotations

import copy
import difflib
import re
import reprlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from charlm.errors import ConfigError
from charlm.files import bundled_folder, expanded
from charlm.strict_yaml import MAX_BYTES, StrictDumper, Tree, parse

DEFAULT_CONFIG = "lstm"
MAX_PROBLEMS = 20
MAX_GROUPS = 8
DURATIONS = ("steps", "epochs", "time")
DEFAULT_TIME = 60.0
UNITS_SECONDS = {"s": 1, "m": 60, "min": 60, "h": 3600}


def parse_seconds(value: Any) -> Any:
    """Turn `90`, `"90s"`, `"1.5m"` or `"2h"` into seconds; anything else is left for the validator to refuse."""
    if isinstance(value, str) and (found := re.fullmatch(r"\s*([0-9.]+)\s*(s|m|min|h)?\s*", value)):
        try:
            return float(found[1]) * UNITS_SECONDS[found[2] or "s"]
        except ValueError:
            return value
    return value


def _as_names(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _auto_or_up_to(limit: float) -> BeforeValidator:
    def check(value: Any) -> Any:
        if value == "auto" or (type(value) in (int, float) and 0 <= value <= limit):
            return value
        raise ValueError(f"should be `auto` or a number from 0 to {limit:g}")

    return BeforeValidator(check)


def _group_or_defaults(value: Any) -> Any:
    # A group all of whose lines are remarks is None.
    if value is None:
        return {}
    if not isinstance(value, dict | Settings):
        raise ValueError("should be a group of settings")
    return value


Seconds = Annotated[float, BeforeValidator(parse_seconds), Field(gt=0, le=30 * 86400)]
Fraction = Annotated[float, Field(ge=0, le=0.5)]


class Settings(BaseModel):
    """What all groups of settings share: they are frozen, strict, and refuse what they do not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class ModelConfig(Settings):
    """What the model is made of."""

    cell: Literal["lstm", "gru", "rnn"] = Field("lstm", description="the recurrence: lstm, gru, or rnn (Elman, tanh)")
    embedding_size: int = Field(64, ge=1, le=4096, description="numbers that stand for one character at the input")
    hidden_size: int = Field(512, ge=1, le=16384, description="units in each recurrent layer")
    num_layers: int = Field(1, ge=1, le=16, description="recurrent layers, one on top of the other")
    dropout: Annotated[float | Literal["auto"], _auto_or_up_to(0.95)] = Field(
        "auto", description="share of each layer's outputs left out, one mask per block; auto: by how often it reads"
    )
    weight_dropout: Annotated[float | Literal["auto"], _auto_or_up_to(0.95)] = Field(
        "auto", description="share of each layer's recurrent weights left out, one mask per block; auto: as above"
    )


class DataConfig(Settings):
    """Which text is learned and which is held out."""

    corpus: Annotated[list[str], BeforeValidator(_as_names)] = Field(
        ["fables"], min_length=1, description="corpora by name, files, folders, globs, or `-`; one or a list"
    )
    encoding: str = Field("utf-8", description="how the bytes of the text spell characters")
    validation_fraction: Fraction = Field(0.1, description="share of the text, at its end, that is never trained on")
    test_fraction: Fraction = Field(0.0, description="share after that, which training does not even look at")


class TrainConfig(Settings):
    """How it is learned. One of steps, epochs and time says how long."""

    steps: int | None = Field(None, ge=1, le=10**9, description="blocks to train on")
    epochs: float | None = Field(None, gt=0, le=10**6, description="how often to read the training part")
    time: Seconds | None = Field(
        None, description="how long to train, in seconds or as `60s`, `15m`, `2h`; 60s where none of the three is set"
    )
    batch_size: int = Field(64, ge=1, le=65536, description="streams read side by side (B)")
    block_size: int = Field(64, ge=1, le=65536, description="characters per stream between two updates (T)")
    optimizer: Literal["muon", "adamw", "adam", "rmsprop", "adagrad", "sgd"] = Field(
        "muon", description="muon: Muon for the recurrent layers' matrices and AdamW for the rest; any other for all"
    )
    learning_rate: float = Field(6e-3, gt=0, le=10, description="the learning rate, under muon that of AdamW")
    matrix_learning_rate: float = Field(6e-2, gt=0, le=10, description="Muon's learning rate")
    weight_decay: Annotated[float | Literal["auto"], _auto_or_up_to(10)] = Field(
        "auto", description="decay of the recurrent layers' matrices; auto: by how often it reads, under muon and adamw"
    )
    warmup_fraction: float = Field(0.03, ge=0, le=1, description="share of the run in which the rate rises from 0")
    schedule: Literal["linear", "cosine", "step"] = Field(
        "linear", description="how the rate falls: in a line or a half cosine over decay_fraction, or by steps"
    )
    decay_fraction: float = Field(0.5, ge=0, le=1, description="share of the run, at its end, in which it falls to 0")
    step_factor: float = Field(0.97, gt=0, le=1, description="schedule step: what it is multiplied by after each epoch")
    step_after_epochs: int = Field(
        10, ge=1, le=10**6, description="schedule step: after so many epochs for the first time"
    )
    clip_norm: float | None = Field(1.0, gt=0, le=1e6, description="largest norm of the whole gradient; null for any")
    clip_value: float | None = Field(None, gt=0, le=1e6, description="largest size of each number of the gradient")
    reset_probability: float = Field(
        0.01, ge=0, le=1, description="chance that a stream forgets its state before a block, to learn cold starts"
    )
    evaluations: int = Field(
        10, ge=1, le=10**6, description="how often validation is measured; less where it would slow down a timed run"
    )
    evaluation_characters: int = Field(
        20_000, ge=1, le=10**9, description="how much of the validation part each reads; the best is measured on all"
    )
    patience: int | None = Field(None, ge=1, le=10**6, description="evaluations without a better one that end the run")
    precision: Literal["auto", "fp32", "bf16"] = Field("auto", description="arithmetic of the training blocks")
    device: Literal["auto", "cpu", "cuda", "mps"] = Field("auto", description="where to train")
    threads: int | None = Field(None, ge=1, le=1024, description="CPU threads; by default as many as there are cores")

    @model_validator(mode="before")
    @classmethod
    def _default_duration(cls, data: Any) -> Any:
        if isinstance(data, dict) and all(data.get(name) is None for name in DURATIONS):
            return data | {"time": DEFAULT_TIME}
        return data

    @model_validator(mode="after")
    def _one_duration(self) -> TrainConfig:
        given = [name for name in DURATIONS if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"steps, epochs and time exclude each other; {' and '.join(given)} are set")
        return self


class Config(Settings):
    """All settings of a run."""

    model: Annotated[ModelConfig, BeforeValidator(_group_or_defaults)] = ModelConfig()
    data: Annotated[DataConfig, BeforeValidator(_group_or_defaults)] = DataConfig()
    train: Annotated[TrainConfig, BeforeValidator(_group_or_defaults)] = TrainConfig()
    vocab: Literal["characters", "bytes"] = Field(
        "characters", description="symbols of the model: the text's own characters, or the 256 byte values"
    )
    seed: int | None = Field(
        None, ge=0, lt=2**63, description="makes a run repeatable; drawn and written down if absent"
    )

    def to_yaml(self) -> str:
        """Write the settings as YAML that `load` reads back."""
        values = self.model_dump(exclude_none=True)
        # PyYAML writes a next-line character bare and then reads it as the end of a line.
        is_plain = not any("\x85" in text for text in (*self.data.corpus, self.data.encoding))
        return yaml.dump(values, Dumper=StrictDumper, sort_keys=False, allow_unicode=is_plain)


GROUPS: dict[str, type[Settings]] = {"model": ModelConfig, "data": DataConfig, "train": TrainConfig}


def load(source: str | Path | None, overrides: Sequence[str] = (), flags: Mapping[str, Any] | None = None) -> Config:
    """Read a settings file and lay overrides over it.

    Args:
        source: a path, or the name of a bundled file such as `gru`; None for the default.
        overrides: `key=value` with a dotted key, the value as YAML; later ones win.
        flags: values by dotted key, which win over both.

    Raises:
        ConfigError: all problems of the file or the overrides at once, each with its place.
    """
    path = _locate(source)
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"`{path}` cannot be read: {error.strerror or error}") from error
    try:
        tree = parse(data, str(path))
    except ConfigError as error:
        if path.suffix not in (".yaml", ".yml"):
            error.hint = f"a text to learn is given with `--corpus {path}`"
        raise
    return _overridden(tree, overrides, flags or {}, str(path))


def override(tree: Mapping[str, Any], overrides: Sequence[str], flags: Mapping[str, Any]) -> Config:
    """Lay overrides and flags over the settings of an earlier run, given as plain values."""
    return _overridden(Tree(copy.deepcopy(dict(tree)), {}, []), overrides, flags, "the run")


def describe() -> str:
    """List every setting with its default and what it means."""
    lines = []
    groups: dict[str, type[Settings]] = {"": Config} | {f"{name}.": group for name, group in GROUPS.items()}
    for group, model in groups.items():
        for name, field in model.model_fields.items():
            if field.description:
                default = "none" if field.default is None else field.default
                lines.append(f"{group}{name} (default {default}): {field.description}")
    return "\n".join(lines)


def validate(values: dict[str, Any], places: Mapping[str, str], name: str, problems: Sequence[str] = ()) -> Config:
    """Check a tree of plain values.

    Args:
        values: the tree.
        places: where each dotted key stands.
        name: of the whole.
        problems: what is known to be wrong with it already.

    Raises:
        ConfigError: all problems at once.
    """
    found = list(problems)
    try:
        config = Config.model_validate(values)
    except ValidationError as error:
        errors = error.errors()
        found += [_describe(dict(problem), places, name) for problem in errors[:MAX_PROBLEMS]]
        if len(errors) > MAX_PROBLEMS:
            found.append(f"and {len(errors) - MAX_PROBLEMS:,} more")
    if found:
        raise ConfigError("; ".join(dict.fromkeys(found)), "`charlm train --help-settings` lists them all")
    return config


def _locate(source: str | Path | None) -> Path:
    name = DEFAULT_CONFIG if source is None else str(source)
    path = expanded(name)
    bundled = bundled_folder("configs")
    known = sorted(file.stem for file in bundled.glob("*.yaml"))
    if name in known:
        return bundled / f"{name}.yaml"
    try:
        if path.is_file():
            return path
    except OSError as error:
        raise ConfigError(f"there is no settings file `{name}`: {error.strerror or error}") from error
    if path.parent == Path("configs") and path.suffix == ".yaml" and path.stem in known:
        return bundled / path.name
    close = difflib.get_close_matches(path.stem, known, n=1)
    hint = f"did you mean `{close[0]}`? " if close else ""
    raise ConfigError(f"there is no settings file `{name}`", f"{hint}the bundled ones are {', '.join(known)}")


def _overridden(tree: Tree, overrides: Sequence[str], flags: Mapping[str, Any], name: str) -> Config:
    problems = list(tree.problems)
    for override in overrides:
        try:
            key, value = _parse_override(override)
            _put(tree, key, value, f"--set {key}")
        except ConfigError as error:
            problems.append(str(error))
    for key, value in flags.items():
        _put(tree, key, value, f"--{key.rpartition('.')[2]}")
    return validate(tree.values, tree.places, name, problems)


def _parse_override(override: str) -> tuple[str, Any]:
    key, equals, text = override.partition("=")
    key = key.strip()
    if not equals or not key.isprintable() or not key:
        raise ConfigError(f"`--set {override}` is not of the form key=value, as in `--set model.hidden_size=256`")
    try:
        tree = parse(f"value: {text}".encode("utf-8", "surrogateescape"), "--set")
    except ConfigError as error:
        raise ConfigError(f"`{text}` in `--set {override}` is not a value") from error
    if tree.problems or tree.values.keys() != {"value"}:
        raise ConfigError(f"`{text}` in `--set {override}` is not a value")
    return key, tree.values["value"]


def _put(tree: Tree, key: str, value: Any, place: str) -> None:
    *groups, last = key.split(".")
    if len(groups) > MAX_GROUPS:
        raise ConfigError(f"{place[:100]}... is not a setting: none is so deep down")
    branch, places = tree.values, tree.places
    for depth, group in enumerate(groups):
        if branch.get(group) is None:
            branch[group] = {}
            places[".".join(groups[: depth + 1])] = place
        branch = branch[group]
        if not isinstance(branch, dict):
            raise ConfigError(f"{place}: `{group}` is not a group of settings")
    branch[last] = value
    for below in [name for name in places if name.startswith(f"{key}.")]:
        del places[below]
    places[key] = place
    # A duration replaces the one before it: `--set train.steps=500` over `time: 60s` means 500 steps.
    if groups == ["train"] and last in DURATIONS and value is not None:
        for other in set(DURATIONS) - {last}:
            branch.pop(other, None)


def _describe(problem: dict[str, Any], places: Mapping[str, str], name: str) -> str:
    parts = [str(part) for part in problem["loc"]]
    prefixes = [".".join(parts[:length]) for length in range(len(parts), 0, -1)]
    place = next((places[prefix] for prefix in prefixes if prefix in places), name)
    if problem["type"] != "extra_forbidden":
        # Below a setting pydantic names items and members of a union.
        while len(parts) > 1 and parts[-1] not in _known_keys(parts[:-1]):
            parts.pop()
    key = ".".join(parts)
    if problem["type"] == "extra_forbidden":
        near = difflib.get_close_matches(parts[-1], _known_keys(parts[:-1]), n=1)
        close = [".".join([*parts[:-1], *near])] if near else _elsewhere(parts[-1])
        if close == [key]:
            return f"{place}: `{key}` is not a setting: in a file its group has lines of its own"
        return f"{place}: `{key}` is not a setting" + (f", did you mean `{close[0]}`?" if close else "")
    message = problem["msg"].removeprefix("Value error, ")
    given = "" if isinstance(problem["input"], dict | Settings) else f" (it is {reprlib.repr(problem['input'])})"
    return f"{place}: `{key}`: {message[:1].lower() + message[1:]}{given}"


def _known_keys(groups: Sequence[str]) -> list[str]:
    model: Any = Config
    for group in groups:
        field = model.model_fields.get(group)
        model = field.annotation if field else None
        if not (isinstance(model, type) and issubclass(model, Settings)):
            return []
    return list(model.model_fields)


def _elsewhere(key: str) -> list[str]:
    dotted = {name: f"{group}.{name}" for group in GROUPS for name in _known_keys([group])}
    return [dotted[match] for match in difflib.get_close_matches(key, dotted, n=1)]
