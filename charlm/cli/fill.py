"""The command that fills blanks in a text."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from charlm.cli.layout import UNLIMITED_WIDTH, aligned, cells_of, screen_width, whole_items
from charlm.cli.options import Json, Model, Unknown, model_file
from charlm.cli.render import escaped, may_colour, print_json
from charlm.cli.texts import as_read, given_text
from charlm.errors import as_given

if TYPE_CHECKING:
    from charlm.inference.fill import Filling
    from charlm.vocab import Vocabulary


def fill(
    text: Annotated[
        str,
        typer.Argument(help="The text with its blanks; - reads it from standard input, without its last line end."),
    ],
    model: Model = None,
    blank: Annotated[str, typer.Option(help="The character that stands for one that is not known.")] = "_",
    top: Annotated[int, typer.Option(min=1, help="How many characters to list for each blank.")] = 5,
    unknown: Unknown = "error",
    as_json: Json = False,
) -> None:
    """Fill the blanks in a text.

    The model must read from both sides: charlm train --set model.direction=both

    charlm fill "the clo_ds are in the sk_"
    """
    from charlm.inference.fill import Filler, split_at_blanks

    parts = split_at_blanks(given_text(text), as_given(blank))
    filler = Filler(model_file(model))
    filling = filler.fill(as_read(filler.vocabulary, *parts), top, unknown)
    if as_json:
        print_json(filling.to_json())
    else:
        print_filling(filling, filler.vocabulary)


def print_filling(filling: Filling, vocabulary: Vocabulary) -> None:
    """Print a text with its blanks filled, and a line for each blank.

    On a terminal what was filled in is marked, and the candidates that do not fit into a line are dropped.
    """
    from charlm.cli.prediction_table import names_within

    print(marked(filling, vocabulary) if sys.stdout.isatty() else filling.text)
    room = (screen_width(sys.stdout) or UNLIMITED_WIDTH) - len("123456  ")
    rows = []
    for blank in filling.blanks:
        names = names_within(blank.candidates, room - len(" 100.0%"))
        rows.append([(name, f"{c.probability:.1%}") for name, c in zip(names, blank.candidates, strict=True)])
    # The candidates stand below one another.
    widths = [[max(map(cells_of, texts)) for texts in zip(*column, strict=True)] for column in zip(*rows, strict=True)]
    for place, row in zip(filling.places, rows, strict=True):
        items = [
            f"{aligned(name, width)} {share:>{digits}}"
            for (name, share), (width, digits) in zip(row, widths, strict=True)
        ]
        print(f"{place:>6}  {whole_items(items, room) or items[0]}")


def marked(filling: Filling, vocabulary: Vocabulary) -> str:
    """Return the text for a terminal: what was filled in is bold and underlined, or without colours in brackets."""
    places, text = filling.places, filling.text
    if vocabulary.kind == "bytes":
        if "\ufffd" in text:
            # Bytes that are no UTF-8: it is not known which characters they became.
            places = []
        encoded = text.encode("utf-8", "surrogatepass")
        # A character that is cut off is the one that the byte belongs to.
        places = [len(encoded[:place].decode("utf-8", "ignore")) for place in places]
    pieces, start = [], 0
    for place in dict.fromkeys(places):
        character = text[place]
        # White space, which cannot be seen, is spelled out.
        shown = ascii(character)[1:-1] if character in "\n\r\t" else escaped(character)
        mark = typer.style(shown, bold=True, underline=True) if may_colour(sys.stdout) else f"[{shown}]"
        pieces += [escaped(text[start:place]), mark, "\n" * (character == "\n")]
        start = place + 1
    return "".join([*pieces, escaped(text[start:])])
