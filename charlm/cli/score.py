"""The command that shows how surprising each character of a text is."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from charlm.cli.layout import GAP, Column, cells_of, screen_width, table_lines, wrapped
from charlm.cli.options import Json, Models, Unknown, model_file, predictor
from charlm.cli.pages import page_path, write_page
from charlm.cli.progress import ProgressLine
from charlm.cli.render import print_json, print_lines
from charlm.cli.shades import Style, shaded_lines, standing_alone, style_for, visible
from charlm.cli.texts import as_read, given_file, given_text, note_on_file, read_by_both
from charlm.errors import UnknownCharacterError, UsageError, counted, one_line
from charlm.ramps import DIVERGING

if TYPE_CHECKING:
    from charlm.checkpoint import ModelFile
    from charlm.inference.predict import Candidate
    from charlm.inference.score import Reader
    from charlm.inference.surprisal import Place, Surprisal
    from charlm.inference.surprisal_difference import Passage, SurprisalDifference

# Each character that is shown takes several hundred bytes of memory.
MAX_CHARACTERS, MAX_BYTES_OF_CHARACTER = 1_000_000, 4
# The last shade stands for this many bits or more, so that the marks from 1 to 9 are bits.
MAX_BITS = 9
# The same for a difference between two models.
MAX_DIFFERENCE = 5
# Cells for the surroundings of a place, and for the beginning of a line in a pipe and on a wide terminal.
CONTEXT, MIN_CONTEXT = 40, 7
BEGINNING, MAX_BEGINNING = 60, 100
# A larger perplexity is written with an exponent.
MAX_WRITTEN_OUT = 1e6


def score(
    text: Annotated[
        str | None,
        typer.Argument(help="The text; - reads it from standard input, without its last line end."),
    ] = None,
    file: Annotated[
        Path | None, typer.Option("--file", "-f", help="Score the text of this file; - is standard input.")
    ] = None,
    model: Models = None,
    diff: Annotated[Path | None, typer.Option(help="Another model: show which of the two likes which passage.")] = None,
    top: Annotated[int, typer.Option(min=1, help="How many places, lines or passages to list.")] = 10,
    unknown: Unknown = "error",
    html: Annotated[
        Path | None, typer.Option(help="Write a page to look at: the coloured text, and all units at each character.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show how surprising each character of a text is.

    It prints the text, coloured by the bits that each character costs, then its lines, its worst places and its totals.
    Without colours, marks stand beneath the text. The n-grams of a model count, too.

    charlm score "It was a dark and stormy nigth."

    charlm score --file another.txt

    charlm score --file another.txt --diff runs/other-1

    charlm score --file another.txt --html page.html
    """
    from charlm.inference.score import given_what, reader_of

    if html is not None and model and len(model) > 1:
        raise UsageError("a page shows one model", "omit `--html`, or give one `--model`")
    if html is not None and diff is not None:
        raise UsageError("a page shows one model: `--html` and `--diff` exclude each other", "omit one of them")
    page = None if html is None else page_path(html)
    given = _given(text, file)
    opened = None if model and len(model) > 1 else model_file(model[0] if model else None)
    loaded = predictor(model) if opened is None else reader_of(opened)
    if diff is not None:
        _show_difference(loaded, given, diff, top, unknown, as_json)
        return
    (read,) = as_read(loaded.vocabulary, given)
    if page is None or opened is None:
        scored = _measure(loaded, read, unknown)
    else:
        scored = _write_page(opened, read, unknown, page, "the text" if file in (None, Path("-")) else str(file))
    width = screen_width(sys.stdout)
    if as_json:
        print_json(scored.to_json(top))
    elif page is not None:
        print_lines(_total_lines(scored, given_what(loaded), width))
    else:
        print_lines(score_lines(scored, given_what(loaded), top, width, style_for(sys.stdout)))
        if whose := _whose_figures(loaded):
            print_lines(wrapped(f"these are the figures of {whose}", width))


def _whose_figures(model: Reader) -> str:
    """Return what predicts together, if it is more than a net; otherwise an empty string."""
    from charlm.inference.ensemble import Ensemble
    from charlm.inference.stepper import Stepper

    if isinstance(model, Ensemble):
        return f"the mean of the probabilities of {len(model.members)} models"
    return "the net and its n-grams together" if isinstance(model, Stepper) and model.has_ngrams else ""


