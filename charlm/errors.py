"""Every error a user can see.

CharlmError                 exit 1, one line (or one for each mistake) and a hint
|- UsageError               exit 2, the arguments are wrong or contradict each other
|- ConfigError              exit 2, a settings file or `--set` is wrong
|- UnknownCharacterError    a text holds characters the vocabulary lacks
|- CorpusError              a text is missing, empty, undecodable or changed
|  |- TooLargeError         ... or is larger than the model file says
|  `- UndecodableError      ... or its bytes spell no text in this encoding
|- DownloadError            a corpus could not be downloaded, or has the wrong content
|- ModelFileError           a model file is missing, damaged or from a newer charlm
|- RunError                 a run folder cannot be used
|- TrainingError            training cannot continue
|- DeviceError              this machine lacks the device or precision that was asked for
|- PackageError             an option needs a package that is not installed
`- TorchError               torch is missing or cannot be loaded
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

# Message and hint of a ModelFileError: untrusted weights are each within bounds, but the state overflows.
OVERFLOW = (
    "the weights of this model are so large that its state overflows",
    "use a model that `charlm train` wrote",
)
# Longer than any sensible message. A hostile file could make one longer.
MAX_LENGTH = 1500


class CharlmError(Exception):
    """An error that is reported in one line, with a hint on what to do next.

    Attributes:
        hint: what the user can do about it; may be empty.
        mistakes: a line for each mistake, if there are several; otherwise the message alone.
        exit_code: the exit code of the command.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str = "", mistakes: Sequence[str] = ()) -> None:
        super().__init__(one_line(message))
        self.hint = one_line(hint)
        self.mistakes = tuple(map(one_line, mistakes)) or (str(self),)


def as_given(text: str) -> str:
    """Decode an argument that the locale could not read as UTF-8, which is what shells pass today."""
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8")
    except UnicodeError:
        return text


def one_line(text: str) -> str:
    """Escape line breaks and control characters, and cut a long text."""
    characters = as_given(text[:MAX_LENGTH])
    shown = "".join(character if character.isprintable() else ascii(character)[1:-1] for character in characters)
    return shown + ("..." if len(text) > MAX_LENGTH else "")


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: `1 character`, `2,000 characters`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def undecodable_byte(error: UnicodeDecodeError) -> str:
    """Return the byte that spells no text, and the reason."""
    return f"byte 0x{error.object[error.start]:02x} ({error.reason})"


def nearest_name(word: str, known: Iterable[str], least: float = 0.6) -> str | None:
    """Return the known name with the most similar spelling, or None if no similarity is at least `least`."""
    import difflib

    return next(iter(difflib.get_close_matches(word.lower(), known, n=1, cutoff=least)), None)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return "did you mean ...?" with the nearest known name, or an empty string."""
    name = nearest_name(word, known)
    return f"did you mean `{name}`?" if name else ""


class UsageError(CharlmError):
    """The arguments of a command are wrong or contradict each other."""

    exit_code = 2


class ConfigError(CharlmError):
    """A settings file or an override is wrong."""

    exit_code = 2


class UnknownCharacterError(CharlmError):
    """A text holds characters that the vocabulary does not have."""


class CorpusError(CharlmError):
    """A corpus cannot be read."""


class TooLargeError(CorpusError):
    """A corpus is larger than the model file says it was."""

    def __init__(self, max_bytes: int) -> None:
        super().__init__(f"there are more than the {counted(max_bytes, 'byte')} learned")


class UndecodableError(CorpusError):
    """The bytes of a file spell no text in the encoding that was given."""


class DownloadError(CharlmError):
    """A file could not be downloaded, or has the wrong content."""


class ModelFileError(CharlmError):
    """A model file cannot be read."""


class RunError(CharlmError):
    """A run folder cannot be created, found or resumed."""


class TrainingError(CharlmError):
    """Training cannot continue."""


class LostProcessError(TrainingError):
    """Another process that trains the same run has ended or hangs."""


class DeviceError(CharlmError):
    """The machine lacks the device or precision that the settings ask for."""


class PackageError(CharlmError):
    """An option needs a package that is not installed."""


class TorchError(CharlmError, ImportError):
    """Torch is missing, or its installation is broken."""
