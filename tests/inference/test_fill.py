"""Blanks are filled as the equations say, which are written here a second time."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from charlm.cells import CELLS
from charlm.checkpoint import ModelFile
from charlm.errors import UnknownCharacterError, UsageError
from charlm.evaluation.evaluate import evaluate
from charlm.inference.fill import Filler, Filling
from charlm.vocab import Vocabulary
from tests.helpers.commands import answer, assert_refused, call
from tests.helpers.evaluation import module_of
from tests.helpers.model_files import random_model
from tests.helpers.training import begin, interrupt

Doubles = NDArray[np.float64]
SYMBOLS = "\n abcdefgh"
PLACES = {"beginning": ("", "cab fa\nd"), "middle": ("bad h", "gg\na"), "end": ("had a ba", ""), "alone": ("", "")}


def make(
    cell: str = "lstm", num_layers: int = 1, symbols: str | Vocabulary = SYMBOLS, seed: int = 0, **settings: Any
) -> ModelFile:
    """Make a model of both directions with random weights."""
    return random_model(cell, num_layers, symbols, seed=seed, direction="both", **settings)


def sigma(x: Doubles) -> Doubles:
    """Compute the logistic function."""
    return np.asarray(1 / (1 + np.exp(-x)))


def after(cell: str, x: Doubles, weights: dict[str, Doubles], h: Doubles, c: Doubles) -> tuple[Doubles, Doubles]:
    """Return h and c after one step with x = W x + b, by the equations of the cell's paper."""
    size = len(h)
    parts = [x[start : start + size] for start in range(0, len(x), size)]
    if cell in ("mingru", "minlstm"):
        if cell == "mingru":
            z = sigma(parts[0])
            return (1 - z) * h + z * parts[1], c
        f, i = sigma(parts[0]), sigma(parts[1])
        return f / (f + i) * h + i / (f + i) * parts[2], c
    product = weights["weight_hh_l0"] @ h + weights["bias_hh_l0"]
    hidden = [product[start : start + size] for start in range(0, len(x), size)]
    sums = [part + other for part, other in zip(parts, hidden, strict=True)]
    if cell == "rnn":
        return np.tanh(sums[0]), c
    if cell == "rnn-relu":
        return np.maximum(sums[0], 0), c
    if cell in ("gru", "gru-reset-before"):
        r, z = sigma(sums[0]), sigma(sums[1])
        inner = r * hidden[2]
        if cell == "gru-reset-before":
            inner = weights["weight_hh_l0"][2 * size :] @ (r * h) + weights["bias_hh_l0"][2 * size :]
        return (1 - z) * np.tanh(parts[2] + inner) + z * h, c
    if cell == "lstm-coupled":
        f, new, last = sigma(sums[0]), np.tanh(sums[1]), sums[2]
        i = 1 - f
    else:
        p = weights.get("peephole_l0", np.zeros((3, size)))
        i, f, new, last = sigma(sums[0] + p[0] * c), sigma(sums[1] + p[1] * c), np.tanh(sums[2]), sums[3]
    c = f * c + i * new
    if "peephole_l0" in weights:
        last = last + weights["peephole_l0"][2] * c
    return sigma(last) * np.tanh(c), c


def hidden_after(model: ModelFile, stack: str, ids: Sequence[int]) -> Doubles:
    """Return the outputs of the last layer of a stack after these inputs, in double precision."""
    settings, weights = model.config["model"], {name: array.astype(float) for name, array in model.weights.items()}
    inputs = list(weights.get("embedding.weight", np.eye(len(model.vocabulary) + 1))[list(ids)])
    for layer in range(settings["num_layers"]):
        own = {name: weights.get(f"{stack}.{layer}.{name}") for name in CELLS[settings["cell"]].weight_shapes(1, 1)}
        of_layer = {name: array for name, array in own.items() if array is not None}
        start = np.zeros((2, settings["hidden_size"]))
        if "initial_state" in weights:
            learned = weights["initial_state"][:, layer + (settings["num_layers"] if stack != "layers" else 0)]
            start[: len(learned)] = learned
        h, c = start
        for step, x in enumerate(inputs):
            gates = of_layer["weight_ih_l0"] @ x + of_layer["bias_ih_l0"]
            h, c = after(settings["cell"], gates, of_layer, h, c)
            inputs[step] = h
    return np.asarray(inputs[-1])


