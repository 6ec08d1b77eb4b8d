"""The weights of a page and its kernel: integers that stay in int32, and what their rounding costs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from charlm.checkpoint import ModelFile
from charlm.data.holdout import Part
from charlm.errors import ModelFileError, UsageError
from charlm.evaluation.stepping import symbol_bits
from charlm.inference.score import reader_of
from charlm.inference.stepper import Stepper
from charlm.inference.surprisal import measure_surprisal
from charlm.web.model_page import blocked, model_page
from charlm.web.quantised import GREATEST_SUM, MOST_CHARACTERS, Loss, Matrix, QuantisedNet, measure_loss
from tests.helpers.commands import assert_refused, call
from tests.helpers.evaluation import random_ids
from tests.helpers.model_files import random_model

SYMBOLS = "\n abcdefgh"


@pytest.mark.parametrize("num_inputs", [8, 4096])
def test_no_sum_of_products_leaves_int32(num_inputs: int) -> None:
    """Also where all inputs and all weights are as large as they can be."""
    ones = np.ones((2, num_inputs), np.float32)
    matrix = Matrix.with_bias(ones, np.zeros(2, np.float32))
    assert 127 * num_inputs * matrix.limit <= GREATEST_SUM
    assert matrix.limit == min(8191, GREATEST_SUM // (127 * num_inputs))
    np.testing.assert_allclose(matrix(ones[:1].astype(np.float64)), num_inputs)


def test_a_row_keeps_its_largest_number_and_zeros() -> None:
    """Rows have scales of their own, and a row of zeros stays one."""
    weight = np.array([[1e-6, -3e-7, 0], [5.0, 0.02, -5.0], [0, 0, 0]], np.float32)
    rounded = Matrix.with_bias(weight, np.zeros(3, np.float32)).at(np.arange(3))
    np.testing.assert_allclose(rounded, weight, atol=5 / 127 / 2)
    np.testing.assert_allclose(rounded[:, 0], weight[:, 0], rtol=1e-6)
    assert not rounded[2].any()


def test_the_kernel_finds_each_weight_in_its_block() -> None:
    """Blocks of four rows, chunks of sixteen columns, rows within a chunk; zeros fill both up."""
    weights = np.random.default_rng(0).integers(-127, 128, (11, 19)).astype(np.int8)
    laid_out = blocked(weights).ravel()
    assert len(laid_out) == 12 * 32
    places = [
        (row // 4 * 2 + column // 16) * 64 + row % 4 * 16 + column % 16 for row in range(11) for column in range(19)
    ]
    assert (laid_out[places] == weights.ravel()).all()
    assert abs(laid_out.astype(int)).sum() == abs(weights.astype(int)).sum()


@pytest.mark.parametrize("cell", ["lstm", "gru", "minlstm"])
def test_the_loss_is_that_of_the_full_weights_and_a_little(cell: str) -> None:
    """Both are measured on the same characters; the full one is that of `score`."""
    file = random_model(cell, 2, SYMBOLS, initial_state="learned", direction="backward" if cell == "gru" else "forward")
    text = "".join(np.random.default_rng(1).choice(list(SYMBOLS), 400))
    ids = file.vocabulary.encode(text)
    loss = measure_loss(file, QuantisedNet(file), Part.of(ids), "a text")
    scored = measure_surprisal(reader_of(file), text)
    # A dozen characters fill no piece of the text.
    assert loss.characters > 380
    assert abs(loss.bits_full - scored.bits_per_unit()) < 0.1
    assert 1e-7 < abs(loss.bits - loss.bits_full) < 0.03
    assert 1e-4 < loss.largest_change < 0.1


def test_the_loss_is_measured_as_the_evaluation_does(make_model: Callable[..., ModelFile]) -> None:
    """On the same characters of a text, and starting anew at each of its documents."""
    file = make_model()
    ids = random_ids(45_000)
    text = replace(Part.between(ids, [(0, 500), (2000, 45_000)]), documents_D=np.arange(100, 45_000, 130))
    loss = measure_loss(file, QuantisedNet(file), text, "a text")
    expected = symbol_bits(Stepper(file), text, num_read=MOST_CHARACTERS)
    assert loss.characters == expected.shape[1]
    assert loss.bits_full == pytest.approx(expected.mean(), abs=1e-6)


def test_the_page_says_what_the_rounding_costs(make_model: Callable[..., ModelFile]) -> None:
    """Both figures, and how much a probability changed; or that nothing was measured."""
    file = make_model()
    page = model_page(file, "small", loss=Loss("its validation text", 1234, 1.50123, 1.5, 0.0171))
    assert "On 1,234 characters of its validation text the model needs 1.5012 bits per character as it is here" in page
    assert "and 1.5000 with its full weights: the rounding costs 0.0012." in page
    assert "changed by more than 0.018." in page
    assert "was not measured" in model_page(file, "small")


def test_a_model_that_no_page_can_run_is_refused(make_model: Callable[..., ModelFile]) -> None:
    """A model of both sides, one that is too large, and one whose numbers overflow."""
    with pytest.raises(UsageError, match=r"reads from both sides, and a page holds a model of one direction"):
        model_page(make_model(direction="both"), "both")
    settings = make_model().config["model"] | {"hidden_size": 1 << 13}
    large = replace(make_model(), config=make_model().config | {"model": settings})
    with pytest.raises(UsageError, match=r"would take 269 MB, and a page holds at most 134"):
        model_page(large, "large")
    small = make_model("rnn-relu")
    huge = replace(small, arrays={name: array * np.float32(1e8) for name, array in small.arrays.items()})
    with pytest.raises(ModelFileError, match="overflows"):
        measure_loss(huge, QuantisedNet(huge), Part.of(np.zeros(200, np.uint8)), "a text")


def test_export_measures_on_another_text_or_says_why_not(model: str, text: str) -> None:
    """The model's own text is made up, so that only `--corpus` finds one."""
    result = call("export", "-f", "html", "-m", model)
    assert result.exit_code == 0
    assert "model.html (0.1" in result.stderr
    assert "MB): a page that runs the model\n" in result.stderr
    assert "was not measured" in result.stderr
    assert result.stderr.endswith("\nrun it: open model.html in a browser\n")
    assert "\nhint: `--corpus FILE` measures it on another text\n" in result.stderr
    assert "was not measured" in Path("model.html").read_text(encoding="utf-8")
    result = call("export", "--format", "html", "-m", model, "--corpus", text, "-o", "other.html")
    assert result.exit_code == 0
    assert "bits per character with 8-bit weights" in result.stderr
    assert "characters of another text" in Path("other.html").read_text(encoding="utf-8")
    assert "nothing.txt" in assert_refused(call("export", "-f", "html", "-m", model, "-c", "nothing.txt"))
    assert "`--corpus` is for pages" in assert_refused(call("export", "-f", "torch", "-m", model, "-c", text))
