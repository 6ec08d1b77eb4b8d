"""Characters to ids and back, and the errors about characters without an id."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import charlm
from charlm.errors import UnknownCharacterError, UsageError
from charlm.vocab import Vocabulary, code_points_of, name_character

# Every code point, also lone surrogates; the difficult ones are drawn more often than the others.
CHARACTERS = st.one_of(
    st.sampled_from("\r\n\0\t a\x7f\u0301\u200d\ufeff\ud800\udbff\udc00\udfff\U0001f469\U0010ffff"),
    st.characters(exclude_categories=()),
)
TEXTS = st.text(CHARACTERS)
WELL_FORMED = st.text(st.characters(exclude_categories=["Cs"]))


def test_symbols_are_sorted_by_code_point() -> None:
    """Ids follow the code points, in whatever order the characters come."""
    vocabulary = Vocabulary.of_characters("b\u00e9a\U0001f600 \nZb")
    assert vocabulary.symbols == "\n Zab\u00e9\U0001f600"
    assert vocabulary.kind == "characters"
    assert vocabulary.encode("ab\U0001f600").tolist() == [3, 4, 6]


@settings(max_examples=50, deadline=None)
@given(TEXTS)
def test_symbols_are_each_distinct_character_once(text: str) -> None:
    """The vocabulary of any text is its distinct characters in increasing order."""
    symbols = Vocabulary.of_characters(text).symbols
    assert set(text) == set(symbols)
    assert all(ord(left) < ord(right) for left, right in pairwise(symbols))


def test_symbol_order_is_the_same_in_every_process() -> None:
    """Python's randomised string hashes have no effect on the ids."""
    program = "from charlm.vocab import Vocabulary; print(Vocabulary.of_characters('the quick brown fox').symbols)"
    folder = str(Path(charlm.__file__).parent.parent)
    outputs = {
        subprocess.run(
            [sys.executable, "-c", program],
            env=os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": folder},
            capture_output=True,
            check=True,
            text=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert {" bcefhiknoqrtuwx\n"} == outputs


@settings(max_examples=100, deadline=None)
@given(TEXTS)
@example("line\r\nline\r\n\r")
@example("\0\0a")
@example("e\u0301 \u00e9 \U0001f469\u200d\U0001f469\u200d\U0001f467")
@example("\ud83d \ude00 \ud83d\ude00 \U0001f600")
@example("\U0010ffff")
def test_decoding_undoes_encoding_exactly(text: str) -> None:
    """Any text is decoded unchanged: nothing is stripped, lowered, normalised or joined."""
    vocabulary = Vocabulary.of_characters(text)
    ids = vocabulary.encode(text)
    assert (len(text),) == ids.shape
    assert [sorted(set(text)).index(character) for character in text] == ids.tolist()
    assert text == vocabulary.decode(ids)


@settings(max_examples=50, deadline=None)
@given(TEXTS)
def test_code_points_are_those_of_ord(text: str) -> None:
    """The vectorised code points equal those of `ord`."""
    assert [ord(character) for character in text] == code_points_of(text).tolist()


@settings(max_examples=50, deadline=None)
@given(TEXTS, TEXTS)
def test_code_points_beyond_the_vocabulary_are_marked_unknown(known_text: str, other: str) -> None:
    """The mask marks the known characters, also for a code point above all of them."""
    vocabulary = Vocabulary.of_characters(known_text)
    ids, known = vocabulary._encode_code_points(code_points_of(other))
    assert [character in set(known_text) for character in other] == known.tolist()
    assert [character for character in other if character in set(known_text)] == [
        vocabulary.symbols[index] for index, is_known in zip(ids, known, strict=True) if is_known
    ]
    assert not ids[~known].any()
    assert [character in vocabulary for character in other] == known.tolist()


def test_a_prompt_is_encoded_by_characters_not_bytes() -> None:
    """A prompt of four characters beyond ASCII is four ids, not its UTF-8 bytes."""
    vocabulary = Vocabulary.of_characters("\u00e9\u4e2d\U0001f600a")
    assert vocabulary.encode("\u00e9\u4e2d\U0001f600a").tolist() == [1, 2, 3, 0]


def test_an_empty_text_has_no_ids() -> None:
    """An empty text is encoded and decoded as nothing, with and without symbols."""
    assert Vocabulary.of_characters("").encode("").tolist() == []
    assert Vocabulary.of_characters("ab").decode([]) == ""
    with pytest.raises(UnknownCharacterError, match="'a'"):
        Vocabulary.of_characters("").encode("a")


def test_a_vocabulary_with_a_repeated_symbol_is_refused() -> None:
    """A repeated symbol or an unknown kind is a programming error."""
    with pytest.raises(ValueError, match="3 symbols, 2 distinct"):
        Vocabulary("characters", "aba")
    with pytest.raises(ValueError, match="words"):
        Vocabulary("words", "ab")  # type: ignore[arg-type]


def test_vocabularies_are_equal_by_kind_and_symbols() -> None:
    """Vocabularies with the same symbols differ if one has characters and the other bytes."""
    assert Vocabulary.of_characters("ba") == Vocabulary("characters", "ab")
    assert Vocabulary("characters", "ba") != Vocabulary("characters", "ab")
    assert Vocabulary.of_characters("".join(map(chr, range(256)))) != Vocabulary.of_bytes()
    assert Vocabulary.of_characters("a") != "a"


@pytest.mark.parametrize(
    ("num_symbols", "dtype"),
    [(1, np.uint8), (256, np.uint8), (257, np.uint16), (65536, np.uint16), (65537, np.uint32)],
)
def test_ids_take_the_smallest_type_that_holds_them(num_symbols: int, dtype: type) -> None:
    """The largest id is exact on both sides of each border between types."""
    vocabulary = Vocabulary.of_characters("".join(map(chr, range(num_symbols))))
    last = chr(num_symbols - 1)
    ids = vocabulary.encode(last)
    assert np.dtype(dtype) == vocabulary.dtype == ids.dtype
    assert [num_symbols - 1] == ids.tolist()
    assert last == vocabulary.decode(ids)


def test_every_unknown_character_is_named_with_its_place() -> None:
    """The error names each unknown character once, with its code point and its first position."""
    vocabulary = Vocabulary.of_characters("abc ")
    with pytest.raises(UnknownCharacterError) as caught:
        vocabulary.encode("ab\u4e2dc\u0301\u4e2d\ud800")
    message = str(caught.value)
    assert "vocabulary of 4 characters" in message
    assert "'\u4e2d' (U+4E2D) at position 2" in message
    assert "U+0301 COMBINING ACUTE ACCENT (U+0301) at position 4" in message
    assert "(U+D800) at position 6" in message
    assert message.count("U+4E2D") == 1
    assert caught.value.hint == ""  # only some commands have an option for it
    assert caught.value.exit_code == 1


def test_the_message_about_a_lone_surrogate_can_be_printed() -> None:
    """A surrogate is shown by its number, because no terminal can encode it."""
    with pytest.raises(UnknownCharacterError) as caught:
        Vocabulary.of_characters("a").encode("\udc80")
    assert "U+DC80" in str(caught.value).encode("utf-8").decode("utf-8")


def test_the_position_counts_from_the_start_of_the_longer_text() -> None:
    """The position in a piece of a longer text is given in the longer text."""
    with pytest.raises(UnknownCharacterError, match=r"position 1002$"):
        Vocabulary.of_characters("ab").encode("ab\u4e2d", position=1000)


def test_at_most_five_unknown_characters_are_listed() -> None:
    """Five are listed in full; a sixth becomes `and more`."""
    vocabulary = Vocabulary.of_characters("a")
    with pytest.raises(UnknownCharacterError) as five:
        vocabulary.encode("12345")
    with pytest.raises(UnknownCharacterError) as six:
        vocabulary.encode("123456")
    assert "'5' (U+0035) at position 4" in str(five.value)
    assert "more" not in str(five.value)
    assert "U+0036" not in str(six.value)
    assert str(six.value).endswith("and more")


@pytest.mark.parametrize(
    ("symbols", "character", "nearest"),
    [
        ("az", "A", "a"),
        ("AZ", "a", "A"),
        ("ae", "\u00e9", "e"),
        ("AE", "\u00e9", "E"),
        ("fz", "\ufb01", "f"),
        ("a'", "\u2019", "'"),
        ('a"', "\u201c", '"'),
        ('a"', "\u00ab", '"'),
        ("a\u2019", "'", "\u2019"),
        ("a-", "\u2014", "-"),
        (" a", "\u00a0", " "),
        (" a", "\t", " "),
        ("\na", "\r", "\n"),
        ("\uff21", "A", "\uff21"),
        ("a,", "\uff0c", ","),
        ("a\u3000", " ", "\u3000"),
        ("k\u30ab", "\uff76", "\u30ab"),
    ],
)
def test_the_nearest_character_is_a_relative(symbols: str, character: str, nearest: str) -> None:
    """Case, widths, accents, ligatures, quotes, dashes and spaces are found."""
    vocabulary = Vocabulary.of_characters(symbols)
    assert nearest == vocabulary.nearest(character)
    with pytest.raises(UnknownCharacterError) as caught:
        vocabulary.encode(character)
    assert f"nearest {name_character(nearest)}" in str(caught.value)


@pytest.mark.parametrize(("character", "nearest"), [("\ufb01", "fi"), ("\u2026", "..."), ("\u338f", "kg")])
def test_a_composed_character_is_nearest_to_its_parts(character: str, nearest: str) -> None:
    """Compatibility forms are named as the characters they stand for."""
    vocabulary = Vocabulary.of_characters("fikg.")
    assert vocabulary.nearest(character) == nearest
    with pytest.raises(UnknownCharacterError, match=re.escape(f"nearest '{nearest}'")):
        vocabulary.encode(character)


@pytest.mark.parametrize(("symbols", "character"), [("\u4e2d\u9f9f", "\u9f98"), ("\u2190", "\u2191"), ("12", "\u00bd")])
def test_a_neighbour_by_code_point_is_no_relative(symbols: str, character: str) -> None:
    """Another ideograph, another arrow and a part of a fraction mean something else, and are not suggested."""
    assert Vocabulary.of_characters(symbols).nearest(character) is None


def test_a_character_without_relatives_has_no_nearest() -> None:
    """An emoji among letters, or a letter of another script, gets no suggestion."""
    vocabulary = Vocabulary.of_characters("abc")
    assert vocabulary.nearest("\U0001f600") is None
    assert vocabulary.nearest("\u0431") is None
    with pytest.raises(UnknownCharacterError) as caught:
        vocabulary.encode("\U0001f600")
    assert "nearest" not in str(caught.value)


@settings(max_examples=50, deadline=None)
@given(st.text(CHARACTERS, min_size=1, max_size=8), CHARACTERS)
def test_any_unknown_character_can_be_described(symbols: str, character: str) -> None:
    """No character breaks the message, and what is nearest, if anything, is in the vocabulary."""
    vocabulary = Vocabulary.of_characters(symbols)
    assert set(vocabulary.nearest(character) or "") <= set(symbols)
    if character not in symbols:
        with pytest.raises(UnknownCharacterError, match=f"U\\+{ord(character):04X}"):
            vocabulary.encode(character)


def test_skip_drops_unknown_characters() -> None:
    """Under `skip` the known characters stay in order, even if none is left."""
    vocabulary = Vocabulary.of_characters("abc")
    assert vocabulary.decode(vocabulary.encode("xa\u4e2dbc\U0001f600a", "skip")) == "abca"
    assert vocabulary.encode("xyz", "skip").tolist() == []
    assert vocabulary.dtype == vocabulary.encode("xyz", "skip").dtype


def test_replace_keeps_the_length_of_the_text() -> None:
    """Under `replace=C` each unknown character becomes C, which may be any character, also `=` or space."""
    vocabulary = Vocabulary.of_characters("abc= ")
    assert vocabulary.decode(vocabulary.encode("a\u4e2d\U0001f600b", "replace==")) == "a==b"
    assert vocabulary.decode(vocabulary.encode("axb", "replace= ")) == "a b"


@pytest.mark.parametrize("policy", ["", "ignore", "Skip", "replace", "replace=", "replace=ab", "skip=a", "error=a"])
@pytest.mark.parametrize("vocabulary", [Vocabulary.of_characters("ab"), Vocabulary.of_bytes()], ids=["text", "bytes"])
def test_a_policy_that_does_not_exist_is_a_usage_error(vocabulary: Vocabulary, policy: str) -> None:
    """An unknown policy is refused even if no character is unknown; the hint names the three policies."""
    with pytest.raises(UsageError) as caught:
        vocabulary.encode("ab", policy)
    assert f"`{policy}`" in str(caught.value)
    assert all(word in caught.value.hint for word in ("error", "skip", "replace=C"))
    assert caught.value.exit_code == 2


def test_a_replacement_must_be_known_itself() -> None:
    """A C outside the vocabulary is refused by name, even if no character is unknown."""
    with pytest.raises(UsageError, match=r"'\?'"):
        Vocabulary.of_characters("ab").encode("ab", "replace=?")


def test_bytes_have_256_symbols_and_know_everything() -> None:
    """A vocabulary of bytes encodes any character by its UTF-8 form."""
    vocabulary = Vocabulary.of_bytes()
    assert len(vocabulary) == 256
    assert np.dtype(np.uint8) == vocabulary.dtype
    assert all(character in vocabulary for character in "\0a\u00e9\u4e2d\U0001f600")
    assert vocabulary.encode("\U0001f600\r\n\0").tolist() == [0xF0, 0x9F, 0x98, 0x80, 0x0D, 0x0A, 0x00]
    assert vocabulary.encode("\ud800").tolist() == [0xED, 0xA0, 0x80]


@settings(max_examples=50, deadline=None)
@given(WELL_FORMED)
def test_bytes_decode_to_the_same_text(text: str) -> None:
    """A vocabulary of bytes encodes any well-formed text as UTF-8 and decodes it unchanged."""
    vocabulary = Vocabulary.of_bytes()
    ids = vocabulary.encode(text)
    assert text.encode() == ids.tobytes()
    assert text == vocabulary.decode(ids)


def test_wrong_utf8_becomes_replacement_characters() -> None:
    """A stray byte and an unfinished character are decoded as U+FFFD."""
    vocabulary = Vocabulary.of_bytes()
    assert vocabulary.decode([0x61, 0xFF, 0x62]) == "a\ufffdb"
    assert vocabulary.decode([0x61, 0xF0, 0x9F, 0x98]) == "a\ufffd"


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 255), max_size=40), st.lists(st.integers(0, 40)))
def test_decoding_in_pieces_gives_the_same_text(ids: list[int], cuts: list[int]) -> None:
    """For any bytes and any cuts the pieces add up to the result of `bytes.decode`."""
    decoder = Vocabulary.of_bytes().decoder()
    borders = [0, *sorted(min(cut, len(ids)) for cut in cuts), len(ids)]
    text = "".join(decoder.decode(ids[a:b]) for a, b in pairwise(borders))
    assert bytes(ids).decode(errors="replace") == text + decoder.decode([], final=True)


