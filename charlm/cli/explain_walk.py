"""A walk through a text on a terminal: the arrow keys go from character to character, from unit to unit and layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from charlm.cli.explain_step import arithmetic_lines, place, summary_lines, where
from charlm.cli.layout import cells_of, kept_together, whole_items, wrapped
from charlm.errors import CharlmError, one_line

if TYPE_CHECKING:
    from prompt_toolkit.formatted_text import StyleAndTextTuples
    from prompt_toolkit.key_binding import KeyBindings

    from charlm.inference.explanation import CharacterStep, Explanation
    from charlm.inference.units import Layer

# More characters than any text on a command line has.
END = 1 << 30
KEYS = (
    "Left, Right: character",
    "Up, Down: unit",
    "Tab, Shift-Up, Shift-Down: layer",
    "m: largest unit",
    "PgUp, PgDn: scroll",
    "q: leave",
)


@dataclass
class Walk:
    """Where a person is in a text.

    Attributes:
        explanation: the text and the model.
        number: the step that is shown.
        place: which of the layers, from 0; those of the second direction come after the others.
        unit: the unit that is shown; None follows the one with the largest output.
        top: the first line that is shown, where not all fit.
    """

    explanation: Explanation
    number: int
    place: int = 0
    unit: int | None = None
    top: int = 0

    def __post_init__(self) -> None:
        self.step: CharacterStep = self.explanation.step(self.number)

    def move(self, characters: int = 0, units: int = 0, layers: int = 0) -> None:
        """Go to another character or unit, which ends at the first and the last, or layer, which begins again."""
        number = min(max(self.number + characters, 0), self.explanation.num_steps)
        if number != self.number:
            self.number, self.step = number, self.explanation.step(number)
        self.place = (self.place + layers) % len(self.step.layers)
        if units:
            unit = self.step.layers[self.place].largest_unit if self.unit is None else self.unit
            self.unit = min(max(unit + units, 0), self.explanation.spec.hidden_size - 1)

    def lines(self, width: int) -> list[str]:
        """Return what is shown of the step, without the text."""
        layer = self.step.layers[self.place]
        unit = layer.largest_unit if self.unit is None else self.unit
        largest = " (the largest)" if unit == layer.largest_unit else ""
        sizes = self.explanation.spec
        from_right = " from the right" if layer.reads_backward else ""
        head = [
            f"{self.explanation.unit} {self.number} of {self.explanation.num_steps}: reads {layer.name}{from_right}",
            place(self.explanation, layer, f" of {sizes.num_layers}"),
            f"unit {unit} of 0 to {sizes.hidden_size - 1}{largest}",
        ]
        candidates = [f"{score.name} {score.probability:.0%}" for score in self.step.scores[:8]]
        by = " by the net" if self.explanation.has_ngrams else ""
        best = f"predicted {where(self.explanation, self.step)}{by}:   {candidates[0]}"
        *before, last = wrapped(best, width)
        return [
            *kept_together("", head, width, "   "),
            *before,
            whole_items([last, *candidates[1:]], width),
            *summary_lines(layer.numbers(unit), layer.cell.letters, width, ("old_state",)),
            *arithmetic_lines(layer, unit, width),
        ]

    def text(self, width: int) -> tuple[str, str, str]:
        """Return the character that is read, what is left of it, and what is right of it, as far as there is room."""
        left, here, right = self.explanation.around(self.number)
        left, here, right = one_line(left[-width:]), one_line(here) or "|", one_line(right[:width])
        room = max(0, width - cells_of(here) - 1)
        while cells_of(left) > room // 2 and cells_of(left + right) > room:
            left = left[1:]
        while cells_of(left + right) > room:
            right = right[:-1]
        return left, here, right


def walk(explanation: Explanation, layer: Layer | None, unit: int | None) -> None:
    """Let a person walk over the characters of a text, the layers and the units, until they leave."""
    from prompt_toolkit import Application
    from prompt_toolkit.layout import FormattedTextControl, HSplit, Layout, Window

    from charlm.inference.units import layers_of

    layers = layers_of(explanation.spec)
    place = explanation.spec.num_layers - 1 if layer is None else layers.index(layer)
    state = Walk(explanation, 1, place, unit)

    def size() -> Any:
        return application.output.get_size()

    def text() -> StyleAndTextTuples:
        left, here, right = state.text(size().columns)
        return [("", left), ("reverse", here), ("", right)]

    def body() -> str:
        lines = state.lines(size().columns)
        room = max(1, size().rows - 1 - keys().count("\n") - 1)
        state.top = min(state.top, max(0, len(lines) - room))
        return "\n".join(lines[state.top : state.top + room])

    def keys() -> str:
        return "\n".join(kept_together("", KEYS, size().columns, "   "))

    application: Application[None] = Application(
        layout=Layout(
            HSplit(
                [
                    Window(FormattedTextControl(text), height=1),
                    Window(FormattedTextControl(body)),
                    Window(FormattedTextControl(keys), dont_extend_height=True),
                ]
            )
        ),
        key_bindings=key_bindings(state),
        full_screen=True,
    )
    application.run()


def key_bindings(state: Walk) -> KeyBindings:
    """Return what the keys do."""
    from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

    bindings = KeyBindings()

    def bind(key: str, **steps: int) -> None:
        @bindings.add(key)
        def go(event: KeyPressEvent) -> None:
            try:
                state.move(**steps)
            except CharlmError as error:
                # The weights of an untrusted file may overflow at any character.
                event.app.exit(exception=error)

    for key, characters in {"left": -1, "right": 1, "home": -END, "end": END}.items():
        bind(key, characters=characters)
    for key, units in {"up": -1, "down": 1}.items():
        bind(key, units=units)
    for key, layers in {"s-up": 1, "s-down": -1, "tab": 1, "s-tab": -1}.items():
        bind(key, layers=layers)

    @bindings.add("m")
    def follow(_: KeyPressEvent) -> None:
        state.unit = None

    @bindings.add("pageup")
    def back(_: KeyPressEvent) -> None:
        state.top = max(0, state.top - 5)

    @bindings.add("pagedown")
    def on(_: KeyPressEvent) -> None:
        state.top += 5

    @bindings.add("q")
    @bindings.add("escape")
    @bindings.add("c-c")
    @bindings.add("c-d")
    def leave(event: KeyPressEvent) -> None:
        event.app.exit()

    return bindings
