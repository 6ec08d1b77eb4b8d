"""What the pages of runs hold: the figures of other commands, a sentence where data is lacking, and what fits."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from charlm.cli import report as command
from charlm.web.report import MAX_RECORDS, MAX_SAMPLES
from tests.helpers.commands import answer, assert_refused, call
from tests.helpers.runs import BASELINE, OWN, RECORDS, record, run_folder, validated
from tests.helpers.terminal import Terminal
from tests.web.test_text_view import embedded

HOSTILE = "</script><script>document.title='hostile'</script>\x1b[31m"


def page_of(*arguments: str, file: str = "report.html") -> tuple[dict[str, Any], str]:
    """Run a command that writes a page; return the data of the page, and what the command says."""
    result = call(*arguments)
    assert result.exit_code == 0, result.stderr
    return embedded(Path(file).read_text(encoding="utf-8")), result.stderr


def test_figures_of_a_run_equal_those_of_other_commands() -> None:
    """They are those of `compare`, of `score` and of `sample` as JSON, and those of `metrics.jsonl`."""
    run_folder()
    view, said = page_of("report", "run")
    assert said.startswith("page report.html (")
    (row,) = answer("compare", "run", "--json")["rows"]
    assert view["summary"]["row"] == {name: value for name, value in row.items() if name != "curve"}
    assert view["summary"]["baseline"] == {"name": "3-gram Kneser-Ney", "bits": 2.5}
    assert view["summary"]["judgement"].startswith("the last validation was the best")
    held_out = OWN[int(len(OWN) * 0.8) :]
    scored = answer("score", "-m", "run", "--json", "--", held_out)
    assert view["text_view"]["totals"].items() <= scored.items()
    assert view["text_view"]["bits_of_characters"] == scored["bits_of_characters"]
    drawn = RECORDS[1:]
    names = {"train": "train_bits_per_character", "validation": "validation_bits_per_character"}
    for name in ("step", "epoch", "seconds", "train", "validation", "learning_rate", "gradient_norm"):
        assert view["curves"][name] == [each.get(names.get(name, name)) for each in drawn]
    written = [each for each in drawn if "sample" in each]
    samples = [(each["step"], each["text"], each["bits"]) for each in view["samples"]["samples"]]
    assert samples == [(each["step"], each["sample"], each["sample_bits"]) for each in written]


def test_copies_are_those_that_its_command_finds() -> None:
    """The command that the page names writes the same text and finds the same copies."""
    run_folder()
    view, _ = page_of("report", "run")
    again = answer(*view["copies"]["command"].split()[1:], "--json")
    assert {name: view["copies"][name] for name in ("seed", "text", "copies")} == again


@pytest.mark.parametrize(
    ("change", "section", "reason"),
    [
        ({"lines": [record(5), record(10)]}, "samples", "this run recorded none"),
        ({"lines": []}, "curves", "has no figures"),
        ({"lines": [], "direction": "both"}, "samples", "sees both sides"),
        ({"direction": "both"}, "copies", "reads from both sides"),
        ({"validation": 0.0}, "text_view", "nothing was held out"),
        ({"corpus": {"sha256": "0" * 64}}, "text_view", "not, or no longer, what this model learned"),
        ({"corpus": {"sha256": "0" * 64}}, "copies", "`charlm report run --corpus FILE`"),
        ({"config": {"data": {"corpus": ["gone.txt"]}}}, "copies", "gone.txt"),
        ({"config": {"data": 7}}, "text_view", "settings"),
    ],
)
def test_a_section_without_data_says_why(change: dict[str, Any], section: str, reason: str) -> None:
    """The page is made all the same, and the command says what is missing."""
    run_folder(**change)
    view, said = page_of("report", "run")
    assert reason in view[section]["missing"]
    assert f"note: {view[section]['missing'].removesuffix('.')}" in said
    assert view["facts"]


def test_a_run_that_held_nothing_out_is_not_judged() -> None:
    """Its training alone does not tell whether more time would help."""
    run_folder(lines=[record(5), record(10)], validation=0.0)
    view, _ = page_of("report", "run")
    assert view["summary"]["judgement"] == "nothing was held out to tell whether more time would help"
    assert view["copies"]["copies"]["held_out_share_by_length"] is None


def test_a_text_that_moved_is_read_where_it_is() -> None:
    """With `--corpus`, from a file and from standard input."""
    run_folder()
    Path("own.txt").rename("moved.txt")
    view, _ = page_of("report", "run", "--corpus", "moved.txt")
    assert "missing" not in view["copies"] | view["text_view"]
    result = call("report", "run", "--corpus", "-", stdin=OWN)
    assert result.stderr.startswith("page ")


def test_the_newest_run_and_files_of_a_run_have_a_page() -> None:
    """Without a name it is the newest run; a model file stands for its run, or for itself."""
    Path("runs").mkdir()
    run = run_folder("runs/one")
    view, said = page_of("report", "-o", "page.html", file="page.html")
    assert said.startswith("run runs/one\n")
    assert page_of("report", str(run / "best.safetensors"))[0]["curves"] == view["curves"]
    (run / "best.safetensors").rename("alone.safetensors")
    assert "missing" in page_of("report", "alone.safetensors")[0]["curves"]


@pytest.mark.parametrize(
    "arguments", [["nothing"], ["own.txt"], ["run", "-o", "run"], ["run", "-c", "other.txt"], ["run", "-c", "gone.txt"]]
)
def test_what_is_no_run_no_page_or_no_text_is_refused(arguments: list[str]) -> None:
    """In one line, and no page is written; so is a text that was named and is not the one that the run learned."""
    run_folder()
    Path("other.txt").write_text("another text", encoding="utf-8")
    assert_refused(call("report", *arguments))
    assert not Path("report.html").exists()


@pytest.mark.parametrize("arguments", [["report", "run", "-o", "own.txt"], ["compare", "run", "--html", "own.txt"]])
def test_pages_of_runs_replace_only_pages(arguments: list[str]) -> None:
    """Another file stays as it is."""
    run_folder()
    assert "no page by charlm" in assert_refused(call(*arguments))
    assert Path("own.txt").read_text(encoding="utf-8") == OWN


def hostile_run() -> None:
    """Make a run whose records, settings and facts are false."""
    deep: Any = 1
    for _ in range(200):
        deep = [deep]
    lines: list[dict[str, Any] | str] = [
        {"step": 0, "seconds": 0, "baseline": HOSTILE, "baseline_bits_per_character": 2.0},
        "{", '{"step": NaN, "seconds": 1}', '{"step": 3, "seconds": 1e999, "train_bits_per_character": 2}', "[1]",
        record(1, learning_rate=HOSTILE, gradient_norm=1e300, epoch=None),
        record(2, train_bits_per_character="2", validation_bits_per_character=[1], sample=[HOSTILE]),
        validated(3, 2.0, HOSTILE) | {"sample_bits": [1.0]},
        validated(4, 1e15, "ab\ud83d") | {"sample_bits": [-1, 1e400, 2]},
        validated(5, float("nan"), "x" * 5000),
    ]  # fmt: skip
    config = {HOSTILE: HOSTILE, "train": {HOSTILE: deep, "many": ["x" * 1000] * 500}, "seed": 10**400}
    run_folder(HOSTILE.split(">")[1].replace("/", ""), lines, config=config, corpus={"name": HOSTILE, "held_out": 7})


def test_hostile_runs_have_a_page_with_nothing_but_texts() -> None:
    """No text of a run is part of the page outside its data; what is no number is not drawn."""
    hostile_run()
    (run,) = (path for path in Path().iterdir() if path.is_dir())
    view, said = page_of("report", str(run))
    page = Path("report.html").read_text(encoding="utf-8")
    assert page.count("<script") == page.count("</script>") == 8
    assert "\x1b" not in page + said
    assert "<script>document" not in page
    assert len(page) < 200_000
    assert view["curves"]["gradient_norm"] == [None, 0.5, 0.5, 0.5]
    assert view["curves"]["validation"] == [None, 2.0, 1e15, None]
    assert [each["bits"] is None for each in view["samples"]["samples"]] == [True, True, False]
    assert len(view["samples"]["samples"][2]["text"]) == len(view["samples"]["samples"][2]["bits"]) == 400


def test_a_long_run_has_a_page_of_limited_size() -> None:
    """Of many records some are drawn: the first, the last and the best, and half of them validations."""
    lines = [validated(step, 3 - (step == 777) / 7, "\u72d0" * 160) for step in range(1, 1501)]
    lines += [record(step) for step in range(1501, 3001)]
    run_folder(lines=lines)
    view, _ = page_of("report", "run")
    assert len(json.dumps(view["curves"])) + len(json.dumps(view["samples"], ensure_ascii=False).encode()) < 300_000
    steps = view["curves"]["step"]
    assert len(steps) <= MAX_RECORDS + 1
    assert (steps[0], steps[-1], view["curves"]["num_records"]) == (1, 3000, 3000)
    assert 777 in steps
    assert len([step for step in steps if step <= 1500]) in (MAX_RECORDS // 2, MAX_RECORDS // 2 + 1)
    samples = view["samples"]
    assert (len(samples["samples"]), samples["num_samples"]) == (MAX_SAMPLES, 1500)


def test_a_terminal_shows_what_takes_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each part of the work has a line."""
    run_folder()
    stream = Terminal()
    monkeypatch.setattr(command, "PATIENCE_SECONDS", 0)
    monkeypatch.setattr(sys, "stderr", stream)
    command.report(Path("run"))
    for what in ("the run read", "the held-out text read", "a text written", "the training text searched"):
        assert f"% of {what}" in stream.getvalue()


