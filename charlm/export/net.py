"""The net of a model for formats that hold no n-grams, and what leaving them out costs."""

from __future__ import annotations

import math
from dataclasses import replace

from charlm.checkpoint import NGRAMS_PREFIX, ModelFile
from charlm.errors import UsageError


def net_of(model: ModelFile, format: str, net_only: bool) -> ModelFile:
    """Return a model of one direction without n-grams, for a format that holds none.

    Args:
        model: any model.
        format: what the format is, for the message.
        net_only: whether its n-grams may be left out.

    Raises:
        UsageError: it reads from both sides, or it has n-grams that may not be left out.
    """
    if model.spec.sees_both_sides:
        raise UsageError(
            f"this model reads from both sides, and {format} holds models of one direction",
            "`charlm fill` asks it for blanks",
        )
    if not has_ngrams(model):
        return model
    if not net_only:
        raise UsageError(
            f"this model has n-grams beside its net, and {format} holds nets alone",
            f"`--net-only` exports its net{without_ngrams(model)}",
        )
    return replace(model, arrays=model.weights)


def has_ngrams(model: ModelFile) -> bool:
    """Return whether a model has n-grams beside its net."""
    return any(name.startswith(NGRAMS_PREFIX) for name in model.arrays)


def without_ngrams(model: ModelFile) -> str:
    """Return what the net alone needs on held-out text, as the end of a sentence; nothing if the file does not say."""
    unit = model.vocabulary.unit
    together, net = (model.metrics.get(f"validation_{who}bits_per_{unit}") for who in ("", "net_"))
    if not (_is_number(together) and _is_number(net)):
        return ""
    return f": {net:.3f} bits per {unit} on held-out text, where both together need {together:.3f}"


def _is_number(value: object) -> bool:
    # The figures of an untrusted file may be anything.
    return isinstance(value, float) and math.isfinite(value) and abs(value) < 1e6
