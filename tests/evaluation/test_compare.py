"""Runs are compared by figures worked out by hand; notes say what differs; folders without a run are refused."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from charlm.checkpoint import ModelFile, load_checkpoint
from charlm.cli.compare import to_lines, to_markdown
from charlm.cli.curves import BLOCKS, sparklines
from charlm.errors import ModelFileError, RunError
from charlm.evaluation.compare import Comparison, compare_runs, find_runs
from charlm.training.final_evaluation import measure_best
from charlm.vocab import Vocabulary
from tests.helpers.commands import SHORT, answer, call
from tests.helpers.training import begin, interrupt

Make = Callable[..., ModelFile]
BITS = "validation_bits_per_character"


def record(step: Any, seconds: Any, bits: Any = None, **others: Any) -> dict[str, Any]:
    """Return a record as training writes it."""
    values = {"step": step, "seconds": seconds, "characters_per_second": 100.0, BITS: bits} | others
    return {name: value for name, value in values.items() if value is not None or name == BITS}


@pytest.fixture
def make_run(make_model: Make) -> Callable[..., Path]:
    """Return a function that makes a run folder of these records."""

    def make(name: str, *lines: dict[str, Any] | str | bytes, best: Any = 2.0, **parts: Any) -> Path:
        sizes = {key: parts.pop(key) for key in ("cell", "num_layers", "hidden_size", "symbols") if key in parts}
        metrics = {"step": 1, "seconds": 0.1} | ({} if best is None else {BITS: best}) | parts.pop("metrics", {})
        model = make_model(**sizes)
        model = replace(model, metrics=metrics, config=model.config | parts.pop("config", {}), **parts)
        folder = Path(name)
        folder.mkdir(parents=True)
        model.save(folder / "best.safetensors")
        texts = [json.dumps(line) if isinstance(line, dict) else line for line in lines]
        encoded = [line if isinstance(line, bytes) else line.encode("utf-8", "surrogatepass") for line in texts]
        (folder / "metrics.jsonl").write_bytes(b"".join(line + b"\n" for line in encoded))
        return folder

    return make


def by_run(comparison: Comparison) -> dict[str, Any]:
    """Return the rows by name."""
    return {row.run: row for row in comparison.rows}


Maker = Callable[..., Path]
FIRST = [record(10, 2.0, 4.0), record(15, 3.0), record(20, 4.0, 3.0), record(40, 8.0, 2.0)]
SECOND = [record(5, 1.0, 5.0), record(10, 3.0, 3.5), record(25, 6.0, 2.5, characters_per_second=400.0)]


def test_figures_are_interpolated_between_validations(make_run: Maker) -> None:
    """At 6 s the first run is half way from 3 to 2 bits, and at step 25 a quarter of the way."""
    found = compare_runs([make_run("a", *FIRST, best=1.9), make_run("b", *SECOND, best=2.4)])
    (group,) = found.groups
    assert (group.equal_seconds, group.equal_steps, group.unit) == (6.0, 25, "character")
    rows = by_run(found)
    assert (rows["a"].at_equal_time, rows["a"].at_equal_steps, rows["a"].best) == (2.5, 2.75, 1.9)
    assert (rows["b"].at_equal_time, rows["b"].at_equal_steps, rows["b"].best) == (2.5, 2.5, 2.4)
    assert (rows["a"].seconds, rows["a"].steps, rows["b"].seconds, rows["b"].steps) == (8.0, 40, 6.0, 25)
    assert (rows["a"].characters_per_second, rows["b"].characters_per_second) == (100.0, 100.0)
    assert found.notes == []


def test_an_average_does_not_set_the_time_of_a_table(make_run: Maker) -> None:
    """It was not trained, so the others are compared where the first of them ended."""
    average = make_run("average", metrics={"step": 5, "seconds": 1.0, "averaged": []}, best=1.5)
    (group,) = compare_runs([average, make_run("a", *FIRST), make_run("b", *SECOND)]).groups
    assert (group.equal_seconds, group.equal_steps) == (6.0, 25)
    assert group.rows[0].best == 1.5


def test_there_is_no_figure_before_the_first_validation(make_run: Maker) -> None:
    """Before the first validation a figure is missing; after the last one it stays the same."""
    short = make_run("short", record(2, 0.5, 6.0), record(3, 0.75))
    rows = by_run(compare_runs([short, make_run("long", *FIRST)]))
    assert (rows["long"].at_equal_time, rows["long"].at_equal_steps) == (None, None)
    assert (rows["short"].at_equal_time, rows["short"].at_equal_steps) == (6.0, 6.0)


def test_runs_are_sorted_by_their_best_validation(make_run: Maker) -> None:
    """The run with the fewest bits comes first, a run without a validation last."""
    paths = [make_run(name, *FIRST, best=best) for name, best in (("c", 3.0), ("n", None), ("a", 1.0), ("b", 2.0))]
    assert [row.run for row in compare_runs(paths).rows] == ["a", "b", "c", "n"]
    assert compare_runs(paths).rows[-1].best is None


def test_a_run_can_be_compared_with_itself(make_run: Maker) -> None:
    """A run that is named twice has two rows with the same figures."""
    path = make_run("a", *FIRST)
    one, other = compare_runs([path, path]).rows
    assert one == other
    assert one.at_equal_time == 2.0


def test_parameters_and_cell_are_those_of_the_model(make_run: Maker) -> None:
    """Each row has the cell, the sizes and the number of parameters of the model of that run."""
    rows = by_run(compare_runs([make_run("a", cell="gru", num_layers=2, hidden_size=7), make_run("b")]))
    assert (rows["a"].cell, rows["b"].cell) == ("gru 2x7", "lstm 1x12")
    # Embedding, two layers, output: of 10 symbols, 5 numbers each and 7 units.
    assert rows["a"].parameters == 11 * 5 + 3 * 7 * (5 + 7 + 2) + 3 * 7 * (7 + 7 + 2) + 10 * 7 + 10


def test_notes_say_what_runs_do_not_share(make_run: Maker) -> None:
    """Another text, held-out part, vocabulary or machine gives one note each; what is equal gives none."""
    same = make_run("same", *FIRST)
    corpus = {"name": "other", "sha256": "1" * 64}
    assert compare_runs([same, make_run("text", corpus=corpus)]).notes == ["they learned different texts"]
    data = {"data": {"corpus": ["x"], "validation_fraction": 0.2, "test_fraction": 0.0}}
    assert compare_runs([same, make_run("part", config=data)]).notes == ["they hold out different parts"]
    assert compare_runs([same, make_run("symbols", symbols="\n abcdefgz")]).notes == ["they count different symbols"]
    (note,) = compare_runs([same, make_run("machine", runtime={"threads": 7})]).notes
    assert "threads" in note


def test_a_note_says_that_some_models_see_both_sides(make_run: Maker) -> None:
    """Models of one and of both directions give a note when mixed, and none among their like."""
    for name, direction in (("f", "forward"), ("b", "backward"), ("m", "both"), ("n", "both")):
        training = begin(name, model__direction=direction)
        interrupt(training, 100)
        measure_best(training)
    mixed = compare_runs([Path("f"), Path("m"), Path("b")])
    assert mixed.notes == ["some see both sides of what they predict"]
    assert [[row.run for row in group.rows] for group in mixed.groups] == [["f"], ["m"], ["b"]]
    rows = by_run(mixed)
    assert (rows["f"].cell, rows["b"].cell, rows["m"].cell) == ("lstm 1x16", "lstm 1x16 backward", "lstm 1x16 both")
    assert all(row.best and row.at_equal_steps and row.characters_per_second for row in mixed.rows)
    assert compare_runs([Path("f"), Path("b")]).notes == ["some read forward, some backward"]
    alike = compare_runs([Path("m"), Path("n")])
    assert alike.notes == []
    assert alike.rows[0].best == alike.rows[1].best
    assert [(group.unit, group.per) for group in alike.groups] == [("character", "masked character")]


def test_runs_on_bytes_are_compared_per_byte(make_run: Maker) -> None:
    """Runs with a vocabulary of bytes have figures too, in bytes a second."""
    for name in ("one", "two"):
        result = call("train", "--corpus", write_text(), "--out", name, *SHORT, "--set", "vocab=bytes", "--seed", "1")
        assert result.exit_code == 0, result.stderr
    found = compare_runs([Path("one"), Path("two")])
    assert [group.unit for group in found.groups] == ["byte"]
    for row in found.rows:
        assert row.best is not None
        assert row.at_equal_steps is not None
        assert row.characters_per_second
    assert "bytes/s" in to_markdown(found)


def write_text() -> str:
    """Write a text and return its name."""
    Path("hare.txt").write_text("the hare and the fox. " * 100)
    return "hare.txt"


@pytest.mark.parametrize(
    "lines",
    [
        [],
        ["", "\n\n"],
        ["{", "null", "[]", "3", '"x"', "{}", '{"step": 1}', "[" * 50_000, b"\xff\xfe\0", "NaN"],
        [record("1", 1.0, 3.0), record(1, "1", 3.0), record(True, 1, 3.0), record(-1, 1, 3.0), record(1, -1.0, 3.0)],
        ['{"step": NaN, "seconds": 1}', '{"step": 1, "seconds": Infinity}', '{"step": 1e999, "seconds": 1}'],
    ],
    ids=["empty", "blank", "no records", "other types", "no numbers"],
)
def test_invalid_records_are_ignored(make_run: Maker, lines: list[Any]) -> None:
    """A line that is not a record does not prevent the other records from being read."""
    assert by_run(compare_runs([make_run("none", *lines), make_run("b", *SECOND)]))["none"].at_equal_steps is None
    rows = by_run(compare_runs([make_run("some", *lines, *FIRST), Path("b")]))
    assert (rows["some"].at_equal_time, rows["some"].steps) == (2.5, 40)


NO_BITS: list[Any] = [float("nan"), float("inf"), -1.0, "2", [], {}, True, 10**4000]
NO_PACES: list[Any] = [float("nan"), 1e999, "9", [], False, 10**4000]
ODD_RECORDS: list[Any] = [
    *(record(30, 5.0, value) for value in NO_BITS),
    *(record(30, 5.0, 2.0, characters_per_second=value) for value in NO_PACES),
    '{"step": 30, "seconds": 5.0, "characters_per_second": null}',
    *(record(value, 5.0, 2.0) for value in (1e308, 10**4000, 2.5)),
    *(record(30, value, 2.0) for value in (1e308, 10**4000, 0)),
]


@pytest.mark.parametrize("line", ODD_RECORDS, ids=range(len(ODD_RECORDS)))
@pytest.mark.parametrize("only", [True, False])
def test_untrusted_numbers_in_records_are_harmless(make_run: Maker, line: Any, only: bool) -> None:
    """A damaged or untrusted record gives no traceback, a table of nine columns, and strictly valid JSON."""
    make_run("odd", *([line] if only else [*FIRST, line]))
    make_run("b", *SECOND)
    result = call("compare", "odd", "b")
    assert result.exit_code == 0, result.stderr
    assert_table(result.stdout, 2)
    assert_strict(call("compare", "odd", "b", "--json").stdout)


@pytest.mark.parametrize(
    "metrics", [{"step": 10**4000}, {"seconds": 10**4000}, {"seconds": None}, {BITS: "1"}, {BITS: float("nan")}]
)
def test_untrusted_metrics_of_a_model_are_harmless(make_run: Maker, metrics: dict[str, Any]) -> None:
    """Untrusted metrics in a model file give a table or an error in a line, never a traceback."""
    make_run("odd", *FIRST, metrics=metrics)
    make_run("b", *SECOND)
    result = call("compare", "odd", "b")
    assert result.exit_code in (0, 1), result.stderr
    assert len(result.stderr.splitlines()) <= 3


@pytest.mark.parametrize("data", [None, [], "x", 3, {"validation_fraction": []}])
def test_untrusted_settings_of_a_model_are_harmless(make_run: Maker, data: Any) -> None:
    """Untrusted settings in a model file give a table or an error in a line, never a traceback."""
    make_run("odd", *FIRST, config={"data": data})
    make_run("b", *SECOND)
    result = call("compare", "odd", "b")
    assert result.exit_code in (0, 1), result.stderr
    assert len(result.stderr.splitlines()) <= 3


def assert_strict(text: str) -> Any:
    """Parse JSON that has no NaN and no infinity."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    return json.loads(text, parse_constant=refuse)


