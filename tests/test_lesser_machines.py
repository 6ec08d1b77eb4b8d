"""On a processor with fewer instructions training is as exact, and no slower than a stock loop there."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent
# The instructions of most laptops, and those of the oldest machine that torch runs on.
AVX2 = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}
SSE41 = {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41", "MKL_ENABLE_INSTRUCTIONS": "SSE4_2"}
EXACT = "equals_the or two_blocks or ids_are or slopes or bit_identical and (lstm-1 or gru-2) and 0.3-muon-fp32"
# Trains with the default settings, and then measures a stock loop at the size that they chose.
MEASURED_RUN = """
import sys
from pathlib import Path
from charlm.cli.app import app
from charlm.cli.bench import make_optimizer
from charlm.checkpoint import load_checkpoint
from charlm.evaluation.bench import WORKLOAD, Size, _training_row
from charlm.run_folder import RunFolder

app(sys.argv[1:], standalone_mode=False)
name = sys.argv[sys.argv.index("--out") + 1]
size = load_checkpoint(RunFolder.open(Path(name)).last).spec.hidden_size
print("stock", _training_row("lstm", Size(1, size), 3, make_optimizer, WORKLOAD).beside)
"""
# The machine may be busy, and this test looks only for a loss of many times.
SLACK = 0.5

avx2 = pytest.mark.skipif(
    not torch.cpu.get_capabilities().get("avx512_f"), reason="this machine has no more instructions than AVX2"
)
machines = pytest.mark.parametrize(
    "instructions", [pytest.param(AVX2, marks=avx2, id="avx2"), pytest.param(SSE41, marks=pytest.mark.slow, id="sse41")]
)


def run(instructions: dict[str, str], *arguments: str, **options: str | Path) -> str:
    """Run Python with only some instructions, and return its output."""
    environment = os.environ | instructions | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload]
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return str(done.stdout)


@machines
def test_layers_and_resume_are_exact_on_older_processors(instructions: dict[str, str]) -> None:
    """The tests of layers and of exact resume pass with fewer instructions."""
    files = ["tests/nn/test_layers.py", "tests/training/test_resume.py"]
    options = ["-q", "-n", "0", "-p", "no:cacheprovider"]
    printed = run(instructions, "-m", "pytest", *options, *files, "-k", EXACT, cwd=ROOT)
    assert " passed" in printed


@pytest.mark.slow
@machines
def test_the_default_settings_keep_the_pace_of_a_stock_loop(instructions: dict[str, str]) -> None:
    """Three seconds of default training are compared with torch's module and AdamW at the same size.

    One is measured after the other, and other work may fall on one of them: one of three tries has to pass.
    """
    shares: list[float] = []
    while max(shares, default=0.0) <= SLACK and len(shares) < 3:
        name = f"run-{len(shares)}"
        arguments = ["train", "--corpus", "fables", "--time", "3s", "--out", name, "--sample-length", "0"]
        printed = run(instructions, "-c", MEASURED_RUN, *arguments)
        lines = [json.loads(line) for line in Path(name, "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
        pace = statistics.median(line["characters_per_second"] for line in lines if "baseline" not in line)
        shares.append(pace / float(printed.split()[-1]))
    assert max(shares) > SLACK
