"""Counts the line ends of a text in its ids, and describes them if they are not all LF."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from charlm.data.catalog import Source
from charlm.data.decoding import named
from charlm.data.formats import STANDARD_INPUT, filtered
from charlm.vocab import Ids, Vocabulary

# A NUL among the first so many bytes shows that bytes are no lines.
NUL_BYTES = 8192


class LineEnds:
    """Counts the line ends with CR in a text that comes in pieces; without CR in the vocabulary there are none.

    Attributes:
        counts: how many lines end with CR LF, and how many with CR alone.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._cr, self._lf = vocabulary.symbols.find("\r"), vocabulary.symbols.find("\n")
        self._may_be_binary = vocabulary.kind == "bytes"
        self._ends_with_cr = False
        self.counts = [0, 0]

    def add(self, ids: Ids) -> None:
        """Count those of the next piece."""
        if self._may_be_binary and not ids[:NUL_BYTES].all():
            self._cr = -1
        self._may_be_binary = False
        if self._cr < 0 or not len(ids):
            return
        is_cr = ids == self._cr
        if not (self._ends_with_cr or is_cr.any()):
            return
        is_lf = ids == self._lf
        pairs = int(self._ends_with_cr and is_lf[0]) + int(np.count_nonzero(is_cr[:-1] & is_lf[1:]))
        self.counts = [self.counts[0] + pairs, self.counts[1] + int(np.count_nonzero(is_cr)) - pairs]
        self._ends_with_cr = bool(is_cr[-1])


def describe_line_ends(
    counts: Sequence[Sequence[int]], ids: Ids, vocabulary: Vocabulary, sources: Sequence[Source], encoding: str
) -> str:
    """Return what a person should know of the line ends of a text; empty if all are LF.

    Args:
        counts: for each source, how many lines end with CR LF and with CR alone.
        ids: the text.
        vocabulary: that of the ids.
        sources: where the text comes from.
        encoding: of the sources.
    """
    crlf, cr = sum(pairs for pairs, _ in counts), sum(alone for _, alone in counts)
    if not (crlf or cr):
        return ""
    lf = int(np.count_nonzero(ids == vocabulary.symbols.find("\n"))) - crlf
    ends = [(number, end) for number, end in ((crlf, "CR LF"), (cr, "CR alone"), (lf, "LF alone")) if number]
    numbers = ", ".join(f"{number:,} with {end}" for number, end in ends)
    found = numbers.replace(" ", " line ends " if ends[0][0] == 1 else " lines end ", 1)
    with_cr = [source for source, (pairs, alone) in zip(sources, counts, strict=True) if pairs or alone]
    where = f", in {len(with_cr):,} of {len(sources):,} files ({named(with_cr)})" if len(sources) > 1 else ""
    is_one_line = cr and len(ends) == 1
    meaning = "most programs see one long line" if is_one_line else "the model learns CR as a character of its own"
    return f"{found}{where}: {meaning}; {conversion(crlf, cr, lf, encoding, with_cr)} them"


def conversion(crlf: int, cr: int, lf: int, encoding: str, sources: Sequence[Source]) -> str:
    """Return the start of a hint: the command that makes LF of line ends. Its last words follow.

    Args:
        crlf: how many lines end with CR LF.
        cr: the same with CR alone.
        lf: the same with LF alone.
        encoding: of the text.
        sources: where these lines come from.
    """
    command = r"tr -d '\r'" if not cr else r"perl -pe 's/\r\n?/\n/g'" if crlf or lf else r"tr '\r' '\n'"
    if "\r".encode(encoding) != b"\r":
        command = f"iconv -f {encoding} -t utf-8 | {command}"
    name, compression = (sources[0].name, sources[0].compression) if len(sources) == 1 else (STANDARD_INPUT, "")
    return f"{filtered(name, compression, command)} makes LF of"