def assert_table(markdown: str, num_rows: int) -> list[list[str]]:
    """Parse a Markdown table of a head, a rule and rows of nine cells each, and return the rows."""
    lines = markdown.rstrip("\n").split("\n")
    assert len(lines) == num_rows + 2
    table = [[cell.strip() for cell in line.replace("\\|", "\0").split("|")[1:-1]] for line in lines]
    assert {len(row) for row in table} == {9}
    assert all(set(cell) <= set("-:") and "-" in cell for cell in table[1])
    return table[2:]


def test_compare_prints_a_markdown_table(make_run: Maker) -> None:
    """The table is on stdout; notes and the unit are on stderr."""
    make_run("a", *FIRST, best=1.9)
    make_run("b", best=None, corpus={"sha256": "1" * 64, "name": "other text"})
    result = call("compare", "a", "b")
    heading, table, other_heading, other_table = result.stdout.rstrip("\n").split("\n\n")
    assert (heading, other_heading) == (
        "made up: characters, read forward, 10% held out",
        "other text: characters, read forward, 10% held out",
    )
    (one,), (other,) = assert_table(table, 1), assert_table(other_table, 1)
    assert one[0] == "a"
    assert one[3:] == ["100", "8.0", "40", "2.0000", "2.0000", "1.9000"]
    assert other[3:] == ["-", "0.1", "1", "-", "-", "-"]
    assert "note: they learned different texts" in result.stderr
    assert "bits per character" in result.stderr


