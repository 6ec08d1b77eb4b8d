"""Guesses the encoding of bytes that are no text in the one that was given. Knows no files."""

from __future__ import annotations

import codecs
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

Chunks = Callable[[], Iterable[bytes]]

# Enough to tell languages apart, and read in a moment.
SAMPLE_BYTES = 1 << 15
WINDOW_BYTES = 2000
EXCERPT_LENGTH = 40
# Fewer bytes beyond ASCII than these tell nothing about an encoding, and the commonest one is the best guess.
FEW_BYTES = 4
COMMONEST = ("cp1252", "latin-1")
MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
WIDE = ("utf-32-le", "utf-32-be", "utf-16-le", "utf-16-be")
# The encodings that text files are really written in. If several read a sample as the same text, the first is named.
USUAL = (
    *("gb18030", "big5", "shift_jis", "cp932", "euc-jp", "euc-kr", "cp949"),
    *("cp1252", "latin-1", "iso8859-15", "mac-roman", "cp850", "cp437", "cp1250", "iso8859-2", "cp852", "mac-latin2"),
    *("koi8-r", "koi8-u", "cp1251", "iso8859-5", "cp866", "mac-cyrillic", "cp1253", "iso8859-7", "cp1254", "cp1255"),
    *("cp1256", "iso8859-6", "cp1257", "cp1258", "cp874"),
)
# Encodings of alphabets that statistics cannot tell apart in a short text.
LATIN = ("cp1252", "mac-roman", "cp850", "cp1250", "iso8859-2")
CYRILLIC = ("cp1251", "koi8-r", "cp866")
# Signs that may stand between two letters.
BETWEEN_LETTERS = "\u2019\u2014\u00b7\u00ad"
# In the encodings of Central Europe, the bytes of a Western a with grave and a with ring are these letters.
RARE = "\u0155\u013a"
# The bytes of common characters in the encodings that have two bytes for most of them, and of their punctuation.
KOREAN = rb"[\xa1\xa3\xb0-\xc8][\xa1-\xfe]"
SHIFTED = rb"[\x81-\x83\x88-\x97][\x40-\xfc]"
COMMON = {
    "euc-kr": KOREAN,
    "cp949": KOREAN,
    "gb18030": rb"[\xa1\xa3\xb0-\xd7][\xa1-\xfe]",
    "big5": rb"[\xa1-\xc6][\x40-\xfe]",
    "euc-jp": rb"[\xa1\xa3-\xa5\xb0-\xcf][\xa1-\xfe]",
    "shift_jis": SHIFTED,
    "cp932": SHIFTED,
}
KANA = re.compile("[\u3041-\u30fe]")


# Frames are drawn around words, and not inside them.
FRAMED = re.compile(r"[\u2500-\u259f][^\W\d_\0-\x7f]|[^\W\d_\0-\x7f][\u2500-\u259f]")


class Guess(NamedTuple):
    """An encoding that reads a text.

    Attributes:
        encoding: its name.
        excerpt: a piece of the text that it reads.
        is_damaged: whether a few bytes are wrong in it, perhaps because the text was cut inside a character.
    """

    encoding: str
    excerpt: str
    is_damaged: bool = False


def guess_encoding(chunks: Chunks, tried: str) -> Guess | None:
    """Return the most probable encoding that reads all of a text, or all but a few bytes, or None if none does.

    Args:
        chunks: reads the bytes from their start; called several times.
        tried: an encoding that does not read them.
    """
    head = next(iter(chunks()), b"")[:SAMPLE_BYTES]
    mark = next((encoding for mark, encoding in MARKS.items() if head.startswith(mark)), None)
    sample = head if mark or b"\0" in head else _aligned(_sample(chunks()))
    tried = codecs.lookup(tried).name
    for encoding in [mark] if mark else WIDE if b"\0" in head else _ranked(sample):
        text = _decode(sample, encoding)
        if codecs.lookup(encoding).name == tried or not _is_plausible(text):
            continue
        is_wide = encoding in COMMON or encoding in WIDE or encoding == mark
        if (is_whole := reads(chunks(), encoding)) or (is_wide and _nearly_reads(chunks(), encoding)):
            return Guess(encoding, _excerpt(text), not is_whole)
    return None


def reads(chunks: Iterable[bytes], encoding: str) -> bool:
    """Return whether bytes are text in this encoding."""
    try:
        for _ in codecs.iterdecode(chunks, encoding):
            pass
    except UnicodeError:
        return False
    return True


def _nearly_reads(chunks: Iterable[bytes], encoding: str) -> bool:
    """Return whether all but a few bytes are text in this encoding."""
    wrong = total = 0
    for text in codecs.iterdecode(chunks, encoding, "replace"):
        wrong, total = wrong + text.count("\ufffd"), total + len(text)
    return 100 * (wrong - 1) <= total


def is_damaged_utf8(chunks: Iterable[bytes]) -> bool:
    """Return whether bytes are UTF-8 but for a few."""
    found = _sample(chunks).decode("utf-8", "replace")
    damaged = found.count("\ufffd")
    return 0 < 2 * damaged <= sum(not character.isascii() for character in found) - damaged


