"""What the page of a run holds: its curves, what it wrote on the way, what it reads and copies, and its settings.

The figures are those that commands print as JSON (`compare`, `score`, `sample --check-copies`) and those of
`metrics.jsonl`. A section whose data is lacking is a sentence that says why. All data is untrusted.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from charlm.checkpoint import ModelFile
from charlm.data.corpus import Corpus, TextProgress
from charlm.data.holdout import HELD_OUT, Split
from charlm.errors import CharlmError, UndecodableError, one_line
from charlm.evaluation.compare import ReadRun, bits_of, compare_runs, is_number, read_run
from charlm.evaluation.copies import LearnedText
from charlm.evaluation.judgement import judge_records
from charlm.evaluation.scored_text import TextToScore, load_own_parts
from charlm.inference.generate import generate
from charlm.inference.sampling import Sampling
from charlm.inference.stepper import Stepper
from charlm.ramps import SEQUENTIAL
from charlm.web.page import spread
from charlm.web.text_view import MAX_BITS, held_out_view, ramp_colours
from charlm.web.text_view import SCRIPTS as TEXT_SCRIPTS

# The assets that draw it, in the order of the sections.
SCRIPTS = ("chart.js", "run.js", *TEXT_SCRIPTS, "copies.js", "facts.js")
# Beside the text, a page has room for about so many records, samples and settings.
MAX_RECORDS, MAX_SAMPLES, MAX_SETTINGS = 1000, 40, 100
MAX_SAMPLE_CHARACTERS, MAX_VALUE_CHARACTERS = 400, 200
# The text in which copies are looked for.
COPIES_LENGTH, COPIES_TEMPERATURE, COPIES_SEED = 1000, 0.7, 0

# Called with what is done, how much of it, and how much there is.
Progress = Callable[[str, int, int], None]


def report(
    path: Path, names: Sequence[str] | None, progress: Progress, download_progress: TextProgress | None = None
) -> dict[str, Any]:
    """Return what the page of a run holds, as plain values.

    Args:
        path: a run folder, or a model file in one.
        names: where the text is now that the run learned; None for where it was in training.
        progress: called now and then with what is done, and how much of it.
        download_progress: called as a download of the text proceeds.

    Raises:
        RunError: there is no run.
        ModelFileError: its model is damaged.
        CharlmError: the text that was named cannot be read, or is another one.
    """
    progress("of the run read", 0, 1)
    run = read_run(path)
    view: dict[str, Any] = {"summary": _summary(path, run), "curves": _curves(run), "samples": _samples(run)}
    progress("of the text read", 0, 1)
    try:
        corpus, parts = _own_parts(path, run.model, names, download_progress)
    except CharlmError as error:
        if names:
            raise
        reason = f"{error}{f'; {error.hint}' if error.hint else ''}."
        view |= {"text_view": missing(f"No held-out text is shown: {reason}")}
        view |= {"copies": missing(f"Copies were not looked for: {reason}")}
    else:
        learned = LearnedText(corpus, parts)
        view |= {"text_view": _held_out(run.model, corpus.name, parts, progress)}
        view |= {
            "copies": _or_reason("Copies were not looked for", lambda: _copies(path, run.model, learned, progress))
        }
    return view | {"facts": _facts(run.model)}


def missing(reason: str) -> dict[str, Any]:
    """Return what stands in place of a section."""
    return {"missing": reason}


def _or_reason(what: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    try:
        return make()
    except CharlmError as error:
        return missing(f"{what}: {error}.")


def _own_parts(
    path: Path, model: ModelFile, names: Sequence[str] | None, progress: TextProgress | None
) -> tuple[Corpus, Split]:
    """Read the text that a run learned.

    Raises:
        CharlmError: it cannot be read, or is another one.
    """
    command = f"charlm report {shlex.quote(str(path))} --corpus"
    otherwise = "name the text that the run learned, or omit `--corpus`" if names else ""
    try:
        return load_own_parts(model, names, command, otherwise, progress)
    except UndecodableError as error:
        # Its hint is on options that only training and scoring have.
        raise UndecodableError(str(error), otherwise) from error


def _held_out(model: ModelFile, name: str, parts: Split, progress: Progress) -> dict[str, Any]:
    """Return the beginning of the validation part, as the model reads it."""
    if not len(parts.validation):
        return missing("No held-out text is shown: nothing was held out for validation.")

    def show(done: int, total: int) -> None:
        progress("of the held-out text read", done, total)

    own = TextToScore(f"validation part of {name}", parts.validation)
    return _or_reason("No held-out text is shown", lambda: held_out_view(model, own, show))


def _summary(path: Path, run: ReadRun) -> dict[str, Any]:
    """Return the row of `compare`, the scores of the best model, and what the curve says."""
    compared = compare_runs([path]).to_json()
    row = {name: value for name, value in compared["rows"][0].items() if name != "curve"}
    has_ngrams = row["net"] is not None or any(name.startswith("ngrams.") for name in run.model.arrays)
    per = compared["per"]
    sentence = judge_records(run.records).sentence("validation of the net" if has_ngrams else "validation")
    if _validation_fraction(run.model) == 0:
        sentence = "nothing was held out to tell whether more time would help"
    return {
        "row": row,
        "unit": compared["unit"],
        "per": per,
        "text": one_line(compared["groups"][0]["text"]),
        "kind": compared["groups"][0]["kind"],
        "metrics": {name: value for name, value in run.model.metrics.items() if is_number(value)},
        "baseline": _baseline(run.records),
        "judgement": sentence,
    }


def _validation_fraction(model: ModelFile) -> Any:
    data = model.config.get("data")
    return data.get("validation_fraction") if isinstance(data, dict) else None


def _baseline(records: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Return the last model of counts that the run was measured against, with its bits; None if there is none."""
    for record in reversed(records):
        name, bits = record.get("baseline"), bits_of(record, "baseline_bits_per_")
        if isinstance(name, str) and bits is not None:
            return {"name": one_line(name[:MAX_VALUE_CHARACTERS]), "bits": bits}
    return None


