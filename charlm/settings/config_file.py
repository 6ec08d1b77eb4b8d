"""Settings files and overrides become validated settings, and settings become YAML."""

from __future__ import annotations

import copy
import re
import reprlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from charlm.errors import ConfigError, did_you_mean, nearest_name
from charlm.files import bundled_configs, bundled_folder, expanded
from charlm.settings.config import (
    DURATIONS,
    GROUPS,
    SHORT_FOR,
    Config,
    Inherited,
    Settings,
    TrainConfig,
    too_many_durations,
)
from charlm.settings.names import meant_setting
from charlm.settings.strict_yaml import MAX_BYTES, StrictDumper, Tree, parse_yaml, read_yaml

DEFAULT_CONFIG = "lstm"
ALL_SETTINGS = "`charlm train --help-settings` lists all settings"
MAX_PROBLEMS = 20
MAX_GROUPS = 8


def load_config(
    source: str | Path | None,
    overrides: Sequence[str] = (),
    flags: Mapping[str, Any] | None = None,
    inherited: Inherited | None = None,
) -> Config:
    """Read a settings file and apply overrides to it.

    Args:
        source: a path, or the name of a bundled file such as `gru`; None for the default.
        overrides: `key=value` with a dotted key, the value as YAML; later ones win.
        flags: values by dotted key; they win over the file and the overrides.
        inherited: settings of a model, which the file and the overrides may not contradict. The default file may.

    Raises:
        ConfigError: all problems of the file and the overrides at once, each with its place.
    """
    try:
        path = _locate(source)
    except ConfigError:
        # In `--set key value`, the value looks like the name of a settings file.
        for override in overrides:
            _parse_override(override)
        raise
    try:
        tree = read_yaml(path)
    except OSError as error:
        raise ConfigError(f"`{path}` cannot be read: {error.strerror or error}") from error
    except ConfigError as error:
        if path.suffix not in (".yaml", ".yml"):
            error.hint = f"to train on a text, use `--corpus {path}`"
        raise
    for key, value in inherited.values.items() if inherited and source is None else ():
        _put(tree, key, value, str(path))
    return _overridden(tree, overrides, flags or {}, str(path), inherited)


def override_config(tree: Mapping[str, Any], overrides: Sequence[str], flags: Mapping[str, Any]) -> Config:
    """Apply overrides and flags to the settings of an earlier run, given as plain values."""
    return _overridden(Tree(copy.deepcopy(dict(tree)), {}, []), overrides, flags, "the run")


def to_yaml(config: Config) -> str:
    """Write settings as YAML that `load_config` reads back."""
    values = _without_absent(config)
    # PyYAML writes a next-line character unescaped, and then reads it as the end of a line.
    is_plain = not any("\x85" in text for text in (*config.data.corpus, config.data.encoding))
    return yaml.dump(values, Dumper=StrictDumper, sort_keys=False, allow_unicode=is_plain)


def describe_settings() -> str:
    """Describe every setting in a line: its default, its meaning and its choices."""
    lines = []
    for setting in list_settings():
        default = "none" if setting["default"] is None else setting["default"]
        allowed = f"; one of {', '.join(setting['enum'])}" if "enum" in setting else ""
        lines.append(f"{setting['name']} (default {default}): {setting['description']}{allowed}")
    return "\n".join(lines)


def list_settings() -> list[dict[str, Any]]:
    """List every setting as plain values: its name, group, default, and its meaning and type in JSON Schema."""
    settings = []
    groups: dict[str, type[Settings]] = {"": Config} | GROUPS
    for group, model in groups.items():
        schemas = model.model_json_schema()["properties"]
        for name, field in model.model_fields.items():
            if field.description:
                about = {"name": f"{group}.{name}".lstrip("."), "group": group, "default": field.default}
                settings.append(about | {key: value for key, value in schemas[name].items() if key != "title"})
    return settings


