"""The hint for a text in another encoding names the one that reads it."""
# ruff: noqa: RUF001 -- letters that resemble Latin ones are meant

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest

from charlm.data.catalog import catalog_entries
from charlm.data.corpus import load_corpus
from charlm.errors import CorpusError
from tests.helpers.texts import CHUNK, text_of, write

# Written for this test.
RUSSIAN = "Однажды лиса увидела виноград и захотела его съесть. Она долго прыгала, но не достала ни одной ягоды.\n"
JAPANESE = "ある日、狐が葡萄を見つけて食べようとしましたが、届きませんでした。「酸っぱい」と狐は言いました。\n"
KOREAN = "어느 날 여우가 포도를 보고 먹고 싶어 했습니다. 그러나 아무리 뛰어도 닿지 않았습니다.\n"
TRADITIONAL = "從前有一隻狐狸，看見架上掛著一串串熟透的葡萄，想要摘下來吃，卻怎麼也搆不著。\n"
FRENCH = "Un renard affamé vit des raisins à une treille. Il ne put les atteindre. Où? Là-bas, près du château.\n"
GERMAN = "Der Fuchs möchte die süßen Trauben fressen. Über den Ärger sagt er: Sie sind mir zu sauer! Größe, Mühe.\n"
POLISH = "Pewnego dnia lis zobaczył winogrona i zapragnął je zjeść. Powiedział: są jeszcze kwaśne. Źdźbło, żółć.\n"
SPANISH = "El niño comió una piña. ¿Dónde está la zorra? ¡Aquí, señor! Mañana volverá.\n"
GREEK = "Μια μέρα η αλεπού είδε σταφύλια και ήθελε να τα φάει. Είπε: είναι άγουρα ακόμη.\n"
QUOTES = "The fox said: “These grapes are sour” — and walked away. It’s a pity…\n"
TEXTS = [
    *((RUSSIAN, encoding) for encoding in ("koi8-r", "cp1251", "iso8859-5", "cp866")),
    *((JAPANESE, encoding) for encoding in ("shift_jis", "euc-jp", "cp932")),
    *((KOREAN, encoding) for encoding in ("euc-kr", "cp949")),
    (TRADITIONAL, "big5"),
    (TRADITIONAL, "gb18030"),
    *((FRENCH, encoding) for encoding in ("cp1252", "latin-1", "mac-roman")),
    *((GERMAN, encoding) for encoding in ("cp1252", "latin-1", "mac-roman", "cp850")),
    *((SPANISH, encoding) for encoding in ("cp1252", "mac-roman")),
    *((POLISH, encoding) for encoding in ("cp1250", "iso8859-2")),
    (GREEK, "cp1253"),
    (QUOTES, "cp1252"),
    (QUOTES, "mac-roman"),
    *((JAPANESE, encoding) for encoding in ("utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le")),
]


def hint_at(data: bytes, encoding: str = "utf-8") -> str:
    """Return the hint of the error for a text."""
    with pytest.raises(CorpusError) as caught:
        load_corpus([write("a.txt", data)], encoding=encoding)
    assert caught.value.hint.isprintable()
    return caught.value.hint


def named_in(hint: str) -> str:
    """Return the encoding that a hint names."""
    return hint.partition("`--encoding ")[2].partition("`")[0]


@pytest.mark.parametrize(("text", "encoding"), TEXTS, ids=lambda value: value if len(value) < 10 else value[:8])
@pytest.mark.parametrize("times", [1, 40])
def test_the_hint_names_an_encoding_that_reads_the_text(text: str, encoding: str, times: int) -> None:
    """With it the text is what it was, and the hint shows a piece of it."""
    text = text * times
    hint = hint_at(text.encode(encoding))
    assert text_of(load_corpus(["a.txt"], encoding=named_in(hint))) == text
    excerpt = hint.partition('reads it as "')[2].partition('"')[0].strip(".")
    assert len(excerpt) > 5
    assert excerpt in text.replace("\n", " ")


@pytest.mark.parametrize("encoding", ["gbk", "gb18030", "gb2312", "big5", "utf-16", "utf-16-le"])
@pytest.mark.parametrize("length", [None, 20_000, 200, 30])
def test_the_chinese_fables_are_recognised(encoding: str, length: int | None) -> None:
    """Whole and as excerpts, in each encoding that has their characters; GBK is named gb18030."""
    text = catalog_entries()["fables-zh"].path.read_text(encoding="utf-8")[:length]
    data = text.encode(encoding, "ignore")
    named = named_in(hint_at(data))
    assert data.decode(named) == data.decode(encoding)
    assert named == {"gbk": "gb18030", "gb2312": "gb18030"}.get(encoding, encoding)


