"""`charlm corpora` as a user calls it: what is in a text, and the cache."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from charlm.data.cache import cached
from tests.helpers.commands import answer, assert_refused, call


def test_show_says_what_is_in_a_text() -> None:
    """The figures of a text are printed, and the same ones are in the JSON, with examples."""
    Path("a.txt").write_bytes(b"a line that stands twice\r\n" * 2 + b"\x1b[31mred\n")
    found = answer("corpora", "show", "a.txt", "--json")
    assert (found["name"], found["bytes"], found["files"], found["encoding"]) == ("a.txt", 61, 1, "utf-8")
    assert found["line_ends"] == {"LF": 1, "CR LF": 2, "CR": 0}
    assert found["duplicates"] == [{"text": "a line that stands twice", "count": 2, "place": 0}]
    listing = call("corpora", "show", "a.txt").stdout
    assert "2 CR LF" in listing
    assert "2 times, first at 0: a line that stands twice" in listing
    assert "U+001B" in listing
    assert "\x1b" not in listing


def test_the_cache_is_listed_and_emptied() -> None:
    """The cache says which texts it holds; `--prune` frees it, and the text can be used again."""
    Path("a.txt").write_text("some text", encoding="utf-8")
    call("corpora", "show", "a.txt")
    (row,) = answer("corpora", "cache", "--json")["texts"]
    assert (row["text"], row["characters"]) == ("a.txt", 9)
    assert "a.txt" in call("corpora", "cache").stdout
    emptied = answer("corpora", "cache", "--prune", "--json")
    assert (emptied["texts"], emptied["freed"]) == ([], row["bytes"])
    assert "0.0 of at most" in call("corpora", "cache").stderr
    assert answer("corpora", "show", "a.txt", "--json")["characters"] == 9


def test_a_limit_of_the_cache_is_named_and_held(monkeypatch: pytest.MonkeyPatch) -> None:
    """With `CHARLM_CACHE_GB`, `--prune` removes what was not used for the longest time, until the rest is within it."""
    for name in ("a.txt", "b.txt"):
        Path(name).write_text(name * 1000, encoding="utf-8")
        call("corpora", "show", name)
    for number, text in enumerate(sorted(cached(), key=lambda text: text.title)):
        for file in text.files:
            os.utime(file, (number, number))
    sizes = {row["text"]: row["bytes"] for row in answer("corpora", "cache", "--json")["texts"]}
    monkeypatch.setenv("CHARLM_CACHE_GB", str(sizes["b.txt"] / 1e9))
    found = answer("corpora", "cache", "--prune", "--json")
    assert (found["limit"], [row["text"] for row in found["texts"]]) == (sizes["b.txt"], ["b.txt"])
    assert "(`CHARLM_CACHE_GB`)" in call("corpora", "cache").stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["show"], "needs the name of a text"),
        (["cache", "fables"], "one argument too many"),
        (["--prune"], "charlm corpora cache --prune"),
        (["show", "fables", "--prune"], "charlm corpora cache --prune"),
        (["cache", "--encoding", "utf-8"], "charlm corpora show NAME --encoding"),
        (["show", "fables", "--fetch", "enwik8"], "charlm corpora --fetch"),
        (["fables"], "is not one of 'show', 'cache'"),
    ],
)
def test_what_belongs_to_another_action_is_refused(arguments: list[str], words: str) -> None:
    """An option or name that an action does not take is an error with the command that takes it."""
    result = call("corpora", *arguments)
    assert result.exit_code == 2
    assert words in result.stderr


@pytest.mark.parametrize("data", [b"", b"a", b"\n", b"\xef\xbb\xbfhi", bytes(range(32)), b"\xff\xfe", b"\xa9" * 99])
def test_show_answers_whatever_a_file_holds(data: bytes) -> None:
    """A result or an error, whose hint names only options of this command."""
    Path("odd\nname.txt").write_bytes(data)
    result = call("corpora", "show", "odd\nname.txt")
    assert result.exit_code in (0, 1)
    if result.exit_code:
        assert_refused(result)
    if data == bytes(range(32)):
        assert "control characters: 29\n" in result.stdout
        assert result.stdout.count("U+00") + result.stdout.count("NUL") == 5


def test_a_link_that_leads_nowhere_is_said_to_be_one() -> None:
    """Its own name is no hint."""
    Path("link.txt").symlink_to("gone.txt")
    assert "`link.txt` is a link, and there is nothing" in assert_refused(call("corpora", "show", "link.txt"))
