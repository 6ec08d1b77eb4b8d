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
CORE = ["tests/nn/test_layers.py", "-k", "equals_the or two_blocks or ids_are or slopes"]
RESUMED = ["tests/training/test_resume.py", "-k", "bit_identical and (lstm-1 or gru-2) and 0.3-muon-fp32"]
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
@pytest.mark.parametrize("tests", [CORE, RESUMED], ids=["core", "resume"])
def test_layers_and_resume_are_exact_on_older_processors(instructions: dict[str, str], tests: list[str]) -> None:
    """The tests of layers and of exact resume pass with fewer instructions."""
    printed = run(instructions, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", *tests, cwd=ROOT)
    assert " passed" in printed


@machines
def test_the_default_settings_keep_the_pace_of_a_stock_loop(instructions: dict[str, str]) -> None:
    """Five seconds of default training are compared with torch's module and AdamW at the same size."""
    settings = ["--corpus", "fables", "--time", "5s", "--out", "run", "--sample-length", "0"]
    run(instructions, "-m", "charlm", "train", *settings)
    lines = [json.loads(line) for line in Path("run/metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    pace = statistics.median(line["characters_per_second"] for line in lines)
    config = Path("run/config.yaml").read_text(encoding="utf-8")
    (size,) = (line.split()[1] for line in config.splitlines() if "hidden_size" in line)
    program = (
        "from charlm.cli.bench import make_optimizer; from charlm.evaluation.bench import Size, _training_row\n"
        f"print(_training_row('lstm', Size(1, {size}), 3, make_optimizer, 512).beside)"
    )
    stock = float(run(instructions, "-c", program))
    assert pace > SLACK * stock
