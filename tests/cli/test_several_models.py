"""`--model` given several times: the models predict together, or the command says that it takes one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import charlm
from charlm.checkpoint import ModelFile
from charlm.cli.evaluate_together import Together
from charlm.cli.repl_panel import key_line
from charlm.vocab import Vocabulary
from tests.helpers.commands import SHORT, answer, answers, assert_refused, call

Make = Callable[..., ModelFile]
BOTH = ["-m", "a", "-m", "b"]


@pytest.fixture(autouse=True)
def models(make_model: Make) -> None:
    """Two models that fit together, and others that do not."""
    make_model().save(Path("a"))
    make_model("gru", 2, seed=1).save(Path("b"))
    make_model(symbols=Vocabulary.of_bytes()).save(Path("bytes"))
    make_model(direction="both").save(Path("both"))
    Path("text.txt").write_text("a bad cab had\na bad head\n" * 9, encoding="utf-8")


def test_sample_draws_from_the_mean(make_model: Make) -> None:
    """The text is that of `charlm.load` with the same models, and differs from that of each alone."""
    options = ["-n", "80", "-t", "1", "--seed", "1", "--json"]
    (together,) = answers("sample", "bad", *BOTH, *options)
    expected = charlm.load("a", "b").generate("bad", length=80, temperature=1, seed=1)
    assert together["text"] == expected
    assert expected not in [answers("sample", "bad", "-m", name, *options)[0]["text"] for name in "ab"]


def test_the_same_model_twice_writes_its_text() -> None:
    """Bit for bit the same probabilities."""
    once, twice = (call("sample", "bad", "--seed", "1", *["-m", "a"] * number).stdout for number in (1, 2))
    assert once == twice != ""


def test_predict_next_shows_the_mean_also_beside_another_model() -> None:
    """Characters and words; the name of several models is all of theirs."""
    each = []
    for name in "ab":
        alone = answer("predict-next", "a b", "-m", name, "--top", "10", "--json")["candidates"]
        each.append({candidate["character"]: candidate["probability"] for candidate in alone})
    for candidate in answer("predict-next", "a b", *BOTH, "--top", "9", "--json")["candidates"]:
        mean = sum(shares[candidate["character"]] for shares in each) / 2
        assert candidate["probability"] == pytest.approx(mean, abs=1e-6)
    found = answer("predict-next", "a b", *BOTH, "--compare", "a", "--json")
    assert found["models"] == ["a + b", "a"]
    assert answer("predict-next", "a b", *BOTH, "--words", "2", "--json")["words"]


def test_score_is_that_of_the_mean() -> None:
    """With a line that says so, and beside another model."""
    bits = charlm.load("a", "b").score("a bad cab").mean()
    assert answer("score", "a bad cab", *BOTH, "--json")["bits_per_character"] == pytest.approx(bits)
    assert "the mean of the probabilities of 2 models" in call("score", "a bad cab", *BOTH).stdout
    assert f"{bits:.4f} bits per character by this model" in call("score", "a bad cab", *BOTH, "--diff", "a").stdout


def test_eval_shows_all_together_and_each_alone() -> None:
    """Each has the figure that `eval` gives it alone, and all together that of `score`."""
    found = answer("eval", *BOTH, "-c", "text.txt", "--json")
    alone = [answer("eval", "-m", name, "-c", "text.txt", "--json") for name in "ab"]
    text = Path("text.txt").read_text(encoding="utf-8")
    assert found["bits_per_character"] == pytest.approx(charlm.load("a", "b").score(text).mean(), abs=1e-5)
    for row, expected in zip(found["models"], alone, strict=True):
        for name in ("bits_per_character", "nats_per_character", "perplexity_per_character"):
            assert row[name] == pytest.approx(expected[name], abs=1e-4)
    assert [row["model"] for row in found["models"]] == ["a", "b"]
    assert found["characters"] == alone[0]["characters"] == len(text)
    windows = answer("eval", *BOTH, "-c", "text.txt", "--window", "5", "--json")
    assert windows["models"][0]["bits_per_character"] == pytest.approx(
        answer("eval", "-m", "a", "-c", "text.txt", "--window", "5", "--json")["bits_per_character"], abs=1e-5
    )


def test_eval_ranks_models_and_baselines(text: str) -> None:
    """On the held-out part of the first model's text; a model of another text is reported."""
    assert call("train", "-c", text, *SHORT, "--out", "run", "--sample-length", "0").exit_code == 0
    assert call("train", "-c", text, *SHORT, "--set", "data.validation_fraction=0.2", "--out", "other").exit_code == 0
    result = call("eval", "-m", "run", "-m", "other")
    assert result.exit_code == 0, result.stderr
    head, *rows = result.stdout.splitlines()[4:-1]
    assert head.split()[:2] == ["bits", "by"]
    assert {"together", "run", "other", "uniform"} <= {row.split()[1] for row in rows}
    assert [float(row.split()[0]) for row in rows] == sorted(float(row.split()[0]) for row in rows)
    assert (
        result.stderr
        == "note: `other` learned another text, or holds out another part: it may have learned what is scored\n"
    )
    refused = call("sample", "-m", "run", "-m", "other", "--check-copies")
    assert "did not all learn the same text" in assert_refused(refused)
    checked = call("sample", "-m", "run", "-m", "run", "--check-copies", "--seed", "1", "-n", "9")
    assert "longest copy" in checked.stderr


