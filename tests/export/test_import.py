"""`charlm import`: nets of torch give the same probabilities; what does not fit is refused by name and shapes."""

from __future__ import annotations

import json
import pickle
import re
import shlex
import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import save_file
from torch import Tensor, nn

from charlm.cells import CELLS
from charlm.checkpoint import ModelFile, load_checkpoint
from charlm.inference.stepper import Stepper
from charlm.vocab import Vocabulary
from tests.helpers.commands import assert_refused, assert_refused_in_own_process, call
from tests.helpers.model_files import random_model

NUM_SYMBOLS = 9
SYMBOLS = "hgfedcba\n"
FILE = "net.safetensors"


class Net(nn.Module):
    """A net as people write it: an embedding or one-hot inputs, recurrent layers of torch, and a linear layer."""

    def __init__(self, kind: str = "LSTM", layers: int = 1, embedding: int = 6, size: int = 8, **options: Any) -> None:
        super().__init__()
        self.encoder = nn.Embedding(NUM_SYMBOLS, embedding) if embedding else None
        self.rnn = getattr(nn, kind)(embedding or NUM_SYMBOLS, size, layers, **options)
        self.decoder = nn.Linear(size, NUM_SYMBOLS)

    def forward(self, ids_T: Tensor) -> Tensor:
        """Read a text from the zero state; return the logits after each character."""
        one_hot = nn.functional.one_hot(ids_T, NUM_SYMBOLS).float()
        y_TH, _ = self.rnn(self.encoder(ids_T) if self.encoder else one_hot)
        logits_TV: Tensor = self.decoder(y_TH)
        return logits_TV


def made(*arguments: Any, **options: Any) -> Net:
    """Make a net with larger weights than those of torch, so that its predictions are sharp."""
    torch.manual_seed(0)
    net = Net(*arguments, **options)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.normal_(0, 0.4)
    return net


def vocabulary_file(listed: Any = tuple(SYMBOLS), name: str = "symbols.json") -> str:
    """Write a vocabulary as JSON."""
    Path(name).write_text(json.dumps(listed), encoding="utf-8")
    return name


def imported(*options: str, out: str = "imported") -> ModelFile:
    """Import `FILE` with the vocabulary of the tests."""
    done = call("import", FILE, "-v", vocabulary_file(), "-o", out, *options)
    assert done.exit_code == 0, done.stderr
    return load_checkpoint(Path(out, "best.safetensors"))


def refused(state: dict[str, Tensor], *options: str) -> str:
    """Save a `state_dict` that must be refused, and return the error."""
    save_file(state, FILE)
    error = assert_refused(call("import", FILE, "-v", vocabulary_file(), *options))
    assert not Path("runs").exists()
    return error


def assert_same_logits(net: Net, file: ModelFile) -> None:
    """Compare a model with a net, after each character of a text that both read from the zero state."""
    ids_T = np.random.default_rng(2).integers(NUM_SYMBOLS, size=40)
    with torch.no_grad():
        expected_TV = net(torch.tensor(ids_T)).numpy()
    stepper = Stepper(file)
    _, state = stepper.start()
    for index, expected_V in zip(ids_T, expected_TV, strict=True):
        logits_BV, state = stepper.step(np.array([index]), state)
        np.testing.assert_allclose(logits_BV[0], expected_V, atol=2e-5)


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("embedding", [0, 6, 8])
def test_a_net_predicts_as_in_torch(kind: str, layers: int, embedding: int) -> None:
    """From the first character on, the logits are those of torch from the zero state."""
    net = made(kind, layers, embedding)
    save_file(net.state_dict(), FILE)
    file = imported()
    assert (file.spec.cell, file.spec.num_layers, file.vocabulary.symbols) == (kind.lower(), layers, SYMBOLS)
    assert file.spec.hidden_size == 8 + (layers > 1 and kind != "LSTM")
    assert_same_logits(net, file)


