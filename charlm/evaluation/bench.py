"""How fast charlm is on this machine, measured in turns with torch as a user would write it. Prints nothing."""

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
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from charlm import __version__
from charlm.cells import CELLS
from charlm.checkpoint import ModelFile
from charlm.data.corpus import load_corpus
from charlm.inference.generate import generate
from charlm.inference.sampling import Sampling
from charlm.inference.stepper import Stepper
from charlm.nn.layers import Variant
from charlm.nn.model import CharModel
from charlm.nn.runtime import Runtime, keep_freed_memory
from charlm.nn.speed_trials import Work
from charlm.spec import ModelSpec
from charlm.vocab import Vocabulary

# The cells that torch has a module for.
STOCK = ("rnn", "lstm", "gru")
PARTS = ("training", "sampling", "texts", "starting")
EMBEDDING_SIZE = 64
SYMBOLS = "\n" + "".join(map(chr, range(32, 96)))


class Size(NamedTuple):
    """Layers and units of a model."""

    num_layers: int
    hidden_size: int

    def __str__(self) -> str:
        return f"{self.num_layers}x{self.hidden_size}"


@dataclass(frozen=True)
class Workload:
    """The amount of work that is measured.

    Attributes:
        sizes: of the models of the cells that torch has a module for.
        typical_size: of the models of the other cells, and of the model that a process starts with.
        num_streams: B, how many texts are learned or written side by side.
        block_size: T, how many characters of each are learned together.
        characters_sampled: how many characters each sample has.
        text_bytes: the size of the text that is read.
        gemm_size: rows and columns of the matrices whose product shows what the machine can do.
    """

    sizes: tuple[Size, ...]
    typical_size: Size
    num_streams: int
    block_size: int
    characters_sampled: int
    text_bytes: int
    gemm_size: int


WORKLOAD = Workload(
    sizes=(Size(1, 128), Size(1, 256), Size(1, 512), Size(2, 512)),
    typical_size=Size(1, 512),
    num_streams=64,
    block_size=64,
    characters_sampled=200,
    text_bytes=16_000_000,
    gemm_size=2048,
)


class Optimizer(Protocol):
    """The part of an optimiser that is measured here."""

    @property
    def num_turns(self) -> int:
        """After how many steps every weight has been updated."""

    def clip(self) -> float:
        """Clip the gradients."""

    def step(self, rate: float, weight_decay: float, turn: int = 0) -> None:
        """Update the weights."""

    def clear(self) -> None:
        """Drop the gradients."""


# Makes the optimiser of a model that is trained on a `Runtime`.
MakeOptimizer = Callable[[CharModel, Runtime], Optimizer]


