"""Files of an older charlm still work: `tests/files` has a run and its end, written before the rooms existed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from charlm.checkpoint import load_checkpoint
from charlm.settings.config_file import validate_settings
from tests.helpers.commands import call

FILES = Path(__file__).parent / "files"
FINISHED_RECORDS = FILES / "old_run_finished.jsonl"


def records_by_share(path: Path) -> list[dict[str, Any]]:
    """Read the records that do not depend on the speed of the machine."""
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [record for record in records if "by" not in record and "baseline" not in record]


@pytest.fixture
def old_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Copy the run, which stopped after 18 of its 40 steps, and its text to a temporary folder."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(FILES / "bottles.txt", tmp_path)
    return Path(shutil.copytree(FILES / "old_run", tmp_path / "run"))


def test_an_old_run_resumes_and_ends_as_before(old_run: Path) -> None:
    """A resumed run of an older charlm ends with the same records and weights, except for rounding."""
    assert load_checkpoint(old_run / "last.safetensors").step == 18
    call("train", "--resume", str(old_run), "--sample-length", "0")
    found = load_checkpoint(old_run / "best.safetensors")
    expected = load_checkpoint(FILES / "old_run_finished.safetensors")
    assert found.step == expected.step == 40
    # Settings that the older charlm lacked have the value that changes nothing.
    assert validate_settings(found.config, {}, "found") == validate_settings(expected.config, {}, "expected")
    assert found.arrays.keys() == expected.arrays.keys()
    for name, array in expected.arrays.items():
        np.testing.assert_allclose(found.arrays[name], array, rtol=0, atol=1e-4, err_msg=name)
    records, expected_records = records_by_share(old_run / "metrics.jsonl"), records_by_share(FINISHED_RECORDS)
    for record, expected_record in zip(records, expected_records, strict=True):
        assert record.keys() - expected_record.keys() <= {"gradient_norm", "sample", "sample_bits"}
        assert record.keys() >= expected_record.keys()
    for name in ("step", "epoch", "learning_rate", "train_bits_per_character", "smoothed_bits_per_character"):
        values, expected_values = ([record[name] for record in lines] for lines in (records, expected_records))
        np.testing.assert_allclose(values, expected_values, rtol=1e-4, err_msg=name)


def test_an_old_model_file_writes_the_same_text() -> None:
    """A model file of an older charlm loads and samples the same text as before."""
    model = str(FILES / "old_run_finished.safetensors")
    text = call("sample", "1 gr", "--model", model, "--seed", "3", "-n", "60").stdout
    assert text == "1 gr 5nf fg,l,ahaglt4il5\nt6atlei ld ir0h0ii onlldin oea l7r8eag \n"