def validate_settings(
    values: dict[str, Any], places: Mapping[str, str], name: str, problems: Sequence[str] = ()
) -> Config:
    """Check a tree of plain values.

    Args:
        values: the tree.
        places: the place of each dotted key.
        name: the place of a key that `places` lacks.
        problems: problems found earlier.

    Raises:
        ConfigError: all problems at once.
    """
    found, num_left_out = list(problems), 0
    try:
        config = Config.model_validate(values)
    except ValidationError as error:
        errors: list[dict[str, Any]] = [dict(problem) for problem in error.errors()]
        train = values.get("train")
        # pydantic compares settings with each other only when each of them is right.
        if isinstance(train, dict) and (problem := too_many_durations(train)):
            errors.append({"loc": ("train",), "type": "", "msg": problem, "input": {}})
        errors.sort(key=lambda error: _line_of(_place(error["loc"], places, name), name))
        found += [_describe(problem, places, name) for problem in errors[:MAX_PROBLEMS]]
        num_left_out = len(errors[MAX_PROBLEMS:])
    if found:
        found = sorted(dict.fromkeys(found), key=lambda problem: _line_of(problem, name))
        num_left_out += len(found[MAX_PROBLEMS:])
        if num_left_out:
            found = [*found[:MAX_PROBLEMS], f"and {num_left_out:,} more"]
        raise ConfigError("; ".join(found), ALL_SETTINGS, found)
    return config


def _line_of(problem: str, name: str) -> int:
    """Return the line of a file that a problem or a place names; overrides, which come after the file, have none."""
    line = re.match(r":(\d+)(?:$|: )", problem.removeprefix(name))
    return int(line[1]) if line else MAX_BYTES


def _locate(source: str | Path | None) -> Path:
    name = DEFAULT_CONFIG if source is None else str(source)
    path = expanded(name)
    bundled, known = bundled_folder("configs"), bundled_configs()
    if name in known:
        return bundled / f"{name}.yaml"
    try:
        if path.is_file():
            return path
        if name.lower() in known:
            return bundled / f"{name.lower()}.yaml"
    except OSError as error:
        raise ConfigError(f"there is no settings file `{name}`: {error.strerror or error}") from error
    if path.parent == Path("configs") and path.suffix == ".yaml" and path.stem in known:
        return bundled / path.name
    hint = f"{did_you_mean(path.stem, known)} the bundled ones are {', '.join(known)}"
    raise ConfigError(f"there is no settings file `{name}`", hint.lstrip())


def _overridden(
    tree: Tree, overrides: Sequence[str], flags: Mapping[str, Any], name: str, inherited: Inherited | None = None
) -> Config:
    problems = list(tree.problems)
    for override in overrides:
        try:
            key, value = _parse_override(override)
            _put(tree, key, value, f"--set {key}")
        except ConfigError as error:
            problems.append(str(error))
    for key, value in flags.items():
        _put(tree, key, value, f"--{key.rpartition('.')[2]}")
    contradictions = _inherit(tree, inherited, name) if inherited else []
    config = _without_useless(validate_settings(tree.values, tree.places, name, problems), tree)
    if inherited:
        inherited.refuse(contradictions)
    return config


def _inherit(tree: Tree, inherited: Inherited, name: str) -> list[str]:
    """Put inherited settings into a tree; return what contradicts them."""
    contradictions = []
    for key, value in inherited.values.items():
        group, _, last = key.partition(".")
        given = tree.values.get(group)
        if isinstance(given, str) and group in SHORT_FOR:
            given = {SHORT_FOR[group]: given}
        if given is not None and not isinstance(given, dict):
            continue  # this is no group of settings, which is reported when they are validated
        if given and given.get(last) is not None:
            place = tree.places.get(key) or tree.places.get(group) or name
            contradictions.append(inherited.contradiction(key, given[last], place))
        _put(tree, key, value, inherited.owner)
    return [contradiction for contradiction in contradictions if contradiction]


def _without_useless(config: Config, tree: Tree) -> Config:
    """Refuse overrides that have no effect because of another setting.

    With `--set train.optimizer=adamw` a file's settings for muon fall back to their defaults. A file that contradicts
    itself is accepted, because the file of a run holds every setting; the run notes it.

    Raises:
        ConfigError: all such overrides at once.
    """
    given = tree.values.get("train") or {}
    problems, defaults = [], {}
    for name, other, values in config.train.idle_settings():
        if name not in given:
            continue
        if (place := _place_of(name, tree)).startswith("--"):
            other_value = getattr(config.train, other)
            problems.append(
                f"{place}: `train.{name}` has no effect with `train.{other}` {other_value}, "
                f"only with {' or '.join(values)}"
            )
        elif _place_of(other, tree).startswith("--"):
            defaults[name] = TrainConfig.model_fields[name].default
    if problems:
        raise ConfigError("; ".join(problems), "remove it, or set the other one as well", problems)
    return config.model_copy(update={"train": config.train.model_copy(update=defaults)}) if defaults else config