@dataclass(frozen=True)
class Row:
    """One result.

    Attributes:
        part: the kind of work.
        name: what was measured.
        unit: of both figures.
        charlm: median over the rounds.
        beside: the same without charlm, measured in turns with it; None if there is nothing to compare with.
        layers_ratio: the ratio of the forward and backward passes alone, without the optimiser.
        arithmetic: precision and kernel of charlm's figure; `beside` is always in float32.
        gemm_share: operations per second of the forward and backward passes, as a share of what the machine reaches in
            a product of large matrices in the same precision.
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
        """How many times as fast charlm is."""
        if self.beside is None:
            return None
        return self.beside / self.charlm if self.unit == "s" else self.charlm / self.beside

    def to_json(self) -> dict[str, str | float | None]:
        """Return its fields and the ratio by name."""
        return asdict(self) | {"ratio": self.ratio}


def describe_machine(runtime: Runtime) -> dict[str, str | int]:
    """Return what the results depend on: processor, cores, threads, versions."""
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


def measure(
    parts: Sequence[str], rounds: int, make_optimizer: MakeOptimizer, workload: Workload = WORKLOAD
) -> Iterator[Row]:
    """Measure, and yield each result as soon as it is known.

    Args:
        parts: which of `PARTS`.
        rounds: each figure is the median of this many measurements.
        make_optimizer: makes the optimiser that training uses.
        workload: how much is measured.
    """
    measures: dict[str, Callable[[], Iterator[Row]]] = {
        "training": lambda: _training(rounds, make_optimizer, workload),
        "sampling": lambda: _sampling(rounds, workload),
        "texts": lambda: _texts(rounds, workload),
        "starting": lambda: _starting(rounds, workload),
    }
    for part in parts:
        yield from measures[part]()


def _in_turns(
    rounds: int, *works: Callable[[], object], prepare: Sequence[Callable[[], object]] | None = None
) -> list[float]:
    """Return the median seconds of each work; the first run of each is discarded.

    Args:
        rounds: how often each is measured.
        works: the functions to measure.
        prepare: for each work, a function that is called before each of its runs, outside the measured time.
    """
    for work in works:
        work()
    seconds: list[list[float]] = [[] for _ in works]
    for _ in range(rounds):
        for measured, work, before in zip(seconds, works, prepare or [int] * len(works), strict=True):
            before()
            start = time.perf_counter()
            work()
            measured.append(time.perf_counter() - start)
    return [statistics.median(measured) for measured in seconds]


class _StockModel(nn.Module):
    """The model as a user would write it in torch."""

    def __init__(self, cell: str, size: Size) -> None:
        super().__init__()
        self.embedding = nn.Embedding(len(SYMBOLS), EMBEDDING_SIZE)
        self.layers = _stock_layers(cell, size)
        self.output = nn.Linear(size.hidden_size, len(SYMBOLS))

    def forward(self, tokens_TB: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        y_TBH, state = self.layers(self.embedding(tokens_TB), state)
        return self.output(y_TBH), state


def _stock_layers(cell: str, size: Size) -> nn.Module:
    if cell in STOCK:
        return getattr(nn, cell.upper())(EMBEDDING_SIZE, size.hidden_size, size.num_layers)  # type: ignore[no-any-return]
    if cell == "rnn-relu":
        return nn.RNN(EMBEDDING_SIZE, size.hidden_size, size.num_layers, nonlinearity="relu")
    return _Stepped(cell, size.hidden_size)


class _Stepped(nn.Module):
    """A layer of a cell that torch does not have: a loop over the cell's equations."""

    def __init__(self, cell: str, hidden_size: int) -> None:
        super().__init__()
        self._layer = Variant(cell, EMBEDDING_SIZE, hidden_size)
        self._num_parts, self._num_units = len(CELLS[cell].state), hidden_size
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -(hidden_size**-0.5), hidden_size**-0.5)

    def forward(self, x_TBE: Tensor, state: Any = None) -> tuple[Tensor, Tensor]:
        return self._layer.read_by_steps(x_TBE, x_TBE.new_zeros(self._num_parts, x_TBE.shape[1], self._num_units))


def _model(cell: str, size: Size) -> CharModel:
    model = CharModel(ModelSpec(cell, len(SYMBOLS), EMBEDDING_SIZE, size.hidden_size, size.num_layers))
    model.initialise(torch.Generator().manual_seed(0))
    return model


def _training(rounds: int, make_optimizer: MakeOptimizer, workload: Workload) -> Iterator[Row]:
    """Measure a training step of every cell."""
    for cell in CELLS:
        for size in workload.sizes if cell in STOCK else [workload.typical_size]:
            yield _training_row(cell, size, rounds, make_optimizer, workload)


def _training_row(cell: str, size: Size, rounds: int, make_optimizer: MakeOptimizer, workload: Workload) -> Row:
    num_streams, gemm_size = workload.num_streams, workload.gemm_size
    runtime = Runtime.choose("auto", "auto", None, Work(cell, EMBEDDING_SIZE, size.hidden_size, num_streams))
    tokens_TB = torch.randint(len(SYMBOLS), (workload.block_size, num_streams), device=runtime.device)
    ours = _model(cell, size).to(runtime.device)
    ours.choose_kernel(runtime.lstm_by_blocks)
    optimizer = make_optimizer(ours, runtime)
    learn_ours, update_ours = _works_of_charlm(ours, optimizer, runtime, tokens_TB)
    learn_stock, update_stock = _works_of_torch(_StockModel(cell, size).to(runtime.device), tokens_TB)
    square = torch.ones(gemm_size, gemm_size, device=runtime.device, dtype=runtime.dtype)

    def prepare(keep: bool, *works: Callable[[], None]) -> None:
        # Torch alone runs with the default memory allocation. After each change, run once unmeasured.
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
    characters = num_streams * workload.block_size
    return Row(
        "training",
        f"{cell} {size}",
        "characters/s",
        characters / (forward_back + updates / optimizer.num_turns),
        characters / (stock_forward_back + stock_update),
        stock_forward_back / forward_back,
        _arithmetic(cell, runtime),
        _operations_a_character(ours) * characters / forward_back / (2 * gemm_size**3 / product),
    )


def _works_of_charlm(
    model: CharModel, optimizer: Optimizer, runtime: Runtime, tokens_TB: Tensor
) -> tuple[Callable[[], None], Callable[[], None]]:
    """Return a forward and backward pass, and the updates of all turns."""
    turns = itertools.count()

    def learn() -> None:
        with runtime.autocast():
            logits_TBV, _ = model(tokens_TB, model.start_state(tokens_TB.shape[1]))
        _compute_gradients(logits_TBV, tokens_TB)

    def update() -> None:
        # In some turns a matrix is not updated, so that only all of them together are representative.
        for _ in range(optimizer.num_turns):
            optimizer.clip()
            optimizer.step(1e-3, 0.0, next(turns))
        optimizer.clear()

    return learn, update


