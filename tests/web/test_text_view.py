"""What a page holds of a text: the figures of `score`, what was expected, and the units at a stretch of it."""

from __future__ import annotations

import json
import re
import zlib
from base64 import b64decode
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import charlm
from charlm.checkpoint import ModelFile
from charlm.data.corpus import load_corpus
from charlm.evaluation.scored_text import load_own_text
from charlm.inference.activations import rows_of_characters, shown_values
from charlm.inference.language_model import LanguageModel
from charlm.inference.score import reader_of
from charlm.inference.surprisal import measure_surprisal
from charlm.ramps import SEQUENTIAL
from charlm.vocab import Vocabulary
from charlm.web import text_view as module
from charlm.web.text_view import NUM_EXPECTED, PRECISION, held_out_view, text_view
from tests.helpers.commands import answer, assert_refused, call

SYMBOLS = "\n abcdefgh\u72d0"
TEXT = "had a bad cab\nfade ha gag hedge\n\u72d0\u72d0 beach\n" * 3


def unpacked(packed: str, dtype: str) -> np.ndarray[Any, Any]:
    """Return an array as a browser would unpack it."""
    return np.frombuffer(zlib.decompress(b64decode(packed), wbits=-15), dtype)


def view_of(file: ModelFile, text: str, unknown: str = "error") -> dict[str, Any]:
    """Score a text and return what a page holds of it."""
    scored = measure_surprisal(reader_of(file), text, unknown, top=NUM_EXPECTED)
    return text_view(file, scored, "a text")


def values_of(view: dict[str, Any], layer: str, part: str) -> np.ndarray[Any, Any]:
    """Return a part of the state or a gate on the scale of the shades, a row for each character of the stretch."""
    (track,) = (each for each in view["units"]["tracks"] if (each["layer"], each["part"]) == (layer, part))
    steps_HS = unpacked(track["values"], "u1").reshape(view["units"]["num_units"], -1)
    return track["lowest"] + steps_HS.T / track["num_steps"] * (1 - track["lowest"])  # type: ignore[no-any-return]


