"""Every error a user can see.

CharlmError                 exit 1, one line and a hint
|- UsageError               exit 2, the command line does not fit together
|- ConfigError              exit 2, a settings file or `--set` is wrong
|- UnknownCharacterError    a text holds characters the vocabulary lacks
|- CorpusError              a text is missing, empty, undecodable or changed
|  `- TooLargeError         ... or has more bytes than it had
|- DownloadError            a corpus could not be fetched, or is not what it should be
|- ModelFileError           a model file is missing, damaged or from a newer charlm
|- RunError                 a run folder cannot be used
|- TrainingError            training cannot go on
`- DeviceError              this machine lacks the device or precision that was asked for
"""

from __future__ import annotations

from collections.abc import Iterable

# Message and hint of a ModelFileError: untrusted weights are each within bounds, but the state overflows.
OVERFLOW = ("the weights of this model are so large that what follows from them overflows", "no training ends there")
# Longer than any sensible message, shorter than what a hostile file may put into one.
MAX_LENGTH = 1500


class CharlmError(Exception):
    """An error that is reported in one line, with a hint at what to do next.

    Attributes:
        hint: what the user can do about it; empty where nothing sensible can be said.
        exit_code: what the command exits with.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(one_line(message))
        self.hint = one_line(hint)


def one_line(text: str) -> str:
    """Escape what could break a line or talk to a terminal, and cut what would fill a screen."""
    shown = "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text[:MAX_LENGTH])
    return shown + ("..." if len(text) > MAX_LENGTH else "")


def nearest_name(word: str, known: Iterable[str]) -> str | None:
    """Return the known name that is spelled most like a word; None if none is spelled much like it."""
    import difflib

    return next(iter(difflib.get_close_matches(word.lower(), known, n=1)), None)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return the question whether the nearest known name was meant, or nothing."""
    name = nearest_name(word, known)
    return f"did you mean `{name}`?" if name else ""


class UsageError(CharlmError):
    """The arguments of a command do not fit together."""

    exit_code = 2


class ConfigError(CharlmError):
    """A settings file or an override is wrong."""

    exit_code = 2


class UnknownCharacterError(CharlmError):
    """A text holds characters that the vocabulary does not have."""


class CorpusError(CharlmError):
    """A corpus cannot be read."""


class TooLargeError(CorpusError):
    """A corpus has grown since it was learned."""


class DownloadError(CharlmError):
    """A file could not be downloaded, or is not the file it should be."""


class ModelFileError(CharlmError):
    """A model file cannot be read."""


class RunError(CharlmError):
    """A run folder cannot be created, found or resumed."""


class TrainingError(CharlmError):
    """Training cannot go on."""


class DeviceError(CharlmError):
    """The machine lacks what the settings ask for."""
