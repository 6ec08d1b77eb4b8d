"""The command that shows what the units of a net do in a text."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from charlm.cli.layout import screen_width
from charlm.cli.options import Json, Model, Unknown, model_file
from charlm.cli.progress import ProgressLine, show_text_progress
from charlm.cli.render import print_json, print_lines, say
from charlm.cli.texts import as_read, given_text, note_on_file
from charlm.errors import CorpusError, DownloadError, UsageError, as_given, counted, one_line

if TYPE_CHECKING:
    from charlm.checkpoint import ModelFile
    from charlm.cli.inspect_search import SearchView
    from charlm.cli.inspect_text import LayerView, UnitView
    from charlm.inference.units import Layer
    from charlm.vocab import Ids

# The rest of a longer text is not read. So many take some seconds with a layer of 512 units.
MOST_SYMBOLS = 30_000
# The same of the model's own held-out text, if it is shown rather than searched.
SYMBOLS_OF_OWN_TEXT = 2000

UnitName = Annotated[
    str | None, typer.Option(help="Colour the text by this unit: layer and number, as in 1.37.", metavar="UNIT")
]
GateName = Annotated[
    str | None,
    typer.Option(
        help="What to show: a gate, candidate, hidden or cell. By default cell, or hidden if there is no cell."
    ),
]
LayerName = Annotated[str | None, typer.Option(help="Which layer, from 1; by default the last, and all with --find.")]
OwnHypotheses = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME=REGEX", help="Also find what follows the matches of this; may be repeated."),
]


def inspect_units(
    text: Annotated[
        str | None,
        typer.Argument(
            help="The text; - reads it from standard input, without its last line end. By default held-out text."
        ),
    ] = None,
    model: Model = None,
    unit: UnitName = None,
    gate: GateName = None,
    layer: LayerName = None,
    units: Annotated[int | None, typer.Option(min=1, max=16384, help="How many units to show as strips; 12.")] = None,
    find: Annotated[bool, typer.Option("--find", help="Find the units that follow quotes, brackets, words.")] = False,
    hypothesis: OwnHypotheses = None,
    unknown: Unknown = "error",
    as_json: Json = False,
) -> None:
    """Show what the units of a net do in a text.

    As strips of shades, as a coloured text, or as a table of the units that follow something in the text.

    charlm inspect "Come in, said the fox."

    charlm inspect --find --hypothesis "vowel=[aeiou]"

    charlm inspect --unit 1.37 --gate forget
    """
    own = _own_hypotheses(hypothesis or [])
    is_search = find or bool(own)
    _check_options(unit, layer, units, is_search)
    file = model_file(model)
    from charlm.inference.units import layer_named, layers_of, part_named, unit_named

    part = part_named(file.spec.recurrence, gate and as_given(gate))
    chosen = unit_named(file.spec, as_given(unit)) if unit is not None else None
    place = layer_named(file.spec, as_given(layer)) if layer is not None else None
    read = text_to_read(file, text, unknown, is_search)
    if text is None and not is_search:
        say(f"text {read.name}")
    view: UnitView | LayerView | SearchView
    with ProgressLine() as line:
        if is_search:
            view = _searched(file, read, own, [part] if gate else None, [place] if place else None, line)
        elif chosen is not None:
            from charlm.cli.inspect_text import UnitView

            view = UnitView(file, read.texts, chosen, part, gate is not None, line.about("of the text read"))
        else:
            from charlm.cli.inspect_text import LayerView

            place = place or layers_of(file.spec)[file.spec.num_layers - 1]
            view = LayerView(file, read.texts, place, part, units or 12, line.about("of the text read"))
        found = view.to_json() if as_json else view.lines(screen_width(sys.stdout))
    if isinstance(found, dict):
        print_json(found)
    else:
        print_lines(found)


def _searched(
    file: ModelFile,
    read: TextRead,
    own: dict[str, str],
    parts: list[str] | None,
    layers: list[Layer] | None,
    line: ProgressLine,
) -> SearchView:
    from charlm.cli.inspect_search import SearchView
    from charlm.inference.unit_search import find_units

    return SearchView(file, read.name, find_units(file, read.texts, own, parts, layers, line.about("of the text read")))


def _check_options(unit: str | None, layer: str | None, units: int | None, is_search: bool) -> None:
    if unit is not None and (is_search or layer is not None):
        other = "--find" if is_search else "--layer"
        hint = "omit `--unit` to search all units" if is_search else "the name of a unit begins with its layer"
        raise UsageError(f"`--unit` and `{other}` exclude each other", hint)
    if units is not None and (is_search or unit is not None):
        raise UsageError("`--units` is for strips of many units", "omit `--unit`, `--find` and `--hypothesis` for them")


def _own_hypotheses(given: list[str]) -> dict[str, str]:
    own: dict[str, str] = {}
    for argument in map(as_given, given):
        name, equals, expression = argument.partition("=")
        name = name.strip()
        if not equals:
            raise UsageError(f"`{argument}` is not a hypothesis", "as in `--hypothesis vowel=[aeiou]`")
        if name in own:
            raise UsageError(f"there are two hypotheses `{name}`", "choose another name for one of them")
        own[name] = expression
    return own


class TextRead(NamedTuple):
    """A text in the vocabulary of a model.

    Attributes:
        name: what people call it.
        texts: its parts, each to be read from its own start.
    """

    name: str
    texts: list[Ids]


def text_to_read(file: ModelFile, argument: str | None, unknown: str, is_search: bool) -> TextRead:
    """Return the text that was given, or else the model's own held-out text, and report what is not read of it.

    Raises:
        UsageError: there is no text.
        UnknownCharacterError: the text holds unknown characters, under `unknown="error"`.
    """
    if argument is None:
        return _own_text(file, MOST_SYMBOLS if is_search else SYMBOLS_OF_OWN_TEXT)
    note_on_file(argument, "charlm inspect - <")
    (text,) = as_read(file.vocabulary, given_text(argument))
    ids_T = file.vocabulary.encode(text, unknown)
    if not len(ids_T):
        raise UsageError("there is no character to read", "a text is given as an argument, or - reads it")
    if len(ids_T) > MOST_SYMBOLS:
        say(f"note: only the first {MOST_SYMBOLS:,} of {counted(len(ids_T), file.vocabulary.unit)} are read")
    return TextRead("the text", [ids_T[:MOST_SYMBOLS]])


def _own_text(file: ModelFile, most: int) -> TextRead:
    """Return stretches of the validation part of the text that a model learned, from all over it."""
    from charlm.evaluation.scored_text import load_own_text

    try:
        own = load_own_text(file, progress=show_text_progress)
    except (CorpusError, DownloadError, UsageError) as error:
        raise UsageError(
            f"there is no text, and the model's own held-out text cannot be read: {error}",
            "give a text: `charlm inspect TEXT`, or `charlm inspect - < FILE`",
        ) from error
    stretches = own.ids.stretches
    if (total := len(own.ids)) > most:
        # Whole stretches, because many short ones would each be known from their start only.
        stretches = stretches[:: max(1, round(total / most))]
    texts: list[Ids] = []
    left = most
    for stretch in stretches:
        texts.append(stretch[:left])
        left -= len(texts[-1])
        if not left:
            break
    name = f"{counted(most - left, file.vocabulary.unit)} of the {one_line(own.name)}"
    return TextRead(name, texts)