def expected(model: ModelFile, left: Sequence[int], right: Sequence[int]) -> Doubles:
    """Return the probabilities of the character between two parts."""
    edge, weights = len(model.vocabulary), model.weights
    from_left = hidden_after(model, "layers", [edge, *left])
    from_right = hidden_after(model, "backward_layers", [edge, *reversed(right)])
    logits = weights["output.weight"] @ np.concatenate([from_left, from_right]) + weights["output.bias"]
    p = np.exp(logits - logits.max())
    return np.asarray(p / p.sum())


def found(filling: Filling, vocabulary: Vocabulary, blank: int = 0) -> Doubles:
    """Return the probabilities of one blank in the order of the ids."""
    candidates = filling.blanks[blank].candidates
    assert len(candidates) == len(vocabulary)
    by_symbol = {candidate.character: candidate.probability for candidate in candidates}
    return np.array([by_symbol[symbol] for symbol in vocabulary.symbols])


def assert_filled_right(model: ModelFile, left: str, right: str) -> None:
    """Compare one filled blank with the equations."""
    vocabulary = model.vocabulary
    filling = Filler(model).fill([left, right], len(vocabulary))
    ids = [vocabulary.encode(part).tolist() for part in (left, right)]
    wanted = expected(model, *ids)
    np.testing.assert_allclose(found(filling, vocabulary), wanted, atol=1e-6)
    assert filling.text == left + vocabulary.symbols[int(wanted.argmax())] + right
    assert filling.places == [len(left)]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("num_layers", [1, 2])
@pytest.mark.parametrize("cell", CELLS)
def test_a_blank_is_filled_as_the_equations_say(cell: str, num_layers: int, place: str) -> None:
    """Probabilities agree to 1e-6: the left side from its edge, the right side from its end, the output over both."""
    for initial_state in ("zero", "learned"):
        assert_filled_right(make(cell, num_layers, initial_state=initial_state), *PLACES[place])


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn", "minlstm"])
def test_a_blank_with_one_hot_inputs_is_as_the_equations_say(cell: str) -> None:
    """Both stacks of a model without an embedding take one-hot inputs."""
    assert_filled_right(make(cell, 2, embedding_size=0, initial_state="learned"), "bad h", "gg\na")


@pytest.mark.parametrize("cell", CELLS)
def test_the_score_of_a_text_is_that_of_its_blanks(cell: str) -> None:
    """The nats of a text are the mean over its characters, each made a blank in turn."""
    model = make(cell, 2, initial_state="learned", seed=2)
    text = "had a bad cab\nfade ha gag hedge\nbeach"
    nats = []
    for place, character in enumerate(text):
        filling = Filler(model).fill([text[:place], text[place + 1 :]], len(model.vocabulary))
        nats.append(-np.log(found(filling, model.vocabulary)[model.vocabulary.symbols.index(character)]))
    scores = evaluate(module_of(model), model.vocabulary.encode(text))
    assert scores.nats_per_character == pytest.approx(np.mean(nats), abs=1e-5)


@pytest.mark.parametrize("cell", CELLS)
def test_each_blank_is_ranked_given_what_the_others_show(cell: str) -> None:
    """The ranking of a blank is that of the filled text with only this blank, adjacent blanks and edges included."""
    wrong = []
    for seed in range(12):
        filler = Filler(make(cell, seed=seed))
        filling = filler.fill(["", "ab", "", "", "ca", "gg", ""], 10)
        for number, place in enumerate(filling.places):
            alone = filler.fill([filling.text[:place], filling.text[place + 1 :]], 10)
            same = found(alone, filler.vocabulary) - found(filling, filler.vocabulary, number)
            if abs(same).max() > 1e-6:
                wrong.append((seed, place))
    print(f"{cell}: {len({seed for seed, _ in wrong})} of 12 models rank a blank by other guesses than they show")
    assert not wrong