def _sample(chunks: Iterable[bytes]) -> bytes:
    """Return pieces of the lines that are more than ASCII; only the last character may be cut, in any encoding."""
    pieces: list[bytes] = []
    cut, size, starts_inside = b"", 0, False
    for chunk in chunks:
        # All that spells a character in several bytes ends within a few bytes, and never with the end of a line.
        lines = [] if chunk.isascii() else chunk.splitlines(keepends=True)[starts_inside:]
        starts_inside = not chunk[-4:].isascii()
        for line in lines:
            if line.isascii():
                continue
            piece, is_cut = _window(line)
            if is_cut:
                cut = cut or piece
                continue
            pieces.append(piece)
            size += len(piece)
            if size > SAMPLE_BYTES:
                return b"".join(pieces)
    return b"".join([*pieces, cut])


def _window(line: bytes) -> tuple[bytes, bool]:
    """Cut the beginning of a line before its first byte beyond ASCII, and its end after a blank or a stop.

    Returns:
        The piece, and whether its last character may be cut.
    """
    found = re.search(rb"[\x80-\xff]", line)
    start = max(0, found.start() - EXCERPT_LENGTH) if found else 0
    piece = line[start : start + WINDOW_BYTES]
    if piece.endswith((b"\n", b"\r")):
        return piece, False
    # Bytes from 0x30 may be the second byte of a character.
    ends = re.match(rb".*[\t -/]", piece, re.DOTALL)
    return (ends[0] + b"\n", False) if ends and ends.end() > len(piece) // 2 else (piece, True)


def _aligned(sample: bytes) -> bytes:
    """Return a sample without the byte with which it starts, if that is the second one of a character that was cut."""
    of_start = [any(_common_share(part[:WINDOW_BYTES], name) > 0.9 for name in COMMON) for part in (sample, sample[1:])]
    return sample[1:] if of_start == [False, True] else sample


def _ranked(sample: bytes) -> Iterator[str]:
    """Go through encodings that may have written a sample, the most probable first."""
    # Imported when a text cannot be read, and not before.
    from charset_normalizer import from_bytes

    yield "utf-8"
    num_beyond_ascii = _num_beyond_ascii(sample)
    if num_beyond_ascii < FEW_BYTES:
        yield from COMMONEST
    shares = {encoding: _common_share(sample, encoding) for encoding in COMMON}
    # Kana are Japanese, and the kanji beside them would be common in other encodings as well.
    for encoding in ("euc-jp", "shift_jis"):
        text = _decode(sample, encoding)
        if 4 * len(KANA.findall(text)) > sum(not character.isascii() for character in text):
            yield encoding
    yield from sorted((encoding for encoding in COMMON if shares[encoding] > 0.9), key=lambda name: -shares[name])
    texts = [str(match) for match in from_bytes(sample)]
    found = [encoding for text in texts for encoding in USUAL if _decode(sample, encoding) == text]
    is_dense = 2 * num_beyond_ascii > len(sample)
    found = [name for name in found if shares.get(name, 1) > 0.5 and not (is_dense and name in LATIN)]
    found += CYRILLIC if is_dense else LATIN
    yield from sorted(found, key=lambda encoding: _num_odd(_decode(sample, encoding)))


def _common_share(sample: bytes, encoding: str) -> float:
    """Return which share of the characters beyond ASCII is common, in an encoding with two bytes for most of them."""
    characters = [character for character in _decode(sample, encoding) if not character.isascii()]
    common = sum(
        bool(re.fullmatch(COMMON[encoding], character.encode(encoding, "replace"))) for character in characters
    )
    return common / max(1, len(characters))


def _num_beyond_ascii(sample: bytes) -> int:
    return len(sample) - len(sample.translate(None, bytes(range(0x80, 0x100))))


def _num_odd(text: str) -> int:
    """Count capitals, rare letters and signs beyond ASCII inside words, where a wrong encoding puts them."""
    return sum(
        before.isalpha()
        and not here.isascii()
        and (here.isupper() or here in RARE or (not here.isalpha() and after.isalpha() and here not in BETWEEN_LETTERS))
        for before, here, after in zip(text, text[1:], text[2:], strict=False)
    )


def _decode(sample: bytes, encoding: str) -> str:
    """Decode a sample of which the last character may be cut off; empty if it is no text in this encoding."""
    try:
        return codecs.getincrementaldecoder(encoding)().decode(sample)
    except UnicodeError:
        return ""


def _is_plausible(text: str) -> bool:
    """Return whether a text has little that nobody writes: controls, unassigned characters, frames inside words."""
    if 50 * len(FRAMED.findall(text)) > len(text):
        return False
    kinds = [unicodedata.category(character) for character in text if character not in "\t\n\f\r\x1a"]
    return 200 * sum(kind in ("Cc", "Cn", "Co", "Cs") for kind in kinds) < len(text)


def _excerpt(text: str) -> str:
    """Return a piece of a text in one line, from a little before its first character beyond ASCII."""
    line = " ".join(text.lstrip("\ufeff").split())
    first = next((index for index, character in enumerate(line) if not character.isascii()), 0)
    start = max(0, first - EXCERPT_LENGTH // 4)
    end = start + EXCERPT_LENGTH
    return f"{'...' if start else ''}{line[start:end].strip()}{'...' if end < len(line) else ''}"
