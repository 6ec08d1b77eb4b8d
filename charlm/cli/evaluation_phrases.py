"""What evaluations say, of one model and of several alike."""

from __future__ import annotations

from charlm.errors import counted


def about_reading(num_blocks: int, window: int | None, unit: str) -> str:
    """Say how far the state of a model is carried."""
    if window is not None:
        return f"windows of {counted(window, unit)}, each from the initial state"
    return "state carried through" if num_blocks == 1 else f"in {num_blocks:,} blocks, state carried through each"


def about_baseline(name: str, unit: str) -> str:
    """Return a phrase about a baseline."""
    abouts = {
        "uniform": f"all {unit}s equally probable",
        "unigram": f"how often each {unit} occurs",
        "xz": "the compressor xz",
        "bz2": "the compressor bzip2",
    }
    return abouts.get(name, f"counts of up to {name.partition('-')[0]} {unit}s in a row")
