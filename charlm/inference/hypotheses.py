"""What a unit may follow in a text, such as quotes or the depth of brackets, computed for each character by plain code.

It knows text and arrays, but no models. The rules are simple on purpose: they read prose and most programming
languages, and are wrong at times.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from charlm.errors import UsageError, one_line

# A track has a value for each character: True or False, or a number.
Track = NDArray[np.float64]

TAB_COLUMNS = 4
PARAGRAPH_END = r"\n[ \t\r]*\n"
# Words that begin with an apostrophe, such as 'tis and '90s.
ELISIONS = r"(?:tis|twas|twere|twill|twould|tween|twixt|em|til|till|bout|cause|gainst|scape|neath|mid|pon|\d\ds)\b"
CLOSING_MARKS = {'"': '"', "'": "'", "“": "”", "„": "“”", "«": "»", "「": "」", "『": "』", "\u2018": "\u2019"}
QUOTED = re.compile(
    rf"""
    # In programs a string of three marks goes over empty lines.
      \"{{3}}(?s:.*?)(?:\"{{3}}|\Z) | '{{3}}(?s:.*?)(?:'{{3}}|\Z)
    # A quote that is never closed ends with its paragraph.
    | "(?:\\(?s:.)|(?!{PARAGRAPH_END})[^"\\])*+"?
    | “(?:(?!{PARAGRAPH_END})[^”])*+”?
    | „(?:(?!{PARAGRAPH_END})[^“”])*+[“”]?
    | «(?:(?!{PARAGRAPH_END})[^»])*+»?
    | 「(?:(?!{PARAGRAPH_END})[^」])*+」?
    | 『(?:(?!{PARAGRAPH_END})[^』])*+』?
    # An apostrophe looks like a single mark: between letters it closes nothing, and a mark that nothing closes opens
    # nothing. A straight one ends its quote in the same line, or after a punctuation mark.
    | \u2018(?=\S)(?:(?!{PARAGRAPH_END})[^\u2019]|(?<=\w)\u2019(?=\w)){{1,1000}}+(?<=\S)\u2019(?!\w)
    | (?<![\w\\])'(?!(?i:{ELISIONS}))(?=\S)(?:\\.|[^'\n\\]|(?<=\w)'(?=\w))*+(?<=\S)'(?!\w)
    | (?<![\w\\])'(?!(?i:{ELISIONS}))(?=\S)(?:(?!{PARAGRAPH_END})[^']|(?<=\w)'(?=\w)){{1,1000}}+(?<=[.,;:!?-])'(?!\w)
    """,
    re.VERBOSE,
)
BRACKETS = {"(": ")", "[": "]", "{": "}", "\uff08": "\uff09", "《": "》", "〈": "〉", "【": "】", "\u3014": "\u3015"}
# Programs leave these open over empty lines. In prose, a bracket that is never closed ends with its paragraph.
LASTING = "]}"
BRACKET_OR_PARAGRAPH_END = re.compile(rf"{PARAGRAPH_END}|[{re.escape(''.join([*BRACKETS, *BRACKETS.values()]))}]")
# White space or the start of a line stands before a comment, so `http://` begins none. -- begins one only at the start
# of a line, because between words of prose it is a dash.
COMMENT = re.compile(
    r"/\*(?s:.*?)(?:\*(?=/)|\Z)|(?<!\S)//[^\n]*|(?<!\S)\#(?=[\s#!]|\Z)[^\n]*|^[ \t]*--(?=\s)[^\n]*", re.MULTILINE
)
URL = re.compile(r"\b(?:https?|ftp)://[^\s<>\"'\uff09》]+|\bwww\.[^\s<>\"'\uff09》]+")


@dataclass(frozen=True)
class Hypothesis:
    """What a unit may follow.

    Attributes:
        name: what people call it.
        about: when it is true, or what it counts.
        track: computes it for each character of a text, shape (T,).
        is_number: whether it is a number; otherwise it is 1 for true and 0 for false.
        is_between: whether it is about the place after a character rather than about the character. The mark that
            opens a quote is then inside, and the mark that closes it is outside, as for a reader who comes from the
            left; for one who comes from the right it is the other way round.
    """

    name: str
    about: str
    track: Callable[[str], Track]
    is_number: bool = False
    is_between: bool = False

    def seen(self, text: str, reads_backward: bool) -> Track:
        """Return its values for a text, as a reader from the left or from the right meets them; shape (T,)."""
        track_T = self.track(text)
        if not (self.is_between and reads_backward):
            return track_T
        return np.concatenate([np.zeros(min(1, len(track_T))), track_T[:-1]])


def hypotheses(own: Mapping[str, str] | None = None) -> list[Hypothesis]:
    """Return the built-in hypotheses, and those that are true inside the matches of a regular expression.

    Args:
        own: regular expressions by the name of their hypothesis; `^` and `$` match at every line.

    Raises:
        UsageError: a name is empty or taken, or a regular expression is empty or not valid.
    """
    added = []
    taken = {hypothesis.name for hypothesis in BUILT_IN}
    for name, expression in (own or {}).items():
        if not name.strip() or name in taken:
            problem = f"there is a built-in hypothesis `{name}`" if name in taken else "a hypothesis needs a name"
            raise UsageError(problem, "choose another name for it" if name in taken else "as in `vowel=[aeiou]`")
        if not expression:
            raise UsageError(f"the hypothesis `{name}` has no regular expression", "as in `vowel=[aeiou]`")
        try:
            pattern = re.compile(expression, re.MULTILINE)
        except (re.error, OverflowError, RecursionError) as error:
            raise UsageError(f"`{expression}` is not a regular expression: {error}", "Python's `re` reads it") from None
        added.append(Hypothesis(name, f"inside a match of {one_line(expression)}", _inside_matches(pattern)))
    return [*BUILT_IN, *added]


def inside_quotes(text: str) -> Track:
    """Return 1 inside quotes. An apostrophe is none, and a quote that is never closed ends with its paragraph."""
    track_T = np.zeros(len(text))
    for match in QUOTED.finditer(text):
        is_closed = len(match[0]) > 1 and match[0][-1] in CLOSING_MARKS[match[0][0]]
        track_T[match.start() : match.end() - is_closed] = 1
    return track_T


def bracket_depth(text: str) -> Track:
    """Return how many brackets are open after each character."""
    places, depths = [0], [0]
    opened: list[str] = []
    num_opened = Counter[str]()
    # So many of them were open when the last paragraph ended, and only lasting ones.
    num_before = 0
    for match in BRACKET_OR_PARAGRAPH_END.finditer(text):
        found = match[0]
        if found in BRACKETS:
            opened.append(BRACKETS[found])
            num_opened[opened[-1]] += 1
        elif num_opened[found]:
            # What was opened since, and never closed, ends here.
            closed = ""
            while closed != found:
                closed = opened.pop()
                num_opened[closed] -= 1
            num_before = min(num_before, len(opened))
        elif found[0] == "\n":
            ended = [closing for closing in opened[num_before:] if closing not in LASTING]
            num_opened.subtract(ended)
            opened[num_before:] = [closing for closing in opened[num_before:] if closing in LASTING]
            num_before = len(opened)
        places.append(match.end() - 1)
        depths.append(len(opened))
    return np.repeat(np.array(depths, np.float64), np.diff([*places, len(text)]))


def position_in_line(text: str) -> Track:
    """Return how many characters of its line have been read; a line end is read at 0."""
    places = np.arange(len(text))
    ends = np.where(_is_one_of(text, "\n"), places, -1)
    return (places - np.maximum.accumulate(ends)).astype(np.float64) if text else np.zeros(0)


def inside_indentation(text: str) -> Track:
    """Return 1 for the white space at the start of a line."""
    return _inside_matches(re.compile(r"^[ \t\u3000]+", re.MULTILINE))(text)


def indentation(text: str) -> Track:
    """Return how far its line is indented, as far as it has been read; a tab is four columns."""
    track_T = np.zeros(len(text))
    start = 0
    for line in text.split("\n"):
        white = len(line) - len(line.lstrip(" \t\u3000"))
        columns = np.cumsum([TAB_COLUMNS if character == "\t" else 1 for character in line[:white]])
        if white:
            track_T[start : start + white] = columns
            track_T[start + white : start + len(line)] = columns[-1]
        start += len(line) + 1
    return track_T


def _is_letter(text: str) -> NDArray[np.bool_]:
    return np.fromiter((character.isalpha() for character in text), bool, len(text))


def _after(is_true_T: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return whether it was true for the character before."""
    return np.concatenate([np.zeros(min(1, len(is_true_T)), bool), is_true_T[:-1]])


