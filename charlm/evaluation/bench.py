"""How fast charlm is on this machine, beside torch as a user would write it, in turns in one run. Prints nothing."""

from __future__ import annotations

import itertools
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from charlm import __version__
from charlm.cells import CELLS
from charlm.checkpoint import ModelFile
from charlm.config import TrainConfig
from charlm.data.corpus import load_corpus
from charlm.inference.generate import Sampling, generate
from charlm.inference.stepper import Stepper
from charlm.nn.layers import Variant
from charlm.nn.model import CharModel
from charlm.nn.runtime import Runtime, keep_freed_memory
from charlm.nn.trials import Work
from charlm.spec import ModelSpec
from charlm.training.optimizer import Optimizer
from charlm.vocab import Vocabulary

SIZES = {"1x128": (1, 128), "1x256": (1, 256), "1x512": (1, 512), "2x512": (2, 512)}
# What torch has a module of that name for.
STOCK = ("rnn", "lstm", "gru")
PARTS = ("training", "sampling", "texts", "starting")
STREAMS, BLOCK_SIZE, EMBEDDING_SIZE = 64, 64, 64
SYMBOLS = "\n" + "".join(map(chr, range(32, 96)))
CHARACTERS_SAMPLED = 200
TEXT_BYTES = 16_000_000
GEMM_SIZE = 2048


def _typical_size() -> tuple[str, tuple[int, int]]:
    return ("1x512", SIZES["1x512"]) if "1x512" in SIZES else next(iter(SIZES.items()))


@dataclass(frozen=True)
class Row:
    """One figure.

    Attributes:
        part: what kind of work.
        name: what was measured.
        unit: of both figures.
        charlm: median over the rounds.
        beside: the same for what a user would do without charlm, measured in turns with it; None without such.
        layers_ratio: the same ratio for forward and back alone, without the optimiser.
        arithmetic: precision and kernel of charlm's figure; what it is measured beside is float32.
        gemm_share: arithmetic done per second forward and back, as a share of what the machine does in a product of
            large matrices in the same precision.
    """

    part: str
    name: str
    unit: str
    charlm: float
    beside: float | None = None
    layers_ratio: float | None = None
    arithmetic: str | None = None
    gemm_share: float | None = None

    @property
    def ratio(self) -> float | None:
        """How many times as good charlm is: more per second, or fewer seconds."""
        if self.beside is None:
            return None
        return self.beside / self.charlm if self.unit == "s" else self.charlm / self.beside

    def to_json(self) -> dict[str, str | float | None]:
        """Return every figure by name."""
        return asdict(self) | {"ratio": self.ratio}


