"""Processes that train one run together: the same curve as one process, and agreement about everything."""

from __future__ import annotations

import io
import signal
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from charlm.checkpoint import Arrays
from charlm.cli.processes import may_report, printed_once
from charlm.data.corpus import load_corpus
from charlm.data.documents import document_starts
from charlm.errors import CorpusError, DeviceError, LostProcessError, TrainingError, UsageError
from charlm.machine import process_place
from charlm.nn.runtime import Runtime
from charlm.settings.config_file import load_config
from charlm.training import distributed, dry_run
from charlm.training.distributed import ALONE, World, join, shares
from charlm.training.learner import Learner
from charlm.training.lifecycle import begin_or_go_on
from charlm.training.regularisation import Regularisation
from charlm.training.scaling import measure_scaling
from charlm.training.text import load_once, load_text
from tests.helpers.commands import SHORT, assert_refused, call
from tests.helpers.ranks import environment, in_ranks
from tests.helpers.texts import text_of
from tests.helpers.training import interrupt

OPTIMIZERS = ("muon", "adamw", "adam", "rmsprop", "adagrad", "sgd")
# Weight dropout is the same for all streams; dropout differs from stream to stream.
STRENGTH = Regularisation(dropout=0.2, weight_dropout=0.2, weight_decay=0.1, settled=True)
FP32 = Runtime(torch.device("cpu"), "fp32", 1)
# Runs refuse it on a processor, where torch has it for some cells, slowly.
FP16 = Runtime(torch.device("cpu"), "fp16", 1)


def small(world: World = ALONE, runtime: Runtime = FP32, **changes: Any) -> Learner:
    """Return the learner of a tiny model with 7 streams, which no number of processes but 7 shares evenly."""
    flags = {"model.hidden_size": 12, "model.embedding_size": 6, "train.batch_size": 7, "train.block_size": 8}
    flags |= {"train.steps": 9, "seed": 5, "model.ngram_order": 0, "model.num_layers": 2}
    flags |= {name.replace("__", "."): value for name, value in changes.items()}
    return Learner(load_config("lstm", (), flags), load_corpus(["fables"]), runtime, None, world)


def learn(learner: Learner, first: int, last: int) -> list[float]:
    """Learn some blocks, and return their losses."""
    losses = [learner.learn_block(step, 1.0, STRENGTH) for step in range(first, last)]
    return [loss for loss in losses if loss is not None]


def learned_with_each_optimizer(world: World = ALONE) -> dict[str, tuple[list[float], Arrays]]:
    """Return the losses of nine blocks and the arrays after the first six, for every optimiser."""
    found = {}
    for optimizer in OPTIMIZERS:
        learner = small(world, train__optimizer=optimizer, train__accumulate=2 if optimizer == "muon" else 1)
        losses = learn(learner, 0, 6)
        arrays = learner.arrays()
        found[optimizer] = losses + learn(learner, 6, 9), arrays
    return found


def divided(world: World) -> tuple[list[list[float]], int]:
    """Return four roots that several processes compute together, and how many of them this process has computed."""
    computed = []

    def root(square: torch.Tensor) -> torch.Tensor:
        computed.append(square)
        return square.sqrt()

    roots = world.divided(root, [torch.full((length,), float(length**2)) for length in (1, 2, 3, 4)])
    return [part.tolist() for part in roots], len(computed)


def of_this_rank() -> tuple[Any, ...]:
    """Return what this process has learned, and what it has agreed upon with the others."""
    distributed.MIN_DIVIDED = 2
    with join() as world:
        agreed = world.agree(world.rank + 1.5, world.rank == 0)
        some = world.any(world.rank == 1), world.any(False), world.all(world.rank == 1), world.all(True)
        told = world.from_first(lambda: f"rank {world.rank}")
        shared = world.from_first_of_machine(lambda: f"rank {world.rank}")
        texts = [of_standard_input(world, data) for data in (b"once\n\nonly", b"\xff")]
        part = torch.full((2, *[s.stop - s.start for s in [world.share(7)]]), world.rank)
        scaling = measure_scaling(world, 1, 8)
        learned, joined = learned_with_each_optimizer(world), world.joined(part, dim=1).numpy()
        return learned, (agreed, some, told, shared, texts), joined, divided(world), scaling


