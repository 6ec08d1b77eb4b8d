"""The figures of a scored text are those that predictions, one character after another, give."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from charlm.checkpoint import ModelFile
from charlm.errors import CorpusError, UnknownCharacterError, UsageError
from charlm.inference.language_model import LanguageModel
from charlm.inference.surprisal import Surprisal
from charlm.inference.surprisal_difference import SurprisalDifference
from charlm.vocab import Vocabulary

TEXT = "had a bad cab\nfade ha gag hedge\n\nbeach"
SYMBOLS = "\n abcdefgh"
MORE_SYMBOLS = "\n abcdefghi\u00e9\u72d0"


def step_by_step(model: LanguageModel, text: str) -> list[tuple[float, str, float]]:
    """Return for each character its bits, what was expected, and how probable that was, by one `step` after another."""
    found = []
    logits_V, state = model.step()
    order = -1 if model.spec.is_backward else 1
    for character in text[::order]:
        e_V = np.exp(logits_V.astype(float))
        p = dict(zip(model.vocabulary.symbols, e_V / e_V.sum(), strict=True))
        expected = max(p, key=lambda symbol: p[symbol])
        found.append((-math.log2(p[character]), expected, p[expected]))
        logits_V, state = model.step(character, state)
    return found[::order]


def masked(model: LanguageModel, text: str) -> list[tuple[float, str, float]]:
    """Return the same for a model of both sides, by `fill`."""
    found = []
    for place, character in enumerate(text):
        blank = f"{text[:place]}_{text[place + 1 :]}"
        candidates = model.fill(blank, top=len(model.vocabulary)).blanks[0].candidates
        (probability,) = [c.probability for c in candidates if c.character == character]
        found.append((-math.log2(probability), candidates[0].character, candidates[0].probability))
    return found


@pytest.mark.parametrize("direction", ["forward", "backward", "both"])
def test_places_are_those_of_the_predictions(make_model: Callable[..., ModelFile], direction: str) -> None:
    """Bits, what was expected and both probabilities are what `step` or `fill` say of each place."""
    model = LanguageModel(make_model("gru", 2, SYMBOLS, direction=direction))
    expected = (masked if direction == "both" else step_by_step)(model, TEXT)
    scored = model.surprisal(TEXT)
    np.testing.assert_allclose(scored.bits_C, [bits for bits, _, _ in expected], atol=1e-5)
    np.testing.assert_array_equal(scored.bits_C, model.score(TEXT))
    places = scored.worst_places(len(TEXT))
    assert sorted(place.position for place in places) == list(range(len(TEXT)))
    assert [place.bits for place in places] == sorted(scored.bits_C, reverse=True)
    for place in places:
        bits, character, probability = expected[place.position]
        assert (place.found.character, place.expected.character) == (TEXT[place.position], character)
        assert place.found.probability == pytest.approx(2**-bits, rel=1e-4)
        assert place.expected.probability == pytest.approx(probability, rel=1e-4)
        before = TEXT[: place.position]
        assert (place.line, place.column) == (before.count("\n") + 1, len(before) - before.rfind("\n"))


def test_totals_are_those_of_the_definitions(make_model: Callable[..., ModelFile]) -> None:
    """Each total is computed from the bits of the characters by its definition."""
    model = LanguageModel(make_model("lstm", symbols=MORE_SYMBOLS))
    text = "bad caf\u00e9\nhad  a bag \n"
    bits = [bits for bits, _, _ in step_by_step(model, text)]
    totals = model.surprisal(text).totals()
    assert totals == {
        "characters": 21,
        "bytes": 22,
        "words": 5,
        "unknown_characters": 0,
        "bits_per_character": pytest.approx(sum(bits) / 21, abs=1e-5),
        "bits_per_byte": pytest.approx(sum(bits) / 22, abs=1e-5),
        "bits_per_word": pytest.approx(sum(bits) / 5, abs=1e-4),
        "perplexity_per_character": pytest.approx(math.exp(sum(bits) * math.log(2) / 21), rel=1e-4),
        "perplexity_per_word": pytest.approx(math.exp(sum(bits) * math.log(2) / 5), rel=1e-3),
    }


def test_lines_are_ranked_by_their_bits_per_character(make_model: Callable[..., ModelFile]) -> None:
    """Each line has the characters up to its end, and the mean of their bits."""
    model = LanguageModel(make_model(symbols=SYMBOLS + "\r"))
    text = "had\r\n\rbad cab\nfade\n\n"
    scored = model.surprisal(text)
    lines = scored.worst_lines()
    in_order = ["had\r\n", "\r", "bad cab\n", "fade\n", "\n"]
    assert [line.text for line in sorted(lines)] == in_order
    means = [scored.bits_C[line.start : line.start + len(line.text)].mean() for line in lines]
    assert means == sorted(means, reverse=True)
    assert [row["bits_per_character"] for row in scored.to_json()["lines"]] == [
        pytest.approx(scored.bits_per_unit(line.span)) for line in sorted(lines)
    ]
    assert [scored.bits_per_unit(line.span) for line in lines] == pytest.approx(means)


@pytest.mark.parametrize("direction", ["forward", "backward", "both"])
def test_a_character_has_the_bits_of_its_bytes(make_model: Callable[..., ModelFile], direction: str) -> None:
    """A model of bytes gives a character the sum; from both sides, figures are per masked byte."""
    model = LanguageModel(make_model(symbols=Vocabulary.of_bytes(), direction=direction))
    text = "a\u00e9\u72d0\U0001f98a\nb"
    of_bytes = model.score(text)
    ends = np.cumsum([len(character.encode()) for character in text])
    scored = model.surprisal(text)
    np.testing.assert_allclose(scored.bits_C, [part.sum() for part in np.split(of_bytes, ends[:-1])])
    totals = scored.totals()
    if direction == "both":
        assert totals["bits_per_masked_byte"] == pytest.approx(of_bytes.mean())
        assert not {"bits_per_byte", "bits_per_character", "bits_per_word"} & totals.keys()
    else:
        assert totals["bits_per_byte"] == pytest.approx(of_bytes.mean())
        assert totals["bits_per_character"] == pytest.approx(of_bytes.sum() / len(text))
    worst = scored.worst_places(1)[0]
    assert worst.bits == of_bytes.max()
    assert worst.found.character == chr(text.encode()[int(of_bytes.argmax())])
    assert worst.position == int(np.searchsorted(ends, of_bytes.argmax(), side="right"))


def test_unknown_characters_have_no_bits_when_skipped(make_model: Callable[..., ModelFile]) -> None:
    """They keep their place, and the others have the bits of the text without them."""
    model = LanguageModel(make_model(symbols=SYMBOLS))
    scored = model.surprisal("xba\u00e9d\nx", unknown="skip")
    known = [1, 2, 4, 5]
    np.testing.assert_array_equal(scored.bits_C[known], model.score("bad\n"))
    assert np.isnan(np.delete(scored.bits_C, known)).all()
    assert (scored.num_unknown, scored.totals()["characters"], scored.num_bytes) == (3, 4, 4)
    assert scored.totals()["bits_per_character"] == pytest.approx(model.score("bad\n").mean())
    assert {place.position for place in scored.worst_places()} == set(known)
    assert [line.number for line in scored.worst_lines()] == [1]
    assert scored.to_json()["bits_of_characters"][0] is None
    replaced = model.surprisal("xb", unknown="replace=a")
    np.testing.assert_array_equal(replaced.bits_C, model.score("ab"))
    assert (replaced.text, replaced.read, replaced.num_unknown) == ("xb", "ab", 1)
    with pytest.raises(UnknownCharacterError):
        model.surprisal("xb")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a", 1),
        (" \n", None),
        ("bad  cab\n", 2),
        ("\u72d0\u72d0a\u72d0", None),
        ("bad cab had a gag b" * 9 + "\u72d0", 46),
    ],
)
def test_words_stand_between_white_space(make_model: Callable[..., ModelFile], text: str, words: int | None) -> None:
    """There is no number of words in a text of a script without spaces, and none in a text without words."""
    totals = LanguageModel(make_model(symbols=MORE_SYMBOLS)).surprisal(text).totals()
    assert totals["words"] == words == (None if totals["bits_per_word"] is None else words)


@pytest.mark.parametrize("direction", ["forward", "backward", "both"])
@pytest.mark.parametrize(("text", "unknown"), [("", "error"), ("xyz", "skip")])
def test_a_text_without_characters_is_refused(
    make_model: Callable[..., ModelFile], direction: str, text: str, unknown: str
) -> None:
    """An empty text, and one of which the model knows nothing, have no bits per character."""
    with pytest.raises(CorpusError, match="nothing to score"):
        LanguageModel(make_model(symbols=SYMBOLS, direction=direction)).surprisal(text, unknown=unknown)


def test_an_excluded_character_costs_no_number_in_json(make_model: Callable[..., ModelFile]) -> None:
    """The file of a hostile model may make a character impossible; JSON has neither infinity nor NaN."""
    file = make_model(symbols=SYMBOLS)
    bias = file.arrays["output.bias"].copy()
    bias[2] = -np.inf
    scored = LanguageModel(replace(file, arrays=file.arrays | {"output.bias": bias})).surprisal("bad")
    assert scored.bits_C[1] == np.inf
    assert scored.worst_places(1)[0].found.probability == 0
    json.dumps([scored.to_json(), SurprisalDifference(scored, scored).to_json()], allow_nan=False)


# Two models


def two(make_model: Callable[..., ModelFile], text: str, other_symbols: str = SYMBOLS) -> list[Surprisal]:
    """Score a text with a model, and with another one of another cell and perhaps another vocabulary."""
    files = (make_model("lstm", symbols=SYMBOLS, seed=1), make_model("gru", symbols=other_symbols, seed=2))
    return [LanguageModel(file).surprisal(text, unknown="skip") for file in files]


def test_a_difference_is_that_of_the_bits(make_model: Callable[..., ModelFile]) -> None:
    """It is positive where the other model needs fewer bits; its sums over lines rank the passages both ways."""
    model, other = two(make_model, TEXT)
    difference = SurprisalDifference(model, other)
    np.testing.assert_array_equal(difference.differences_C, model.bits_C - other.bits_C)
    assert difference.totals()["bits_per_character"] == pytest.approx(model.bits_C.mean())
    assert difference.totals()["other_bits_per_character"] == pytest.approx(other.bits_C.mean())
    of_lines, start = {}, 0
    for number, line in enumerate(TEXT.splitlines(keepends=True), 1):
        of_lines[number] = difference.differences_C[start : start + len(line)].sum()
        start += len(line)
    for passages, sign in ((difference.liked_by_model(9), -1), (difference.liked_by_other(9), 1)):
        expected = {number: value for number, value in of_lines.items() if value * sign > 0}
        assert [passage.line for passage in passages] == sorted(expected, key=lambda n: -sign * expected[n])
        assert [passage.difference for passage in passages] == [pytest.approx(expected[p.line]) for p in passages]


def test_only_what_both_models_know_is_compared(make_model: Callable[..., ModelFile]) -> None:
    """Neither skipped nor replaced characters count, in no sum of either model."""
    text = "bi\u72d0d hid\u00e9"
    model, other = two(make_model, text, MORE_SYMBOLS)
    difference = SurprisalDifference(model, other)
    known = [0, 3, 4, 5, 7]
    assert np.flatnonzero(difference.is_compared_C).tolist() == known
    totals = difference.totals()
    assert (totals["characters"], totals["dropped_characters"]) == (5, 4)
    assert totals["other_bits_per_character"] == pytest.approx(other.bits_C[known].mean())
    replaced = LanguageModel(make_model("lstm", symbols=SYMBOLS, seed=1)).surprisal(text, unknown="replace=a")
    assert SurprisalDifference(replaced, other).totals()["characters"] == 5


def test_a_long_line_has_several_passages(make_model: Callable[..., ModelFile]) -> None:
    """They are divided after spaces, have at most 80 characters, and are the whole text together."""
    text = ("bad cab " * 30).rstrip() + "\n" + "a" * 200 + "\nbad cab"
    passages = SurprisalDifference(*two(make_model, text)).passages()
    assert "".join(passage.text for passage in passages) == text
    assert max(len(passage.text) for passage in passages) == 80
    assert [passage.line for passage in passages] == [1, 1, 1, 2, 2, 2, 3]
    assert all(passage.text.startswith("bad") for passage in passages if passage.line != 2)
    assert passages[-1].text == "bad cab"


def test_figures_of_different_kinds_are_not_compared(make_model: Callable[..., ModelFile]) -> None:
    """Bits of masked characters are not bits of characters, and different texts have different characters."""
    forward = LanguageModel(make_model(symbols=SYMBOLS)).surprisal("bad")
    both = LanguageModel(make_model(symbols=SYMBOLS, direction="both")).surprisal("bad")
    with pytest.raises(UsageError, match="masked character"):
        SurprisalDifference(forward, both)
    with pytest.raises(UsageError, match="same characters"):
        SurprisalDifference(forward, LanguageModel(make_model(symbols=SYMBOLS)).surprisal("cab"))