def test_compare_prints_the_comparison_as_json(make_run: Maker) -> None:
    """`--json` prints all fields of the comparison in one line of strictly valid JSON."""
    make_run("a", *FIRST)
    make_run("b", *SECOND)
    values = answer("compare", "a", "b", "--json")
    assert values == json.loads(json.dumps(compare_runs([Path("a"), Path("b")]).to_json()))
    assert values.keys() == {"rows", "equal_seconds", "equal_steps", "unit", "per", "notes", "groups"}
    assert values["groups"][0]["rows"] == [row["run"] for row in values["rows"]]
    assert values["rows"][0]["curve"] == [[10, 2.0, 4.0], [20, 4.0, 3.0], [40, 8.0, 2.0]]
    assert_strict(call("compare", "a", "b", "--json").stdout)


@pytest.mark.parametrize("name", ["a|b", "a\nb", "a\x1b[31mb", "a\x07b", "a\u2028b", "a\u202eb", "a\\", "a\\|b", "狐"])
def test_no_name_of_a_run_breaks_the_markdown_table(make_run: Maker, name: str) -> None:
    """Bars, line ends and control characters in a name are escaped in the table and unchanged in JSON."""
    make_run(name, *FIRST)
    make_run("b", *SECOND)
    result = call("compare", name, "b")
    assert_table(result.stdout, 2)
    assert all(line.isprintable() for line in result.stdout.split("\n"))
    assert {row["run"] for row in answer("compare", name, "b", "--json")["rows"]} == {name, "b"}


