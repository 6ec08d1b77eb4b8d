"""A text that is edited is read again only where it has changed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import pytest

from charlm.checkpoint import ModelFile
from charlm.inference import incremental
from charlm.inference.generate import generate, read_prompt
from charlm.inference.incremental import SPACING, STATES_KEPT, IncrementalReader
from charlm.inference.predict import predict
from charlm.inference.recent import Recent
from charlm.inference.sampling import Sampling
from charlm.inference.stepper import Stack, Stepper, StepperState
from charlm.inference.surprisal import measure_surprisal
from charlm.inference.words import WordPrediction, most_probable_words
from charlm.vocab import TextFilter, Vocabulary


class CountingStack(Stack):
    """Counts its steps."""

    steps = 0

    def step(self, ids_B: Any, state: StepperState) -> StepperState:
        """Step and count."""
        self.steps += 1
        return super().step(ids_B, state)


def counting(file: ModelFile) -> tuple[IncrementalReader, CountingStack]:
    """Return a reader and the stack that counts its steps, from 0."""
    stepper, stack = Stepper(file), CountingStack(file)
    stepper.stack = stack
    reader = IncrementalReader(stepper)
    stack.steps = 0
    return reader, stack


def steps_of(reader: IncrementalReader, stack: CountingStack, texts: Iterable[str]) -> list[int]:
    """Return how many steps each text costs after the one before it."""
    counts = []
    for text in texts:
        before = stack.steps
        reader.read(text)
        counts.append(stack.steps - before)
    return counts


def test_a_keystroke_is_one_step_and_a_backspace_none(make_model: Callable[..., ModelFile]) -> None:
    """Only the characters that differ from the text before are read."""
    texts = ("bad", "bad ", "bad c", "bad ", "bad", "had", "had")
    assert steps_of(*counting(make_model()), texts) == [3, 1, 1, 0, 0, 3, 0]


@pytest.mark.parametrize("recent", [False, True])
@pytest.mark.parametrize("states_kept", [1, 2, 3, 7, STATES_KEPT])
def test_an_edited_text_predicts_as_one_typed_at_once(
    make_model: Callable[..., ModelFile], states_kept: int, recent: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Insertions, deletions and replacements lead to the same numbers, however few states are kept."""
    monkeypatch.setattr(incremental, "STATES_KEPT", states_kept)
    stepper = Stepper(make_model("gru"))
    edited = IncrementalReader(stepper, recent=recent)
    random = np.random.default_rng(7)
    text = ""
    for _ in range(60):
        start, end = sorted(random.integers(0, len(text) + 1, size=2))
        text = text[:start] + "".join(random.choice(list("abc dX"), size=random.integers(0, 4))) + text[end:]
        edited.read(text)
        assert edited.predict(10) == predict(stepper, text, 10, "skip", recent)


def test_a_long_line_keeps_few_states(make_model: Callable[..., ModelFile]) -> None:
    """Deleting a few characters of a long line takes no step, and deleting many takes a few."""
    reader, stack = counting(make_model())
    line = "abcdefgh" * 400
    assert sum(steps_of(reader, stack, (line[:length] for length in range(1, len(line) + 1)))) == len(line)
    assert len(reader._states) <= STATES_KEPT + len(line) // SPACING + 1
    assert steps_of(reader, stack, [line[: -STATES_KEPT + 1]]) == [0]
    assert steps_of(reader, stack, [line[:1003]])[0] < SPACING


def test_an_unknown_character_of_a_line_is_skipped_and_named(make_model: Callable[..., ModelFile]) -> None:
    """The prediction is that of the text without the unknown character."""
    stepper = Stepper(make_model())
    reader = IncrementalReader(stepper)
    reader.read("ba\U0001f600d\U0001f600")
    assert reader.unknown_characters == "\U0001f600"
    assert reader.predict(3) == predict(stepper, "bad", 3)


def test_a_filtered_line_has_no_unknown_punctuation(make_model: Callable[..., ModelFile]) -> None:
    """A model of letters reads `D!` as `d` and a space, and knows both."""
    stepper = Stepper(make_model(symbols=Vocabulary("characters", " abcdefgh", "letters")))
    reader = IncrementalReader(stepper)
    reader.read("BAD!?x")
    assert reader.unknown_characters == "x"
    assert reader.predict(3) == predict(stepper, "bad ", 3)


