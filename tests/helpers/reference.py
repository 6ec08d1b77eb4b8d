"""The parts of docs/ that are generated: commands from Typer, settings from their schema, settings files from configs/.

`python -m tests.helpers.reference` writes them anew between the marks in the pages.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from typer.main import get_command

from charlm.cli.app import COMMANDS, app
from charlm.files import bundled_folder
from charlm.settings.config import GROUPS, Config, Settings

ROOT = Path(__file__).parents[2]
COMMAND = "python -m tests.helpers.reference"
PAGES = [ROOT / "docs" / "commands.md", ROOT / "docs" / "settings.md"]
PLACEHOLDERS = {int: "N", float: "X", Path: "PATH", str: "TEXT"}
BOUNDS = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}


def commands() -> Iterator[str]:
    """Describe every command: what it does, examples, arguments and options."""
    for name, command in get_command(app).commands.items():  # type: ignore[attr-defined]
        types = get_type_hints(COMMANDS[name])
        paragraphs = (command.help or "").split("\n\n")
        yield f"## charlm {name}\n"
        yield "\n\n".join(part for part in paragraphs if not part.startswith("charlm ")) + "\n"
        yield "\n".join(["```sh", *(part for part in paragraphs if part.startswith("charlm ")), "```", ""])
        for parameter in command.params:
            yield _parameter(parameter, types[parameter.name])
        yield ""


def _parameter(parameter: Any, annotation: Any) -> str:
    if parameter.param_type_name == "argument":
        spelled = f"`{parameter.name.upper()}`"
    else:
        value = "" if parameter.is_flag else f" {_placeholder(annotation)}"
        names = [*sorted(parameter.opts, key=len), *parameter.secondary_opts]
        spelled = ", ".join(f"`{name}{value}`" for name in names)
    has_default = parameter.default not in (None, False, "") and not parameter.secondary_opts
    default = f" Default: `{parameter.default}`." if has_default else ""
    return f"* {spelled}: {parameter.help.removesuffix('.')}.{default}"


def _placeholder(annotation: Any) -> str:
    if get_origin(annotation) in (Union, UnionType):
        (annotation,) = (one for one in get_args(annotation) if one is not type(None))
    if get_origin(annotation) is Literal:
        return "|".join(get_args(annotation))
    if get_origin(annotation) is list:
        (annotation,) = get_args(annotation)
    return PLACEHOLDERS[annotation]


def settings() -> Iterator[str]:
    """Describe every setting: its default, its meaning and its bounds."""
    groups: dict[str, type[Settings]] = GROUPS | {"": Config}
    for group, model in groups.items():
        yield f"### {group or 'Outside the groups'}\n"
        if group:
            yield f"{(model.__doc__ or '').splitlines()[0]}\n"
        for name, field in model.model_fields.items():
            if field.description:
                yield _setting(f"{group}.{name}".removeprefix("."), field)
        yield ""


def _setting(key: str, field: Any) -> str:
    default = "not set" if field.default is None else f"`{field.default}`"
    facts = [field.description.rstrip(".")]
    if get_origin(field.annotation) is Literal:
        facts.append(f"one of {', '.join(get_args(field.annotation))}")
    limits = [
        f"{words} {getattr(limit, kind):,}"
        for limit in field.metadata
        for kind, words in BOUNDS.items()
        if getattr(limit, kind, None) is not None
    ]
    if limits:
        facts.append(" and ".join(limits))
    if field.json_schema_extra:
        facts.append("a resumed run cannot change it")
    return f"* `{key}` (default {default}): {'; '.join(facts)}."


def settings_files() -> Iterator[str]:
    """List the settings files that are shipped, each by the first paragraph of its header."""
    yield "| file | what it trains |"
    yield "|---|---|"
    for path in sorted(bundled_folder("configs").glob("*.yaml")):
        header = re.match(r"(?:#.*\n)+", path.read_text(encoding="utf-8"))
        assert header is not None, f"{path.name} has no header"
        words = " ".join(line.removeprefix("# ") for line in header[0].partition("#\n")[0].splitlines())
        yield f"| [`{path.name}`](../configs/{path.name}) | {words.removesuffix('.')} |"


PARTS: dict[str, Callable[[], Iterator[str]]] = {
    "commands": commands,
    "settings": settings,
    "settings files": settings_files,
}


def renewed(page: str) -> str:
    """Return a page with its generated parts as they should be.

    A part stands between `<!-- generated: NAME -->` and `<!-- end: NAME -->`.
    """
    for name, lines in PARTS.items():
        begin, end = f"<!-- generated: {name} -->\n", f"<!-- end: {name} -->"
        before, mark, rest = page.partition(begin)
        if mark:
            after = rest.partition(end)[2]
            part = "\n".join(lines()).strip()
            page = f"{before}{begin}\n{part}\n\n{end}{after}"
    return page


if __name__ == "__main__":
    for path in PAGES:
        path.write_text(renewed(path.read_text(encoding="utf-8")), encoding="utf-8")
