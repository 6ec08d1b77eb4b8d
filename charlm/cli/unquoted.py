"""What a shell makes of a pattern without quotes: one name after `--corpus` becomes many."""

from __future__ import annotations

import os
from collections.abc import Sequence
from glob import glob
from itertools import takewhile
from pathlib import Path
from shlex import quote

from charlm.cli.render import say
from charlm.errors import ConfigError, UsageError, counted
from charlm.files import bundled_folder
from charlm.run_folder import is_model

CORPUS_OPTIONS = ("--corpus", "-c")


def with_all_corpora(arguments: Sequence[str], takes_settings: bool) -> list[str]:
    """Put `--corpus` before every text that follows another one, and say so.

    Args:
        arguments: of a command that has the option.
        takes_settings: whether a name without an option is that of a settings file.

    Raises:
        UsageError: there are texts, and no `--corpus` at all.
    """
    names = list(takewhile(_is_name, arguments))
    texts = [name for name in names if _is_text(name, takes_settings)]
    if texts and (len(names) > 1 or not takes_settings) and not set(CORPUS_OPTIONS) & set(arguments):
        raise UsageError(f"`{texts[0]}` is a text", f"`--corpus {_pattern(texts)}` reads it")
    found: list[str] = []
    extra: list[str] = []
    left = list(arguments)
    while left and left[0] != "--":
        found.append(left.pop(0))
        if found[-1] not in CORPUS_OPTIONS or not left:
            continue
        found.append(left.pop(0))
        while left and _is_name(left[0]):
            if _is_text(left[0], takes_settings):
                found.append(CORPUS_OPTIONS[0])
                extra.append(left[0])
            found.append(left.pop(0))
    if extra:
        more = counted(len(extra), "more text")
        say(f"note: the name after `--corpus` and {more} are read; a pattern in quotes, as in '*.txt', stays one name")
    return found + left


def _is_name(argument: str) -> bool:
    """Return whether an argument is a name and no option. A file's name may begin with a dash; no option has a stop."""
    is_file = "." in argument and "=" not in argument and os.path.lexists(argument)
    return is_file or not argument.startswith("-")


def _is_text(name: str, takes_settings: bool) -> bool:
    """Return whether a name is that of a file or folder, and not of a model or of settings."""
    return os.path.lexists(name) and not is_model(name) and not (takes_settings and _are_settings(Path(name)))


def _are_settings(path: Path) -> bool:
    from charlm.settings.config import Config
    from charlm.settings.strict_yaml import read_yaml

    if path.suffix in (".yaml", ".yml") or (bundled_folder("configs") / f"{path}.yaml").is_file():
        return True
    if not path.is_file():
        return False
    try:
        values = read_yaml(path).values
    except (OSError, ConfigError):
        return False
    return bool(values) and values.keys() <= Config.model_fields.keys()


def _pattern(texts: Sequence[str]) -> str:
    """Return a pattern that finds these files and no others, or their names, as a shell takes them."""
    first = Path(texts[0])
    pattern = str(first.parent / f"*{first.suffix}")
    if len(texts) > 1 and {os.path.normpath(text) for text in texts} == set(glob(pattern)):
        return quote(pattern)
    return " --corpus ".join(map(quote, texts[:2])) + (" and so on" if len(texts) > 2 else "")