def test_compare_refuses_a_path_without_a_run(make_run: Maker) -> None:
    """A missing or empty folder or a damaged model is named in an error; the model file of a run is accepted."""
    make_run("a", *FIRST)
    Path("empty").mkdir()
    damaged = make_run("damaged")
    (damaged / "best.safetensors").write_bytes(b"no model")
    for name in ("missing", "empty", "damaged", "x" * 300, ""):
        result = call("compare", "a", name)
        assert (result.exit_code, result.stdout) == (1, "")
        assert result.stderr.startswith("error: ")
        assert (name in result.stderr) or len(name) > 200
        assert len(result.stderr.splitlines()) <= 2
    (row,) = compare_runs([Path("a/best.safetensors")]).rows
    assert row.steps == compare_runs([Path("a")]).rows[0].steps
    with pytest.raises(RunError, match="missing"):
        compare_runs([Path("missing")])
    with pytest.raises(ModelFileError, match="damaged"):
        compare_runs([damaged])


def test_a_pipe_or_folder_as_metrics_is_ignored(make_run: Maker) -> None:
    """A pipe or a folder named `metrics.jsonl` is not read and not waited for."""
    for name, put in (("pipe", os.mkfifo), ("folder", os.mkdir)):
        path = make_run(name) / "metrics.jsonl"
        path.unlink()
        put(path)
        assert compare_runs([Path(name)]).rows[0].at_equal_time is None


def test_a_run_without_a_validation_can_be_compared() -> None:
    """A run that has only the model of its last step is compared, or refused with the reason."""
    training = begin("early")
    interrupt(training, 1)
    assert not training.run.best.exists()
    result = call("compare", "early")
    assert result.exit_code == 0 or "validated" in result.stderr


def test_compare_without_names_takes_all_runs(make_run: Maker) -> None:
    """Without arguments, `compare` takes all runs in `runs/`, and reports it if there are none."""
    assert "holds none" in call("compare").stderr
    for name in ("one", "two"):
        Path("runs").mkdir(exist_ok=True)
        make_run(name, *FIRST).rename(Path("runs") / name)
    Path("runs/no-run").mkdir()
    assert {row["run"] for row in answer("compare", "--json")["rows"]} == {"runs/one", "runs/two"}