def _is_one_of(text: str, characters: str) -> NDArray[np.bool_]:
    return np.fromiter((character in characters for character in text), bool, len(text))


def _first_letter(text: str) -> Track:
    is_letter_T = _is_letter(text)
    return (is_letter_T & ~_after(is_letter_T)).astype(np.float64)


def _inside_word(text: str) -> Track:
    is_letter_T = _is_letter(text)
    return (is_letter_T & _after(is_letter_T)).astype(np.float64)


def _each(test: Callable[[str], bool]) -> Callable[[str], Track]:
    return lambda text: np.fromiter(map(test, text), np.float64, len(text))


def _after_newline(text: str) -> Track:
    return _after(_is_one_of(text, "\n")).astype(np.float64)


def _inside_matches(pattern: re.Pattern[str]) -> Callable[[str], Track]:
    def track(text: str) -> Track:
        track_T = np.zeros(len(text))
        for start, end in _spans(pattern, text):
            track_T[start:end] = 1
        return track_T

    return track


def _spans(pattern: re.Pattern[str], text: str) -> Iterator[tuple[int, int]]:
    return (match.span() for match in pattern.finditer(text))


BUILT_IN = [
    Hypothesis("inside quotes", "between quotation marks, of any script", inside_quotes, is_between=True),
    Hypothesis(
        "inside brackets",
        "between brackets of any kind",
        lambda text: np.minimum(bracket_depth(text), 1),
        is_between=True,
    ),
    Hypothesis("depth of brackets", "how many brackets are open", bracket_depth, is_number=True, is_between=True),
    Hypothesis("position in line", "characters since the line began", position_in_line, is_number=True),
    Hypothesis("after newline", "the first character of a line", _after_newline),
    Hypothesis("first letter", "the first letter of a word", _first_letter),
    Hypothesis("inside a word", "a letter after another letter", _inside_word),
    Hypothesis("capital", "a capital letter", _each(str.isupper)),
    Hypothesis("digit", "a digit", _each(str.isdigit)),
    Hypothesis("inside indentation", "white space at the start of a line", inside_indentation),
    Hypothesis("indentation", "columns of it in this line", indentation, is_number=True),
    Hypothesis("comment", "in a comment: # // /* */ --", _inside_matches(COMMENT), is_between=True),
    Hypothesis("URL", "in an address of the web", _inside_matches(URL)),
]
