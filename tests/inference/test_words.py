"""The most probable words: exact, with true probabilities, in every kind of vocabulary."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from charlm.checkpoint import ModelFile
from charlm.inference.generate import read_prompt
from charlm.inference.sampling import Floats, softmax
from charlm.inference.stepper import Stepper, StepperState
from charlm.inference.words import predict_words

ALPHABET = "\n 'abc"
# A word that begins a text, and the character or two after it that show where it ends.
WORD = re.compile(r"([\n ']*[abc]+(?:'[abc]+)*)(?:[\n ]|'[^abc])")


def enumerated(
    stepper: Stepper, text: str, length: int, inside: str = "", temperature: float = 1.0
) -> dict[str, float]:
    """Return the probability of every word that is decided within some characters, by reading every continuation.

    Args:
        stepper: a model of `ALPHABET`.
        text: the text before.
        length: how many characters to try.
        inside: the part of the word that the text has already.
        temperature: of the probabilities.
    """
    sign = -1 if stepper.is_backward else 1
    words: dict[str, float] = {}

    def read(added: str, p: float, logits_BV: Floats, state: StepperState) -> None:
        # In the order of reading, in which the pattern is the same from both sides.
        for index, share in enumerate(p * softmax(logits_BV[0], temperature)):
            longer = added + ALPHABET[index]
            if found := WORD.match(inside[::sign] + longer):
                word = found[1][len(inside) :][::sign]
                words[word] = words.get(word, 0) + share
            elif len(longer) < length and share:
                read(longer, share, *stepper.step(np.array([index]), state))

    read("", 1.0, *read_prompt(stepper, text))
    return words


def sharp(model: ModelFile, factor: float = 2.0) -> ModelFile:
    """Return the model with larger output weights, so that few continuations have most of the probability."""
    arrays = dict(model.arrays)
    arrays["output.weight"] = arrays["output.weight"] * np.float32(factor)
    return replace(model, arrays=arrays)


@pytest.mark.parametrize("direction", ["forward", "backward"])
@pytest.mark.parametrize(("text", "inside"), [("ab ca", "ca"), ("c ", ""), ("b'", "b'"), ("", "")], ids=repr)
def test_words_are_those_of_an_enumeration(
    make_model: Callable[..., ModelFile], direction: str, text: str, inside: str
) -> None:
    """The probability of a word is the sum over all texts of some characters that begin with it and a boundary."""
    sign = -1 if direction == "backward" else 1
    stepper = Stepper(make_model("gru", symbols=ALPHABET, direction=direction, hidden_size=6))
    expected = enumerated(stepper, text[::sign], 5, inside[::sign])
    # Longer words are not decided after so few characters.
    best = sorted(((p, word) for word, p in expected.items() if len(word) <= 3), reverse=True)[:3]
    prediction = predict_words(stepper, text[::sign], 3)
    assert [word.text for word in prediction.words] == [word for _, word in best]
    assert [word.probability for word in prediction.words] == pytest.approx([p for p, _ in best], rel=1e-5)
    whole = [word + inside[::sign] if sign == -1 else inside + word for _, word in best]
    assert [word.word for word in prediction.words] == whole