def test_a_blank_is_filled_with_the_most_probable_character() -> None:
    """The guess for a single blank always settles on the first candidate."""
    for seed in range(20):
        filler = Filler(make(seed=seed))
        filling = filler.fill(["ab", "ca"], 3)
        assert filling.text[2] == filling.blanks[0].candidates[0].character
        assert len(filling.text) == 5


def test_filling_keeps_places_and_parts() -> None:
    """All given characters stay in their places."""
    filling = Filler(make()).fill(["", "a", "", "b c", ""], 2)
    assert filling.places == [0, 2, 3, 7]
    assert (filling.text[1], filling.text[4:7], len(filling.text)) == ("a", "b c", 8)


def test_a_text_of_blanks_alone_is_filled() -> None:
    """Each of several blanks gets a character if nothing else is given."""
    filling = Filler(make()).fill([""] * 5, 1)
    assert (len(filling.text), filling.places) == (4, [0, 1, 2, 3])


def test_a_blank_of_bytes_is_one_byte() -> None:
    """The byte that completes half a character is found as the equations say."""
    model = make("gru", symbols=Vocabulary.of_bytes())
    filling = Filler(model).fill(["é", "😀"], 256)
    wanted = expected(model, list("é".encode()), list("😀".encode()))
    np.testing.assert_allclose(found(filling, model.vocabulary), wanted, atol=1e-6)
    assert filling.places == [2]
    assert filling.text == ("é".encode() + bytes([int(wanted.argmax())]) + "😀".encode()).decode("utf-8", "replace")


def test_the_filter_of_letters_leaves_blanks_alone() -> None:
    """A model of letters reads small letters and single spaces, and keeps the mark of a blank."""
    Path("letters.txt").write_text("the fox, and the hare. " * 20)
    vocabulary = Vocabulary("characters", " abcdefgh", "letters")
    model = make(symbols=vocabulary)
    model.save(Path("letters.safetensors"))
    found_text = answer("fill", "A...B_, 3 C!", "--model", "letters.safetensors", "--json")
    assert found_text["blanks"][0]["place"] == 3
    assert found_text["text"][:3] + "?" + found_text["text"][4:] == "a b? c "
    plain = Filler(model).fill(["a b", " c "], 5)
    assert found_text == plain.to_json()


def test_a_filler_names_an_unknown_character_and_its_place() -> None:
    """The place is counted in the given text, blanks included."""
    filler = Filler(make())
    with pytest.raises(UnknownCharacterError, match=r"'Z' \(U\+005A\) at position 5$"):
        filler.fill(["ab", "c", "Z", "X"], 1)


def test_a_model_of_letters_names_a_character_it_lacks() -> None:
    """The place is counted in the given or in the filtered text, not in a mixture of both."""
    filler = Filler(make(symbols=Vocabulary("characters", " abcdefgh", "letters")))
    with pytest.raises(UnknownCharacterError, match=r"'z' .* at filtered position (10|5)\b"):
        filler.fill(["a -- b", "-- z"], 1)


def test_fill_skips_or_replaces_unknown_characters() -> None:
    """The place of a blank is counted in the text as it was read."""
    filler = Filler(make())
    skipped, replaced = filler.fill(["aZb", "X"], 2, "skip"), filler.fill(["aZb", "X"], 2, "replace=c")
    assert skipped == filler.fill(["ab", ""], 2)
    assert replaced == filler.fill(["acb", "c"], 2)


@pytest.fixture
def both() -> str:
    """A small model file of both directions."""
    make().save(Path("both.safetensors"))
    return "both.safetensors"


