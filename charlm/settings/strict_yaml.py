"""Strict YAML: no aliases, no tags, no key twice, and only plain values. Knows no settings."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from charlm.errors import ConfigError

MAX_BYTES = 1 << 14
MAX_DEPTH = 32


class Tree(NamedTuple):
    """The content of a settings file.

    Attributes:
        values: plain values by key; a group is a dict.
        places: for each dotted key its place, `file:line`.
        problems: problems of single keys; the rest can be read.
    """

    values: dict[str, Any]
    places: dict[str, str]
    problems: list[str]


def read_yaml(path: Path) -> Tree:
    """Read a file, see `parse_yaml`; no more of it than a settings file may have.

    Raises:
        OSError: it cannot be read.
        ConfigError: nothing of it can be read as YAML.
    """
    with path.open("rb") as file:
        return parse_yaml(file.read(MAX_BYTES + 1), str(path))


def parse_yaml(data: bytes, name: str) -> Tree:
    """Read YAML strictly: no aliases, no key twice, only `true` and `false` are booleans, `3e-4` is a number.

    Raises:
        ConfigError: nothing of it can be read.
    """
    if len(data) > MAX_BYTES:
        raise ConfigError(f"`{name}` is larger than {MAX_BYTES:,} bytes, too large for a settings file")
    try:
        text, loader = data.decode("utf-8-sig"), None
        loader = _StrictLoader(text)
        loader.name, loader.places, loader.problems = name, {}, []
        try:
            tree = loader.get_single_data()
        finally:
            loader.dispose()
    except UnicodeDecodeError as error:
        raise ConfigError(f"`{name}` is not UTF-8: byte at offset {error.start}") from error
    except yaml.reader.ReaderError as error:
        raise ConfigError(
            f"{name}:{text.count(chr(10), 0, error.position) + 1}: {str(error).splitlines()[0]}"
        ) from error
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        hint = "settings are `key: value` lines, with a space after the colon and no tab before the key"
        raise ConfigError(f"{name}{line}: {error.problem}", hint) from error
    except (yaml.YAMLError, RecursionError, ValueError, OverflowError) as error:
        line = f":{loader.line + 1}" if loader else ""
        raise ConfigError(f"{name}{line}: {str(error).splitlines()[0]}") from error
    if tree is not None and not isinstance(tree, dict):
        raise ConfigError(f"{name}: this is not a group of settings, which are `key: value` lines")
    return Tree(tree or {}, loader.places, loader.problems)


class _StrictLoader(yaml.SafeLoader):
    name: str
    places: dict[str, str]
    problems: list[str]
    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()  # type: ignore[no-untyped-call]
            raise yaml.MarkedYAMLError(problem="aliases are not allowed", problem_mark=event.start_mark)
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if getattr(event, "tag", None) not in (None, "!"):
            raise yaml.MarkedYAMLError(
                problem="tags are not allowed, settings are `key: value` lines", problem_mark=event.start_mark
            )
        self.depth += 1
        if self.depth > MAX_DEPTH:
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.MarkedYAMLError(problem="nested too deeply", problem_mark=mark)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def get_single_data(self) -> Any:
        node = self.get_single_node()
        if node is None:
            return None
        self._find_repeats(node, "")
        return self.construct_document(node)

    def _find_repeats(self, node: yaml.Node, prefix: str) -> None:
        if isinstance(node, yaml.SequenceNode):
            for item in node.value:
                self._find_repeats(item, prefix)
        if not isinstance(node, yaml.MappingNode):
            return
        seen = set()
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode) or not key.value.isprintable():
                raise yaml.MarkedYAMLError(problem="a key must be a plain word", problem_mark=key.start_mark)
            place = f"{self.name}:{key.start_mark.line + 1}"
            if key.value in seen:
                self.problems.append(f"{place}: `{prefix}{key.value}` is set twice")
            seen.add(key.value)
            self.places[prefix + key.value] = place
            self._find_repeats(value, f"{prefix}{key.value}.")


def _as_int(text: str, mark: Any) -> int:
    try:
        return int(text)
    except ValueError as error:  # more digits than Python reads
        raise yaml.MarkedYAMLError(problem="this number has too many digits", problem_mark=mark) from error


# Plain scalars as in YAML 1.2; in YAML 1.1 `no` is false, 012 is ten and 3e-4 is a string.
_StrictLoader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in [
    ("bool", r"true|false", "tf"),
    ("null", r"null|~|", ["n", "~", ""]),
    ("int", r"[-+]?[0-9]+", "-+0123456789"),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", "-+.0123456789"),
]:
    _StrictLoader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), list(_first))
# The base class reads 017 as octal and 1_000 or 1:30 specially; here every number is decimal.
_StrictLoader.add_constructor("tag:yaml.org,2002:int", lambda loader, node: _as_int(node.value, node.start_mark))
_StrictLoader.add_constructor("tag:yaml.org,2002:float", lambda loader, node: float(node.value))


class StrictDumper(yaml.SafeDumper):
    """Writes YAML that `parse_yaml` reads back."""

    yaml_implicit_resolvers = _StrictLoader.yaml_implicit_resolvers