def test_the_next_command_can_be_typed() -> None:
    """The last line names the command that lets the imported net write."""
    save_file(made().state_dict(), FILE)
    *_, last = call("import", FILE, "-v", vocabulary_file(), "-o", "a net").stderr.splitlines()
    assert last == "more of it: charlm sample --model 'a net'"
    assert call(*shlex.split(last)[4:], "-n", "5").exit_code == 0


def test_rectified_linear_units_are_named() -> None:
    """Shapes do not show them: a note says what was assumed, and `--cell rnn-relu` says otherwise."""
    net = made("RNN", 2, nonlinearity="relu")
    with torch.no_grad():
        for parameter in net.rnn.parameters():
            parameter.mul_(0.3)
    save_file(net.state_dict(), FILE)
    assert "`--cell rnn-relu`" in call("import", FILE, "-v", vocabulary_file()).stderr
    assert_same_logits(net, imported("--cell", "rnn-relu"))


@pytest.mark.parametrize(
    "names",
    [
        {
            "encoder": "_orig_mod.module.transformer.wte",
            "rnn": "_orig_mod.module.transformer.lstm",
            "decoder": "lm_head",
        },
        {"encoder": "emb", "rnn": "gru", "decoder": "fc"},
        {"encoder": "model.embedding", "rnn": "model.lstm", "decoder": "model.head"},
        {"encoder": "a", "rnn": "b", "decoder": "c"},
    ],
    ids=lambda names: names["rnn"],
)
def test_modules_may_have_any_name(names: dict[str, str]) -> None:
    """Prefixes of compiled and parallel modules do not matter; shapes and the bias decide where names say nothing."""
    net = made(layers=2, embedding=8)
    renamed = {
        names[name.split(".")[0]] + "." + name.split(".", 1)[1]: array for name, array in net.state_dict().items()
    }
    save_file(renamed, FILE)
    assert_same_logits(net, imported())


@pytest.mark.parametrize("pattern", ["rnns.{}.{}_l0", "lstm{}.{}_l0", "cells.{}.{}"])
def test_layers_may_be_modules_of_their_own(pattern: str) -> None:
    """Layers are in the order of their numbers: layer 10 comes after layer 9."""
    net = made(layers=12, embedding=8)
    state = {}
    for name, array in net.state_dict().items():
        weight, _, layer = name.removeprefix("rnn.").partition("_l")
        state[pattern.format(layer, weight) if name.startswith("rnn") else name] = array
    save_file(state, FILE)
    assert_same_logits(net, imported())


def test_one_matrix_may_be_embedding_and_linear_layer() -> None:
    """Tied weights are in a file once, under either name."""
    net = made(embedding=8)
    assert net.encoder is not None
    net.decoder.weight = net.encoder.weight
    for name in ("encoder.weight", "decoder.weight"):
        state = net.state_dict()
        del state[name]
        save_file(state, FILE)
        assert_same_logits(net, imported(out=name))


def test_a_net_may_lack_biases() -> None:
    """Missing biases are zero."""
    net = made(layers=2, bias=False)
    net.decoder = nn.Linear(8, NUM_SYMBOLS, bias=False)
    save_file(net.state_dict(), FILE)
    assert_same_logits(net, imported())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_other_precisions_are_converted(dtype: torch.dtype) -> None:
    """Half, bfloat16 and double become single precision without any change to what fits into it."""
    net = made().to(dtype)
    save_file(net.state_dict(), FILE)
    assert_same_logits(net.float(), imported())


def test_commands_read_an_imported_model() -> None:
    """It is a run like any other: it writes, predicts, scores, and training continues from it."""
    save_file(made("GRU", 2).state_dict(), FILE)
    imported()
    Path("text.txt").write_text("abcdefgh\n" * 40, encoding="utf-8")
    short = ["--set", "train.steps=2", "--set", "train.evaluations=1", "--sample-length", "3"]
    for command in (
        ["sample", "ab", "-m", "imported", "--length", "5"],
        ["predict-next", "ab", "-m", "imported"],
        ["eval", "-m", "imported", "-c", "text.txt"],
        ["compare", "imported"],
        ["train", "--from", "imported", "-c", "text.txt", *short],
    ):
        done = call(*command)
        assert done.exit_code == 0, (command, done.stderr)
    assert "not known which text this model learned" in assert_refused(call("eval", "-m", "imported"))


