"""What a wrong command line was meant to be. It knows the options of the commands, and imports settings when asked."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer

from charlm.errors import UsageError, nearest_name
from charlm.files import bundled_configs
from charlm.run_folder import is_model, train_command

# The base of Typer's errors about a command line; Typer exports only this one of them.
CommandLineError: type[Exception] = typer.BadParameter.__bases__[0]
# Settings that have an option; every other setting has `--set`.
OPTIONS_OF_SETTINGS = {
    "data.corpus": "--corpus",
    "data.encoding": "--encoding",
    "train.time": "--time",
    "seed": "--seed",
}
# Their argument is a text.
TEXT_COMMANDS = ("sample", "predict-next", "fill")
CORPORA_ACTIONS = ("show", "cache")


def options_of(command: Any) -> dict[str, bool]:
    """Return the options of a command as Typer knows it, each with whether it takes a value."""
    options = [parameter for parameter in command.params if parameter.param_type_name == "option"]
    takes_value = {name: not option.is_flag for option in options for name in (*option.opts, *option.secondary_opts)}
    return takes_value | {"--help": False, "-h": False}


def meant_command(name: str, commands: Mapping[str, Any]) -> str | None:
    """Return the command that a wrong name most probably stands for, or None."""
    from charlm.settings.names import USUAL_COMMANDS

    usual = next((command for command, names in USUAL_COMMANDS.items() if name.lower() in names.split()), None)
    return usual or nearest_name(name, commands)


def command_that_works(name: str, command: Any, arguments: list[str]) -> str:
    """Return the command line that was meant, in backquotes; nothing if it is the one that was given, or is wrong."""
    meant = _with_options(name, command, mended(command, arguments))
    if meant == arguments or {"--help", "-h"}.intersection(meant) or _takes_option_as_value(command, meant):
        return ""
    try:
        command.make_context(name, list(meant))
    except (CommandLineError, UsageError):
        return ""
    return train_command(*meant) if name == "train" else f"`{shlex.join(['charlm', name, *meant])}`"


def _takes_option_as_value(command: Any, arguments: list[str]) -> bool:
    """Return whether something that looks like an option, but is none of the command, stands among its arguments."""
    options = options_of(command)
    before = arguments[: arguments.index("--")] if "--" in arguments else arguments
    names = [argument.partition("=")[0] for argument in before if is_option(argument)]
    return any(name not in options and name[:2] not in options for name in names)


def mended(command: Any, arguments: list[str]) -> list[str]:
    """Return the arguments of a command as they were probably meant; what is right stays as it is."""
    options, result, rest = options_of(command), list[str](), list(arguments)
    while rest:
        argument = rest.pop(0)
        option, equals, value = argument.partition("=")
        if argument == "--":
            return [*result, argument, *rest]
        if not is_option(argument):
            result.append(argument)
        elif option not in options and argument[:2] not in options:
            result += _meant_option(argument, rest, command)
        elif not options.get(option) or not (equals or rest):
            result.append(option if option in options else argument)
        else:
            value = value if equals else rest.pop(0)
            mend = {"--set": _meant_override, "--time": _meant_time, "--family": _meant_cells}.get(option)
            meant = mend(value, rest) if mend else value
            result += [argument] if equals and meant == value else [option, meant]
    return result


def is_option(argument: str) -> bool:
    """Return whether an argument looks like an option, and not like a text or a number."""
    return argument[:1] == "-" and argument.strip("-")[:1].isalpha() and " " not in argument.partition("=")[0]


def meant_option(option: str, command: Any) -> str | None:
    """Return the option of a command, or the dotted setting, that an unknown option most probably stands for.

    An empty string is the argument of the command.
    """
    from charlm.settings.names import USUAL_ARGUMENTS, USUAL_OPTIONS, meant_setting, plain, usual_setting

    options, word = [name for name in options_of(command) if name.startswith("--")], plain(option)
    for name in options:
        if plain(name) == word or word in USUAL_OPTIONS.get(name, "").split():
            return name
    arguments = [parameter.name for parameter in command.params if parameter.param_type_name == "argument"]
    if any(word in USUAL_ARGUMENTS.get(name, "").split() for name in arguments):
        return ""
    key = option.lstrip("-").replace("-", "_")
    setting = usual_setting(key) if "--set" in options else None
    if not setting and (near := nearest_name(option, options, 0.75)):
        return near
    if not setting and "--set" in options:
        setting = meant_setting(key)
    return OPTIONS_OF_SETTINGS.get(setting, setting) if setting else None


def _meant_option(argument: str, rest: list[str], command: Any) -> list[str]:
    """Return what stands for an unknown option, and take its value from the rest."""
    from charlm.cells import CELLS

    option, equals, value = argument.partition("=")
    meant = meant_option(option, command)
    if meant is None:
        return [argument]
    if options_of(command).get(meant) is False:
        return [meant]
    if not equals and (not rest or is_option(rest[0])):
        return [argument]
    value = value if equals else rest.pop(0)
    if meant == "model.cell":
        if is_model(value):
            return ["--from", value]
        # Another word after `--model` may be anything.
        value = (value if value.lower() in CELLS else nearest_name(value, CELLS)) or ""
        if not value:
            return [argument]
    if meant == "":
        return [value]
    return [meant, value] if meant.startswith("--") else ["--set", f"{meant}={value}"]


def _meant_override(override: str, rest: list[str]) -> str:
    """Return `key=value` with the full name of the setting."""
    from charlm.settings.config import GROUPS
    from charlm.settings.names import all_settings, meant_setting

    key, sign, value = override.partition("=")
    if not sign:
        key, sign, value = override.partition(":")
    if key.strip() and not value and rest and not is_option(rest[0]) and not (sign and rest[0] != "="):
        value = rest.pop(0)
        value = rest.pop(0) if value == "=" and rest else value
    key, value = key.strip(), value.strip()
    known = key.lower() in GROUPS or key.lower() in all_settings()
    return f"{key if known else meant_setting(key) or key}={value}" if sign or value else override


def _meant_time(time: str, rest: list[str]) -> str:
    """Return a time whose number and unit may be two arguments."""
    from charlm.settings.durations import parse_seconds

    if rest and parse_seconds(time + rest[0]) != time + rest[0]:
        return time + rest.pop(0)
    return time


def _meant_cells(cells: str, rest: list[str]) -> str:
    """Return cells with commas between them, which may be several arguments."""
    from charlm.cells import CELLS

    names = [cells]
    while rest and all(name.lower() in CELLS for name in rest[0].split(",") if name):
        names.append(rest.pop(0))
    return ",".join(filter(None, ",".join(names).split(",")))


def usage_error(error: Any, commands: Mapping[str, Any], arguments: list[str]) -> UsageError:
    """Turn Typer's error about a command line into one of ours; the hint is the command line that works, if possible.

    Args:
        error: what Typer raised.
        commands: every command by its name, as Typer knows it.
        arguments: all of them, beginning with the name of the command.
    """
    name, *rest = arguments
    if name not in commands:
        return _no_command(error, commands, arguments)
    command, option = commands[name], getattr(error, "option_name", "")
    parameter, hint = getattr(error, "param", None), f"`charlm {name} --help` lists what it takes"
    if hasattr(error, "possibilities"):
        # Of `-lr`, Typer reports only `-l`.
        option = next((argument for argument in rest if argument.startswith(option)), option).partition("=")[0]
        message, hint = f"`charlm {name}` has no option `{option}`", _hint_on_option(option, commands, name) or hint
    elif option:
        message = f"`{option}` needs a value" if options_of(command).get(option) else f"`{option}` takes no value"
        parameter = next((each for each in command.params if option in (*each.opts, *each.secondary_opts)), None)
    elif parameter and hasattr(error, "param_type"):
        message = f"`charlm {name}` needs {parameter.name.upper()}"
    elif parameter:
        message = f"`{max(parameter.opts, key=len)}`{_reason(error)}"
    else:
        extra = _split(rest, command)[0][_num_texts(command) :]
        message = f"`{extra[0]}` is one argument too many" if extra else error.message
    if parameter and parameter.help:
        hint = f"`{max(parameter.opts, key=len)}`: {parameter.help[:1].lower()}{parameter.help[1:].removesuffix('.')}"
    return UsageError(message, command_that_works(name, command, rest) or hint)


def _num_texts(command: Any) -> int:
    """Return how many arguments a command takes that are no options."""
    return sum(parameter.nargs for parameter in command.params if parameter.param_type_name == "argument")


def _reason(error: Any) -> str:
    """Return why a value is refused, and the value, if Typer says which it is."""
    reason = error.message.removeprefix("Value error, ").removeprefix("Input ").partition(", unable")[0].rstrip(".")
    problems: list[dict[str, Any]] = getattr(error.__cause__, "errors", list)()
    if problems and problems[0]["type"] != "value_error":
        reason += f" (it is {problems[0]['input']!r})"
    return f": {reason}" if reason.startswith("'") else f" {reason}"


def _no_command(error: Any, commands: Mapping[str, Any], arguments: list[str]) -> UsageError:
    """Return the error for a command line that does not begin with a command."""
    first, *rest = arguments
    hint = f"the commands are {', '.join(commands)}"
    if (word := first.strip("-").lower()) in ("help", "version", "v"):
        flag = "--help" if word == "help" else "--version"
        line = shlex.join(["charlm", *(name for name in rest[:1] if name in commands), flag])
        return UsageError(f"`{first}` is not a command of charlm", f"did you mean `{line}`?")
    if is_option(first):
        at = next((index for index, argument in enumerate(arguments) if argument in commands), None)
        if at is not None:
            rest = [arguments[at], *arguments[:at], *arguments[at + 1 :]]
            hint = f"an option stands after its command: `{shlex.join(['charlm', *rest])}`"
        elif near := nearest_name(first, getattr(error, "possibilities", None) or ()):
            hint = f"did you mean `charlm {near}`?"
        return UsageError(f"`charlm` has no option `{first.partition('=')[0]}`", hint)
    if name := meant_command(first, commands):
        meant = mended(commands[name], rest)
        hint = f"did you mean `{shlex.join(['charlm', name, *meant])}`?"
    elif _is_file(Path(first)):
        hint = f"`{shlex.join(['charlm', 'train', '--corpus', first])}` trains on a text"
    return UsageError(f"`{first}` is not a command of charlm", hint)


def _hint_on_option(option: str, commands: Mapping[str, Any], name: str) -> str:
    """Return which option or setting was meant, or which other command has the option."""
    meant = meant_option(option, commands[name])
    if meant == "":
        argument = next(each.name for each in commands[name].params if each.param_type_name == "argument")
        return f"it has no option in front of it: `charlm {name} {argument.upper()}`"
    if meant and not meant.startswith("--") and meant != "model.cell":
        return f"`--set {meant}=VALUE` sets it"
    if meant in options_of(commands[name]):
        return f"did you mean `{meant}`?"
    others = [f"`charlm {other} {option}`" for other in commands if option in options_of(commands[other])]
    if not others and name != "train" and (setting := meant_option(option, commands["train"])):
        others = [f"`charlm train {setting if setting.startswith('--') else f'--set {setting}=VALUE'}`"]
    return f"it is an option of another command: {', '.join(others)}" if others else ""


def _split(arguments: list[str], command: Any) -> tuple[list[str], list[str]]:
    """Return the arguments that are no options, and the options with their values."""
    texts, others, rest, takes_value = list[str](), list[str](), list(arguments), options_of(command)
    while rest:
        argument = rest.pop(0)
        if argument == "--":
            return [*texts, *rest], others
        (others if is_option(argument) else texts).append(argument)
        if takes_value.get(argument) and rest:
            others.append(rest.pop(0))
    return texts, others


def _with_options(name: str, command: Any, arguments: list[str]) -> list[str]:
    """Return arguments of which there are not too many: a text in one piece, or each with its option."""
    (texts, options), num_taken = _split(arguments, command), _num_texts(command)
    if name in TEXT_COMMANDS and len(texts) > num_taken:
        return _with_one_text(command, arguments, texts, options)
    if name == "train":
        num_taken = int(bool(texts) and _may_be_settings(texts[0]))
    if name == "corpora" and texts and texts[0].lower() not in CORPORA_ACTIONS:
        return _with_action(texts, options)
    if num_taken < 0 or len(texts) <= num_taken:
        return arguments
    result = [*texts[:num_taken], *options]
    for text in texts[num_taken:] if name in ("train", "eval") else ():
        result += [_option_for(name, text), _meant_override(text, []) if _is_override(name, text) else text]
    return result


def _with_one_text(command: Any, arguments: list[str], texts: list[str], options: list[str]) -> list[str]:
    """Return arguments with one text, and no option behind it that `--` makes a text."""
    at = arguments.index("--") if "--" in arguments else len(arguments)
    if options_of(command).keys() & set(arguments[at + 2 :]):
        return [*arguments[:at], *arguments[at + 2 :], *arguments[at : at + 2]]
    text = " ".join(texts)
    return [*options, "--", text] if text.startswith("-") else [text, *options]


def _with_action(texts: list[str], options: list[str]) -> list[str]:
    """Return the arguments of `corpora` with the action that is meant: a misspelled one, a download, or a look."""
    from charlm.data.catalog import catalog_entries

    if action := nearest_name(texts[0], CORPORA_ACTIONS):
        return [action, *texts[1:], *options]
    if all(text.lower() in catalog_entries() for text in texts):
        return [*options, *(part for text in texts for part in ("--fetch", text))]
    return ["show", *texts, *options]


def _may_be_settings(text: str) -> bool:
    """Return whether a text can be meant as the name of settings, and is not that of something else."""
    from charlm.data.catalog import catalog_entries

    path = Path(text)
    return text.lower() in bundled_configs() or not (
        path.suffix not in ("", ".yaml", ".yml")
        or text.lower() in catalog_entries()
        or is_model(text)
        or _is_override("train", text)
        or _is_folder(path)
    )


def _option_for(name: str, text: str) -> str:
    """Return the option of a command that takes a text which stands alone."""
    if _is_override(name, text):
        return "--set"
    if is_model(text):
        return "--model" if name == "eval" else "--from" if Path(text).suffix else "--resume"
    return "--corpus"


def _is_override(name: str, text: str) -> bool:
    from charlm.settings.names import meant_setting

    key, equals, _ = text.partition("=")
    return name == "train" and bool(equals) and meant_setting(key.strip()) is not None


def _is_file(path: Path) -> bool:
    """Return whether there is a file; what cannot be a path is none."""
    try:
        return path.is_file()
    except OSError:
        return False


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:
        return False