def test_an_empty_line_predicts_as_an_empty_prompt(make_model: Callable[..., ModelFile]) -> None:
    """An empty line has one prediction, whether or not something was typed and deleted."""
    stepper = Stepper(make_model())
    reader = IncrementalReader(stepper)
    assert reader.predict(10) == predict(stepper, "", 10)
    reader.read("a")
    reader.read("")
    assert reader.predict(10) == predict(stepper, "", 10)


def test_the_continuation_is_what_greedy_sampling_writes(make_model: Callable[..., ModelFile]) -> None:
    """The continuation is a greedy sample that stops before the end of its line."""
    stepper = Stepper(make_model())
    reader = IncrementalReader(stepper)
    reader.read("a cab")
    generation = generate(stepper, "a cab", length=30, sampling=Sampling(temperature=0), seeds=[0])
    assert reader.continuation(30) == generation.texts(with_prompt=False)[0].partition("\n")[0]


LETTERS = Vocabulary("characters", " abcd", "letters")


@pytest.mark.parametrize("symbols", ["\n abcdefgh", Vocabulary.of_bytes(), LETTERS])
@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_the_bits_of_an_edited_text_are_those_of_its_score(
    make_model: Callable[..., ModelFile], symbols: str | Vocabulary, direction: str
) -> None:
    """Unknown characters have none; after an edit in the middle what follows is read again."""
    model = make_model("gru", symbols=symbols, direction=direction)
    reader, stepper = IncrementalReader(Stepper(model)), Stepper(model)
    for text in ("bad cab", "bad c\U0001f98aab", "ba c\U0001f98aab", "BA  c\u00e9ab!", "b"):
        reader.read(text)
        pieces = TextFilter(model.vocabulary.filter)
        changed = [pieces(character) for character in text]
        expected = iter(measure_surprisal(stepper, text, "skip").bits_C.tolist())
        bits = [sum(next(expected) for _ in piece) if piece else np.nan for piece in changed]
        assert np.allclose(reader.bits(), bits, equal_nan=True)
        assert np.allclose(reader.bits(1, 3), bits[1:3], equal_nan=True)
        assert np.isclose(reader.bits_per_character, np.nanmean(bits))


@pytest.mark.parametrize("recent", [False, True])
def test_a_place_in_the_middle_predicts_as_the_text_before_it(
    make_model: Callable[..., ModelFile], recent: bool
) -> None:
    """The prediction needs only what stands before the place; the rest keeps its bits until it is read."""
    stepper = Stepper(make_model("gru"))
    reader = IncrementalReader(stepper, recent=recent)
    reader.read("a bad cab")
    old = reader.bits()
    reader.edit("a bed cab", 4)
    assert reader.num_missing == 1
    assert np.array_equal(reader.bits(4), old[4:])
    assert reader.advance()
    assert reader.num_missing == 0
    assert reader.predict(5) == predict(stepper, "a be", 5, recent=recent)
    for position in (9, 3, 0, 6):
        reader.edit("a bed cab", position)
        while reader.advance():
            pass
        assert reader.predict(5) == predict(stepper, "a bed cab"[:position], 5, recent=recent)


def test_an_edit_in_the_middle_of_a_long_line_takes_few_steps(make_model: Callable[..., ModelFile]) -> None:
    """What stands before the cursor is read from the nearest state that was kept."""
    reader, stack = counting(make_model())
    line = "abcdefgh" * 100
    reader.read(line)
    for place in (301, 17, 403):
        before = stack.steps
        reader.edit(f"{line[:place]}a{line[place:]}", place + 1)
        while reader.num_missing:
            reader.advance()
        reader.predict(3)
        assert stack.steps - before <= SPACING
        reader.read(line)


@pytest.mark.parametrize("recent", [False, True])
@pytest.mark.parametrize("text", ["a bad ca", "a ba", "", "bad\U0001f98a"])
def test_words_after_an_edit_are_those_after_the_text(
    make_model: Callable[..., ModelFile], text: str, recent: bool
) -> None:
    """The search that pauses finds the same words with the same probabilities."""
    stepper = Stepper(make_model())
    reader = IncrementalReader(stepper, recent=recent)
    reader.read("a bad cab")
    reader.read(text)
    found: list[WordPrediction] = []

    def search() -> Iterator[None]:
        found.append((yield from reader.words(3)))

    assert list(search())
    logits_BV, state = read_prompt(stepper, text, "skip")
    known = text.removesuffix("\U0001f98a")
    counted = Recent.of(stepper.vocabulary.encode(known)) if recent else None
    expected = most_probable_words(stepper, logits_BV[0], state, known, 3, recent=counted, only_additions=True)
    assert found == [expected]
