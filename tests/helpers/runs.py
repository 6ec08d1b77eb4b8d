"""Run folders that no training has written."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from charlm.data.corpus import load_corpus
from tests.helpers.model_files import random_model

OWN = "the old fox sat by the river and thought.\nno one came to see him, and he was glad of it.\n" * 5


def record(step: Any, **others: Any) -> dict[str, Any]:
    """Return a record as training writes it."""
    values = {"step": step, "epoch": step / 10, "seconds": step / 2, "train_bits_per_character": 2 + 2 / (1 + step)}
    return values | {"learning_rate": 0.006, "gradient_norm": 0.5, "characters_per_second": 100.0} | others


def validated(step: int, bits: float, sample: str = "the fox") -> dict[str, Any]:
    """Return a record with a validation and a sample."""
    bits_of_sample = [float(place) for place in range(len(sample))]
    return record(step, validation_bits_per_character=bits, sample=sample, sample_bits=bits_of_sample)


BASELINE = {"step": 0, "seconds": 0.0, "baseline": "3-gram Kneser-Ney", "baseline_bits_per_character": 2.5}
FIRST = record(5, train_bits_per_character=6.0)
RECORDS = [BASELINE, FIRST, validated(10, 3.5, "teh fxo"), record(15), validated(20, 2.25), validated(30, 2.0)]
MEASURED = {"step": 30, "epoch": 3.0, "seconds": 15.0, "validation_bits_per_character": 2.125}


def run_folder(
    name: str = "run",
    lines: Sequence[dict[str, Any] | str] = RECORDS,
    text: str = OWN,
    validation: float = 0.2,
    config: dict[str, Any] | None = None,
    corpus: dict[str, Any] | None = None,
    **model: Any,
) -> Path:
    """Make a run folder with a random model of a text in this folder, and lines of records.

    Args:
        name: of the folder.
        lines: of `metrics.jsonl`.
        text: what the run learned.
        validation: the share of it that is held out.
        config: other settings.
        corpus: other facts about the text.
        model: settings of the model.
    """
    Path("own.txt").write_text(text, encoding="utf-8")
    learned = load_corpus(["own.txt"])
    data = {"corpus": ["own.txt"], "validation_fraction": validation, "test_fraction": 0.0, "holdout": "end"}
    file = random_model(symbols=learned.vocabulary, **model)
    settings = file.config | {"data": data} | (config or {})
    file = replace(file, corpus=learned.facts() | (corpus or {}), config=settings, metrics=MEASURED)
    folder = Path(name)
    folder.mkdir()
    file.save(folder / "best.safetensors")
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    (folder / "metrics.jsonl").write_text("\n".join(texts) + "\n", encoding="utf-8")
    return folder
