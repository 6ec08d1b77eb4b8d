"""What a page shows of a text: the bits of its characters, what was expected, and the units of the net.

The page holds no more than fits: `SHOWN_SYMBOLS` of a longer text, and the units at a stretch of these. It says so.

Letters: C characters and T symbols that are shown, S characters of the stretch, H units, K symbols that were expected.
"""

from __future__ import annotations

import re
import zlib
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from charlm.cells import Cell
from charlm.checkpoint import ModelFile
from charlm.evaluation.scored_text import TextToScore
from charlm.inference.activations import (
    SHARE_OF_MEMORY,
    Activations,
    characters_of,
    read_activations,
    rows_of_characters,
    shown_values,
)
from charlm.inference.hypotheses import hypotheses
from charlm.inference.score import given_what, reader_of
from charlm.inference.stepper import Predictor, Progress
from charlm.inference.surprisal import Surprisal, finite, lines_of, measure_surprisal
from charlm.inference.unit_search import MIN_OF_EACH, Finding, search_in
from charlm.inference.units import layers_of, parts_of
from charlm.machine import usable_bytes
from charlm.ramps import DIVERGING, SEQUENTIAL, Ramp, is_dark

# The assets that draw it.
SCRIPTS = ("text.js", "units.js")
# A browser lays out a text of so many characters, each in a box of its own, in a fraction of a second.
SHOWN_SYMBOLS = 5000
NUM_EXPECTED = 5
# The units of a page take this much before base64, and a page has to stay below 2 MB.
UNIT_BYTES = 920_000
# At least this share of the bytes is left when they are compressed, if units do anything.
LEAST_SHARE = 0.5
# Activations take this much memory while their stretch is chosen.
MEMORY_BYTES = 400_000_000
# How far a unit's value on the page may be from its value in the net, on the scale of the shades.
PRECISION = 0.01
# The last shade stands for this many bits or more, as in the terminal.
MAX_BITS = 9
# A unit that follows a hypothesis less well than this has no button.
LEAST_AREA, LEAST_CORRELATION = 0.75, 0.3
SURROGATE = re.compile("[\ud800-\udfff]")


def held_out_view(model: ModelFile, own: TextToScore, progress: Progress | None = None) -> dict[str, Any]:
    """Return what a page shows of the beginning of a part of the text that a model learned.

    Args:
        model: the model.
        own: the part, as `load_own_text` returns it; it is not empty.
        progress: called now and then with how many symbols of how many were read.

    Raises:
        ModelFileError: the weights are so large that a state overflows.
    """
    stretch = max(own.ids.stretches, key=len)
    text, _ = characters_of(model.vocabulary, stretch[:SHOWN_SYMBOLS])
    # For a model of bytes it may start or end within a character.
    scored = measure_surprisal(reader_of(model), SURROGATE.sub("\ufffd", text), "error", progress, NUM_EXPECTED)
    return text_view(model, scored, f"the beginning of the {own.name}", progress)


def text_view(model: ModelFile, scored: Surprisal, name: str, progress: Progress | None = None) -> dict[str, Any]:
    """Return what a page shows of a text, as plain values.

    Args:
        model: the model.
        scored: the text, scored by this model with `NUM_EXPECTED` symbols named in each place.
        name: what people call the text.
        progress: called now and then with how many symbols of how many the units have read.

    Raises:
        ModelFileError: the weights are so large that a state overflows.
    """
    reader = reader_of(model)
    symbols = _first_read(scored, SHOWN_SYMBOLS, model.spec.is_backward)
    characters = _characters_of(scored, symbols)
    values = {
        "name": name,
        "cell": model.spec.cell,
        "unit": scored.unit,
        "symbol": model.vocabulary.unit,
        "given": given_what(reader),
        "has_ngrams": isinstance(reader, Predictor) and reader.has_ngrams,
        "is_backward": model.spec.is_backward,
        "totals": {**scored.totals(), "bits": scored.bits},
        "num_characters": len(scored.text),
        "start": characters.start,
        **_first_place(scored.text[: characters.start]),
        "text": SURROGATE.sub("\ufffd", scored.text[characters]),
        "bits_of_characters": scored.bits_C[characters].tolist(),
        "max_bits": MAX_BITS,
        "unknown": np.flatnonzero(~scored.is_known_C[characters]).tolist(),
        "ramps": {"sequential": ramp_colours(SEQUENTIAL), "diverging": ramp_colours(DIVERGING)},
        **_expected(scored, symbols, characters),
        "units": _units(model, scored, characters.start, progress),
    }
    return dict(finite(values))