def _curves(run: ReadRun) -> dict[str, Any]:
    """Return the figures of the records, a list for each kind."""
    figures = [_figures(record) for record in run.records]
    figures = [each for each in figures if each["train"] is not None or each["validation"] is not None]
    if not figures:
        return missing("There are no curves: `metrics.jsonl` of this run has no figures.")
    kept = _thinned(figures)
    return {
        **{name: [each[name] for each in kept] for name in kept[0]},
        "num_records": len(figures),
        "reads_both_sides": run.model.spec.sees_both_sides,
    }


def _figures(record: Mapping[str, Any]) -> dict[str, float | None]:
    """Return the figures of a line of `metrics.jsonl` that are drawn."""
    others = ("epoch", "learning_rate", "gradient_norm")
    return {
        "step": record["step"],
        "seconds": record["seconds"],
        "train": bits_of(record, "train_bits_per_"),
        "validation": bits_of(record),
        **{name: value if is_number(value := record.get(name)) else None for name in others},
    }


def _thinned(figures: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return records that are spread over the run, if there are too many: half of them validations, also the best."""
    if len(figures) <= MAX_RECORDS:
        return list(figures)
    places = [place for place, each in enumerate(figures) if each["validation"] is not None]
    others = [place for place, each in enumerate(figures) if each["validation"] is None]
    best = min(places, key=lambda place: figures[place]["validation"], default=0)
    kept = {best, *spread(places, MAX_RECORDS // 2), *spread(others, MAX_RECORDS // 2)}
    return [figures[place] for place in sorted(kept)]


def _samples(run: ReadRun) -> dict[str, Any]:
    """Return what the model wrote along the way."""
    if run.model.spec.sees_both_sides:
        return missing("A model that sees both sides writes no samples: it fills blanks.")
    found = [record for record in run.records if isinstance(record.get("sample"), str) and record["sample"]]
    if not found:
        return missing("There are no samples: this run recorded none.")
    return {
        "ramp": ramp_colours(SEQUENTIAL),
        "max_bits": MAX_BITS,
        "num_samples": len(found),
        "samples": [
            {
                **_figures(record),
                "text": record["sample"][:MAX_SAMPLE_CHARACTERS],
                "bits": _bits_of_characters(record.get("sample_bits"), len(record["sample"])),
            }
            for record in spread(found, MAX_SAMPLES)
        ],
    }


def _bits_of_characters(values: Any, length: int) -> list[float] | None:
    """Return the bits of the characters of a sample that are shown; None if these are not numbers, one for each."""
    if not isinstance(values, list) or len(values) != length or not all(map(is_number, values)):
        return None
    return values[:MAX_SAMPLE_CHARACTERS]


def _copies(path: Path, model: ModelFile, learned: LearnedText, progress: Progress) -> dict[str, Any]:
    """Return a text that the model writes, and what of it stands verbatim in the training text.

    Raises:
        CharlmError: the model writes no text.
    """
    stepper = Stepper(model)
    sampling, pieces = Sampling(COPIES_TEMPERATURE), []
    for piece in generate(stepper, "", length=COPIES_LENGTH, sampling=sampling, seeds=[COPIES_SEED]):
        pieces.append(piece.text)
        progress("of a text written", len(pieces), COPIES_LENGTH)
    text = "".join(pieces[:: -1 if stepper.is_backward else 1])

    def show(done: int, total: int) -> None:
        progress("of the training text searched", done, total)

    (found,) = learned.copies([text], show)
    run = shlex.quote(one_line(str(path)))
    return {
        "seed": COPIES_SEED,
        "text": text,
        "copies": found.to_json(),
        "command": f"charlm sample --model {run} --length {COPIES_LENGTH} --seed {COPIES_SEED} --check-copies",
        "has_base": bool(model.base),
    }


def _facts(model: ModelFile) -> list[dict[str, Any]]:
    """Return the model, its text, the machine and the settings: for each a title, and rows of a name and a value."""
    symbols, spec = model.vocabulary, model.spec
    about = {
        "cell": spec.cell,
        "layers": spec.num_layers,
        "units in a layer": spec.hidden_size,
        "reads": "both sides" if spec.sees_both_sides else spec.direction,
        "parameters of the net": f"{sum(array.size for array in model.weights.values()):,}",
        f"different {symbols.unit}s": f"{len(symbols):,}",
    }
    text = {
        name: f"{value:,}" if type(value) is int and is_number(value) else value
        for name, value in model.corpus.items()
        if name != HELD_OUT
    }
    groups = {name: values for name, values in model.config.items() if isinstance(values, dict)}
    single = {name: value for name, value in model.config.items() if name not in groups}
    tables = {"Model": about, "Text": text, "Machine": model.runtime, "Started from": model.base}
    tables |= {f"Settings: {one_line(name[:MAX_VALUE_CHARACTERS])}": values for name, values in groups.items()}
    tables |= {"Settings: others": single}
    rows = [(title, name, value) for title, values in tables.items() for name, value in values.items()]
    shown: dict[str, list[list[str]]] = {}
    for title, name, value in rows[:MAX_SETTINGS]:
        shown.setdefault(title, []).append([_text_of(name), _text_of(value)])
    return [{"title": title, "rows": values} for title, values in shown.items()]


def _text_of(value: Any) -> str:
    """Return a value of a file as a short text."""
    if isinstance(value, list):
        value = ", ".join(map(_text_of, value[:MAX_SETTINGS]))
    if not isinstance(value, str):
        with suppress(RecursionError):
            value = json.dumps(value)
    text = one_line(str(value)[: MAX_VALUE_CHARACTERS + 1])
    return text if len(text) <= MAX_VALUE_CHARACTERS else text[:MAX_VALUE_CHARACTERS] + "..."