def _show_difference(model: Reader, given: str, path: Path, top: int, unknown: str, as_json: bool) -> None:
    """Show which of two models likes which passage of a text."""
    from charlm.inference.score import reader_of
    from charlm.inference.surprisal_difference import SurprisalDifference

    other = reader_of(model_file(path))
    read = read_by_both(model.vocabulary, other.vocabulary, given)
    scored = _measure(model, read, unknown)
    try:
        difference = SurprisalDifference(scored, _measure(other, read, unknown))
    except UnknownCharacterError as error:
        raise UnknownCharacterError(f"`{path}`: {error}", error.hint) from None
    if as_json:
        print_json(difference.to_json(top))
    else:
        style = style_for(sys.stdout, DIVERGING)
        print_lines(difference_lines(difference, str(path), top, screen_width(sys.stdout), style))


def _write_page(model: ModelFile, read: str, unknown: str, path: Path, name: str) -> Surprisal:
    """Score a text, and write a page about it."""
    from charlm.inference.score import reader_of
    from charlm.web.page import render_page
    from charlm.web.text_view import NUM_EXPECTED, SCRIPTS, text_view

    scored = _measure(reader_of(model), read, unknown, NUM_EXPECTED)
    with ProgressLine() as line:
        view = text_view(model, scored, name, line.about("of the text read"))
    write_page(path, render_page(f"charlm score: {one_line(name)}", {"text_view": view}, SCRIPTS))
    return scored


def _given(text: str | None, file: Path | None) -> str:
    """Return the text of the argument, of the file, or of standard input if it is no terminal.

    Raises:
        UsageError: there are two texts or none, the file is not UTF-8, or the text is too long.
    """
    if text is not None and file is not None:
        raise UsageError("the text is given twice", "use TEXT or `--file FILE`")
    if file is not None and str(file) != "-":
        if file.is_file() and file.stat().st_size > MAX_BYTES_OF_CHARACTER * MAX_CHARACTERS:
            raise _too_long(f"`{file}` has {file.stat().st_size:,} bytes", str(file))
        return _checked(given_file(file), str(file))
    if text is None:
        if file is None and sys.stdin.isatty():
            raise UsageError("there is no text", "give a TEXT, `--file FILE`, or - for standard input")
        return _checked(given_text("-"), "-")
    note_on_file(text, "--file")
    return _checked(given_text(text), "-")


def _checked(text: str, source: str) -> str:
    if len(text) > MAX_CHARACTERS:
        raise _too_long(f"the text has {len(text):,} characters", source)
    return text


def _too_long(what: str, source: str) -> UsageError:
    return UsageError(
        f"{what}; `charlm score` shows each character of {MAX_CHARACTERS:,} at most",
        f"`charlm eval --corpus {shlex.quote(source)}` scores a text of any length",
    )


def _measure(model: Reader, text: str, unknown: str, num_expected: int = 1) -> Surprisal:
    """Score the text, and show on a terminal how far it is if that takes long."""
    from charlm.inference.surprisal import measure_surprisal

    with ProgressLine() as line:
        return measure_surprisal(model, text, unknown, line.about("of the text scored"), num_expected)


def score_lines(scored: Surprisal, given_what: str, top: int, width: int | None, style: Style) -> list[str]:
    """Lay out a text that was scored: shaded, then its lines, its worst places and its totals.

    Args:
        scored: the text.
        given_what: from what each character is predicted.
        top: how many places to list, and on a terminal how many lines.
        width: the most cells of a line; None in a pipe, which gets every line.
        style: colours or marks.
    """
    bits_C = (scored.bits_C / scored.units_C / MAX_BITS).tolist()
    laid_out = [
        *_legend(style, width, scored.unit),
        "",
        *shaded_lines(list(zip(scored.text, bits_C, strict=True)), width, style),
        "",
    ]
    lines = scored.worst_lines()
    if len(lines) > 1:
        laid_out += [*_line_table(scored, top if width else len(lines), width), ""]
    places = scored.worst_places(top)
    laid_out += wrapped("the places with the most bits, and what was expected:", width)
    return [*laid_out, *_place_table(scored.text, places, width), "", *_total_lines(scored, given_what, width)]


