"""The most probable words: exact, with true probabilities, in every kind of vocabulary."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from charlm.checkpoint import ModelFile
from charlm.errors import UsageError
from charlm.inference import words
from charlm.inference.generate import read_prompt
from charlm.inference.language_model import LanguageModel
from charlm.inference.predict import predict
from charlm.inference.prediction_comparison import ComparedCharacters, ComparedWords
from charlm.inference.sampling import Floats, softmax
from charlm.inference.stepper import Stepper, StepperState
from charlm.inference.words import most_probable_words, predict_words, word_probabilities
from charlm.vocab import Vocabulary
from tests.helpers.model_files import with_ngrams

Make = Callable[..., ModelFile]
ALPHABET = "\n 'abc"
# A word that begins a text, and the character or two after it that show where it ends.
WORD = re.compile(r"([\n ']*[abc]+(?:'[abc]+)*)(?:[\n ]|'[^abc])")
# In Chinese so many characters stand for a word; a change of the script ends one, too.
CHINESE = "\uff0ca\u4e2d\u6587"
CHINESE_WORD = re.compile("(\uff0c*(?:[\u4e2d\u6587]{2}(?=.)|[\u4e2d\u6587](?=[\uff0ca])|a+(?=[\uff0c\u4e2d\u6587])))")
# Two letters, one of them of two bytes. A lone byte, or a pair that is no character, is no part of a word.
BYTES = " a\xc3\xa9"
BYTES_WORD = re.compile("((?:[ \xa9]|\xc3[^\xa9])*(?:a|\xc3\xa9)+)(?:[ \xa9]|\xc3[^\xa9])")


def enumerated(
    stepper: Stepper, text: str, length: int, inside: str = "", word: re.Pattern[str] = WORD, temperature: float = 1.0
) -> dict[str, float]:
    """Return the probability of every word that is decided within some symbols, by reading every continuation.

    Args:
        stepper: the model.
        text: the text before.
        length: how many symbols to try.
        inside: the part of the word that the text has already.
        word: what a word is, and what shows its end.
        temperature: of the probabilities.
    """
    sign = -1 if stepper.is_backward else 1
    found: dict[str, float] = {}

    def read(added: str, p: float, logits_BV: Floats, state: StepperState) -> None:
        # In the order of reading, in which the pattern is the same from both sides.
        for index, share in enumerate(p * softmax(logits_BV[0], temperature)):
            longer = added + stepper.vocabulary.symbols[index]
            if match := word.match(inside[::sign] + longer):
                ended = match[1][len(inside) :][::sign]
                found[ended] = found.get(ended, 0) + share
            elif len(longer) < length and share > 1e-9:
                read(longer, share, *stepper.step(np.array([index]), state))

    read("", 1.0, *read_prompt(stepper, text))
    return found


def best_of(expected: dict[str, float], num: int, longest: int) -> list[tuple[str, float]]:
    """Return the most probable words that are short enough to be decided."""
    decided = [(word, p) for word, p in expected.items() if len(word) <= longest]
    return sorted(decided, key=lambda item: -item[1])[:num]


def only(file: ModelFile, symbols: str) -> ModelFile:
    """Return a model of bytes that predicts only some of them."""
    bias_V = np.where([symbol in symbols for symbol in file.vocabulary.symbols], np.float32(0), np.float32(-80))
    return replace(file, arrays=file.arrays | {"output.bias": bias_V})


@pytest.mark.parametrize("direction", ["forward", "backward"])
@pytest.mark.parametrize(("text", "inside"), [("ab ca", "ca"), ("c ", ""), ("b'", "b'"), ("", "")], ids=repr)
def test_words_are_those_of_an_enumeration(make_model: Make, direction: str, text: str, inside: str) -> None:
    """The probability of a word is the sum over all texts of some characters that begin with it and a boundary."""
    sign = -1 if direction == "backward" else 1
    stepper = Stepper(make_model("gru", symbols=ALPHABET, direction=direction, hidden_size=6))
    # Longer words are not decided after so few characters.
    best = best_of(enumerated(stepper, text[::sign], 5, inside[::sign]), 3, 3)
    prediction = predict_words(stepper, text[::sign], 3)
    assert [word.text for word in prediction.words] == [word for word, _ in best]
    assert [word.probability for word in prediction.words] == pytest.approx([p for _, p in best], rel=1e-5)
    whole = [word + inside[::sign] if sign == -1 else inside + word for word, _ in best]
    assert [word.word for word in prediction.words] == whole
    assert prediction.is_complete
    assert prediction.remaining_probability == pytest.approx(1 - sum(p for _, p in best))


@pytest.mark.parametrize("text", ["", "\u4e2d", "a", "a\uff0c"], ids=ascii)
def test_words_of_two_characters_end_in_chinese(make_model: Make, text: str) -> None:
    """Where no spaces stand between words, two characters are a word at most, and other letters end it."""
    stepper = Stepper(make_model(symbols=CHINESE, seed=1))
    inside = "a" if text == "a" else ""
    best = best_of(enumerated(stepper, text, 5, inside, CHINESE_WORD), 10, 3)
    assert inside or any(re.search("[\u4e2d\u6587]{2}", word) for word, _ in best)
    # Longer words are not decided after so few characters.
    found = [word for word in predict_words(stepper, text, 30).words if len(word.text) <= 3][:10]
    assert [(word.text, word.word) for word in found] == [(word, inside + word) for word, _ in best]
    assert [word.probability for word in found] == pytest.approx([p for _, p in best], rel=1e-5)


@pytest.mark.parametrize("text", ["", "a\u00e9", " "], ids=ascii)
def test_words_of_bytes_have_whole_characters(make_model: Make, text: str) -> None:
    """A character of several bytes continues a word, and bytes that are no text end it."""
    stepper = Stepper(only(make_model(symbols=Vocabulary.of_bytes()), BYTES))
    inside = text.strip().encode().decode("latin-1")
    expected = enumerated(stepper, text, 6, inside, BYTES_WORD)
    best = best_of(expected, 3, 3)
    prediction = predict_words(stepper, text, 3)
    read = [word.encode("latin-1").decode(errors="replace") for word, _ in best]
    assert [word.text for word in prediction.words] == read
    assert [word.probability for word in prediction.words] == pytest.approx([p for _, p in best], rel=1e-5)


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_a_given_word_has_the_probability_of_enumeration(make_model: Make, direction: str) -> None:
    """It is measured without a search, also if another model found it; a word that the model cannot write has none."""
    stepper = Stepper(make_model("gru", symbols=ALPHABET, direction=direction, hidden_size=6, seed=2))
    text = "a b" if direction == "forward" else "b a"
    expected = enumerated(stepper, text, 5, "b")
    added = [word for word, _ in best_of(expected, 20, 3)]
    assert "" in added
    assert word_probabilities(stepper, text, added) == pytest.approx([expected[word] for word in added], rel=1e-5)
    # No word has a boundary within, and the text between two words belongs to the second.
    assert word_probabilities(stepper, text, ["x", "a b", " "]) == [None, 0.0, 0.0]


@pytest.mark.parametrize("has_ngrams", [False, True])
def test_a_word_costs_what_its_text_costs(make_model: Make, has_ngrams: bool) -> None:
    """Its bits are those that `score` finds for its characters and for each boundary, n-grams included."""
    file = make_model()
    model = LanguageModel(with_ngrams(file) if has_ngrams else file)
    text = "bad "
    before = model.score(text).sum()
    for word in model.predict_words(text, top=3).words:
        bits = [model.score(text + word.text + end).sum() - before for end in "\n "]
        assert word.probability == pytest.approx(sum(2.0**-each for each in bits), rel=1e-4)


def test_every_word_adds_characters_if_that_is_asked(make_model: Make) -> None:
    """After the text of a whole word come its longer forms and the next word, and the end of the word is none."""
    stepper = Stepper(make_model(symbols=ALPHABET))
    logits_BV, state = read_prompt(stepper, "ab")
    expected = enumerated(stepper, "ab", 5)
    found = most_probable_words(stepper, logits_BV[0], state, "ab", 3, only_additions=True)
    assert [word.text for word in found.words] == [word for word, _ in best_of(expected, 3, 3)]
    assert all(word.text for word in found.words)


def test_a_temperature_changes_the_probabilities(make_model: Make) -> None:
    """They are those of the enumeration with the same temperature."""
    stepper = Stepper(make_model(symbols=ALPHABET))
    logits_BV, state = read_prompt(stepper, "ab ")
    best = best_of(enumerated(stepper, "ab ", 5, temperature=0.5), 3, 3)
    found = most_probable_words(stepper, logits_BV[0], state, "ab ", 3, temperature=0.5)
    assert [word.text for word in found.words] == [word for word, _ in best]
    assert [word.probability for word in found.words] == pytest.approx([p for _, p in best], rel=1e-4)


def test_what_the_text_has_said_before_counts(make_model: Make) -> None:
    """A phrase that was read six times is expected to continue with the same word."""
    model = LanguageModel(make_model())
    text = "bad face " * 6 + "bad f"
    assert model.predict_words(text, 1, recent=True).words[0].word == "face"
    assert model.predict_words(text, 1, recent=True).words[0].probability > 0.3
    alone, counting = (
        word_probabilities(Stepper(make_model()), text, ["ace"], recent=r)[0] or 0 for r in (False, True)
    )
    assert counting > 10 * alone


@pytest.mark.parametrize("limit", [1, 5, 40])
def test_a_search_that_ends_early_says_so(make_model: Make, monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    """Its words have true probabilities, and no word that is missing has more than it says."""
    stepper = Stepper(make_model(symbols=ALPHABET))
    expected = predict_words(stepper, "ab ", 40)
    true = {word.text: word.probability for word in expected.words}
    monkeypatch.setattr(words, "MAX_EXTENDED", limit)
    found = predict_words(stepper, "ab ", 40)
    assert expected.is_complete
    assert not found.is_complete
    listed = [word.text for word in found.words]
    assert len(listed) < 40
    probabilities = [word.probability for word in found.words]
    assert probabilities == sorted(probabilities, reverse=True)
    # They are listed though they are not certain yet.
    assert listed
    assert all(word.probability == pytest.approx(true.get(word.text, word.probability)) for word in found.words)
    assert max(p for text, p in true.items() if text not in listed) <= found.others_at_most + 1e-9


@pytest.mark.parametrize(
    "text", ["Caf\u00e9", "cafe\u0301", "\u043c\u0438\u0440", "R2D2", "don't", "well-known"], ids=ascii
)
def test_letters_of_every_script_make_words(make_model: Make, text: str) -> None:
    """Capitals, accents, digits, a combining mark, Cyrillic letters, and joiners between letters belong to a word."""
    stepper = Stepper(make_model(symbols="".join(sorted({*text, " ", "-", "x"}))))
    for word in predict_words(stepper, f"x - {text}", 4).words:
        assert word.word == text + word.text
    # A dash after a space is part of no word.
    assert all(word.word == word.text for word in predict_words(stepper, f"{text} -", 4).words)


@pytest.mark.parametrize("symbols", [" .,\n", "abc"], ids=repr)
def test_a_model_without_words_is_refused(make_model: Make, symbols: str) -> None:
    """Without letters there are no words, and without anything else they have no end."""
    with pytest.raises(UsageError, match=r"no letters|no character that ends"):
        predict_words(Stepper(make_model(symbols=symbols)), "", 3)


def test_words_refuse_bad_calls(make_model: Make) -> None:
    """A number below 1 and a model of both sides are `UsageError`s."""
    model, both = LanguageModel(make_model()), LanguageModel(make_model(direction="both"))
    for ask in (lambda: model.predict_words("a", 0), lambda: both.predict_words("a")):
        with pytest.raises(UsageError):
            ask()


def test_two_models_compare_words_of_both(make_model: Make) -> None:
    """Each word that one of them lists has the probability of an enumeration by each, or none where a letter lacks."""
    steppers = [Stepper(make_model(symbols=ALPHABET)), Stepper(make_model(symbols=f"{ALPHABET}z", seed=1))]
    compared = ComparedWords.of(steppers, "ab ", 4, "error", recent=False)
    own = [[word.text for word in predict_words(stepper, "ab ", 4).words] for stepper in steppers]
    assert {word.text for word in compared.words} == {*own[0], *own[1]}
    assert own[0] != own[1]
    expected = [enumerated(stepper, "ab ", 5, word=re.compile(WORD.pattern.replace("c", "cz"))) for stepper in steppers]
    for word in compared.words:
        for p, words_of_model in zip(word.probabilities, expected, strict=True):
            if p is None or len(word.text) <= 3:
                assert words_of_model.get(word.text) == (p if p is None else pytest.approx(p, rel=1e-4))
    assert any(None in word.probabilities for word in compared.words)
    highest = [max(p or 0 for p in word.probabilities) for word in compared.words]
    assert highest == sorted(highest, reverse=True)
    for number, remaining in enumerate(compared.remaining_probabilities):
        assert remaining == pytest.approx(1 - sum(word.probabilities[number] or 0 for word in compared.words))


def test_two_models_compare_characters_of_both(make_model: Make) -> None:
    """The most probable ones of each, with the other's probability; what it does not know has none."""
    steppers = [Stepper(make_model()), Stepper(make_model(symbols="\n abxyz", seed=4))]
    own = [predict(stepper, "ab", len(stepper.vocabulary)) for stepper in steppers]
    compared = ComparedCharacters.of(own, 3)
    shares = [{c.character: c.probability for c in prediction.candidates} for prediction in own]
    assert {c.character for c in compared.candidates} == {c for each in shares for c in list(each)[:3]}
    assert all(c.probabilities == tuple(each.get(c.character) for each in shares) for c in compared.candidates)
    assert compared.entropy_bits == tuple(prediction.entropy_bits for prediction in own)
    listed = {c.character for c in compared.candidates}
    rest = [sum(p for c, p in each.items() if c not in listed) for each in shares]
    assert compared.remaining_probabilities == pytest.approx(rest)


def test_a_byte_is_not_the_character_of_its_number(make_model: Make) -> None:
    """Byte 0xe9 and the letter U+00E9 are two rows, and ASCII is the same in both."""
    steppers = [Stepper(make_model(symbols=Vocabulary.of_bytes())), Stepper(make_model(symbols="ab\u00e9"))]
    compared = ComparedCharacters.of([predict(s, "a", len(s.vocabulary)) for s in steppers], 300)
    by_name = {c.name: c.probabilities for c in compared.candidates}
    assert by_name["byte 0xe9"][1] is None
    assert by_name["'\u00e9'"][0] is None
    assert None not in by_name["'a'"]
