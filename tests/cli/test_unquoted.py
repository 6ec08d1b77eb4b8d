"""What a shell makes of an unquoted pattern, and options about what a text is read from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from charlm.cli.unquoted import with_all_corpora
from charlm.errors import UsageError
from tests.helpers.commands import ONE_STEP, answer, assert_refused, call
from tests.helpers.texts import write

LATIN = "caf\u00e9\n".encode("latin-1")


@pytest.fixture
def texts() -> list[str]:
    """Three texts, one of which looks like YAML, and settings."""
    write("settings.yaml", "seed: 3\n")
    write("notes", "model:\n  hidden_size: 8\n")
    return [
        write("a.txt", "abc\n" * 40),
        write("b.txt", "title: a story\n" * 20),
        write("zh.txt", "\u72d0\u72f8\n" * 40),
    ]


@pytest.mark.parametrize("option", ["--corpus", "-c"])
@pytest.mark.parametrize("number", [1, 2, 3])
def test_all_texts_after_corpus_are_its_names(
    texts: list[str], option: str, number: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each gets the option, in order, with a note; what stands before and after is left as it is."""
    first, *others = texts[:number]
    expected = ["gru", option, first, *(part for name in others for part in ("--corpus", name)), "--seed", "1"]
    assert with_all_corpora(["gru", option, *texts[:number], "--seed", "1"], takes_settings=True) == expected
    assert ("in quotes" in capsys.readouterr().err) == (number > 1)


@pytest.mark.parametrize("name", ["--x.txt", "-x.txt", "--seed.txt"])
def test_the_name_of_a_text_may_begin_with_a_dash(texts: list[str], name: str) -> None:
    """A pattern finds such files too; an option that is spelt like no file stays an option."""
    write(name, "abc")
    given = ["--corpus", texts[0], name, texts[1], "--seed", "1"]
    expected = ["--corpus", texts[0], "--corpus", name, "--corpus", texts[1], "--seed", "1"]
    assert with_all_corpora(given, takes_settings=True) == expected
    write("--seed", "abc")
    result = call("train", "--corpus", texts[0], name, *ONE_STEP, "--seed", "1", "--out", "run")
    assert result.exit_code == 0, result.stderr
    assert f"text {texts[0]} + {name}" in result.stderr


@pytest.mark.parametrize("settings", ["settings.yaml", "notes", "gru", "no-such-file", "configs/gru.yaml"])
def test_settings_after_corpus_stay_settings(texts: list[str], settings: str) -> None:
    """The name of bundled settings, a YAML file, and any file of settings are no texts; nor is what does not exist."""
    arguments = ["--corpus", "a.txt", settings, "--set", "seed=1"]
    assert with_all_corpora(arguments, takes_settings=True) == arguments


def test_a_command_without_settings_takes_every_file(texts: list[str]) -> None:
    """`eval --corpus *` has nothing else that a file could be."""
    assert with_all_corpora(["-c", "a.txt", "settings.yaml"], False) == ["-c", "a.txt", "--corpus", "settings.yaml"]


def test_names_that_follow_another_option_are_left_alone(texts: list[str]) -> None:
    """A file after `--out`, after `--`, or after a second `--corpus` is what it was."""
    for arguments in (
        ["--corpus", "a.txt", "--out", "b.txt"],
        ["--corpus", "a.txt", "--", "b.txt"],
        ["--corpus", "a.txt", "--corpus", "b.txt"],
        ["--corpus"],
        ["--corpus=a.txt", "notes"],
    ):
        assert with_all_corpora(arguments, takes_settings=True) == arguments


@pytest.mark.parametrize("takes_settings", [True, False])
def test_texts_without_the_option_get_a_pattern_as_a_hint(texts: list[str], takes_settings: bool) -> None:
    """In quotes, if a pattern finds these files and no others; otherwise their names."""
    with pytest.raises(UsageError, match=r"`a\.txt` is a text") as caught:
        with_all_corpora(texts, takes_settings)
    assert caught.value.hint == "`--corpus '*.txt'` reads it"
    with pytest.raises(UsageError) as caught:
        with_all_corpora(texts[:2], takes_settings)
    assert caught.value.hint == "`--corpus a.txt --corpus b.txt` reads it"


