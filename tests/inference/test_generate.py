"""Sampling and generation: from logits to characters, from a prompt to texts."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from charlm.cells import CELLS
from charlm.checkpoint import ModelFile
from charlm.errors import UnknownCharacterError, UsageError
from charlm.inference.generate import Piece, generate, read_prompt, read_prompts
from charlm.inference.sampling import Sampling, draw, softmax
from charlm.inference.stepper import Stepper
from charlm.vocab import Vocabulary

LOGITS = arrays(np.float32, st.integers(1, 40), elements=st.floats(-50, 50, width=32))


def write(file: ModelFile, prompt: str = "", sampling: Sampling | None = None, **options: Any) -> list[str]:
    """Generate texts and return what is new in each."""
    arguments: dict[str, Any] = {"length": 60, "seeds": [1], "sampling": sampling or Sampling()} | options
    return generate(Stepper(file), prompt, **arguments).texts(with_prompt=False)


@settings(max_examples=60, deadline=None)
@given(LOGITS, st.floats(1e-30, 1e6), st.integers(1, 60), st.floats(1e-6, 1), st.floats(0, 1))
def test_any_sampling_leaves_a_distribution(
    logits: np.ndarray, temperature: float, top_k: int, top_p: float, min_p: float
) -> None:
    """Under any settings the probabilities are finite, sum to 1, and keep the most probable character."""
    p_V = Sampling(temperature, top_k, top_p, min_p).probabilities(logits)
    assert np.isfinite(p_V).all()
    assert p_V.sum() == pytest.approx(1)
    assert 1 <= np.count_nonzero(p_V) <= min(top_k, len(logits))
    assert p_V[np.argmax(softmax(logits, temperature))] == p_V.max()


def test_plain_sampling_is_the_softmax() -> None:
    """At temperature 1 without cuts the distribution is the softmax, written out."""
    logits = np.log(np.array([0.1, 0.2, 0.7], dtype=np.float32))
    np.testing.assert_allclose(Sampling().probabilities(logits), [0.1, 0.2, 0.7], rtol=1e-6)
    np.testing.assert_allclose(Sampling(0.5).probabilities(logits), np.array([1, 4, 49]) / 54, rtol=1e-6)


def test_temperature_zero_is_greedy_whatever_the_seed(make_model: Callable[..., ModelFile]) -> None:
    """At temperature 0 all seeds give the text of the most probable characters, as `top_k=1` does."""
    greedy = Sampling(temperature=0)
    assert greedy.probabilities(np.array([1, 3, 3, 2], dtype=np.float32)).tolist() == [0, 1, 0, 0]
    texts = write(make_model(), sampling=greedy, seeds=[1, 2, 3])
    assert len(set(texts)) == 1
    assert texts[0] == write(make_model(), sampling=Sampling(top_k=1))[0]


def test_top_k_is_exact_under_ties() -> None:
    """`top_k=2` keeps two of five equally probable characters."""
    assert Sampling(top_k=2).probabilities(np.zeros(5, dtype=np.float32)).tolist() == [0.5, 0.5, 0, 0, 0]


def test_top_k_beyond_the_vocabulary_keeps_all() -> None:
    """A larger `top_k` than there are characters is no error."""
    np.testing.assert_allclose(Sampling(top_k=99).probabilities(np.zeros(4, dtype=np.float32)), [0.25] * 4)


def test_top_p_keeps_the_fewest_that_reach_it_together() -> None:
    """0.7 of (0.5, 0.3, 0.2) needs the first two; any share at all keeps the first."""
    logits = np.log(np.array([0.2, 0.5, 0.3]))
    np.testing.assert_allclose(Sampling(top_p=0.7).probabilities(logits), [0, 0.625, 0.375])
    np.testing.assert_allclose(Sampling(top_p=1e-9).probabilities(logits), [0, 1, 0])


def test_min_p_is_a_share_of_the_largest_probability() -> None:
    """At 0.5 a character is kept if it is at least half as probable as the most probable one."""
    logits = np.log(np.array([0.2, 0.5, 0.3]))
    np.testing.assert_allclose(Sampling(min_p=0.5).probabilities(logits), [0, 0.625, 0.375])


@pytest.mark.parametrize(
    "wrong",
    [{"temperature": -0.1}, {"temperature": float("nan")}, {"temperature": float("inf")}, {"top_k": 0}, {"top_p": 0.0},
     {"top_p": 1.1}, {"min_p": -1.0}, {"min_p": 2.0}],
)  # fmt: skip
def test_a_sampling_option_out_of_bounds_is_refused(wrong: dict[str, float]) -> None:
    """The error names the value that is out of bounds."""
    with pytest.raises(UsageError, match=str(next(iter(wrong.values())))):
        Sampling(**wrong)  # type: ignore[arg-type]


def test_the_draws_follow_the_probabilities() -> None:
    """A hundred thousand draws are within three standard deviations of the probabilities."""
    p_V = np.array([0.0, 0.05, 0.15, 0.3, 0.5, 0.0])
    random_B = np.random.default_rng(0).random(100_000)
    counts = np.bincount(draw(np.tile(p_V, (100_000, 1)), random_B), minlength=6)
    deviation = np.sqrt(100_000 * p_V * (1 - p_V))
    assert (np.abs(counts - 100_000 * p_V) <= 3 * deviation).all()


def test_no_drawn_number_lies_beyond_the_last_character() -> None:
    """The largest number below 1 draws the last possible character, whatever the sum of probabilities rounds to."""
    random = np.random.default_rng(1)
    for size in range(1, 200):
        p_V = random.random(size + 2)
        p_V[[0, -1]] = 0
        drawn = draw(p_V[None] / p_V.sum(), np.array([np.nextafter(1, 0)]))
        assert drawn.tolist() == [size]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 30), st.none() | st.integers(1, 40), st.floats(1e-6, 1), st.floats(0, 1))
def test_sampling_many_texts_is_sampling_each(
    seed: int, num_symbols: int, top_k: int | None, top_p: float, min_p: float
) -> None:
    """The probabilities of texts side by side are those of each text alone, to the bit."""
    logits_BV = np.random.default_rng(seed).normal(scale=3, size=(7, num_symbols)).round(1).astype(np.float32)
    for temperature in (0.0, 0.7):
        sampling = Sampling(temperature, top_k, top_p, min_p)
        together = sampling.probabilities(logits_BV)
        assert np.array_equal(together, [sampling.probabilities(logits_V) for logits_V in logits_BV])


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_a_seed_gives_the_same_text_alone_and_in_a_batch(make_model: Callable[..., ModelFile], cell: str) -> None:
    """Each text of a batch of eight is the text that its seed gives alone."""
    file = make_model(cell, 2, hidden_size=140)
    together = write(file, "ab", seeds=list(range(8)), length=200)
    assert [write(file, "ab", seeds=[seed], length=200)[0] for seed in range(8)] == together
    assert len(set(together)) == 8


def test_length_counts_new_characters_only(make_model: Callable[..., ModelFile]) -> None:
    """The prompt, which may be longer than the length, does not count."""
    assert len(write(make_model(), "abc" * 50, length=7)[0]) == 7
    assert write(make_model(), "abc", length=0) == [""]


def test_a_text_ends_with_its_stop_text(make_model: Callable[..., ModelFile]) -> None:
    """A text ends after the first place where its stop text stands."""
    free = write(make_model(), length=300)[0]
    stop = free[40:43]
    assert write(make_model(), length=300, stop=["zz", stop])[0] == free[: free.index(stop) + 3]


def test_a_text_ends_after_its_last_line(make_model: Callable[..., ModelFile]) -> None:
    """A text of two lines has two newlines, the second of them at its end."""
    text = write(make_model(), length=2000, lines=2)[0]
    assert text.count("\n") == 2
    assert text.endswith("\n")


def test_a_text_that_ends_does_not_end_the_others(make_model: Callable[..., ModelFile]) -> None:
    """Each text of a batch ends at its own stop, and none continues after it."""
    alone = [write(make_model(), seeds=[seed], lines=1, length=500)[0] for seed in range(5)]
    assert write(make_model(), seeds=range(5), lines=1, length=500) == alone
    assert len({len(text) for text in alone}) > 1


def test_an_empty_prompt_starts_a_text_like_a_new_line(make_model: Callable[..., ModelFile]) -> None:
    """The first character is no newline; a vocabulary without newlines works too."""
    stepper = Stepper(make_model())
    logits, _ = read_prompt(stepper, "")
    expected, _ = read_prompt(stepper, "\n")
    np.testing.assert_array_equal(logits[0, 1:], expected[0, 1:])
    assert all(write(make_model(), seeds=[seed], length=1) != ["\n"] for seed in range(40))
    assert write(make_model(symbols="\n"), length=2) == ["\n\n"]
    assert len(write(make_model(symbols="xyz"), length=9)[0]) == 9


def test_a_prompt_leaves_the_state_of_its_characters(make_model: Callable[..., ModelFile]) -> None:
    """Reading a prompt is stepping over each of its characters once, in order, from the start of a text."""
    stepper = Stepper(make_model("gru", 2))
    logits, state = stepper.start()
    for character in "bad cab":
        logits, state = stepper.step(stepper.vocabulary.encode(character).astype(int), state)
    found, found_state = read_prompt(stepper, "bad cab")
    np.testing.assert_array_equal(found, logits)
    for layer, expected in zip(found_state, state, strict=True):
        np.testing.assert_array_equal(layer, expected)


def test_an_unknown_character_in_the_prompt_is_named(make_model: Callable[..., ModelFile]) -> None:
    """The error has the code point of the unknown character, which the policy `skip` leaves out."""
    stepper = Stepper(make_model())
    with pytest.raises(UnknownCharacterError, match="U\\+1F600"):
        generate(stepper, "ab\U0001f600", length=1, sampling=Sampling(), seeds=[0])
    skipped, _ = read_prompt(stepper, "ab\U0001f600", "skip")
    np.testing.assert_array_equal(skipped, read_prompt(stepper, "ab")[0])


def test_characters_of_several_bytes_come_out_whole(make_model: Callable[..., ModelFile]) -> None:
    """With a vocabulary of bytes a piece of text never has half a character."""
    stepper = Stepper(make_model(symbols=Vocabulary.of_bytes()))
    generation = generate(stepper, "\u00e9", length=300, sampling=Sampling(), seeds=[1])
    pieces = [piece.text for piece in generation]
    assert all(pieces)
    "".join(pieces).encode("utf-8")


def test_iterating_again_draws_the_same_pieces(make_model: Callable[..., ModelFile]) -> None:
    """A generation keeps no position: half of it may be drawn before the whole."""
    generation = generate(Stepper(make_model()), "ab", length=30, sampling=Sampling(), seeds=[1, 2])
    first = next(iter(generation))
    pieces = list(generation)
    assert (first, len(pieces)) == (pieces[0], 60)
    texts = ["ab" + "".join(piece.text for piece in pieces if piece.number == number) for number in (0, 1)]
    assert generation.texts() == texts


@pytest.mark.parametrize("direction", ["forward", "backward"])
@pytest.mark.parametrize("with_prompt", [True, False])
def test_pieces_in_reading_order_make_the_texts(
    make_model: Callable[..., ModelFile], direction: str, with_prompt: bool
) -> None:
    """Pieces join to the texts; forward, the prompt comes first, and backward, a text is one piece."""
    stepper = Stepper(make_model(direction=direction))
    generation = generate(stepper, "bad", length=9, sampling=Sampling(), seeds=[1, 2, 3])
    written = ["", "", ""]
    for number, text in generation.in_reading_order(with_prompt):
        written[number] += text
    assert written == generation.texts(with_prompt)
    new = generation.texts(with_prompt=False)
    if direction == "backward":
        assert written == [text + "bad" * with_prompt for text in new]
        assert next(generation.in_reading_order(with_prompt)) == Piece(0, written[0])
    else:
        assert written == ["bad" * with_prompt + text for text in new]
        assert next(generation.in_reading_order(with_prompt)) == Piece(0, "bad" if with_prompt else new[0][0])


@pytest.mark.parametrize("direction", ["forward", "backward"])
@pytest.mark.parametrize("cell", CELLS)
def test_prompts_side_by_side_give_the_texts_of_each_alone(
    make_model: Callable[..., ModelFile], cell: str, direction: str
) -> None:
    """Prompts of any lengths, empty ones and repeated ones too, have to the bit the logits that each has alone."""
    stepper = Stepper(make_model(cell, 2, hidden_size=100, direction=direction))
    prompts = ["bad", "", "a" * 90, "c", "", "bad cab", "hg fed cba" * 3, "bad"] * 5
    logits_BV, state = read_prompts(stepper, prompts)
    for row, prompt in enumerate(prompts[:8]):
        alone, state_alone = read_prompt(stepper, prompt)
        np.testing.assert_array_equal(logits_BV[row], alone[0])
        for layer, layer_alone in zip(state, state_alone, strict=True):
            np.testing.assert_array_equal([part[row] for part in layer], [part[0] for part in layer_alone])
    options: dict[str, Any] = {"length": 40, "sampling": Sampling(9), "stop": ["ab"], "lines": 2}
    together = generate(stepper, prompts, seeds=range(40), **options).texts()
    # Every fifth row has each of the eight prompts.
    some = range(0, 40, 5)
    alone_texts = [generate(stepper, prompts[k], seeds=[k], **options).texts()[0] for k in some]
    assert [together[k] for k in some] == alone_texts
    assert len({len(text) - len(prompt) for text, prompt in zip(together, prompts, strict=True)}) > 3


def test_texts_are_complete_in_order_and_as_soon_as_they_can(
    make_model: Callable[..., ModelFile], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first text is there when its stop text is met, long before the others have all their characters."""
    stepper = Stepper(make_model())
    texts = generate(stepper, "ab", length=400, sampling=Sampling(), seeds=range(5)).texts(with_prompt=False)
    options: dict[str, Any] = {"sampling": Sampling(), "seeds": range(5), "stop": [texts[0][6:9]]}
    num_steps = 0

    def counted(*arguments: Any, step: Callable[..., Any] = stepper.step) -> Any:
        nonlocal num_steps
        num_steps += 1
        return step(*arguments)

    monkeypatch.setattr(stepper, "step", counted)
    completed = generate(stepper, "ab", length=400, **options).completed()
    assert next(completed) == "ab" + texts[0][:9]
    assert num_steps < 10
    assert ["ab" + texts[0][:9], *completed] == generate(stepper, "ab", length=400, **options).texts()