def _legend(style: Style, width: int | None, unit: str) -> list[str]:
    if not style.num_colours:
        marks = "the mark beneath a character is its bits, rounded: none is 0, and 9 is 9 or more"
        return wrapped(marks, width)
    labels = [f" {bits}{'+' if bits == MAX_BITS else ''} " for bits in range(MAX_BITS + 1)]
    values = [bits / MAX_BITS for bits in range(MAX_BITS + 1)]
    return [*wrapped(f"bits per {unit}:", width), *shaded_lines(list(zip(labels, values, strict=True)), width, style)]


def _line_table(scored: Surprisal, num: int, width: int | None) -> list[str]:
    """Return a table of lines, those with the most bits per character first."""
    lines = scored.worst_lines()
    rows = [(f"{scored.bits_per_unit(line.span):.2f}", f"{line.number:,}", f"{len(line.text):,}") for line in lines]
    columns = [Column("bits", True), Column("line", True), Column("characters", True, rank=1)]
    texts = [line.text for line in lines]
    head = f"lines by bits per {scored.unit}, the highest first:"
    table = _with_beginnings(columns, rows[:num], texts[:num], width)
    rest = counted(len(lines) - num, "other line") if len(lines) > num else ""
    more = wrapped(f"and {rest}; in a pipe or file all are listed", width) if rest else []
    return [*wrapped(head, width), *table, *more]


def _with_beginnings(
    columns: Sequence[Column], rows: Sequence[Sequence[str]], texts: Sequence[str], width: int | None
) -> list[str]:
    """Return a table whose last column is the beginning of a text, as much as there is room for."""
    used = cells_of(table_lines([*columns, Column("")], [(*row, "x") for row in rows], width)[-1]) - 1
    room = BEGINNING if width is None else min(width - used, MAX_BEGINNING)
    names = [_beginning(text, room) for text in texts]
    return table_lines([*columns, Column("text")], [(*row, name) for row, name in zip(rows, names, strict=True)], width)


def _beginning(text: str, room: int) -> str:
    """Return the first characters of a text that fit, with all of them visible."""
    shown = ""
    for character in text:
        longer = shown + (visible(character) if shown else standing_alone(character))
        if cells_of(longer) > room:
            break
        shown = longer
    return shown


def _place_table(text: str, places: Sequence[Place], width: int | None) -> list[str]:
    """Return a table of places; a narrow terminal gets no line numbers, so that there is room for the context."""
    columns = [Column("bits", True), Column("line:column", True, rank=1), Column("expected"), Column("found")]
    rows: list[tuple[str, ...]] = [
        (f"{place.bits:.1f}", f"{place.line}:{place.column}", _named(place.expected), _named(place.found))
        for place in places
    ]
    used = max(cells_of(line) for line in table_lines(columns, rows)) + len(GAP)
    if width is not None and width - used < MIN_CONTEXT:
        del columns[1]
        rows = [(row[0], *row[2:]) for row in rows]
        used = max(cells_of(line) for line in table_lines(columns, rows)) + len(GAP)
    room = CONTEXT if width is None else min(width - used, CONTEXT)
    if room < MIN_CONTEXT:
        return table_lines(columns, rows, width)
    contexts = [_context(text, place.position, room) for place in places]
    rows = [(*row, context) for row, context in zip(rows, contexts, strict=True)]
    return table_lines([*columns, Column("context")], rows, width)


def _named(candidate: Candidate) -> str:
    """Return the name of a symbol and its probability."""
    name = candidate.name.split()[0] if candidate.name.startswith("U+") else candidate.name
    p = candidate.probability
    share = "<0.001%" if p < 1e-5 else f"{p:.3%}" if p < 1e-3 else f"{p:.1%}"
    return f"{name} {share}"