def refused(*arguments: str, code: int = 2, stdin: str | None = None) -> str:
    """Run a command that must be refused in one line and at most one hint, and return them."""
    result = call(*arguments, stdin=stdin)
    assert (result.exit_code, result.stdout) == (code, "")
    assert_refused(result)
    return result.stderr


def test_fill_prints_the_text_and_the_candidates(both: str) -> None:
    """The filled text comes first, then a line for each blank with its place."""
    result = call("fill", "ab_c_", "--model", both, "--top", "3")
    lines = result.stdout.splitlines()
    values = answer("fill", "ab_c_", "--model", both, "--top", "3", "--json")
    assert lines[-2].split()[0] == "2"
    assert lines[-1].split()[0] == "4"
    assert "\n".join(lines[:-2]) == values["text"]
    assert lines[-1].count("%") == 3


def test_fill_prints_text_and_blanks_as_json(both: str) -> None:
    """Each blank has its place, candidates, and the remaining probability: the sum is 1."""
    values = answer("fill", "ab_c_", "--model", both, "--top", "3", "--json")
    assert values.keys() == {"text", "blanks"}
    assert [blank["place"] for blank in values["blanks"]] == [2, 4]
    for blank in values["blanks"]:
        assert blank.keys() == {"place", "candidates", "remaining_probability", "entropy_bits"}
        probabilities = [candidate["probability"] for candidate in blank["candidates"]]
        assert probabilities == sorted(probabilities, reverse=True)
        assert sum(probabilities) + blank["remaining_probability"] == pytest.approx(1)


def test_fill_lists_at_most_all_characters(both: str) -> None:
    """A larger `--top` than there are characters lists all of them, and nothing remains."""
    (blank,) = answer("fill", "ab_", "--model", both, "--top", "999999", "--json")["blanks"]
    assert len(blank["candidates"]) == len(SYMBOLS)
    assert blank["remaining_probability"] == 0


def test_fill_reads_standard_input(both: str) -> None:
    """One newline at the end of standard input is taken off, and any character may mark a blank."""
    from_stdin = answer("fill", "-", "--model", both, "--json", stdin="ab_c\n\n")
    assert from_stdin == answer("fill", "ab_c\n", "--model", both, "--json")
    assert from_stdin == answer("fill", "-", "--model", both, "--json", "--blank", "é", stdin="abéc\n\n")
    assert from_stdin["text"].endswith("c\n")


def test_the_mark_of_a_blank_may_be_a_symbol_of_the_model(both: str) -> None:
    """A symbol of the model that marks a blank is a blank everywhere in the text."""
    marked = answer("fill", "ab?c?", "--model", both, "--json", "--blank", "?")
    assert marked == answer("fill", "abhch", "--model", both, "--json", "--blank", "h")


@pytest.mark.parametrize("mark", ["ab", "", "__", "e\u0301"])
def test_a_mark_of_a_blank_is_one_character(both: str, mark: str) -> None:
    """A mark that is empty or longer than one character is refused."""
    assert "is not one character" in refused("fill", "ab_c", "--model", both, "--blank", mark)


@pytest.mark.parametrize("text", ["abc", ""])
def test_fill_refuses_a_text_without_a_blank(both: str, text: str) -> None:
    """A text in which the mark of a blank does not occur gives an error."""
    assert "no blank" in refused("fill", text, "--model", both)


def test_fill_refuses_a_model_of_one_direction(make_model: Callable[..., ModelFile]) -> None:
    """A forward or backward model gives a hint to train one of both directions."""
    for direction in ("forward", "backward"):
        model = make_model()
        settings = model.config["model"] | {"direction": direction}
        replace(model, config=model.config | {"model": settings}).save(Path("one.safetensors"))
        assert "model.direction=both" in refused("fill", "a_", "--model", "one.safetensors")
        with pytest.raises(UsageError):
            Filler(model)