def test_an_unfinished_character_waits_for_its_rest() -> None:
    """The first three bytes of an emoji decode to nothing, and the fourth to the emoji."""
    decoder = Vocabulary.of_bytes().decoder()
    assert [decoder.decode(ids) for ids in ([0x61, 0xF0], [0x9F], [0x98], [0x80])] == ["a", "", "", "\U0001f600"]
    assert decoder.decode([], final=True) == ""


def test_decoders_are_independent() -> None:
    """Bytes that wait in one decoder have no effect on the next decoder."""
    vocabulary = Vocabulary.of_bytes()
    assert vocabulary.decoder().decode([0xC3]) == ""
    assert vocabulary.decoder().decode([0x61], final=True) == "a"


def test_a_decoder_of_characters_never_waits() -> None:
    """Every id of a vocabulary of characters decodes to a whole character."""
    decoder = Vocabulary.of_characters("a\u00e9\U0001f600").decoder()
    assert [decoder.decode([2]), decoder.decode([0, 1])] == ["\U0001f600", "a\u00e9"]


@pytest.mark.parametrize(
    ("character", "name"),
    [
        ("a", "'a'"),
        ("\u4e2d", "'\u4e2d'"),
        (" ", "space"),
        ("\n", "newline"),
        ("\t", "tab"),
        ("\r", "carriage return"),
        ("\0", "NUL"),
        ("\u0301", "U+0301 COMBINING ACUTE ACCENT"),
        ("\u00a0", "U+00A0 NO-BREAK SPACE"),
        ("\u200d", "U+200D ZERO WIDTH JOINER"),
        ("\x1b", "U+001B unnamed"),
        ("\ud800", "U+D800 unnamed"),
    ],
)
def test_an_invisible_character_is_spelled_out(character: str, name: str) -> None:
    """Characters that a terminal cannot show clearly are named in words."""
    assert name == name_character(character)


def test_symbols_are_named_by_id() -> None:
    """Bytes above ASCII are named by number; in a vocabulary of characters the same id is a character."""
    assert [Vocabulary.of_bytes().name(index) for index in (0x0A, 0x61, 0xE9)] == ["newline", "'a'", "byte 0xe9"]
    assert Vocabulary.of_characters("a\u00e9").name(1) == "'\u00e9'"