def test_a_page_of_several_runs_holds_the_comparison() -> None:
    """The data is that of `compare` as JSON, which is printed as before."""
    runs = [str(run_folder("one")), str(run_folder("two", [record(5), validated(9, 3.0)], cell="gru"))]
    printed = answer("compare", *runs, "--json")
    view, said = page_of("compare", *runs, "--html", "page.html", file="page.html")
    assert view["comparison"] == printed
    assert said.splitlines()[-1].startswith("page page.html (")
    assert answer("compare", *runs, "--html", "page.html", "--json") == printed


def test_long_curves_of_several_runs_are_thinned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their first and last points stay."""
    monkeypatch.setattr("charlm.web.comparison.MAX_POINTS", 8)
    lines = [validated(step, 3.0) for step in range(1, 21)]
    runs = [str(run_folder("one", lines)), str(run_folder("two", lines[:3]))]
    view, _ = page_of("compare", *runs, "--html", "page.html", file="page.html")
    assert [len(row["curve"]) for row in view["comparison"]["rows"]] in ([4, 3], [3, 4])
    longest = max((row["curve"] for row in view["comparison"]["rows"]), key=len)
    assert (longest[0][0], longest[-1][0]) == (1, 20)


def test_a_run_resumed_with_more_text_has_its_last_baseline() -> None:
    """The baseline that the end of the curve was measured beside is drawn."""
    later = BASELINE | {"step": 20, "baseline": "5-gram Kneser-Ney", "baseline_bits_per_character": 2.25}
    run_folder(lines=[*RECORDS[:4], later, *RECORDS[4:]])
    assert page_of("report", "run")[0]["summary"]["baseline"] == {"name": "5-gram Kneser-Ney", "bits": 2.25}
