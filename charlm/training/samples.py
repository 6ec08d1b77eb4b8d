"""What the model of a run writes while it trains, and how probable it finds each character of that."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from charlm.errors import ModelFileError
from charlm.inference.generate import read_prompt
from charlm.inference.sampling import Sampling, draw, log2_probabilities
from charlm.inference.stepper import Stepper

LENGTH, TEMPERATURE, SEED = 160, 0.7, 0
# A run has about so many samples, however often it validates.
USUAL_NUMBER = 10


class Sample(NamedTuple):
    """A text that a model has written.

    Attributes:
        text: the text, in reading order.
        bits: what each of its characters cost the model at temperature 1, rounded to hundredths.
    """

    text: str
    bits: list[float]


def write_sample(stepper: Stepper, is_time_up: Callable[[], bool] = lambda: False) -> Sample | None:
    """Let a model write a text, always with the same random numbers; None if its numbers overflow.

    The text is that of `charlm sample` with the same seed. In a model of bytes a character has the bits of its bytes.

    Args:
        stepper: the model.
        is_time_up: called at each symbol; the text ends when it says so.
    """
    random, decoder = np.random.default_rng(SEED), stepper.vocabulary.decoder(stepper.is_backward)
    sampling, waiting = Sampling(TEMPERATURE), 0.0
    pieces: list[str] = []
    bits: list[list[float]] = []
    try:
        logits_1V, state = read_prompt(stepper, "")
        for left in reversed(range(LENGTH)):
            is_last = not left or is_time_up()
            drawn_1 = draw(sampling.probabilities(logits_1V), np.array([random.random()]))
            waiting += max(0.0, -float(log2_probabilities(logits_1V)[0, drawn_1[0]]))
            # Bytes wait until they are a whole character; what was no character comes out together with the next one.
            if new := decoder.decode(drawn_1.tolist(), final=is_last):
                pieces.append(new)
                bits.append([round(waiting / len(new), 2)] * len(new))
                waiting = 0.0
            if is_last:
                break
            logits_1V, state = stepper.step(drawn_1, state)
    except ModelFileError:
        return None
    order = slice(None, None, -1 if stepper.is_backward else 1)
    return Sample("".join(pieces[order]), [number for piece in bits[order] for number in piece])


def is_sample_due(share: float, evaluations: int) -> bool:
    """Return whether a sample belongs to the validation at this share of a run, which has so many of them."""
    # The number of the validation; a product such as 0.29 * 100 may be slightly below 29.
    return int(share * evaluations + 1e-9) % -(-evaluations // USUAL_NUMBER) == 0