def aborted(make_run: Maker, name: str) -> Path:
    """Make a run that was killed after its first step: its last model says that it is not finished."""
    folder = make_run(name, record(1, 0.2, 6.0), best=None)
    model = load_checkpoint(folder / "best.safetensors")
    replace(model, metrics={"step": 1, "seconds": 0.2, "finished": ""}).save(folder / "last.safetensors")
    return folder


def test_an_aborted_run_does_not_make_the_columns(make_run: Maker) -> None:
    """It comes last, is marked, has no figures at places it has not reached, and the others are compared as without."""
    paths = [aborted(make_run, "cut"), make_run("a", *FIRST, best=1.9), make_run("b", *SECOND, best=2.4)]
    found = compare_runs(paths)
    (group,) = found.groups
    assert (group.equal_seconds, group.equal_steps) == (6.0, 25)
    assert [(row.run, row.finished) for row in group.rows] == [("a", True), ("b", True), ("cut", False)]
    cut = group.rows[-1]
    assert (cut.at_equal_time, cut.at_equal_steps, cut.best, cut.curve) == (None, None, None, [(1, 0.2, 6.0)])
    *_, last_finished, gap, aborted_run = to_lines(found, 120, has_curves=True)
    assert (last_finished.split()[0], gap, aborted_run.split()[:2]) == ("b", "", ["cut", "*"])
    result = call("compare", "cut", "a")
    assert [row[0] for row in assert_table(result.stdout, 2)] == ["a", "cut *"]
    assert "did not finish" in result.stderr
    assert "did not finish" not in call("compare", "a").stderr


def test_aborted_runs_alone_are_compared_with_one_another(make_run: Maker) -> None:
    """Without a finished run, the shortest of them makes the columns."""
    found = compare_runs([aborted(make_run, "one"), aborted(make_run, "two")])
    (group,) = found.groups
    assert (group.equal_seconds, group.equal_steps) == (0.2, 1)
    _, columns, *rows = to_lines(found, 120, has_curves=False)
    assert "at 1 step " in columns
    assert [row.split()[:2] for row in rows] == [["one", "*"], ["two", "*"]]


OTHERS: list[dict[str, Any]] = [
    {"corpus": {"name": "other", "sha256": "1" * 64}},
    {"config": {"data": {"corpus": ["x"], "validation_fraction": 0.2, "test_fraction": 0.0}}},
    {"corpus": {"name": "made up", "sha256": "0" * 64, "held_out": {"validation": [[0, 9]], "test": []}}},
    {"symbols": Vocabulary("characters", "abc ", "letters")},
]


@pytest.mark.parametrize("parts", OTHERS, ids=["text", "share", "place", "filter"])
def test_runs_that_cannot_be_compared_are_in_tables_apart(make_run: Maker, parts: dict[str, Any]) -> None:
    """Another text, held-out part or filter makes another group with a heading of its own; named runs get a note."""
    runs = Path("runs")
    for name, others in (("a", {}), ("b", {}), ("c", parts)):
        make_run(str(runs / name), *FIRST, **others)
    found = compare_runs(find_runs(), are_named=False)
    assert [[row.run for row in group.rows] for group in found.groups] == [["runs/a", "runs/b"], ["runs/c"]]
    assert found.notes == []
    assert len({(group.text, group.kind) for group in found.groups}) == 2
    result = call("compare", "runs/a", "runs/c")
    assert result.stderr.startswith("note: they ")
    assert result.stdout.count("| cell ") == 2


def test_a_text_that_was_changed_is_told_apart_by_its_hash(make_run: Maker) -> None:
    """Two texts of one name have their hashes in the headings."""
    make_run("a", corpus={"name": "novel", "sha256": "12345678" * 8})
    make_run("b", corpus={"name": "novel", "sha256": "abcdef12" * 8})
    shown = call("compare", "a", "b").stdout
    assert ("novel (12345678): " in shown, "novel (abcdef12): " in shown) == (True, True)


def test_what_a_model_held_out_is_what_counts(make_run: Maker) -> None:
    """A setting such as `holdout` that names the same part in another way makes no group of its own."""
    data = {"corpus": ["x"], "validation_fraction": 0.1, "test_fraction": 0.0}
    settings: list[dict[str, str]] = [{}, {"holdout": "end"}, {"holdout": "auto"}]
    paths = [make_run(f"r{index}", config={"data": data | setting}) for index, setting in enumerate(settings)]
    assert len(compare_runs(paths).groups) == 1