def _works_of_torch(model: _StockModel, tokens_TB: Tensor) -> tuple[Callable[[], None], Callable[[], None]]:
    """Return the same for a model as a user would train it in torch."""
    adamw = torch.optim.AdamW(model.parameters())

    def learn() -> None:
        _compute_gradients(model(tokens_TB)[0], tokens_TB)

    def update() -> None:
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adamw.step()
        adamw.zero_grad()

    return learn, update


def _operations_a_character(model: CharModel) -> int:
    """Count two operations a weight, once forward and twice backward; the embedding is only looked up."""
    weights = {name: parameter.numel() for name, parameter in model.named_parameters() if "weight" in name}
    del weights["embedding.weight"]
    return 6 * sum(weights.values())


def _arithmetic(cell: str, runtime: Runtime) -> str:
    if cell != "lstm" or runtime.device.type != "cpu":
        return runtime.precision
    return f"{runtime.precision}, {'our' if runtime.lstm_by_blocks else 'torch'} kernel"


def _compute_gradients(logits_TBV: Tensor, targets_TB: Tensor) -> None:
    loss = functional.cross_entropy(logits_TBV.float().flatten(0, 1), targets_TB.flatten())
    loss.backward()  # type: ignore[no-untyped-call]
    loss.item()


def _sampling(rounds: int, workload: Workload) -> Iterator[Row]:
    """Measure one text and many at once, beside a loop that gives torch's module one character at a time."""
    length, together = workload.characters_sampled, workload.num_streams
    for size in workload.sizes:
        stepper = Stepper(_file(_model("lstm", size)))
        stock = _StockModel("lstm", size)

        def sample(num_streams: int, stepper: Stepper = stepper) -> None:
            generate(stepper, "", length=length, sampling=Sampling(0.7), seeds=range(num_streams)).texts()

        @torch.no_grad()
        def sample_stock(model: _StockModel = stock) -> None:
            token_TB, state = torch.zeros(1, 1, dtype=torch.long), None
            for _ in range(length):
                logits_TBV, state = model(token_TB, state)
                token_TB = torch.multinomial(torch.softmax(logits_TBV[-1] / 0.7, dim=-1), 1)
                token_TB.item()

        one, stock_seconds, many = _in_turns(rounds, lambda: sample(1), sample_stock, lambda: sample(together))
        beside = length / stock_seconds
        yield Row("sampling", f"lstm {size}, one text", "characters/s", length / one, beside)
        rate = together * length / many
        yield Row("sampling", f"lstm {size}, {together} texts at once", "characters/s", rate, beside)


def _file(model: CharModel) -> ModelFile:
    settings = {
        "cell": "lstm",
        "embedding_size": EMBEDDING_SIZE,
        "hidden_size": model.spec.hidden_size,
        "num_layers": len(model.layers),
    }
    return ModelFile(model.arrays(), Vocabulary("characters", SYMBOLS), {"model": settings}, {}, {})


def _texts(rounds: int, workload: Workload) -> Iterator[Row]:
    """Measure how fast a large text becomes ids, and how fast its ids are read again."""
    symbols = np.frombuffer(SYMBOLS.encode(), dtype=np.uint8)
    data = symbols[np.random.default_rng(0).integers(len(symbols), size=workload.text_bytes)].tobytes()
    with tempfile.TemporaryDirectory() as name, _cache_in(Path(name)):
        # All texts differ, so that none is in the cache when it is first read.
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
    yield Row("texts", "read and encode", "MB/s", workload.text_bytes / first / 1e6, workload.text_bytes / beside / 1e6)
    yield Row("texts", f"read {workload.text_bytes / 1e6:.0f} MB again", "s", again)


@contextmanager
def _cache_in(folder: Path) -> Iterator[None]:
    """Use this folder as the cache, not the user's."""
    before = os.environ.get("CHARLM_CACHE")
    os.environ["CHARLM_CACHE"] = str(folder)
    try:
        yield
    finally:
        del os.environ["CHARLM_CACHE"]
        if before is not None:
            os.environ["CHARLM_CACHE"] = before


def _starting(rounds: int, workload: Workload) -> Iterator[Row]:
    """Measure whole processes, beside one that only imports torch."""
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model.safetensors"
        _file(_model("lstm", workload.typical_size)).save(model)

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