def test_an_imported_model_has_neither_text_nor_training() -> None:
    """What is said of it holds: no hint names its unknown text, and nothing was interrupted."""
    save_file(made("GRU").state_dict(), FILE)
    imported()
    Path("text.txt").write_text("abcdefgh\n" * 40, encoding="utf-8")
    unknown = "it is not known which text this model learned"
    for corpus in ([], ["--corpus", "text.txt"]):
        result = call("sample", "-m", "imported", "--check-copies", *corpus)
        assert result.stderr.splitlines()[-1] == f"error: {unknown}"
    result = call("report", "imported")
    assert result.stderr.count(unknown) == 2
    assert "--corpus" not in result.stderr + Path("report.html").read_text(encoding="utf-8")
    assert call("report", "imported", "-c", "text.txt").stderr.splitlines() == [f"error: {unknown}"]
    assert "did not finish" not in call("compare", "imported").stderr


def test_the_start_of_a_text_is_predicted_from_the_bias() -> None:
    """Before the first character all layers are in the zero state."""
    net = made("GRU", 3)
    save_file(net.state_dict(), FILE)
    file = imported()
    logits_BV, _ = Stepper(file).start()
    np.testing.assert_array_equal(logits_BV[0], net.decoder.bias.detach())


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("settings", [{"num_layers": 2}, {"embedding_size": 0, "initial_state": "learned"}], ids=str)
def test_an_exported_state_dict_can_be_imported(cell: str, settings: dict[str, Any]) -> None:
    """It has the same weights, vocabulary and start; neither the vocabulary nor the cell has to be named."""
    file = random_model(cell, direction="backward", **settings)
    file.save(Path("m"))
    assert call("export", "-f", "torch", "-m", "m", "-o", FILE).exit_code == 0
    assert call("import", FILE, "-o", "again").exit_code == 0
    again = load_checkpoint(Path("again", "best.safetensors"))
    assert (again.spec, again.vocabulary) == (file.spec, file.vocabulary)
    assert all((again.weights[name] == array).all() for name, array in file.weights.items())


def test_a_model_of_charlm_needs_no_import(make_mixture: Callable[..., ModelFile]) -> None:
    """Its file, also with n-grams, and its run are recognised, and the hint says what reads them."""
    Path("run").mkdir()
    model = "run/best.safetensors"
    for file in (make_mixture(), random_model()):
        file.save(Path(model))
        for name in (model, "run"):
            result = call("import", name)
            assert assert_refused(result) == f"error: `{name}` is a model of charlm already"
            assert f"hint: it needs no import: `charlm sample -m {name}`" in result.stderr


@pytest.mark.parametrize(
    "listed",
    [
        {symbol: index for index, symbol in enumerate(SYMBOLS)},
        {str(index): symbol for index, symbol in enumerate(SYMBOLS)},
        {"vocab_size": 9, "itos": {str(index): symbol for index, symbol in enumerate(SYMBOLS)}},
        {"stoi": {symbol: index for index, symbol in enumerate(SYMBOLS)}, "meta": {}},
        {"chars": list(SYMBOLS)},
    ],
    ids=["stoi", "itos", "inner itos", "inner stoi", "chars"],
)
def test_a_vocabulary_may_be_a_list_or_a_dictionary(listed: Any) -> None:
    """The order of the ids counts, not that of the characters."""
    save_file(made().state_dict(), FILE)
    assert call("import", FILE, "-v", vocabulary_file(listed), "-o", "r").exit_code == 0
    assert load_checkpoint(Path("r", "best.safetensors")).vocabulary.symbols == SYMBOLS


