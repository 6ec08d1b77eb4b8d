"""The model of counts that a run has to beat, measured once at its start on what the validations read."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from charlm.data.gaps import Gapped
from charlm.data.holdout import Part
from charlm.errors import RunError
from charlm.evaluation.baselines import MAX_ORDER, MAX_SCORED, nats_by_order
from charlm.evaluation.compare import is_number, read_records
from charlm.evaluation.segments import sample
from charlm.run_folder import RunFolder
from charlm.training.counting import Counting
from charlm.training.events import Baseline

NAME = re.compile(r"([1-7])-gram Kneser-Ney")


def measure_baseline(counting: Counting, part: Part, num_read: int, num_symbols: int) -> Baseline:
    """Return the best Kneser-Ney model of up to 7 characters.

    Args:
        counting: of the run.
        part: what a validation reads at most, in the order in which the model reads it. Of a longer part only the
            first `MAX_SCORED` characters are scored.
        num_read: how many characters a validation has time for; 0 for any number.
        num_symbols: V.
    """
    part = part.beginnings(MAX_SCORED)
    is_read_M = _is_read(part, num_read)
    # The n-grams of the run may be longer.
    levels = counting.count()[:MAX_ORDER]
    means = [nats_M[is_read_M].mean() for nats_M in nats_by_order(levels, part, num_symbols)]
    best = int(np.argmin(means))
    # With a single symbol the sum is -0.0.
    return Baseline(best + 1, max(0.0, float(means[best]) / float(np.log(2))))


def _is_read(part: Part, num_read: int) -> NDArray[np.bool_]:
    """Return which characters of a text a validation scores, shape (M,)."""
    if not 0 < num_read < len(part):
        return np.ones(len(part), np.bool_)
    gapped = Gapped(part)
    segments = sample(gapped, num_read)
    stretch_S = np.searchsorted(gapped.bounds_S2[:, 0], segments.starts_S)
    # The result has no gaps and none of what is between the stretches.
    before_S = (np.cumsum(part.lengths_S) - part.lengths_S)[stretch_S]
    first_S = before_S + gapped.num_characters_of(segments.starts_S, segments.first_S)
    last_S = first_S + gapped.num_characters_of(segments.first_S, segments.last_S)
    is_read_M = np.zeros(len(part), np.bool_)
    for first, last in zip(first_S, last_S, strict=True):
        is_read_M[first:last] = True
    return is_read_M


def recorded_baseline(run: RunFolder, text: dict[str, str]) -> Baseline | None:
    """Return the baseline that a run has measured before, from its `metrics.jsonl`; None if it has none.

    Args:
        run: the folder.
        text: what its line says about the text; one of another text does not count.
    """
    records: list[dict[str, Any]] = []
    # A log that cannot be read does not end the run.
    with suppress(RunError):
        records = read_records(run)
    for record in reversed(records):
        name = record.get("baseline")
        found = NAME.fullmatch(name) if isinstance(name, str) else None
        bits = [value for key, value in record.items() if key.startswith("baseline_bits_per_")]
        if found and record.items() >= text.items() and len(bits) == 1 and is_number(bits[0]):
            return Baseline(int(found[1]), float(bits[0]))
    return None