def test_a_model_file_is_a_row(make_run: Maker) -> None:
    """It has its own step and validation, or what its run had then, and does not make the columns."""
    folder = make_run("a", *FIRST, best=1.9)
    (folder / "kept").mkdir()
    model = load_checkpoint(folder / "best.safetensors")
    for name, metrics in (("kept/step-20", {}), ("other", {BITS: 3.5})):
        kept = replace(model, metrics={"step": 20, "seconds": 1.5} | metrics)
        kept.save(folder / f"{name}.safetensors")
    found = compare_runs([folder, folder / "kept/step-20.safetensors", folder / "other.safetensors"])
    (group,) = found.groups
    assert [(row.run, row.steps, row.best) for row in group.rows] == [
        ("a", 40, 1.9), ("a/kept/step-20.safetensors", 20, 3.0), ("a/other.safetensors", 20, 3.5),
    ]  # fmt: skip
    assert [len(row.curve) for row in group.rows] == [3, 2, 0]
    assert (group.equal_seconds, group.equal_steps) == (8.0, 40)
    assert [note for note in found.notes if "kept" in note]


def test_a_sparkline_falls_as_the_validation_does(make_run: Maker) -> None:
    """Runs of a table share one scale; a run without validations has no line, one with a single one has one block."""
    falling = make_run("falling", *(record(step, float(step), 4.0 - step / 10) for step in range(1, 21)))
    rising = make_run("rising", *(record(step, float(step), 2.0 + step / 20) for step in range(1, 21)))
    group = compare_runs([falling, rising, aborted(make_run, "cut"), make_run("none")]).groups[0]
    lines = dict(zip([row.run for row in group.rows], sparklines(group.rows), strict=True))
    assert [BLOCKS.index(block) for block in lines["falling"]] == sorted(map(BLOCKS.index, lines["falling"]))[::-1]
    assert [BLOCKS.index(block) for block in lines["rising"]] == sorted(map(BLOCKS.index, lines["rising"]))
    assert (lines["falling"][0], lines["falling"][-1], lines["rising"][0]) == (BLOCKS[-1], BLOCKS[0], BLOCKS[0])
    assert (lines["cut"], lines["none"]) == (BLOCKS[-1], "")


def test_compare_fits_into_a_terminal(make_run: Maker) -> None:
    """Run and best are always there; with room come cell, curve, and the rest; a pipe has no curves."""
    make_run("runs/fables-lstm-1", *FIRST, best=1.9)
    make_run("runs/fables-gru-1", *SECOND, best=2.4)
    found = compare_runs(find_runs())
    for width in range(40, 121):
        lines = to_lines(found, width, has_curves=True)
        assert max(map(len, lines)) <= width
        assert [line.split()[0] for line in lines[-2:]] == ["runs/fables-lstm-1", "runs/fables-gru-1"]
        assert all(bits in line for bits, line in zip(("1.9000", "2.4000"), lines[-2:], strict=True))
    assert {"parameters", "curve", "steps"} <= set(to_lines(found, 120, has_curves=True)[1].split())
    assert "curve" not in to_lines(found, 120, has_curves=False)[1]
    assert not set(to_markdown(found)) & set(BLOCKS)


def test_curves_are_drawn_on_request(make_run: Maker) -> None:
    """Each group has a picture below its table, which fits into a terminal; in a pipe it is a block of text."""
    make_run("runs/fables-lstm-1", *FIRST, best=1.9)
    make_run("runs/fables-gru-1", *SECOND, best=2.4)
    make_run("runs/other", *FIRST, corpus={"name": "other", "sha256": "1" * 64})
    found = compare_runs(find_runs())
    for width in (40, 80, 120):
        lines = to_lines(found, width, has_curves=True, draws_curves=True)
        assert max(map(len, lines)) <= width
        legends = [line.split()[:2] for line in lines if line.startswith(("a ", "b "))]
        assert legends == [["a", "runs/fables-lstm-1"], ["b", "runs/fables-gru-1"], ["a", "runs/other"]]
    shown = call("compare", "--curves").stdout
    assert shown.count("```text\nvalidation in bits per character, over time:\n") == 2
    assert "```" not in call("compare").stdout
    assert answer("compare", "--curves", "--json") == answer("compare", "--json")
