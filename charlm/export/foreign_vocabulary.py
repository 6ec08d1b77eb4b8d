"""The vocabulary of a model of another program, which keeps it apart from the weights."""

from __future__ import annotations

import codecs
import json
import string
from pathlib import Path
from typing import Any

from charlm.errors import UsageError, counted
from charlm.files import CHUNK_BYTES, expanded
from charlm.vocab import Vocabulary

# More than any list of characters needs.
MAX_JSON_BYTES = 1 << 25
# What programs call a vocabulary inside a larger dictionary. Each is a list, or a dictionary in one direction.
INSIDE = ("itos", "stoi", "vocabulary", "vocab", "chars", "symbols", "idx2char", "char2idx", "ix_to_char", "char_to_ix")
HINT = (
    "give JSON, a list of the characters or a dictionary of them and their ids; or the text that was learned, "
    "if its sorted characters are the vocabulary; or the word printable, or bytes"
)


def read_vocabulary(given: str) -> Vocabulary:
    """Read a vocabulary.

    Args:
        given: `printable` for Python's `string.printable`, `bytes` for the 256 bytes, or a file: a list or dictionary
            in JSON, or any text, whose sorted characters are the vocabulary.

    Raises:
        UsageError: there is no such file, or it holds no vocabulary.
    """
    if given == "printable":
        return Vocabulary("characters", string.printable)
    if given == "bytes":
        return Vocabulary.of_bytes()
    path = expanded(given)
    try:
        if not path.is_file():
            raise UsageError(f"there is no file `{given}`", HINT)
        listed = _json_in(path)
        symbols = sorted(_characters_in(path)) if listed is None else _symbols_of(listed)
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"`{given}` is no vocabulary: {error}", HINT) from error
    if not symbols or any(not isinstance(symbol, str) or len(symbol) != 1 for symbol in symbols):
        raise UsageError(f"`{given}` is no vocabulary: not each of its entries is one character", HINT)
    if len(set(symbols)) != len(symbols):
        raise UsageError(f"`{given}` is no vocabulary: it has a character twice", HINT)
    return Vocabulary("characters", "".join(symbols))


def _json_in(path: Path) -> Any:
    """Return the list or dictionary that a file holds in JSON, or None if it is any other text."""
    with path.open("rb") as file:
        data = file.read(MAX_JSON_BYTES + 1)
    if len(data) > MAX_JSON_BYTES or data.lstrip()[:1] not in (b"[", b"{"):
        return None
    try:
        return json.loads(data)
    except ValueError:
        return None


def _characters_in(path: Path) -> set[str]:
    decoder, characters = codecs.getincrementaldecoder("utf-8")(), set[str]()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            characters.update(decoder.decode(chunk))
    decoder.decode(b"", final=True)
    return characters


def _symbols_of(listed: Any) -> list[Any]:
    """Return the characters of a list, or of a dictionary of characters and ids, in the order of their ids.

    Raises:
        ValueError: the ids are not 0, 1, 2, ...
    """
    if isinstance(listed, list):
        return listed
    for name in INSIDE:
        if isinstance(listed.get(name), list | dict):
            return _symbols_of(listed[name])
    if all(type(number) is int for number in listed.values()):
        by_id = {number: symbol for symbol, number in listed.items()}
    else:
        by_id = {int(number): symbol for number, symbol in listed.items() if number.isdecimal()}
    if by_id.keys() != set(range(len(listed))):
        raise ValueError(f"the ids of its {counted(len(listed), 'character')} are not 0, 1, 2, ...")
    return [by_id[number] for number in range(len(listed))]