@pytest.mark.parametrize(
    "command",
    [["sample", "ab"], ["predict-next", "ab"], ["eval", "--window", "9"], ["eval", "--dynamic"], ["predict-next"]],
)
def test_a_model_of_both_sides_continues_no_text(both: str, command: list[str]) -> None:
    """Commands that ask for the next character refuse a model of both sides."""
    assert refused(*command, "--model", both, stdin="") != ""


def test_fill_reports_a_character_the_model_lacks(both: str) -> None:
    """An unknown character is an error of one line with its position, or is skipped as `--unknown` says."""
    assert "position 3" in refused("fill", "a_bZ", "--model", both, code=1)
    assert answer("fill", "a_bZ", "--model", both, "--json", "--unknown", "skip")["text"].endswith("b")
    assert "not a policy" in refused("fill", "a_bZ", "--model", both, "--unknown", "replace=")


def test_fill_with_overflowing_weights_prints_no_nan() -> None:
    """Huge weights in an unbounded cell give an error in one line, or JSON without NaN."""
    model = make("rnn-relu")
    wild = {name: np.full_like(array, 9e8) for name, array in model.arrays.items()}
    replace(model, arrays=wild).save(Path("wild.safetensors"))
    result = call("fill", "ab_abab", "--model", "wild.safetensors", "--json")
    assert result.exit_code == 1 or (result.exit_code == 0 and "NaN" not in result.stdout)


def learned(name: str, text: str, **changes: Any) -> Any:
    """Train a small model to the end."""
    changes = {"train__steps": 200, "train__batch_size": 8, "train__block_size": 32} | changes
    training = begin(name, text, **changes)
    interrupt(training, 1000)
    return training


def test_a_model_of_both_sides_learns_from_the_right_side() -> None:
    """A digit decided by the next letter is certain for a model of both sides, and a guess for a forward one."""
    random = np.random.default_rng(0)
    pairs = [f"{'01234567'[index]}{'abcdefgh'[index]}" for index in random.integers(8, size=2000)]
    both, forward = (
        learned(direction, "".join(pairs), model__direction=direction) for direction in ("both", "forward")
    )
    seen, unseen = (evaluate(run.learner.model, run.learner.parts.validation).top1_accuracy for run in (both, forward))
    print(f"of masked characters {seen:.1%} are right, of next ones {unseen:.1%}")
    assert seen > 0.97
    assert unseen < 0.65
    assert Filler(both.snapshot()).fill(["3d5f", "g2c", "b"], 1).text == "3d5f6g2c1b"


def test_a_model_of_both_sides_does_not_see_what_is_hidden() -> None:
    """On held-out random characters the model does no better than chance, although it sees all others."""
    random = np.random.default_rng(1)
    text = "".join("abcdefgh"[index] for index in random.integers(8, size=40_000))
    run = learned("chance", text, model__direction="both", model__hidden_size=32)
    scores = evaluate(run.learner.model, run.learner.parts.validation)
    print(f"{scores.nats_per_character:.4f} nats, chance {np.log(8):.4f}; {scores.top1_accuracy:.1%} right")
    # A model that saw the hidden character in training would do much worse than chance here.
    assert np.log(8) - 0.005 <= scores.nats_per_character <= np.log(8) + 0.03
    assert scores.top1_accuracy < 1 / 8 + 0.025


def test_training_of_both_sides_ends_with_a_filled_passage() -> None:
    """The passage with blanks and the filled one have the same length, however short the held-out text is."""
    for size in (300, 130, 60):
        Path("short.txt").write_text(("the hare and the fox. " * 20)[:size])
        small = ["--set", "model.hidden_size=8", "--set", "model.direction=both", "--set", "train.steps=2"]
        result = call("train", "--corpus", "short.txt", "--out", f"run{size}", "--json", *small)
        assert result.exit_code == 0, result.stderr
        values = json.loads(result.stdout)
        assert len(values["asked"]) == len(values["text"])
        assert "_" in values["asked"]