@pytest.mark.parametrize(
    ("bits", "end"),
    [
        (1.5, "together they need 0.5000 bits per character fewer than the best of them, `b`"),
        (2.00001, "`b` alone is as good"),
        (2.5, "`b` alone is better: it needs 0.5000 bits per character fewer"),
    ],
)
def test_the_last_line_says_whether_it_is_worth_it(bits: float, end: str) -> None:
    """Compared with the best of the models."""
    found = Together(Vocabulary("characters", "ab"), "text", 9, 1, None, bits, [("a", 3.0), ("b", 2.0)], [])
    assert found.to_lines(None)[-1] == end


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sample", "a", "-m", "a", "-m", "bytes"], "`a` reads characters, and `bytes` reads bytes"),
        (["sample", "a", "-m", "a", "-m", "nowhere"], "`nowhere`"),
        (["sample", "a", "-m", "a", "-m", "both"], "`both`: this model reads from both sides"),
        (["sample", "a", *BOTH, "--clamp", "1.0=1"], "a unit belongs to one model"),
        (["predict-next", "a", "-m", "a", "-m", "bytes"], "`bytes` reads bytes"),
        (["score", "abc", *BOTH, "--html", "page.html"], "a page shows one model"),
        (["score", "abc", "-m", "a", "-m", "both"], "`both`: this model reads from both sides"),
        (["eval", *BOTH, "-c", "text.txt", "--dynamic"], "`--dynamic` is for one model"),
        (["eval", "-m", "a", "-m", "both", "-c", "text.txt"], "`both` reads from both sides"),
        (["eval", "-m", "a", "-m", "bytes", "-c", "text.txt"], "`bytes` reads bytes"),
        (["fill", "a_", *BOTH], "`charlm fill` takes one `--model`"),
        (["explain", "--model=a", "--model=b"], "`charlm explain` takes one `--model`"),
        (["inspect", "abc", *BOTH], "`charlm inspect` takes one `--model`"),
        (["score", "abc", "--diff", "a", "--diff", "b"], "`charlm score` takes one `--diff`"),
        (["predict-next", "a", "--compare", "a", "--compare", "b"], "takes one `--compare`"),
        (["train", "--from", "a", "--from", "b"], "`charlm train` takes one `--from`"),
    ],
)
def test_what_is_for_one_model_is_refused(arguments: list[str], message: str) -> None:
    """In one line; nothing is silently left out."""
    assert message in assert_refused(call(*arguments))


def test_the_prompt_takes_several_models() -> None:
    """It answers each line of standard input."""
    lines = answers("predict-next", *BOTH, "--json", stdin="bad\ncab\n")
    assert [line["text"] for line in lines] == ["bad", "cab"]


def test_the_prompt_of_several_models_has_no_key_for_gates() -> None:
    """The line below the text and `/help` list the other keys."""
    from charlm.cli.instrument import Instrument
    from charlm.cli.options import predictor
    from charlm.cli.repl import keys_of
    from charlm.cli.repl_commands import Conversation
    from charlm.inference.incremental import IncrementalReader

    for paths, has_gates in (([Path("a")], True), ([Path("a"), Path("b")], False)):
        reader = IncrementalReader(predictor(paths))
        instrument = Instrument(Conversation(reader, 5))
        assert ("Ctrl-G" in key_line(instrument, 80)) == has_gates
        assert ("^G" in key_line(instrument, 40)) == has_gates
        assert ("Ctrl-G" in dict(keys_of(reader, ""))) == has_gates