def test_a_vocabulary_may_be_the_text_or_a_word() -> None:
    """The characters of a text are sorted; `printable` and `bytes` are known by name."""
    Path("text.txt").write_text("[hag\nbcdef\n", encoding="utf-8")
    size = {"text.txt": 10, "printable": 100, "bytes": 256}
    expected = {"text.txt": "\n[abcdefgh", "printable": string.printable, "bytes": Vocabulary.of_bytes().symbols}
    for name, num_symbols in size.items():
        state = made(embedding=0).state_dict()
        state["rnn.weight_ih_l0"] = torch.zeros(32, num_symbols)
        state |= {"decoder.weight": torch.zeros(num_symbols, 8), "decoder.bias": torch.zeros(num_symbols)}
        save_file(state, FILE)
        assert call("import", FILE, "-v", name, "-o", f"run-{num_symbols}").exit_code == 0
        file = load_checkpoint(Path(f"run-{num_symbols}", "best.safetensors"))
        assert file.vocabulary.symbols == expected[name]


@pytest.mark.parametrize(
    ("listed", "said"),
    [
        (["a", "bc"], "one character"),
        (["a", "a"], "twice"),
        ({"a": 0, "b": 2}, "ids of its 2 characters are not 0, 1, 2"),
        ({"a": "x"}, "ids of its 1 character are not 0, 1, 2"),
        ({"a": [0], "b": 1}, "ids of its 2 characters are not 0, 1, 2"),
        ({"0": ["a"], "1": "b"}, "one character"),
        ({"a": 0.5, "b": True}, "ids of its 2 characters are not 0, 1, 2"),
        ([1, 2], "one character"),
        ([], "one character"),
        ({"itos": {"itos": []}}, "one character"),
        (list("ab"), "has 2 characters, and `decoder.weight` has 9 rows"),
    ],
    ids=str,
)
def test_a_wrong_vocabulary_is_refused(listed: Any, said: str) -> None:
    """The error says what is wrong with it."""
    save_file(made().state_dict(), FILE)
    assert said in assert_refused(call("import", FILE, "-v", vocabulary_file(listed)))
    assert not Path("runs").exists()


def test_a_missing_vocabulary_is_asked_for() -> None:
    """The file does not say which characters it means; a file of 100 is probably of char-rnn.pytorch."""
    state = made().state_dict()
    save_file(state, FILE)
    result = call("import", FILE)
    assert "has 9 symbols and does not say which" in assert_refused(result)
    assert "`--vocabulary FILE`" in result.stderr
    save_file(state | {"decoder.weight": torch.zeros(100, 8), "decoder.bias": torch.zeros(100)}, FILE)
    assert "there is no file" in assert_refused(call("import", FILE, "-v", "missing.json"))


def changed(**changes: Tensor | None) -> dict[str, Tensor]:
    """Return the `state_dict` of a net with some entries replaced, and without those that are None."""
    state: dict[str, Any] = {
        **made().state_dict(),
        **{name.replace("__", "."): array for name, array in changes.items()},
    }
    return {name: array for name, array in state.items() if array is not None}


