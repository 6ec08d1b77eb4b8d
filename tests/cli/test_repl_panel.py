"""What stands below the line."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from rich.cells import cell_len

from charlm.checkpoint import ModelFile
from charlm.cli import instrument as module
from charlm.cli.instrument import Instrument
from charlm.cli.repl_commands import COMMANDS, Conversation
from charlm.cli.repl_panel import command_help, histogram, key_line, panel_rows, unknown_note
from charlm.inference.incremental import IncrementalReader
from charlm.inference.predict import predict
from charlm.inference.stepper import Stepper

Make = Callable[..., ModelFile]
SIZES = [(20, 4), (40, 18), (80, 21), (200, 47), (40, 7)]


def shown(model: ModelFile, line: str, gates: bool = False, other: ModelFile | None = None) -> Instrument:
    """Return an instrument that knows everything about a line."""
    compared = IncrementalReader(Stepper(other)) if other else None
    conversation = Conversation(IncrementalReader(Stepper(model)), 10, None, compared, ("runs/one", "runs/\u56fd" * 20))
    instrument = Instrument(conversation)
    instrument.shows_gates = gates
    instrument.look(line, len(line))
    while instrument.work() is not None:
        pass
    return instrument


def panel(instrument: Instrument, width: int, height: int) -> list[str]:
    """Return the rows without styles."""
    return ["".join(text for _, text in row) for row in panel_rows(instrument, width, height)]


@pytest.mark.parametrize(("width", "height"), SIZES)
@pytest.mark.parametrize("line", ["", "bad", "\u56fd\u738bxyz\u200b\u202e\U0001f600", "/te", "b\n"])
@pytest.mark.parametrize("gates", [False, True])
@pytest.mark.parametrize("is_compared", [False, True])
def test_every_size_has_its_rows(
    make_model: Make, width: int, height: int, line: str, gates: bool, is_compared: bool
) -> None:
    """No row is too long, none is missing in the middle, and at least one candidate is shown."""
    model = make_model("lstm", 3, symbols="\n \u56fd\u738b\u8bf4abd")
    rows = panel(shown(model, line, gates, model if is_compared else None), width, height)
    assert 0 < len(rows) <= height
    assert all(cell_len(row) <= width and row.isprintable() for row in rows)
    assert line in ("", "/te") or any(re.search(r" \d+\.\d%", row) for row in rows)


def test_candidates_have_their_probabilities(make_model: Make) -> None:
    """They are those of the command with a text, and so are the entropy and what is left for all others."""
    model = make_model(symbols="\n abcdefghijkl")
    prediction = predict(Stepper(model), "bad", 10)
    rows = panel(shown(model, "bad"), 80, 20)
    assert rows[0].startswith(f"entropy {prediction.entropy_bits:.2f} bits   'd' cost ")
    for row, candidate in zip(rows[1:11], prediction.candidates, strict=True):
        assert row.split("\u2588")[0].split()[:2] == [candidate.name, f"{candidate.probability:.1%}"]
    assert rows[11].split()[:2] == ["others", f"{prediction.remaining_probability:.1%}"]


def test_an_empty_line_has_one_row_below(make_model: Make) -> None:
    """So that the table or the help that was printed before it stays on the screen."""
    (row,) = panel(shown(make_model(), ""), 80, 20)
    prediction = predict(Stepper(make_model()), "", 10)
    assert row.startswith(f"entropy {prediction.entropy_bits:.2f} bits   {prediction.candidates[0].name} ")


def test_a_long_paste_says_how_much_is_to_be_read(make_model: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """The figures of the line before it would mislead."""
    monkeypatch.setattr(module, "READING_TIME", 0.0)
    instrument = shown(make_model(), "bad")
    instrument.look("bad " * 300, 1200)
    assert panel(instrument, 80, 20) == ["reading 1,197 more ..."]
    assert [instrument.work() for _ in range(200)].count(True) == 1
    instrument.look("bad bad", 7)
    assert len(panel(instrument, 80, 20)) > 5


def test_words_stand_beside_the_candidates_or_below(make_model: Make) -> None:
    """Each has its probability and its key; on a narrow screen they share a row."""
    instrument = shown(make_model(), "a ba")
    (found,) = instrument.words
    assert found
    word = found.words[0]
    assert re.search(rf"{word.word} +{word.probability:.1%}  Tab$", panel(instrument, 80, 20)[1])
    assert panel(instrument, 40, 20)[-1].startswith(f"Tab {word.word} {word.probability * 100:.0f}"[:-1])
    assert "Alt-2" in "".join(panel(instrument, 80, 20))


@pytest.mark.parametrize(("cell", "gates"), [("lstm", ["input", "forget", "output"]), ("rnn", [])])
def test_gates_show_means_and_the_units_that_changed(make_model: Make, cell: str, gates: list[str]) -> None:
    """The means are those of the units; a cell without gates shows only units."""
    instrument = shown(make_model(cell, 2), "bad", gates=True)
    wide, narrow = "\n".join(panel(instrument, 80, 30)), "\n".join(panel(instrument, 40, 30))
    for change in instrument.changes:
        assert list(change.gates) == gates
        for name, values_H in change.gates.items():
            assert re.search(rf"{name} +{values_H.mean():.2f}", wide)
            assert f"{name} {values_H.mean():.2f}" in narrow
        unit = change.most_changed(1)[0]
        assert f"{unit} {change.old_H[unit.index]:+5.2f} \u2192 {change.new_H[unit.index]:+5.2f}" in wide
        assert f"{unit} {change.new_H[unit.index] - change.old_H[unit.index]:+.2f}" in narrow
    instrument.shows_gates = False
    instrument.look("bad", 3)
    assert "changed" not in "\n".join(panel(instrument, 80, 30))


def test_a_histogram_has_ten_bars() -> None:
    """The fullest part is as high as a row, and one unit can be seen beside thousands."""
    assert histogram([0.05] * 4000 + [0.95, 1.0]) == "\u2588        \u2581"


def test_two_models_have_two_columns(make_model: Make) -> None:
    """A character that one of them lacks has a dash there; each says how uncertain it is."""
    first, second = make_model(symbols="\n abcd"), make_model(symbols="\n abce", seed=2)
    rows = panel(shown(first, "ba", other=second), 80, 20)
    for number, model in enumerate((first, second)):
        assert f"entropy {predict(Stepper(model), 'ba', 1).entropy_bits:.2f} bits" in rows[number]
    shares = {row.split()[0]: re.findall(r"\d+\.\d%|-", row) for row in rows[2:9]}
    known = [{c.name: c.probability for c in predict(Stepper(each), "ba", 9).candidates} for each in (first, second)]
    assert shares["'d'"] == [f"{known[0][repr('d')]:.1%}", "-"]
    assert shares["'a'"] == [f"{each[repr('a')]:.1%}" for each in known]


@pytest.mark.parametrize("text", ["ba\U0001f600d", "xyzwvu"])
def test_unknown_characters_are_named(make_model: Make, text: str) -> None:
    """At most five of them, and only their number where there is no room."""
    reader = IncrementalReader(Stepper(make_model()))
    reader.read(text)
    expected = {"ba\U0001f600d": "'\U0001f600'", "xyzwvu": "'xyzwv'..."}[text]
    assert unknown_note(reader) == f"unknown, left out: {expected}"
    assert unknown_note(reader, 10) == f"{len(reader.unknown_characters)} unknown"
    assert panel(shown(make_model(), text), 80, 9)[0].startswith("unknown, left out: ")


@pytest.mark.parametrize("width", [40, 80])
@pytest.mark.parametrize("name", ["", "t", "zzz", *COMMANDS])
def test_the_panel_explains_the_command_that_is_typed(width: int, name: str) -> None:
    """It names the commands that start so, or one command and what it does, and breaks no word."""
    row = command_help(name, width)
    assert len(row) <= width
    assert set(row.split()) <= set(command_help(name, 1000).split())
    assert name in row


@pytest.mark.parametrize("width", [20, 40, 80])
@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_the_keys_stand_in_one_row(make_model: Make, width: int, direction: str) -> None:
    """A backward model has no continuation to take over."""
    row = key_line(shown(make_model(direction=direction), ""), width)
    assert cell_len(row) <= width
    assert row.startswith("Tab word")
    assert width == 20 or ("grey" in row) == (direction == "forward")