def test_a_line_without_end_is_recognised() -> None:
    """Also beyond a chunk, where a character may be cut in two."""
    text = "a" + "狐狸和葡萄的故事" * (CHUNK // 8)
    assert named_in(hint_at(text.encode("gbk"))) == "gb18030"


def test_long_lines_without_a_blank_are_recognised() -> None:
    """A character that the sample cuts in two does not spoil what follows."""
    text = "".join("1" * (number % 3) + "狐狸和葡萄的故事，" * 200 + "\n" for number in range(20))
    assert named_in(hint_at(text.encode("gbk"))) == "gb18030"


def test_a_text_in_utf8_is_recognised_in_another_encoding() -> None:
    """`--encoding ascii` and the like get a hint at UTF-8."""
    assert named_in(hint_at(FRENCH.encode(), encoding="ascii")) == "utf-8"


def test_the_whole_text_decides() -> None:
    """An encoding that reads the first part and not the last does not read the text."""
    data = ("x" * 30 + "狐狸和葡萄的故事\n").encode("gbk") * 3000 + b"\xff\xff\n"
    hint = hint_at(data)
    assert "--encoding" not in hint
    assert "all but a few of its bytes are gb18030; `cat a.txt | iconv -c -f gb18030 -t utf-8` leaves out" in hint
    assert "vocab=bytes" in hint
    noise = random.Random(1).randbytes(100_000)
    assert "gb18030" not in hint_at(data[:40_000] + noise)


@pytest.mark.parametrize(
    ("text", "encoding", "named"),
    [
        ("狐狸和葡萄的故事，在森林里。\n", "gbk", "gb18030"),
        ("狐狸和葡萄的故事，在森林裡。\n", "big5", "big5"),
        ("어느 날 여우가 포도를 보았다\n", "euc-kr", "euc-kr"),
        ("ある日、狐が葡萄を見ました。\n", "euc-jp", "euc-jp"),
    ],
)
@pytest.mark.parametrize("start", [0, 1])
def test_a_text_that_is_cut_inside_a_character_is_recognised(text: str, encoding: str, named: str, start: int) -> None:
    """`head -c` and `split -b` cut so; another encoding that reads every byte would make nonsense of the text."""
    hint = hint_at((text * 30).encode(encoding)[start:-2])
    assert f"all but a few of its bytes are {named}; `cat a.txt | iconv -c -f {named} -t utf-8`" in hint
    assert "--encoding" not in hint


def test_utf16_that_is_cut_inside_a_character_is_recognised() -> None:
    """A mark, or the NUL in it, tells what it is."""
    for encoding in ("utf-16", "utf-16-le"):
        assert f"bytes are {encoding}; " in hint_at("Ein Füchslein, 狐狸.\n".encode(encoding)[:-1])


def test_frames_are_drawn_around_words() -> None:
    """Bytes that would be frames between letters are no text of a DOS computer, but frames around them are."""
    framed = "╔══════╗\n║ Море ║\n╚══════╝ и ещё немного текста.\n" * 20
    assert named_in(hint_at(framed.encode("cp866"))) == "cp866"
    assert "cp866" not in hint_at("狐狸和葡萄的故事，在森林里。".encode("gbk")[:-1])


def test_utf8_with_a_few_wrong_bytes_is_said_to_be_damaged() -> None:
    """It does not get a hint that makes nonsense of the rest."""
    hint = hint_at((RUSSIAN * 3).encode() + b"\xff" + RUSSIAN.encode())
    assert "`cat a.txt | iconv -c -f utf-8 -t utf-8` leaves out" in hint
    assert "--encoding" not in hint


@pytest.mark.parametrize("size", [1000, 100_000])
def test_bytes_that_are_no_text_get_no_encoding(size: int) -> None:
    """Random bytes are read by `vocab=bytes` alone."""
    hint = hint_at(random.Random(size).randbytes(size))
    assert "--encoding" not in hint
    assert "vocab=bytes" in hint


def test_the_hint_of_hostile_bytes_is_short_and_printable() -> None:
    """Escape sequences, directions and long lines do not get through."""
    chance = random.Random(3)
    for _ in range(40):
        data = bytes(chance.choices([*b"\x1b[2J\x07\r\n ", *range(128, 256)], k=chance.choice([3, 30, 3000])))
        assert len(hint_at(data + b"\xff\xff\xff\xfe\xfe")) < 500


def test_utf16_that_utf8_can_read_gets_a_note() -> None:
    """English in UTF-16 without a mark is valid UTF-8 with a NUL after each letter; the note says so."""
    (note,) = load_corpus([write("a.txt", ("A fox and a hare.\n" * 9).encode("utf-16-le"))]).notes
    assert '`--encoding utf-16-le` reads it as "A fox and a hare.' in note


def test_charset_normalizer_is_imported_for_an_error_only() -> None:
    """A text that can be read does not pay for it."""
    Path("a.txt").write_bytes(b"text")
    code = (
        "import sys; from charlm.data.corpus import load_corpus\n"
        "load_corpus(['a.txt']); sys.exit('charset_normalizer' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