def _context(text: str, position: int, room: int) -> str:
    """Return a character in brackets between what stands before and after it, as much as there is room for."""
    found = f"[{standing_alone(text[position])}]"
    room -= cells_of(found)
    after = _beginning(text[position + 1 : position + 1 + room], room // 3)
    before = ""
    for character in reversed(text[max(0, position - room) : position]):
        if cells_of(visible(character) + before) > room - cells_of(after):
            break
        before = visible(character) + before
    return before + found + after


def _total_lines(scored: Surprisal, given_what: str, width: int | None) -> list[str]:
    """Return the totals, each with its name."""
    import numpy as np

    totals, unit = scored.totals(), scored.unit
    name = unit.replace(" ", "_")
    per_word = f"{totals['bits_per_word']:.2f}" if scored.num_words else ""
    choice = f"as unsure as between so many {unit.removeprefix('masked ')}s"
    figures = [
        (totals[f"bits_per_{name}"], 4, f"bits per {unit}; {given_what}"),
        (totals.get("bits_per_byte"), 4, "bits per byte of UTF-8"),
        (totals[f"perplexity_per_{name}"], 3, f"perplexity per {unit}: {choice}"),
        (totals.get("perplexity_per_word"), 1, f"perplexity per word, of {per_word} bits with the spaces around it"),
    ]
    laid_out = []
    for value, digits, about in figures:
        if value is not None:
            number = f"{value:10,.{digits}f}" if value < MAX_WRITTEN_OUT else f"{value:10.1e}"
            laid_out += wrapped(f"{number} {about}", width, " " * 11)
    counts = [counted(len(scored.read), "character"), counted(scored.num_bytes, "byte")]
    if scored.num_words:
        counts.append(f"{counted(scored.num_words, 'word')} between white space")
    if scored.num_unknown:
        is_skipped = bool(np.isnan(scored.bits_C).any())
        what = "skipped, without a shade" if is_skipped else "replaced"
        counts.append(f"{counted(scored.num_unknown, 'unknown character')} {what}")
    if scored.num_words is None and not scored.sees_both_sides:
        counts.append("no words that are divided by white space")
    return [*laid_out, *wrapped(", ".join(counts), width)]


def difference_lines(
    difference: SurprisalDifference, other: str, top: int, width: int | None, style: Style
) -> list[str]:
    """Lay out which of two models likes which passage of a text.

    Args:
        difference: the text, scored by both.
        other: the name of the other model.
        top: how many passages to list for each model.
        width: the most cells of a line; None in a pipe.
        style: colours or marks, of a diverging ramp.
    """
    other = f"`{one_line(other)}`"
    shares_C = (difference.differences_C / MAX_DIFFERENCE).tolist()
    shaded = shaded_lines(list(zip(difference.model.text, shares_C, strict=True)), width, style)
    laid_out = [*_difference_legend(style, other, width), "", *shaded, ""]
    for name, passages in (
        ("this model", difference.liked_by_model(top)),
        (other, difference.liked_by_other(top)),
    ):
        laid_out += wrapped(f"{name} needs fewer bits for{':' if passages else ' no passage'}", width)
        laid_out += [*_passage_table(passages, width), ""]
    totals, unit = difference.totals(), difference.model.unit
    name = unit.replace(" ", "_")
    for key, by in ((f"bits_per_{name}", "this model"), (f"other_bits_per_{name}", other)):
        laid_out += wrapped(f"{totals[key]:10.4f} bits per {unit} by {by}", width, " " * 11)
    counts = f"{counted(int(totals['characters']), 'character')} compared"
    if totals["dropped_characters"]:
        counts += f", {totals['dropped_characters']:,} dropped because one of the models does not know them"
    return [*laid_out, *wrapped(counts, width)]


def _difference_legend(style: Style, other: str, width: int | None) -> list[str]:
    if not style.num_colours:
        first, last = DIVERGING.marks[:MAX_DIFFERENCE][::-1], DIVERGING.marks[-MAX_DIFFERENCE:]
        marks = (
            f"the mark beneath a character: {first[0]} to {first[-1]} if this model needs 1 to {MAX_DIFFERENCE} bits "
            f"fewer, {last[0]} to {last[-1]} if {other} does"
        )
        return wrapped(marks, width)
    steps = range(-MAX_DIFFERENCE, MAX_DIFFERENCE + 1)
    labels = [(f" {abs(step)}{'+' if abs(step) == MAX_DIFFERENCE else ''} ", step / MAX_DIFFERENCE) for step in steps]
    about = f"bits fewer: on the left by this model, on the right by {other}"
    return [*wrapped(about, width), *shaded_lines(labels, width, style)]


def _passage_table(passages: Sequence[Passage], width: int | None) -> list[str]:
    """Return a table of passages with the bits that one model needs fewer, in total and per character."""
    if not passages:
        return []
    rows = [
        (
            f"{abs(passage.difference):.1f}",
            f"{abs(passage.difference) / passage.compared:.2f}",
            f"{passage.line:,}",
        )
        for passage in passages
    ]
    columns = [Column("bits", True), Column("per character", True, rank=1), Column("line", True)]
    return _with_beginnings(columns, rows, [passage.text for passage in passages], width)