MISFITS: dict[str, tuple[Callable[[], dict[str, Tensor]], list[str]]] = {
    "recurrent": (lambda: changed(rnn__weight_hh_l0=torch.zeros(32, 7)), ["`rnn.weight_ih_l0`", "32 rows", "7 units"]),
    "bias": (lambda: changed(rnn__bias_ih_l0=torch.zeros(31)), ["`rnn.bias_ih_l0`", "(31,)", "(32,)"]),
    "embedding": (lambda: changed(encoder__weight=torch.zeros(9, 5)), ["`encoder.weight`", "(9, 5)", "(9, 6)"]),
    "rows": (lambda: changed(encoder__weight=torch.zeros(12, 6)), ["`encoder.weight`", "(12, 6)", "(9, 6)"]),
    "linear": (lambda: changed(decoder__weight=torch.zeros(9, 7)), ["`decoder.weight`", "(9, 7)", "(9, 8)"]),
    "linear bias": (lambda: changed(decoder__bias=torch.zeros(8)), ["`decoder.bias`", "(8,)", "(9,)"]),
    "norm": (lambda: changed(norm__weight=torch.zeros(8)), ["`norm.weight`", "(8,)", "no place"]),
    "a second linear layer": (lambda: changed(fc__weight=torch.zeros(9, 8)), ["`fc.weight`"]),
    "both directions": (lambda: made(bidirectional=True).state_dict(), ["_reverse`", "from the right"]),
    "projection": (lambda: made(proj_size=5).state_dict(), ["`rnn.weight_hr_l0`", "(5, 8)", "a projection"]),
    "two nets": (lambda: made().state_dict() | {"x.weight_ih_l0": torch.zeros(32, 6)}, ["different recurrent nets"]),
    "a weight twice": (lambda: changed(rnn__weight_ih=torch.zeros(32, 6)), ["`rnn.weight_ih`", "`rnn.weight_ih_l0`"]),
    "no recurrent layers": (lambda: nn.Linear(3, 3).state_dict(), ["no recurrent layers"]),
    "no linear layer": (lambda: nn.LSTM(3, 3).state_dict(), ["no linear layer"]),
    "a weight is missing": (lambda: changed(rnn__weight_ih_l1=torch.zeros(32, 8)), ["weight_hh_l0`", "there is none"]),
    "a layer is missing": (
        lambda: changed(rnn__weight_ih_l2=torch.zeros(32, 8), rnn__weight_hh_l2=torch.zeros(32, 8)),
        ["`rnn.weight_hh_l2`", "without the layer before it"],
    ),
    "no recurrent weights": (lambda: changed(rnn__weight_hh_l0=None), ["`weight_hh`"]),
    "axes": (lambda: changed(rnn__weight_hh_l0=torch.zeros(32)), ["`rnn.weight_hh_l0`", "(32,)"]),
    "whole numbers": (lambda: changed(step=torch.zeros(1, dtype=torch.int64)), ["`step`", "I64"]),
    "not a number": (lambda: changed(decoder__bias=torch.full((9,), torch.nan)), ["`decoder.bias`", "NaN"]),
    "too large": (lambda: changed(decoder__bias=torch.full((9,), 1e30)), ["`decoder.bias`", "implausibly large"]),
    "one-hot": (
        lambda: made(embedding=0).state_dict() | {"rnn.weight_ih_l0": torch.zeros(32, 12)},
        ["(32, 12)", "(32, 9)"],
    ),
    "no units": (lambda: changed(rnn__weight_hh_l0=torch.zeros(32, 0)), ["`rnn.weight_hh_l0`", "(32, 0)"]),
    "no symbols": (lambda: changed(decoder__weight=torch.zeros(0, 8)), ["`decoder.weight`", "(0, 8)"]),
}


@pytest.mark.parametrize("name", MISFITS)
def test_what_does_not_fit_is_refused_by_name(name: str) -> None:
    """One line names the array, its shape and the shape that would fit."""
    state, said = MISFITS[name]
    error = refused(state())
    assert [part for part in said if part not in error] == [], error


def test_a_cell_that_does_not_fit_is_refused() -> None:
    """A wrong `--cell` is a misfit of shapes, an unknown one is a slip."""
    save_file(made("GRU").state_dict(), FILE)
    assert "(24, 6), but" in assert_refused(call("import", FILE, "-v", vocabulary_file(), "--cell", "lstm"))
    result = call("import", FILE, "-v", vocabulary_file(), "--cell", "grru")
    assert assert_refused(result) == "error: there is no cell `grru`"
    assert "did you mean `gru`?" in result.stderr
    result = call("import", FILE, "-v", vocabulary_file(), "--cell", "lstm-coupled")
    assert "no input for the start of a text" in assert_refused(result)


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}], ids=str)
def test_who_samples_from_a_state_dict_reads_of_import(metadata: dict[str, str] | None) -> None:
    """A command that needs a model says what makes one of a net of another program."""
    save_file(made().state_dict(), FILE, metadata)
    assert "`charlm import` reads nets" in call("sample", "-m", FILE).stderr


