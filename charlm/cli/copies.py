"""What of the texts that a model wrote stands in the text that it learned: found, and reported on stderr."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from charlm.cli.layout import Column, screen_width, table_lines
from charlm.cli.progress import ProgressLine, show_text_progress
from charlm.cli.render import may_colour, say
from charlm.errors import UsageError, counted, one_line

if TYPE_CHECKING:
    from charlm.evaluation.copies import Copies

# The table shows these lengths, and the length from which copies are marked.
SHOWN_LENGTHS = (5, 10, 20, 30, 50)
# Of many texts or copies only the longest are reported.
MAX_REPORTED = 10
# Of a long copy only the beginning is shown.
MAX_SHOWN = 200


class CopyCheck:
    """Finds copies in texts, and reports them at the end.

    Args:
        models: the paths of the models that write the texts, as they were given; None for the newest one.
        corpus: where the text is that they learned; None for where it was in training.

    Raises:
        CharlmError: the text cannot be read, or is another one.
    """

    def __init__(self, models: Sequence[Path | None], corpus: Sequence[str] | None) -> None:
        from charlm.checkpoint import load_checkpoint
        from charlm.evaluation.compare import learned_part
        from charlm.evaluation.copies import LearnedText
        from charlm.run_folder import find_model

        file, *others = [load_checkpoint(find_model(path)) for path in models]
        if any(learned_part(other) != learned_part(file) for other in others):
            raise UsageError("the models did not all learn the same text", "`--check-copies` searches one text")
        named = "".join(f" --model {shlex.quote(str(path))}" for path in models if path)
        command = f"charlm sample --check-copies{named} --corpus"
        self._learned = LearnedText.of(file, corpus, command, show_text_progress)
        self._found: list[tuple[int, Copies]] = []
        if any(each.base for each in (file, *others)):
            say("note: the model started from another model, whose own text is not searched for copies")

    def find(self, seeds: Sequence[int], texts: Sequence[str]) -> list[Copies]:
        """Find copies in texts that the model wrote, without their prompts.

        Args:
            seeds: one for each text.
            texts: the texts.
        """
        with ProgressLine() as line:
            found = self._learned.copies(texts, line.about("of the training text searched"))
        self._found += zip(seeds, found, strict=True)
        return found

    def report(self) -> None:
        """Print what was found."""
        found = sorted(self._found, key=lambda each: each[1].longest.length if each[1].longest else 0, reverse=True)
        if not found:
            return
        for seed, copies in found[:MAX_REPORTED]:
            say((f"seed {seed}: " if len(found) > 1 else "") + _about_longest(copies))
        if len(found) > MAX_REPORTED:
            say(f"and {counted(len(found) - MAX_REPORTED, 'text')} without a longer copy")
        if any(len(copies.lengths_T) for _, copies in found):
            say("\n".join(_table([copies for _, copies in found])))
        self._report_marked()

    def _report_marked(self) -> None:
        """Say which copies are underlined, or list them if they are not."""
        copies = self._found[0][1]
        unit, length = copies.vocabulary.unit, copies.marked_length
        if may_colour(sys.stdout):
            say(f"underlined: copies of at least {counted(length, unit)}")
            return
        spans = [
            (seed, found.text[start:end], start, end) for seed, found in self._found for start, end in found.spans()
        ]
        spans.sort(key=lambda span: len(span[1]), reverse=True)
        for seed, text, start, end in spans[:MAX_REPORTED]:
            where = f" of seed {seed}" if len(self._found) > 1 else ""
            say(f"copied: characters {start:,} to {end:,}{where}: [{_excerpt(text)}]")
        if len(spans) > MAX_REPORTED:
            say(f"and {len(spans) - MAX_REPORTED:,} more; `--json` has all")


def check_options(check_copies: bool, corpus: Sequence[str] | None, prompt: str, prompts: Path | None) -> None:
    """Refuse options of the check that contradict the others.

    Raises:
        UsageError: `--corpus` has no use, or standard input is to be read twice.
    """
    if corpus and not check_copies:
        raise UsageError("`--corpus` is for `--check-copies`", "`--prompts FILE` continues the lines of a file")
    if "-" in (corpus or ()) and "-" in (prompt, str(prompts)):
        raise UsageError(
            "standard input is both the prompt and the text that was learned", "give one of them as a file"
        )


def _about_longest(copies: Copies) -> str:
    """Say how long the longest copy is, and where it stands."""
    longest, unit = copies.longest, copies.vocabulary.unit
    if not len(copies.lengths_T):
        return "longest copy: none, because nothing was written"
    if longest is None:
        return f"longest copy: none, not even a {unit}"
    line = "" if longest.line is None else f", line {longest.line:,}"
    where = f"at position {longest.position:,}{line} of {longest.source}"
    return (
        f"longest copy: {counted(longest.length, unit)} {where}:\n"
        f"  {one_line(longest.before)}[{_excerpt(longest.text)}]{one_line(longest.after)}"
    )


def _excerpt(text: str) -> str:
    return one_line(text[:MAX_SHOWN]) + ("..." if len(text) > MAX_SHOWN else "")


def _table(found: Sequence[Copies]) -> list[str]:
    """Lay out which share of the texts lies in copies of some lengths, beside held-out text."""
    from charlm.evaluation.copies import shares

    first, unit = found[0], found[0].vocabulary.unit
    columns = [Column("at least"), Column("this text" if len(found) == 1 else "these texts", is_number=True)]
    measured = [shares([copies.lengths_T for copies in found])]
    if first.held_out_share_by_length:
        columns.append(Column("held-out", is_number=True))
        measured.append(first.held_out_share_by_length)
    lengths = sorted({*SHOWN_LENGTHS, first.marked_length})
    rows = [[counted(length, unit), *(f"{share[length]:.1%}" for share in measured)] for length in lengths]
    return [f"share of the {unit}s in copies of", *table_lines(columns, rows, screen_width(sys.stderr))]