def of_standard_input(world: World, data: bytes) -> str:
    """Return the text that the first process gets through standard input, as this process has it, or the error."""
    sys.stdin = io.TextIOWrapper(io.BytesIO(b"" if world.rank else data))
    config = load_config("lstm", (), {"data.corpus": ["-"], "data.documents": "blank-line"})
    try:
        text = load_once(world, config, lambda: load_text(config))
    except CorpusError as error:
        return str(error)
    return text_of(text) + str(document_starts(text, "blank-line"))


@pytest.fixture(scope="module")
def alone() -> dict[str, tuple[list[float], Arrays]]:
    """Return what one process learns."""
    return learned_with_each_optimizer()


def assert_close(one: NDArray[np.floating[Any]], other: NDArray[np.floating[Any]], name: str) -> None:
    """Compare two arrays that were computed in another order."""
    np.testing.assert_allclose(one, other, rtol=2e-3, atol=2e-5, err_msg=name)


@pytest.mark.parametrize("size", [2, 3])
def test_processes_learn_what_one_process_learns(size: int, alone: Any, tmp_path: Path) -> None:
    """Up to the order of additions, with every optimiser and with dropout; the processes agree bit for bit."""
    ranks = in_ranks(size, of_this_rank, tmp_path)
    for rank, (learned, (agreed, some, told, shared, texts), joined, (roots, num_computed), scaling) in enumerate(
        ranks
    ):
        assert scaling == ranks[0][-1]
        assert min(scaling.alone, scaling.together, scaling.share, scaling.exchange) > 0
        assert (agreed, some, told, shared) == ((1.5, 1.0), (True, False, False, True), "rank 0", "rank 0")
        # Standard input is read once, and so are its documents; what cannot be read is an error of all.
        assert texts[0] == "once\n\nonly[6]"
        assert texts[1].startswith("`standard input` is not utf-8")
        assert joined.tolist()[0] == sorted(joined.tolist()[0])
        assert set(joined[0]) == set(range(size))
        # Every process computes the shortest tensor, which is not worth sending. The others have one owner each.
        assert roots == [[1], [2, 2], [3, 3, 3], [4, 4, 4, 4]]
        assert num_computed == {2: [2, 3], 3: [2, 2, 2]}[size][rank]
        for optimizer, (losses, arrays) in learned.items():
            np.testing.assert_allclose(losses, alone[optimizer][0], rtol=1e-4, err_msg=optimizer)
            assert losses == ranks[0][0][optimizer][0]
            for name, array in arrays.items():
                assert_close(array, alone[optimizer][1][name], f"{optimizer} {name}")
                np.testing.assert_array_equal(array, ranks[0][0][optimizer][1][name])
    # One process goes on with what several have learned.
    losses, arrays = ranks[0][0]["adam"]
    learner = small(train__optimizer="adam")
    weights = {name: array for name, array in arrays.items() if name in learner.model.arrays()}
    learner.load_arrays(weights, arrays, is_same_text=True)
    np.testing.assert_allclose(learn(learner, 6, 9), losses[6:], rtol=1e-4)


@pytest.mark.parametrize("direction", ["forward", "backward", "both"])
def test_a_block_in_parts_is_the_same_block(direction: str) -> None:
    """`train.accumulate` changes nothing but the order of additions."""
    curves = [
        learn(small(train__accumulate=parts, model__direction=direction, model__initial_state="learned"), 0, 5)
        for parts in (1, 3, 100)
    ]
    np.testing.assert_allclose(curves[1:], [curves[0]] * 2, rtol=1e-4)


def test_shares_are_nearly_equal_and_complete() -> None:
    """Every stream belongs to one process."""
    assert shares(slice(0, 7), 3) == [slice(0, 2), slice(2, 4), slice(4, 7)]
    assert [World(rank, 2).share(5) for rank in range(2)] == shares(slice(0, 5), 2)
    with pytest.raises(UsageError, match="2 streams of text cannot be shared among 3 processes"):
        World(0, 3).share(2)