@pytest.mark.parametrize(
    ("symbols", "drawn", "lines", "text"),
    [
        ("\nab", "ab\nb\na", 2, "ab\nb\n"),
        ("\rab", "ab\rb\ra", 2, "ab\rb\r"),
        ("\n\rab", "a\r\nb\r\nab", 2, "a\r\nb\r\n"),
        ("\n\rab", "a\rb\rab", 2, "a\rb\r"),
        ("\n\rab", "a\nb\nab", 2, "a\nb\n"),
        ("\n\rab", "a\r\rab", 2, "a\r\r"),
        ("\n\rab", "a\n\rab", 2, "a\n\r"),
        ("\n\rab", "a\r\nb", 1, "a\r\n"),
        ("\n\rab", "ab\r", 1, "ab\r"),
    ],
)
@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_a_line_ends_with_lf_cr_lf_or_cr(
    make_model: Callable[..., ModelFile], symbols: str, drawn: str, lines: int, text: str, direction: str
) -> None:
    """CR LF counts as one line end, a CR alone as one, whichever of them the vocabulary has."""
    stepper = _Reciter(make_model(symbols=symbols, direction=direction), drawn)
    options: dict[str, Any] = {"length": len(drawn), "sampling": Sampling(0), "seeds": [1, 2], "lines": lines}
    if direction == "forward":
        assert generate(stepper, "", **options).texts() == [text, text]
        assert "".join(piece.text for piece in generate(stepper, "", **options) if piece.number == 1) == text
        return
    mirrored = {"\r\n": "\n\r", "\n\r": "\r\n"}
    stepper.drawn = re.sub("\r\n|\n\r", lambda found: mirrored[found[0]], drawn)
    expected = re.sub("\r\n|\n\r", lambda found: mirrored[found[0]], text)[::-1]
    assert generate(stepper, "", **options).texts() == [expected, expected]