@pytest.mark.parametrize("settings", ["gru", "hello"])
def test_known_settings_win_over_a_file_and_say_so(settings: str) -> None:
    """The note says how to name the file, which is then read."""
    write(settings, "model:\n  cell: rnn\n")
    options = ["-c", "fables", "--set", "model.hidden_size=8", "--set", "train.steps=1", "--dry-run"]
    known, own = call("train", settings, *options), call("train", f"./{settings}", *options)
    assert f"note: `{settings}` are settings that charlm knows by name; what is here is `./{settings}`" in known.stderr
    assert "cell: rnn" not in known.stdout
    assert "cell: rnn" in own.stdout
    assert "knows by name" not in own.stderr


def test_an_unquoted_pattern_trains_on_all_its_files(texts: list[str]) -> None:
    """`train --corpus *.txt` is the text that `train --corpus '*.txt'` reads, and `eval` scores it so."""
    total = sum(len(Path(name).read_text(encoding="utf-8")) for name in texts)
    for corpora in (texts, ["*.txt"]):
        run = f"run-{len(corpora)}"
        result = call("train", "--corpus", *corpora, *ONE_STEP, "--out", run)
        assert result.exit_code == 0, result.stderr
        assert f"{total:,} characters" in result.stderr
        assert answer("eval", "-m", run, "-c", *corpora, "--no-baselines", "--json")["characters"] == total
    assert call("train", *texts, *ONE_STEP).exit_code == 2


def test_undecodable_files_are_skipped_now_and_later(texts: list[str]) -> None:
    """A run without them is evaluated and resumed on the same text, and another text is scored without them."""
    write("folder/a.txt", "abc abc\n" * 40)
    write("folder/b.txt", LATIN)
    train = ["train", "-c", "folder", *ONE_STEP, "--out", "run"]
    assert "`folder/b.txt` is not utf-8" in assert_refused(call(*train))
    result = call(*train, "--skip-undecodable")
    assert result.exit_code == 0, result.stderr
    assert "note: 1 file left out, no text in utf-8: `folder/b.txt`" in result.stderr
    assert answer("eval", "-m", "run", "--part", "validation", "--no-baselines", "--json")["characters"] == 32
    resumed = call("train", "--resume", "run", "--set", "train.steps=2", "--sample-length", "0")
    assert resumed.exit_code == 0, resumed.stderr
    assert "folder/b.txt" in assert_refused(call("eval", "-m", "run", "-c", "folder"))
    scored = call("eval", "-m", "run", "-c", "folder", "--skip-undecodable", "--no-baselines", "--json")
    assert json.loads(scored.stdout)["characters"] == 320
    assert "left out" in scored.stderr
    assert "--skip-undecodable" in assert_refused(call("eval", "-m", "run", "--skip-undecodable"))


def test_notes_on_a_text_are_printed_by_train_and_eval(texts: list[str]) -> None:
    """Line ends are said when a text is trained on and when it is scored, also when it comes from the cache."""
    write("crlf.txt", "abc\r\n" * 60)
    for arguments in (["train", *ONE_STEP, "--out", "run"], ["eval", "-m", "run", "--no-baselines"]):
        assert "note: 60 lines end with CR LF" in call(*arguments, "-c", "crlf.txt").stderr


def test_hints_for_eval_do_not_name_settings(texts: list[str]) -> None:
    """`eval` has no `--set`, so that it offers no other vocabulary."""
    assert call("train", "-c", "a.txt", *ONE_STEP, "--out", "run").exit_code == 0
    write("latin.txt", LATIN)
    assert "--set" in call("train", "-c", "latin.txt", *ONE_STEP).stderr
    refused = call("eval", "-m", "run", "-c", "latin.txt").stderr
    assert "--encoding cp1252" in refused
    assert "--set" not in refused