def machine(runtime: Runtime) -> dict[str, str | int]:
    """Return what figures depend on: processor, cores, versions, arithmetic."""
    processor = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line for line in cpuinfo.read_text(encoding="utf-8").splitlines() if line.startswith("model name")]
        processor = names[0].partition(":")[2].strip() if names else processor
    wanted = ("amx_bf16", "avx512_bf16", "avx512_f", "avx2")
    has = torch.cpu.get_capabilities()
    return {
        "processor": processor,
        "instructions": " ".join(name for name in wanted if has.get(name)),
        "cores": os.cpu_count() or 1,
        "threads": runtime.threads,
        "system": platform.system(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "charlm": __version__,
    }


def rows(runtime: Runtime, parts: Sequence[str], rounds: int) -> Iterator[Row]:
    """Measure, and yield each figure when it is known."""
    measures: dict[str, Callable[[Runtime, int], Iterator[Row]]] = {
        "training": _training,
        "sampling": _sampling,
        "texts": _texts,
        "starting": _starting,
    }
    for part in parts:
        yield from measures[part](runtime, rounds)


def _in_turns(
    rounds: int, *works: Callable[[], object], prepare: Sequence[Callable[[], object]] | None = None
) -> list[float]:
    """Return the median seconds of each work; a first run of each is discarded.

    Args:
        rounds: how often each is measured.
        works: what is measured.
        prepare: for each work what comes before every run of it, and is not measured.
    """
    for work in works:
        work()
    seconds: list[list[float]] = [[] for _ in works]
    for _ in range(rounds):
        for measured, work, before in zip(seconds, works, prepare or [int] * len(works), strict=True):
            before()
            began = time.perf_counter()
            work()
            measured.append(time.perf_counter() - began)
    return [statistics.median(measured) for measured in seconds]


class _StockModel(nn.Module):
    """The model as a user would write it in torch."""

    def __init__(self, cell: str, hidden_size: int, num_layers: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(len(SYMBOLS), EMBEDDING_SIZE)
        self.layers = _stock_layers(cell, hidden_size, num_layers)
        self.output = nn.Linear(hidden_size, len(SYMBOLS))

    def forward(self, tokens_TB: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        y_TBH, state = self.layers(self.embedding(tokens_TB), state)
        return self.output(y_TBH), state


def _stock_layers(cell: str, hidden_size: int, num_layers: int) -> nn.Module:
    if cell in STOCK:
        return getattr(nn, cell.upper())(EMBEDDING_SIZE, hidden_size, num_layers)  # type: ignore[no-any-return]
    if cell == "rnn-relu":
        return nn.RNN(EMBEDDING_SIZE, hidden_size, num_layers, nonlinearity="relu")
    return _Stepped(cell, hidden_size)


class _Stepped(nn.Module):
    """A layer of a cell that torch does not have, in a loop over its equations."""

    def __init__(self, cell: str, hidden_size: int) -> None:
        super().__init__()
        self._layer = Variant(cell, EMBEDDING_SIZE, hidden_size)
        self._num_parts, self._num_units = len(CELLS[cell].state), hidden_size
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -(hidden_size**-0.5), hidden_size**-0.5)

    def forward(self, x_TBE: Tensor, state: Any = None) -> tuple[Tensor, Tensor]:
        return self._layer.read_by_steps(x_TBE, x_TBE.new_zeros(self._num_parts, x_TBE.shape[1], self._num_units))


def _model(cell: str, hidden_size: int, num_layers: int) -> CharModel:
    model = CharModel(ModelSpec(cell, len(SYMBOLS), EMBEDDING_SIZE, hidden_size, num_layers))
    model.initialise(torch.Generator().manual_seed(0))
    return model


def _training(_: Runtime, rounds: int) -> Iterator[Row]:
    """A training block with its optimiser, and without."""
    for cell in CELLS:
        # What torch has no module for is measured at one size.
        for name, (num_layers, hidden_size) in SIZES.items() if cell in STOCK else [_typical_size()]:
            yield _training_row(cell, name, num_layers, hidden_size, rounds)


def _training_row(cell: str, name: str, num_layers: int, hidden_size: int, rounds: int) -> Row:
    runtime = Runtime.choose("auto", "auto", None, Work(cell, EMBEDDING_SIZE, hidden_size, STREAMS))
    tokens_TB = torch.randint(len(SYMBOLS), (BLOCK_SIZE, STREAMS), device=runtime.device)
    ours = _model(cell, hidden_size, num_layers).to(runtime.device)
    ours.choose_kernel(runtime.lstm_by_blocks)
    stock = _StockModel(cell, hidden_size, num_layers).to(runtime.device)
    optimizer, adamw = Optimizer(ours, TrainConfig(), runtime.dtype), torch.optim.AdamW(stock.parameters())
    turns = itertools.count()

    def learn_ours() -> None:
        with runtime.autocast():
            logits_TBV, _ = ours(tokens_TB, ours.start_state(STREAMS))
        _go_back(logits_TBV, tokens_TB)

    def update_ours() -> None:
        # All turns: at some of them a matrix is not updated.
        for _ in range(optimizer.num_turns):
            optimizer.clip()
            optimizer.step(1e-3, 0.0, next(turns))
        optimizer.clear()

    def learn_stock() -> None:
        _go_back(stock(tokens_TB)[0], tokens_TB)

    def update_stock() -> None:
        nn.utils.clip_grad_norm_(stock.parameters(), 1.0)
        adamw.step()
        adamw.zero_grad()

    square = torch.ones(GEMM_SIZE, GEMM_SIZE, device=runtime.device, dtype=runtime.dtype)

    def prepare(keep: bool, *works: Callable[[], None]) -> None:
        # Torch alone runs with the C library's own idea of memory; each has a run to find its place in it.
        keep_freed_memory(keep)
        for work in works:
            work()

    prepares: list[Callable[[], object]] = [
        partial(prepare, True, learn_ours, update_ours),
        int,
        partial(prepare, False, learn_stock, update_stock),
        int,
        partial(prepare, True),
    ]
    works = [learn_ours, update_ours, learn_stock, update_stock, lambda: (square @ square)[0, 0].item()]
    forward_back, updates, stock_forward_back, stock_update, product = _in_turns(rounds, *works, prepare=prepares)
    keep_freed_memory()
    characters = STREAMS * BLOCK_SIZE
    return Row(
        "training",
        f"{cell} {name}",
        "characters/s",
        characters / (forward_back + updates / optimizer.num_turns),
        characters / (stock_forward_back + stock_update),
        stock_forward_back / forward_back,
        _arithmetic(cell, runtime),
        _operations_a_character(ours) * characters / forward_back / (2 * GEMM_SIZE**3 / product),
    )


def _operations_a_character(model: CharModel) -> int:
    """Count a weight's product and sum once forward and twice back; an embedding is only looked up."""
    weights = {name: parameter.numel() for name, parameter in model.named_parameters() if "weight" in name}
    del weights["embedding.weight"]
    return 6 * sum(weights.values())


def _arithmetic(cell: str, runtime: Runtime) -> str:
    if cell != "lstm" or runtime.device.type != "cpu":
        return runtime.precision
    return f"{runtime.precision}, {'our' if runtime.lstm_by_blocks else 'torch'} kernel"


def _go_back(logits_TBV: Tensor, targets_TB: Tensor) -> None:
    loss = functional.cross_entropy(logits_TBV.float().flatten(0, 1), targets_TB.flatten())
    loss.backward()  # type: ignore[no-untyped-call]
    loss.item()


def _sampling(_: Runtime, rounds: int) -> Iterator[Row]:
    """One stream and many against a loop that gives torch's module one character at a time."""
    for name, (num_layers, hidden_size) in SIZES.items():
        stepper = Stepper(_file(_model("lstm", hidden_size, num_layers)))
        stock = _StockModel("lstm", hidden_size, num_layers)

        def sample(num_streams: int, stepper: Stepper = stepper) -> None:
            generate(stepper, "", length=CHARACTERS_SAMPLED, sampling=Sampling(0.7), seeds=range(num_streams)).texts()

        @torch.no_grad()
        def sample_stock(model: _StockModel = stock) -> None:
            token_TB, state = torch.zeros(1, 1, dtype=torch.long), None
            for _ in range(CHARACTERS_SAMPLED):
                logits_TBV, state = model(token_TB, state)
                token_TB = torch.multinomial(torch.softmax(logits_TBV[-1] / 0.7, dim=-1), 1)
                token_TB.item()

        one, stock_seconds, many = _in_turns(rounds, lambda: sample(1), sample_stock, lambda: sample(STREAMS))
        beside = CHARACTERS_SAMPLED / stock_seconds
        yield Row("sampling", f"lstm {name}, one text", "characters/s", CHARACTERS_SAMPLED / one, beside)
        rate = STREAMS * CHARACTERS_SAMPLED / many
        yield Row("sampling", f"lstm {name}, {STREAMS} texts at once", "characters/s", rate, beside)


def _file(model: CharModel) -> ModelFile:
    settings = {
        "cell": "lstm",
        "embedding_size": EMBEDDING_SIZE,
        "hidden_size": model.spec.hidden_size,
        "num_layers": len(model.layers),
    }
    return ModelFile(model.arrays(), Vocabulary("characters", SYMBOLS), {"model": settings}, {}, {})


def _texts(_: Runtime, rounds: int) -> Iterator[Row]:
    """A text of many megabytes from the file to ids, and the second start with it."""
    symbols = np.frombuffer(SYMBOLS.encode(), dtype=np.uint8)
    data = symbols[np.random.default_rng(0).integers(len(symbols), size=TEXT_BYTES)].tobytes()
    with tempfile.TemporaryDirectory() as name, _cache_in(Path(name)):
        # Each is another text, so that none is in the cache when it is first read.
        paths = [Path(name) / f"{index}.txt" for index in range(rounds + 1)]
        for index, path in enumerate(paths):
            path.write_bytes(b"%d" % index + data)
        unread = iter(paths)

        def read_again() -> None:
            load_corpus([str(paths[0])])

        def in_python() -> None:
            text = paths[0].read_text(encoding="utf-8")
            numbers = {symbol: index for index, symbol in enumerate(sorted(set(text)))}
            torch.tensor([numbers[symbol] for symbol in text])

        first, again, beside = _in_turns(rounds, lambda: load_corpus([str(next(unread))]), read_again, in_python)
    yield Row("texts", "read and encode", "MB/s", TEXT_BYTES / first / 1e6, TEXT_BYTES / beside / 1e6)
    yield Row("texts", f"read {TEXT_BYTES / 1e6:.0f} MB again", "s", again)


@contextmanager
def _cache_in(folder: Path) -> Iterator[None]:
    """Leave the user's cache alone."""
    before = os.environ.get("CHARLM_CACHE")
    os.environ["CHARLM_CACHE"] = str(folder)
    try:
        yield
    finally:
        del os.environ["CHARLM_CACHE"]
        if before is not None:
            os.environ["CHARLM_CACHE"] = before


def _starting(_: Runtime, rounds: int) -> Iterator[Row]:
    """Whole processes, beside one that only loads torch."""
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model.safetensors"
        num_layers, hidden_size = _typical_size()[1]
        _file(_model("lstm", hidden_size, num_layers)).save(model)

        def run(*arguments: str) -> None:
            subprocess.run([sys.executable, *arguments], check=True, capture_output=True)

        help_seconds, sample_seconds, torch_seconds = _in_turns(
            rounds,
            lambda: run("-m", "charlm", "--help"),
            lambda: run("-m", "charlm", "sample", "--model", str(model), "--length", "1"),
            lambda: run("-c", "import torch"),
        )
    yield Row("starting", "charlm --help", "s", help_seconds, torch_seconds)
    yield Row("starting", "charlm sample, one character", "s", sample_seconds, torch_seconds)