def _first_read(scored: Surprisal, most: int, is_backward: bool) -> slice:
    """Return at most so many symbols that a model reads first, in whole characters."""
    total = len(scored.ids_T)
    if total <= most:
        return slice(0, total)
    edges = np.flatnonzero(np.diff(scored.characters_T, prepend=-1, append=-1))
    if is_backward:
        return slice(int(edges[edges >= total - most][0]), total)
    return slice(0, int(edges[edges <= most][-1]))


def _characters_of(scored: Surprisal, symbols: slice) -> slice:
    """Return which characters have these symbols; for all symbols also those that were skipped at the edges."""
    if symbols.stop - symbols.start == len(scored.ids_T):
        return slice(0, len(scored.text))
    first, last = (int(scored.characters_T[symbol]) for symbol in (symbols.start, symbols.stop - 1))
    return slice(first, last + 1)


def _first_place(before: str) -> dict[str, int]:
    """Return the line and the column of the first character after a text."""
    lines = list(lines_of(before))
    if not lines or lines[-1].text[-1] in "\r\n":
        return {"first_line": len(lines) + 1, "first_column": 1}
    return {"first_line": len(lines), "first_column": len(lines[-1].text) + 1}


def ramp_colours(ramp: Ramp) -> dict[str, Any]:
    """Return the colours of a ramp, and the colours of the text on them."""
    return {
        "lowest": ramp.lowest,
        "colours": [f"#{colour:06x}" for colour in ramp.colours],
        "text_colours": ["#ffffff" if is_dark(colour) else "#000000" for colour in ramp.colours],
    }


def _expected(scored: Surprisal, symbols: slice, characters: slice) -> dict[str, Any]:
    """Return of each symbol that is shown: its bits, what it is, and what was expected in its place."""
    scores, ids_T = scored.scores, scored.ids_T[symbols].astype(np.int64)
    expected_TK = scores.expected_TK[symbols]
    used, indices = np.unique(np.concatenate([ids_T, expected_TK.ravel()]), return_inverse=True)
    names = "\n".join(map(scored.vocabulary.name, used.tolist())).encode("utf-8", "replace")
    counts_C = np.bincount(
        scored.characters_T[symbols] - characters.start, minlength=characters.stop - characters.start
    )
    return {
        "symbols_of_characters": packed(counts_C.astype("u1")),
        "symbol_bits": packed(scores.bits_T[symbols].astype("<f4")),
        "symbol_names": packed(np.frombuffer(names, "u1")),
        "found": packed(indices[: len(ids_T)].astype("<u2")),
        "num_expected": expected_TK.shape[1],
        "expected": packed(indices[len(ids_T) :].astype("<u2")),
        "probabilities": packed(np.exp2(-scores.expected_bits_TK[symbols]).astype("<f4")),
    }