class _Reciter(Stepper):
    """Draws the characters of a text, whatever it has read."""

    def __init__(self, model: ModelFile, drawn: str) -> None:
        super().__init__(model)
        self.drawn = drawn
        self._position = 0

    def read_each(self, texts: Any) -> Any:
        self._position = 0
        logits_BV, state = super().read_each(texts)
        return self._certain(len(logits_BV)), state

    def step(self, ids_B: Any, state: Any) -> Any:
        self._position += 1
        return self._certain(len(ids_B)), state

    def _certain(self, num_streams: int) -> Any:
        logits_BV = np.zeros((num_streams, len(self.vocabulary)), np.float32)
        logits_BV[:, self.vocabulary.encode(self.drawn[self._position])] = 9
        return logits_BV


@pytest.mark.parametrize("wrong", [{"length": -1}, {"lines": 0}, {"seeds": [3, -7]}, {"stop": ["a", ""]}])
def test_wrong_limits_seeds_and_stops_are_refused(make_model: Callable[..., ModelFile], wrong: dict[str, Any]) -> None:
    """A wrong option is a `UsageError` before the prompt is read."""
    with pytest.raises(UsageError):
        write(make_model(), "\U0001f600", **wrong)


def test_a_prompt_needs_no_logits_but_the_last(
    make_model: Callable[..., ModelFile], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The output layer, which a large vocabulary makes slow, is computed once for a prompt."""
    stepper, count = Stepper(make_model()), 0

    def counted(*arguments: Any, logits: Callable[..., Any] = stepper.logits) -> Any:
        nonlocal count
        count += 1
        return logits(*arguments)

    monkeypatch.setattr(stepper, "logits", counted)
    read_prompt(stepper, "bad cab")
    assert count == 1