def test_no_run_is_overwritten() -> None:
    """A folder that is not empty is refused before the file is read; an import resumes no run."""
    Path("full").mkdir()
    for name in ("best.safetensors", "last.safetensors"):
        Path("full", name).touch()
        result = call("import", "missing.safetensors", "-o", "full")
        assert "`full` is not empty" in assert_refused(result)
        assert "hint: choose another `--out`, or remove it\n" in result.stderr


@pytest.mark.parametrize("name", ["net.pt", "net.pth", "net.safetensors"])
def test_a_pickle_is_not_opened(name: str, tmp_path: Path) -> None:
    """Files of `torch.save` and plain pickles are recognised, and the hint says how to convert them."""

    class Trap:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "opened",)

    torch.save(made().state_dict(), name)
    result = call("import", name, "-v", "bytes")
    assert "pickle" in assert_refused(result) or name.endswith(".safetensors")
    assert "save_file(model.state_dict()" in result.stderr
    Path(name).write_bytes(pickle.dumps(Trap()))
    assert_refused(call("import", name, "-v", "bytes"))
    assert not (tmp_path / "opened").exists()


def hostile_files() -> dict[str, bytes]:
    """Return files that are damaged or lie about their sizes."""
    save_arrays({"rnn.weight_ih_l0": np.zeros((4, 4), np.float32)}, FILE)
    data = Path(FILE).read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])

    def with_header(header: Any) -> bytes:
        text = json.dumps(header).encode()
        return len(text).to_bytes(8, "little") + text + data[8 + length :]

    def entry(**values: Any) -> bytes:
        return with_header({"rnn.weight_ih_l0": header["rnn.weight_ih_l0"] | values})

    return {
        "empty": b"",
        "short": data[:-1],
        "long": data + b"x",
        "a huge header": (1 << 40).to_bytes(8, "little") + data[8:],
        "no JSON": data[:8] + b"\xff" * length + data[8 + length :],
        "a list": with_header([1]),
        "null": with_header(None),
        "a huge array": entry(shape=[1 << 40, 1 << 40]),
        "a negative shape": entry(shape=[-4, -4]),
        "offsets beyond the end": entry(data_offsets=[0, 1 << 50]),
        "an unknown type": entry(dtype="F128"),
        "no type": with_header({"rnn.weight_ih_l0": {}}),
        "a type that is a list": entry(dtype=["F32"]),
        "no entry": with_header({"rnn.weight_ih_l0": 5}),
        "metadata that are a list": with_header(header | {"__metadata__": [1]}),
        "deep JSON": (100_000).to_bytes(8, "little") + b"[" * 100_000,
        "an escape sequence": with_header({"\x1b[31m.weight_ih_l0": header["rnn.weight_ih_l0"]}),
        "a lying state_dict": with_header(
            header | {"__metadata__": {"format": "charlm state_dict", "cell": "\x1b[31m"}}
        ),
    }


def test_hostile_files_are_refused_in_one_line() -> None:
    """Damage and lies about sizes never cause a traceback."""
    for name, data in hostile_files().items():
        Path(FILE).write_bytes(data)
        error = assert_refused(call("import", FILE, "-v", "bytes"))
        assert error.isprintable(), name
        assert not re.search("object|argument", error), error
    assert not Path("runs").exists()


def test_a_file_that_needs_more_memory_than_there_is_is_refused() -> None:
    """The size is compared with the memory before anything is read."""
    with Path(FILE).open("wb") as file:
        file.write((100).to_bytes(8, "little") + b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'.ljust(100))
        file.truncate(1 << 42)
    assert "GB of memory" in assert_refused_in_own_process("import", FILE, "-v", "bytes")