def _units(model: ModelFile, scored: Surprisal, offset: int, progress: Progress | None) -> dict[str, Any] | None:
    """Return the states and gates of all units at a stretch of the characters that are shown.

    The units read the beginning of the text alone, as much as memory allows, or with a backward model its end. So only
    a model of both sides would have other values if it read all.

    Args:
        model: the model.
        scored: the text.
        offset: the first character that is shown.
        progress: called now and then with how many symbols of how many were read.

    Returns:
        None if not even the units of one character fit.
    """
    spec, parts = model.spec, parts_of(model.spec.recurrence)
    num_values = spec.hidden_size * len(layers_of(spec)) * len(parts)
    most = int(min(MEMORY_BYTES, SHARE_OF_MEMORY * usable_bytes())) // (4 * num_values)
    symbols = _first_read(scored, min(most, SHOWN_SYMBOLS), spec.is_backward)
    # The characters that were read, and how many symbols each of them is.
    read_R, lengths_R = np.unique(scored.characters_T[symbols], return_counts=True)
    if not len(read_R):
        return None
    activations = read_activations(model, [scored.ids_T[symbols]], progress=progress)
    text = "".join(scored.text[index] for index in read_R)
    findings = _findings(activations, spec.recurrence.state, text, lengths_R)
    size = min(len(text), int(UNIT_BYTES / LEAST_SHARE) // num_values)
    while size:
        start = _stretch(text, findings, size)
        tracks = []
        for layer in activations:
            rows_R = rows_of_characters(lengths_R.tolist(), layer.reads_backward)
            tracks += [_track(spec.recurrence, layer, part, rows_R[start : start + size]) for part in parts]
        num_bytes = sum(len(track["values"]) for track in tracks) * 3 // 4
        if num_bytes <= UNIT_BYTES:
            return {
                "start": int(read_R[start]) - offset,
                "end": int(read_R[start + size - 1]) - offset + 1,
                "num_characters": size,
                "precision": PRECISION,
                "num_units": spec.hidden_size,
                "tracks": tracks,
                "findings": [_follower_json(finding) for finding in findings],
            }
        size = int(size * 0.98 * UNIT_BYTES / num_bytes)
    return None


def _findings(
    activations: Sequence[Activations], state: Sequence[str], text: str, lengths_R: NDArray[np.int64]
) -> list[Finding]:
    """Return the hypotheses that the state of a unit follows well enough, the best first."""
    if lengths_R.sum() < 4 * MIN_OF_EACH:
        return []
    states = [replace(layer, parts={part: layer.parts[part] for part in state}) for layer in activations]
    found = [each for each in search_in(states, [(text, lengths_R)], hypotheses()).findings if each.followers]
    least = {False: LEAST_AREA, True: LEAST_CORRELATION}
    found = [each for each in found if each.followers[0].figure >= least[each.hypothesis.is_number]]
    return sorted(found, key=lambda each: (each.hypothesis.is_number, -each.followers[0].figure))


def _follower_json(finding: Finding) -> dict[str, Any]:
    """Return a hypothesis with the unit that follows it best."""
    best, hypothesis = finding.followers[0], finding.hypothesis
    return {
        "name": hypothesis.name,
        "about": hypothesis.about,
        "measure": "r" if hypothesis.is_number else "AUC",
        "figure": best.figure,
        "layer": str(best.unit.layer),
        "unit": best.unit.index,
        "part": best.part,
        "sign": best.sign,
    }


def _stretch(text: str, findings: Sequence[Finding], size: int) -> int:
    """Return where a stretch of a text starts in which hypotheses are true at times and false at times.

    It starts with a line, or ends with the text.
    """
    tracks = [finding.hypothesis.track(text) for finding in findings if not finding.hypothesis.is_number]
    starts = [*(found.start() for found in re.finditer("^", text, re.MULTILINE)), len(text) - size]
    starts_N = np.array([start for start in starts if start + size <= len(text)])
    figures_N = np.zeros(len(starts_N))
    for track_T in tracks:
        sums = np.concatenate([[0.0], np.cumsum(track_T)])
        means_N, mean = (sums[starts_N + size] - sums[starts_N]) / size, track_T.mean()
        figures_N += means_N * (1 - means_N) / (mean * (1 - mean))
    return int(starts_N[figures_N.argmax()])


def _track(cell: Cell, layer: Activations, part: str, rows: Sequence[int]) -> dict[str, Any]:
    """Return a part of the state or a gate of all units of a layer, as shades show it, shape (H, S) when unpacked."""
    shown_SH, lowest, change = shown_values(cell, part, layer.parts[part][rows])
    num_steps = round((1 - lowest) / (2 * PRECISION))
    values_HS = np.rint((shown_SH.T - lowest) / (1 - lowest) * num_steps)
    return {
        "layer": str(layer.layer),
        "reads_backward": layer.reads_backward,
        "part": part,
        "change": change,
        "lowest": lowest,
        "num_steps": num_steps,
        "values": packed(values_HS.astype("u1")),
    }


def packed(values: NDArray[Any]) -> str:
    """Return the bytes of an array, compressed as browsers can decompress them (raw deflate), in base64."""
    compressor = zlib.compressobj(9, wbits=-15)
    return b64encode(compressor.compress(values.tobytes()) + compressor.flush()).decode()