def test_processes_of_a_machine_share_its_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """A number of threads that the user gave is kept; one that torchrun has set is not."""
    monkeypatch.setattr(distributed, "usable_cores", lambda obeys_openmp=True: 8)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert World(0, 4, local_size=2).threads(None) == 4
    assert World(0, 4, local_size=16).threads(None) == 1
    assert World(0, 4, local_size=2).threads(3) == 3
    assert ALONE.threads(None) is None


@pytest.mark.parametrize(
    ("changes", "expected"),
    [({}, (1, 2, 1, 2, 0)), ({"RANK": "x"}, (0, 1, 0, 1, 0)), ({"TORCHELASTIC_RUN_ID": None}, (0, 1, 0, 1, 0))],
)
def test_the_place_of_a_process_comes_from_torchrun(
    changes: dict[str, str | None], expected: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without torchrun, or with nonsense in its variables, a process is alone."""
    for name, value in (environment(1, 2, 1) | changes).items():
        monkeypatch.delenv(name, raising=False) if value is None else monkeypatch.setenv(name, value)
    assert process_place() == expected


def test_only_the_first_process_prints(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The others write nowhere; without a store each would report its error, so only the first does."""
    for rank in (1, 0):
        for name, value in environment(rank, 2, 1).items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(distributed, "_store", lambda seconds: (_ for _ in ()).throw(RuntimeError))
        with printed_once():
            print(f"rank {rank}")
        assert may_report() is (rank == 0)
    assert capsys.readouterr().out == "rank 0\n"


@pytest.mark.parametrize("arguments", [["--dry-run"], ["--family", "lstm,gru"]])
def test_options_of_one_process_are_refused_in_several(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Each process would do the whole work."""
    for name, value in environment(0, 2, 1).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(distributed, "is_first_to_report", lambda: True)
    assert f"`{arguments[0]}` is for one process, and torchrun has started 2" in assert_refused(
        call("train", *arguments)
    )
    assert not Path("runs").exists()


def test_the_loss_of_a_process_is_reported_with_the_run() -> None:
    """The hint is the command that continues it."""
    with pytest.raises(LostProcessError) as caught, ALONE.on_run(Path("my run")), distributed.watched():
        raise RuntimeError("[gloo] Connection closed by peer")
    assert "another process of this run has ended" in str(caught.value)
    assert "`charlm train --resume 'my run'` continues it" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("size", "local_size", "command"),
    [
        (1, 1, "`charlm {}`"),
        (3, 3, "`torchrun --nproc-per-node 3 -m charlm {}`"),
        (4, 2, "the same torchrun command with `{}`"),
        (2, 1, "the same torchrun command with `{}`"),
    ],
)
def test_every_message_resumes_with_as_many_processes(
    size: int, local_size: int, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With fewer it would not be the same run, bit for bit; how several machines are reached only the user knows."""
    call("train", "-c", "hello", *SHORT, "--sample-length", "0", "--out", "my run")
    for name, value in (environment(0, size, 1) | {"LOCAL_WORLD_SIZE": str(local_size)}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(distributed, "is_first_to_report", lambda: True)
    monkeypatch.setattr(distributed, "join", lambda: nullcontext(ALONE))
    this = command.format("train --resume 'my run'")
    assert f"resume it with {this}, or" in call("train", "-c", "hello", "--out", "my run").stderr
    assert f"{this} resumes the run; " in call("train", "--resume", "my run/last.safetensors").stderr
    assert f"hint: {this} continues the run in it" in call("train", "-c", "my run").stderr
    assert f"or {this}\n" in call("train", "--resume", "my run", "--from", "my run").stderr
    longer = command.format("train --resume 'my run' --set train.steps=12")
    assert (
        f"ended at step 6; {longer} continues it" in call("train", "--resume", "my run", "--sample-length", "0").stderr
    )
    assert f": {longer} is longer\n" in call("train", "--resume", "my run", "--set", "train.steps=3").stderr
    assert f"hint: {this}\n" in call("train", "my run").stderr
    start = command.format("train --from 'my run' --corpus TEXT")
    assert f"hint: {start} does; " in call("train", "--from", "my run").stderr
    monkeypatch.setattr(Learner, "learn_block", lambda *_, **__: signal.raise_signal(signal.SIGINT))
    stopped = call("train", "-c", "hello", *SHORT, "--out", "a new run").stderr
    assert f"saved at step 1; {this.replace('my', 'a new')} continues it" in stopped
    with pytest.raises(LostProcessError) as lost, ALONE.on_run(Path("my run")), distributed.watched():
        raise RuntimeError("[gloo] Connection closed by peer")
    assert lost.value.hint == f"{this} continues it from its last save"


def test_the_processes_of_a_machine_share_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of them needs its own weights and a copy of their gradients."""
    config, text = load_config("lstm", (), {"model.hidden_size": 64, "train.steps": 1}), load_corpus(["hello"])
    alone = dry_run.least_memory_bytes(config, text, FP32)
    least = dry_run.least_memory_bytes(config, text, replace(FP32, processes=2))
    assert least <= alone + dry_run.EXCHANGE_CODE_BYTES
    monkeypatch.setattr(dry_run, "usable_bytes", lambda: 1.5 * alone)
    dry_run.check_memory(config, text, FP32)
    for name, value in environment(0, 2, 1).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(TrainingError, match="needs at least"):
        dry_run.check_memory(config, text, FP32)


def test_a_restart_continues_the_run_that_has_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that was killed before its first save begins again in its folder; another one is resumed."""
    monkeypatch.chdir(tmp_path)
    flags = {"model.hidden_size": 8, "train.steps": 4, "seed": 5, "data.corpus": ["hello"]}
    config, run = load_config("lstm", (), flags), tmp_path / "run"
    with begin_or_go_on(config, run):
        assert (run / "config.yaml").exists()
    monkeypatch.setattr(World, "noted_run", lambda self: run)
    with begin_or_go_on(config, None) as trainer:
        assert trainer.run.path == run
        interrupt(trainer, 2)
    with begin_or_go_on(config, None) as trainer:
        assert trainer.state.step == 2


def test_fp16_learns_with_a_scaled_loss() -> None:
    """Nearly as fp32 does; a block that overflows is skipped, halves the scale, and the scale is saved."""
    learner = small(runtime=FP16, model__cell="gru")
    np.testing.assert_allclose(learn(learner, 0, 4), learn(small(model__cell="gru"), 0, 4), rtol=0.01)
    learner.optimizer._scaler.update(2.0**40)
    before = learner.model.arrays()
    assert learner.learn_block(4, 1.0, STRENGTH) is None
    after = learner.arrays()
    for name, array in before.items():
        np.testing.assert_array_equal(array, after[name])
    assert after["optimizer.loss_scale"].tolist() == [2.0**39, 0]


def test_a_saved_loss_scale_is_taken_up_again() -> None:
    """Otherwise a resumed run would differ; a nonsensical scale is refused."""
    learner, other = (small(runtime=FP16, model__cell="gru") for _ in range(2))
    learn(learner, 0, 2)
    learner.optimizer._scaler.update(512.0)
    arrays = learner.arrays()
    other.load_arrays(learner.model.arrays(), arrays, is_same_text=True)
    assert other.arrays()["optimizer.loss_scale"].tolist()[0] == 512
    assert learn(learner, 2, 4) == learn(other, 2, 4)
    arrays["optimizer.loss_scale"] = -arrays["optimizer.loss_scale"]
    with pytest.raises(ValueError, match="out of its bounds"):
        other.load_arrays(learner.model.arrays(), arrays, is_same_text=True)


def test_fp16_is_refused_where_it_is_slow() -> None:
    """The processor computes fp16 in software."""
    with pytest.raises(DeviceError, match="fp16 is for cuda"):
        Runtime.choose("cpu", "fp16", 1)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_cuda_learns_what_the_processor_learns(precision: str) -> None:
    """In every arithmetic, within its precision."""
    device = Runtime.choose("cuda", precision, 1)
    np.testing.assert_allclose(learn(small(runtime=device), 0, 6), learn(small(), 0, 6), rtol=0.02)