def embedded(page: str) -> dict[str, Any]:
    """Return the data of a page."""
    found = re.search('<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found
    return json.loads(found[1])  # type: ignore[no-any-return]


def test_figures_equal_those_of_score_as_json(make_model: Callable[..., ModelFile]) -> None:
    """The totals and the bits of the characters on the page are those that `score --json` prints."""
    make_model(symbols=SYMBOLS).save(Path("model"))
    Path("text.txt").write_text(TEXT, encoding="utf-8")
    printed = answer("score", "-f", "text.txt", "-m", "model", "--html", "page.html", "--json", "--top", "3")
    assert printed == answer("score", "-f", "text.txt", "-m", "model", "--json", "--top", "3")
    view = embedded(Path("page.html").read_text(encoding="utf-8"))["text_view"]
    assert view["totals"].items() <= printed.items()
    assert (view["text"], view["bits_of_characters"]) == (printed["text"], printed["bits_of_characters"])


def test_expected_symbols_are_those_of_predict_next(make_model: Callable[..., ModelFile]) -> None:
    """In each place they have the names, the order and the probabilities of a prediction after the text before."""
    file = make_model(symbols=SYMBOLS)
    view, model = view_of(file, TEXT[:9]), LanguageModel(file)
    names = unpacked(view["symbol_names"], "u1").tobytes().decode().split("\n")
    expected_TK = unpacked(view["expected"], "<u2").reshape(9, NUM_EXPECTED)
    probabilities_TK = unpacked(view["probabilities"], "<f4").reshape(9, NUM_EXPECTED)
    for place in range(1, 9):
        candidates = model.predict_next(TEXT[:place], NUM_EXPECTED).candidates
        assert [names[index] for index in expected_TK[place]] == [each.name for each in candidates]
        np.testing.assert_allclose(probabilities_TK[place], [each.probability for each in candidates], rtol=1e-5)
    assert [names[index] for index in unpacked(view["found"], "<u2")] == [
        file.vocabulary.name(int(index)) for index in file.vocabulary.encode(TEXT[:9])
    ]


@pytest.mark.parametrize("direction", ["forward", "backward", "both"])
@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn-relu", "minlstm"])
def test_units_are_as_precise_as_the_page_says(make_model: Callable[..., ModelFile], cell: str, direction: str) -> None:
    """A value differs from that of `inspect`, as shades show it, by the precision at most; all parts are there."""
    file = make_model(cell, num_layers=2, symbols=SYMBOLS, direction=direction)
    view = view_of(file, TEXT)
    assert view["units"]["precision"] == PRECISION
    assert (view["units"]["start"], view["units"]["end"]) == (0, len(TEXT))
    layers = LanguageModel(file).activations(TEXT)
    assert len(view["units"]["tracks"]) == sum(len(layer.parts) for layer in layers)
    for layer in layers:
        for part, values_TH in layer.parts.items():
            shown_TH, _, _ = shown_values(file.spec.recurrence, part, values_TH)
            found_TH = values_of(view, str(layer.layer), part)
            assert abs(found_TH - shown_TH).max() <= PRECISION + 1e-6


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_a_character_of_bytes_has_the_units_after_it(make_model: Callable[..., ModelFile], direction: str) -> None:
    """Of several bytes it is the one that is read last."""
    file = make_model("gru", symbols=Vocabulary.of_bytes(), direction=direction)
    text = "a\u72d0\u00e9\U0001f600b"
    view = view_of(file, text)
    counts = unpacked(view["symbols_of_characters"], "u1").tolist()
    assert counts == [1, 3, 2, 4, 1]
    (layer,) = LanguageModel(file).activations(text)
    rows = rows_of_characters(counts, direction == "backward")
    assert abs(values_of(view, "1", "hidden") - layer.parts["hidden"][rows]).max() <= PRECISION + 1e-6
    sums = np.add.reduceat(unpacked(view["symbol_bits"], "<f4"), np.cumsum([0, *counts[:-1]]))
    np.testing.assert_allclose(sums, view["bits_of_characters"], rtol=1e-5)


def test_skipped_characters_are_shown_without_figures(make_model: Callable[..., ModelFile]) -> None:
    """They have no bits and no symbols; a character that was replaced has those of its replacement."""
    file = make_model(symbols=SYMBOLS)
    view = view_of(file, "xaxb\ud800", "skip")
    assert (view["text"], view["unknown"]) == ("xaxb\ufffd", [0, 2, 4])
    assert [bits is None for bits in view["bits_of_characters"]] == [True, False, True, False, True]
    assert unpacked(view["symbols_of_characters"], "u1").tolist() == [0, 1, 0, 1, 0]
    assert (view["units"]["start"], view["units"]["end"]) == (1, 4)
    replaced = view_of(file, "xab", "replace=h")
    assert replaced["bits_of_characters"] == view_of(file, "hab")["bits_of_characters"]
    assert (replaced["text"], replaced["unknown"]) == ("xab", [0])


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_a_page_shows_what_is_read_first_of_a_long_text(
    make_model: Callable[..., ModelFile], monkeypatch: pytest.MonkeyPatch, direction: str
) -> None:
    """The figures are those of the whole text. The page shows its beginning, or its end for a backward model."""
    monkeypatch.setattr(module, "SHOWN_SYMBOLS", 10)
    file = make_model(symbols=SYMBOLS, direction=direction)
    view = view_of(file, TEXT)
    start = len(TEXT) - 10 if direction == "backward" else 0
    assert view["text"] == TEXT[start : start + 10]
    assert (view["start"], view["num_characters"]) == (start, len(TEXT))
    before = TEXT[:start]
    assert view["first_line"] == before.count("\n") + 1
    assert view["first_column"] == start - before.rfind("\n")
    scored = LanguageModel(file).surprisal(TEXT)
    assert view["bits_of_characters"] == scored.bits_C[start : start + 10].tolist()
    assert view["totals"]["bits"] == scored.bits
    (layer,) = LanguageModel(file).activations(TEXT, ["cell"])
    expected_TH = np.tanh(layer.parts["cell"][start : start + 10])
    assert abs(values_of(view, "1", "cell") - expected_TH).max() <= PRECISION + 1e-6


def test_a_page_of_bytes_shows_whole_characters(
    make_model: Callable[..., ModelFile], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A limit in the middle of a character leaves it out, at the beginning and at the end."""
    monkeypatch.setattr(module, "SHOWN_SYMBOLS", 5)
    for direction in ("forward", "backward", "both"):
        file = make_model(symbols=Vocabulary.of_bytes(), direction=direction)
        view = view_of(file, "\u72d0\u72d0\u72d0")
        assert (view["text"], view["start"]) == ("\u72d0", 6 // 3 if direction == "backward" else 0)


def test_units_keep_to_the_room_of_a_page(
    make_model: Callable[..., ModelFile], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many characters have units as fit, at a stretch that starts with a line; or there are none."""
    file = make_model(symbols=SYMBOLS, hidden_size=40)
    for room in (4000, 9000):
        monkeypatch.setattr(module, "UNIT_BYTES", room)
        units = view_of(file, TEXT)["units"]
        size = sum(len(b64decode(track["values"])) for track in units["tracks"])
        assert 0.6 * room < size <= room
        assert TEXT[: units["start"]].endswith("\n") or units["end"] == len(TEXT) or units["start"] == 0
    monkeypatch.setattr(module, "UNIT_BYTES", 30)
    assert view_of(file, TEXT)["units"] is None


def test_a_button_names_the_unit_that_search_finds(make_model: Callable[..., ModelFile]) -> None:
    """Hypotheses that a unit follows well come with this unit and its figure, as `inspect --find` prints them."""
    file = make_model("rnn", symbols="\n ab.")
    text = ("ab a.\nb b.\n" * 20)[:200]
    found = {each.hypothesis.name: each for each in LanguageModel(file).find_units(text).findings}
    shown = view_of(file, text)["units"]["findings"]
    assert shown
    for each in shown:
        best = found[each["name"]].followers[0]
        assert (f"{each['layer']}.{each['unit']}", each["figure"]) == (str(best.unit), best.figure)


def test_colours_are_those_of_the_terminal(make_model: Callable[..., ModelFile]) -> None:
    """The ramps of the page are those of the terminal."""
    ramp = view_of(make_model(symbols=SYMBOLS), "abc")["ramps"]["sequential"]
    assert [int(colour[1:], 16) for colour in ramp["colours"]] == list(SEQUENTIAL.colours)
    assert (ramp["text_colours"][0], ramp["text_colours"][-1]) == ("#ffffff", "#000000")


def test_the_held_out_text_is_the_validation_part(make_model: Callable[..., ModelFile]) -> None:
    """The view of a model without a text is that of the beginning of its validation part."""
    Path("own.txt").write_text(TEXT * 2, encoding="utf-8")
    data = {"corpus": ["own.txt"], "validation_fraction": 0.5, "test_fraction": 0.0}
    file = make_model(symbols=SYMBOLS)
    file = replace(file, corpus=load_corpus(["own.txt"]).facts(), config=file.config | {"data": data})
    view = held_out_view(file, load_own_text(file))
    assert view["name"] == "the beginning of the validation part of own.txt"
    assert view | {"name": "a text"} == view_of(file, TEXT)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("folder", "is a directory"),
        ("missing/page.html", "no folder"),
        ("model", "no page by charlm"),
        ("-", "cannot be written"),
        ("link.html", "cannot be written"),
    ],
)
def test_a_page_replaces_nothing_but_a_page(make_model: Callable[..., ModelFile], target: str, message: str) -> None:
    """Anything else stays as it is, and nothing is computed."""
    make_model(symbols=SYMBOLS).save(Path("model"))
    before = Path("model").read_bytes()
    Path("folder").mkdir()
    Path("link.html").symlink_to("model")
    assert message in assert_refused(call("score", "abc", "-m", "model", "--html", target))
    assert Path("model").read_bytes() == before


def test_a_page_is_made_again(make_model: Callable[..., ModelFile]) -> None:
    """A page by charlm is replaced, an empty file too; totals are printed, and where the page is."""
    make_model(symbols=SYMBOLS).save(Path("model"))
    Path("page.html").touch()
    for text in ("abc", "cab"):
        result = call("score", text, "-m", "model", "--html", "page.html")
        assert f"{charlm.load('model').surprisal(text).bits_per_unit():.4f} bits per character" in result.stdout
        assert result.stderr.startswith("page page.html (")
        assert embedded(Path("page.html").read_text(encoding="utf-8"))["text_view"]["text"] == text


def test_a_page_of_two_models_is_refused(make_model: Callable[..., ModelFile]) -> None:
    """`--diff` has no page."""
    make_model(symbols=SYMBOLS).save(Path("model"))
    refused = call("score", "abc", "-m", "model", "--diff", "model", "--html", "page.html")
    assert "`--html` and `--diff`" in assert_refused(refused)
    assert not Path("page.html").exists()
