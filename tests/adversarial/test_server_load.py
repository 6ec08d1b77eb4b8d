"""A server with 64 clients for a minute: nothing is lost, every text is right, and memory stays flat."""

from __future__ import annotations

import asyncio
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import charlm
from tests.helpers.model_files import random_model
from tests.helpers.server import Server, http_post, running_server

# A model to measure with, in place of a small one of random weights.
MODEL = os.environ.get("CHARLM_LOAD_MODEL")
NUM_CLIENTS = 64
SECONDS = float(os.environ.get("CHARLM_LOAD_SECONDS", "60"))
LENGTH = 100
NUM_SEEDS = 50


def resident_megabytes(process_id: int) -> float:
    """Return how much memory a process has."""
    status = Path(f"/proc/{process_id}/status").read_text(encoding="ascii")
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


async def ask(server: Server, seed: int, kind: str) -> str:
    """Ask for a text in one of the ways there are, on a connection of its own, and return it."""
    body: dict[str, Any] = {"seed": seed, "temperature": 0.7, "stream": kind.endswith("stream")}
    if kind.startswith("completion"):
        path, body = "/v1/completions", body | {"max_tokens": LENGTH}
    else:
        path, body = "/generate", body | {"length": LENGTH}
    reader, writer = await asyncio.open_connection(server.host, server.port)
    writer.write(http_post(path, json.dumps(body).encode(), "Connection: close\r\n"))
    answer = (await reader.read()).decode()
    writer.close()
    head, _, content = answer.partition("\r\n\r\n")
    assert head.startswith("HTTP/1.1 200 "), answer[:300]
    if not body["stream"]:
        found = json.loads(content)
        return str((found.get("texts") or found.get("choices"))[0]["text"])
    events = [line.removeprefix("data: ") for line in content.splitlines() if line.startswith("data: ")]
    values = [json.loads(event) for event in events if event != "[DONE]"]
    pieces = [value["choices"][0] if "choices" in value else value for value in values]
    return "".join(piece.get("text", "") for piece in pieces)


async def client(server: Server, number: int, until: float, expected: list[str]) -> list[float]:
    """Ask again and again; return how long each answer took."""
    kinds = ["generate", "generate stream", "completion", "completion stream"]
    taken: list[float] = []
    while time.monotonic() < until:
        seed = (number * 7 + len(taken)) % NUM_SEEDS
        before = time.monotonic()
        assert await ask(server, seed, kinds[(number + len(taken)) % len(kinds)]) == expected[seed]
        taken.append(time.monotonic() - before)
    return taken


async def load(server: Server, expected: list[str]) -> tuple[list[float], list[float]]:
    """Let all clients ask; return how long each answer took, and the memory at 10 s and at the end."""
    until = time.monotonic() + SECONDS
    clients = [asyncio.create_task(client(server, number, until, expected)) for number in range(NUM_CLIENTS)]
    await asyncio.sleep(SECONDS / 6)
    memory = [resident_megabytes(server.process.pid)]
    taken = [seconds for each in await asyncio.gather(*clients) for seconds in each]
    return taken, [*memory, resident_megabytes(server.process.pid)]


@pytest.mark.slow
def test_64_clients_for_a_minute() -> None:
    """Each answer is the text of its seed, alone or streamed, and the memory at the end is that after ten seconds."""
    random_model(hidden_size=64).save(Path("small.safetensors"))
    path = MODEL or "small.safetensors"
    model = charlm.load(path)
    expected = [model.generate("", length=LENGTH, seed=seed) for seed in range(NUM_SEEDS)]
    with running_server("-m", path) as server:
        at_start = resident_megabytes(server.process.pid)
        taken, (early, late) = asyncio.run(load(server, expected))
    p50, p99 = np.percentile(taken, [50, 99])
    print(
        f"\n{len(taken):,} requests, {len(taken) * LENGTH / SECONDS:,.0f} characters/s, p50 {p50 * 1000:,.0f} ms, "
        f"p99 {p99 * 1000:,.0f} ms, most {max(taken) * 1000:,.0f} ms; "
        f"{at_start:.0f} MB at the start, {early:.0f} after {SECONDS / 6:.0f} s, {late:.0f} at the end"
    )
    assert len(taken) >= NUM_CLIENTS
    assert late < 1.1 * early + 5
