"""The bits of each character agree with the torch module and with filled blanks."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from charlm.cells import CELLS
from charlm.checkpoint import ModelFile
from charlm.errors import ModelFileError
from charlm.evaluation.evaluate import evaluate
from charlm.inference.fill import Filler
from charlm.inference.score import reader_of, score_symbols
from charlm.inference.stepper import Stepper
from tests.helpers.evaluation import module_of

WORDS = "had a bad cab\nfade ha gag hedge\nbeach"


@pytest.mark.parametrize("cell", CELLS)
def test_scores_are_the_log_softmax_of_the_module(make_model: Callable[..., ModelFile], cell: str) -> None:
    """The bits of each character agree with torch, given all characters before it from the start of the text."""
    file = make_model(cell, 2, initial_state="learned")
    ids_T = torch.tensor(file.vocabulary.encode(WORDS).astype(np.int64))
    module = module_of(file)
    with torch.inference_mode():
        read_TB = torch.cat([torch.tensor([len(file.vocabulary)]), ids_T[:-1]])[:, None]
        logits_TBV, _ = module(read_TB, module.start_state(1))
        nats_T = -logits_TBV[:, 0].log_softmax(-1)[torch.arange(len(ids_T)), ids_T]
    found_T = score_symbols(Stepper(file), ids_T.numpy().astype(np.uint8)).bits_T
    np.testing.assert_allclose(found_T, nats_T.numpy() / math.log(2), atol=1e-5)


def test_a_backward_score_is_that_of_the_reversed_text(make_model: Callable[..., ModelFile]) -> None:
    """The same weights give each character the same bits, in the order of the text."""
    forward, backward = (Stepper(make_model("gru", direction=direction)) for direction in ("forward", "backward"))
    ids_T = forward.vocabulary.encode(WORDS)
    expected_T = score_symbols(forward, ids_T[::-1]).bits_T[::-1]
    np.testing.assert_array_equal(score_symbols(backward, ids_T).bits_T, expected_T)


@pytest.mark.parametrize("cell", CELLS)
def test_a_masked_score_is_that_of_a_blank(make_model: Callable[..., ModelFile], cell: str) -> None:
    """Each character costs as many bits as when it alone is a blank to fill."""
    filler = Filler(make_model(cell, 2, direction="both", initial_state="learned", embedding_size=0))
    found_T = score_symbols(filler, filler.vocabulary.encode(WORDS)).bits_T
    for place, character in enumerate(WORDS):
        (blank,) = filler.fill([WORDS[:place], WORDS[place + 1 :]], len(filler.vocabulary)).blanks
        (probability,) = [c.probability for c in blank.candidates if c.character == character]
        assert found_T[place] == pytest.approx(-math.log2(probability), abs=1e-5)


@pytest.mark.parametrize("direction", ["forward", "backward", "both"])
def test_the_mean_of_the_scores_is_the_evaluation(make_model: Callable[..., ModelFile], direction: str) -> None:
    """The mean of the bits of each character is the bits per character of `evaluate`."""
    file = make_model("lstm", 2, direction=direction)
    ids_T = file.vocabulary.encode(WORDS * 3)
    bits_T = score_symbols(reader_of(file), ids_T).bits_T
    assert bits_T.mean() == pytest.approx(evaluate(module_of(file), ids_T).bits_per_character, abs=1e-5)


@pytest.mark.parametrize("text", ["", "a"])
@pytest.mark.parametrize("direction", ["forward", "backward", "both"])
def test_each_character_of_a_short_text_has_a_score(
    make_model: Callable[..., ModelFile], direction: str, text: str
) -> None:
    """A text of one character has one score, and an empty text has none."""
    file = make_model(direction=direction)
    ids_T = file.vocabulary.encode(text)
    bits_T = score_symbols(reader_of(file), ids_T).bits_T
    assert len(bits_T) == len(text)
    assert (bits_T > 0).all()


def test_scores_of_overflowing_weights_are_refused(make_model: Callable[..., ModelFile]) -> None:
    """Huge weights in an unbounded cell are an error of the model file, not NaN."""
    for direction in ("forward", "both"):
        file = make_model("rnn-relu", direction=direction)
        wild = replace(file, arrays={name: np.full_like(array, 9e8) for name, array in file.arrays.items()})
        ids_T = file.vocabulary.encode("abcd" * 20)
        with pytest.raises(ModelFileError):
            score_symbols(reader_of(wild), ids_T)