def _place_of(name: str, tree: Tree) -> str:
    """Return where a setting of `train` was given, or an empty string if an earlier run gave it or nobody did."""
    return tree.places.get(f"train.{name}") or tree.places.get("train") or ""


def _parse_override(override: str) -> tuple[str, Any]:
    key, equals, text = override.partition("=")
    key = key.strip().lower()
    if not equals or not key.isprintable() or not key:
        message = f"`--set {override}` is not of the form key=value, as in `--set model.hidden_size=256`"
        raise ConfigError(message, ALL_SETTINGS)
    try:
        tree = parse_yaml(f"value: {text}".encode("utf-8", "surrogateescape"), "--set")
    except ConfigError as error:
        raise ConfigError(f"`{text}` in `--set {override}` is not a value") from error
    if tree.problems or tree.values.keys() != {"value"}:
        raise ConfigError(f"`{text}` in `--set {override}` is not a value")
    return key, tree.values["value"]


def _put(tree: Tree, key: str, value: Any, place: str) -> None:
    *groups, last = key.split(".")
    if len(groups) > MAX_GROUPS:
        raise ConfigError(f"{place[:100]}... is not a setting: it has too many dots")
    branch, places = tree.values, tree.places
    for depth, group in enumerate(groups):
        if branch.get(group) is None:
            branch[group] = {}
            places[".".join(groups[: depth + 1])] = place
        if isinstance(branch[group], str) and group in SHORT_FOR and not depth:
            branch[group] = {SHORT_FOR[group]: branch[group]}
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


def _place(location: Sequence[str | int], places: Mapping[str, str], name: str) -> str:
    """Return the place of the setting that pydantic reports."""
    parts = [str(part) for part in location]
    prefixes = [".".join(parts[:length]) for length in range(len(parts), 0, -1)]
    place = next((places[prefix] for prefix in prefixes if prefix in places), name)
    if len(parts) == 1 and parts[0] in GROUPS:
        # Settings of a group contradict each other: name the place of the one that was given last.
        given_below = [given for key, given in places.items() if key.startswith(".".join([*parts, ""]))]
        place = next((given for given in reversed(given_below) if given.startswith("--")), place)
    return place


def _describe(problem: dict[str, Any], places: Mapping[str, str], name: str) -> str:
    place, parts = _place(problem["loc"], places, name), [str(part) for part in problem["loc"]]
    if problem["type"] != "extra_forbidden":
        # pydantic's location may end with an item of a list or a member of a union, which are no settings.
        while len(parts) > 1 and parts[-1] not in _known_keys(parts[:-1]):
            parts.pop()
    key = ".".join(parts)
    if problem["type"] == "extra_forbidden":
        close = _meant_key(parts)
        if close == key:
            group, _, name = key.partition(".")
            return f"{place}: `{key}` is not a setting: in a file, put `{name}` into the group `{group}`"
        return f"{place}: `{key}` is not a setting" + (f", did you mean `{close}`?" if close else "")
    message = problem["msg"].removeprefix("Value error, ")
    given = "" if isinstance(problem["input"], dict | Settings) else f" (it is {reprlib.repr(problem['input'])})"
    # Settings of two groups that contradict each other have no common key.
    about = f"`{key}`: " if key else ""
    return f"{place}: {about}{message[:1].lower() + message[1:]}{given}"


def _meant_key(parts: Sequence[str]) -> str | None:
    """Return the setting that an unknown key stands for, or at the top level perhaps a group."""
    if len(parts) > 1:
        return meant_setting(".".join(parts)) if parts[0] in GROUPS else None
    return parts[0].lower() if parts[0].lower() in GROUPS else meant_setting(parts[0]) or nearest_name(parts[0], GROUPS)


def _known_keys(groups: Sequence[str]) -> list[str]:
    model: Any = Config
    for group in groups:
        field = model.model_fields.get(group)
        model = field.annotation if field else None
        if not (isinstance(model, type) and issubclass(model, Settings)):
            return []
    return list(model.model_fields)


def _without_absent(settings: Settings) -> dict[str, Any]:
    """Return settings as plain values, without those that are None by default and in fact."""
    values = {}
    for name, field in type(settings).model_fields.items():
        value = getattr(settings, name)
        if value is not None or field.default is not None:
            values[name] = _without_absent(value) if isinstance(value, Settings) else value
    return values
