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
    """Counts the line ends of a text that comes in pieces; without CR in the vocabulary none has CR.

    Attributes:
        counts: how many lines end with CR LF, with CR alone, and with LF, also after CR.
    """

    def __init__(self) -> None:
        self._may_be_binary, self._is_binary = True, False
        self._ends_with_cr = False
        self.counts = [0, 0, 0]

    def add(self, ids: Ids, vocabulary: Vocabulary) -> None:
        """Count those of the next piece. The vocabulary may have grown since the last one."""
        if self._may_be_binary and vocabulary.kind == "bytes":
            self._is_binary = not ids[:NUL_BYTES].all()
        self._may_be_binary = False
        if not len(ids):
            return
        cr, lf = vocabulary.symbols.find("\r"), vocabulary.symbols.find("\n")
        is_lf = ids == lf
        self.counts[2] += int(np.count_nonzero(is_lf))
        if cr < 0 or self._is_binary:
            return
        is_cr = ids == cr
        num_cr = int(np.count_nonzero(is_cr))
        if self._ends_with_cr or num_cr:
            pairs = int(self._ends_with_cr and is_lf[0]) + int(np.count_nonzero(is_cr[:-1] & is_lf[1:]))
            self.counts = [self.counts[0] + pairs, self.counts[1] + num_cr - pairs, self.counts[2]]
            self._ends_with_cr = bool(is_cr[-1])


def describe_line_ends(counts: Sequence[Sequence[int]], sources: Sequence[Source], encoding: str) -> str:
    """Return what a person should know of the line ends of a text; empty if all are LF.

    Args:
        counts: for each source, the counts of `LineEnds`.
        sources: where the text comes from.
        encoding: of the sources.
    """
    crlf, cr, with_lf = (sum(some) for some in zip(*counts, strict=True))
    if not (crlf or cr):
        return ""
    lf = with_lf - crlf
    ends = [(number, end) for number, end in ((crlf, "CR LF"), (cr, "CR alone"), (lf, "LF alone")) if number]
    numbers = ", ".join(f"{number:,} with {end}" for number, end in ends)
    found = numbers.replace(" ", " line ends " if ends[0][0] == 1 else " lines end ", 1)
    with_cr = [source for source, (pairs, alone, _) in zip(sources, counts, strict=True) if pairs or alone]
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
