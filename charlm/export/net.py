"""What a format can hold of a model: one direction, and perhaps its n-grams. What leaving them out costs."""

from __future__ import annotations

import math
from dataclasses import replace

from charlm.checkpoint import NGRAMS_PREFIX, ModelFile
from charlm.errors import UsageError


def of_one_direction(model: ModelFile, format: str) -> ModelFile:
    """Return a model, if it predicts what comes next.

    Args:
        model: any model.
        format: what it is to be exported as, for the message.

    Raises:
        UsageError: it reads from both sides.
    """
    if model.spec.sees_both_sides:
        raise UsageError(
            f"this model reads from both sides, and {format} holds a model of one direction",
            "`charlm fill` asks it for blanks",
        )
    return model


def net_of(model: ModelFile) -> ModelFile:
    """Return a model without its n-grams."""
    return replace(model, arrays=model.weights)


def refuse_ngrams(model: ModelFile, format: str) -> None:
    """Refuse to leave out the n-grams of a model without being asked to.

    Raises:
        UsageError: it has n-grams.
    """
    if has_ngrams(model):
        raise UsageError(
            f"this model has n-grams beside its net, and {format} holds a net alone",
            f"`--net-only` exports the net{without_ngrams(model)}",
        )


def has_ngrams(model: ModelFile) -> bool:
    """Return whether a model has n-grams beside its net."""
    return any(name.startswith(NGRAMS_PREFIX) for name in model.arrays)


def without_ngrams(model: ModelFile) -> str:
    """Return what the net alone needs on held-out text, as the end of a sentence; nothing if the file does not say."""
    unit = model.vocabulary.unit
    together, net = (model.metrics.get(f"validation_{who}bits_per_{unit}") for who in ("", "net_"))
    if not (_is_figure(together) and _is_figure(net)):
        return ""
    return f", which needs {net:.3f} bits per {unit} on held-out text; both together need {together:.3f}"


def _is_figure(value: object) -> bool:
    # The figures of an untrusted file may be anything.
    return isinstance(value, float) and math.isfinite(value) and abs(value) < 1e6
