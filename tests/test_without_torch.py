"""Without torch, or with a broken one, everything works that does not train or score, and the rest says so."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from charlm.checkpoint import ModelFile
from charlm.cli.app import COMMANDS
from charlm.errors import CharlmError, TorchError
from charlm.training.load_torch import REQUIREMENT, load_torch
from tests.helpers.commands import spawn

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
# What stands in torch's place, and what the error says about it.
BROKEN = {
    "a library is missing": ("raise OSError('libc10.so: no such file\\nmore')", "OSError: libc10.so: no such file"),
    "a symbol is missing": ("raise ImportError('undefined symbol: x')", "ImportError: undefined symbol: x"),
    "a package is missing": ("import sympyy", "No module named 'sympyy'"),
    "an escape sequence": ("raise KeyError('\\x1b[31m')", "KeyError"),
    "no reason": ("raise RuntimeError", "loaded: RuntimeError"),
    "it exits": ("raise SystemExit(3)", "SystemExit: 3"),
}
LIGHT = {
    "sample": ["a", "-m", "model", "--length", "3", "--seed", "1"],
    "predict-next": ["a", "-m", "model"],
    "fill": ["a_", "-m", "both"],
    "score": ["abc", "-m", "model", "--diff", "model"],
    "average": ["model", "other", "-o", "mean.safetensors", "--json"],
    "compress": ["abc.txt", "-m", "model"],
    "decompress": ["abc.txt.charlm", "-m", "model", "-o", "again.txt"],
    "compare": [str(ROOT / "tests" / "files" / "old_run")],
    "explain": ["-m", "model", "--text", "abc"],
    "inspect": ["abc", "-m", "model"],
    "reach": ["-m", "model", "-c", "abc.txt"],
    # What it does without torch is tested where a server runs: tests/web/test_network.py.
    "serve": ["--help"],
    "corpora": [],
    "export": ["--format", "torch", "-m", "model"],
    "import": ["model.safetensors", "--out", "imported"],
    "report": [str(ROOT / "tests" / "files" / "old_run"), "-o", "report.html"],
}
# These print no result, but write a file.
WRITING = {"export": "model.py", "import": "imported/best.safetensors", "report": "report.html"}
HEAVY = {
    "train": ["-c", "hello", "--time", "1s"],
    "eval": ["-m", "model", "-c", "abc.txt"],
    "bench": [],
}
# Runs commands in a process that has no torch, and prints how each ended.
RUNS = """
import json, sys
sys.modules["torch"] = None
from typer.testing import CliRunner
from charlm.cli.app import app
results = [CliRunner().invoke(app, command, catch_exceptions=False) for command in json.loads(sys.argv[1])]
print(json.dumps([[done.exit_code, done.stdout, done.stderr] for done in results]))
"""
PROGRAM = """
import sys
sys.modules["torch"] = None
import charlm
from charlm.errors import CharlmError
model = charlm.load("model")
assert len(model.generate("a", length=3, seed=1)) == 4
assert model.predict_next("a").candidates and len(model.score("abc")) == 3
try:
    charlm.train("hello", steps=1)
except CharlmError as error:
    assert error.exit_code == 1 and "pip install" in error.hint
    print(error)
try:
    from charlm import train
except ImportError as error:
    print(error)
"""


@pytest.fixture
def models(make_model: Callable[..., ModelFile]) -> None:
    """A model that reads in one direction, and one that reads from both sides."""
    make_model().save(Path("model"))
    make_model(seed=1).save(Path("other"))
    make_model(direction="both").save(Path("both"))
    Path("abc.txt").write_text("abcabc", encoding="utf-8")


def without_torch(commands: list[list[str]]) -> list[tuple[int, str, str]]:
    """Run commands without torch; return the exit code and the output of each."""
    done = subprocess.run(
        [sys.executable, "-c", RUNS, json.dumps(commands)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return [(code, out, err) for code, out, err in json.loads(done.stdout)]


@pytest.mark.usefixtures("models")
def test_commands_work_without_torch_or_say_so() -> None:
    """Each light command succeeds; each other one ends with one line that says how to install torch."""
    assert LIGHT.keys() | HEAVY.keys() == COMMANDS.keys()
    light = [[name, *arguments] for name, arguments in LIGHT.items()]
    light += [["eval", "-m", "model", "-m", "other", "-c", "abc.txt"]]
    light += [["train", "--help-settings"], *([name, "--help"] for name in COMMANDS)]
    heavy = [[name, *arguments] for name, arguments in HEAVY.items()]
    heavy += [
        ["reach", "-m", "model", "-c", "abc.txt", "--gradient"],
        ["train", "--dry-run"],
        ["train", "--resume", str(ROOT / "tests" / "files" / "old_run")],
    ]
    results = without_torch(light + heavy)
    for command, (code, out, err) in zip(light, results, strict=False):
        assert (code, bool(out)) == (0, command[0] not in WRITING or "--help" in command), (command, err)
    assert all(Path(name).exists() for name in WRITING.values())
    for command, (code, out, err) in zip(heavy, results[len(light) :], strict=True):
        assert (code, out) == (1, ""), command
        assert err.splitlines() == [
            "error: this needs torch, which is not installed",
            f'hint: `pip install "{REQUIREMENT}"` installs it',
        ]
    assert not Path("runs").exists()


@pytest.mark.usefixtures("models")
def test_a_program_loads_models_without_torch() -> None:
    """`charlm.load` works, and `charlm.train` raises a `CharlmError` that is an `ImportError` too."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == 2 * "this needs torch, which is not installed\n"


@pytest.fixture
def replace_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Return a function that puts a program in the place of torch."""

    def replace(program: str) -> None:
        (tmp_path / "torch.py").write_text(program, encoding="utf-8")
        monkeypatch.syspath_prepend(tmp_path)
        # Set first, so that whatever is loaded now is forgotten afterwards.
        monkeypatch.setitem(sys.modules, "torch", sys)
        monkeypatch.delitem(sys.modules, "torch")

    return replace


@pytest.mark.parametrize(("program", "said"), BROKEN.values(), ids=list(BROKEN))
def test_a_broken_torch_is_reported_in_one_line(program: str, said: str, replace_torch: Callable[[str], None]) -> None:
    """Whatever importing torch raises becomes a `TorchError` with its reason."""
    replace_torch(program)
    with pytest.raises(TorchError, match=re.escape(said)) as caught:
        load_torch()
    assert str(caught.value).isprintable()
    assert f'pip install --force-reinstall "{REQUIREMENT}"' in caught.value.hint


@pytest.mark.parametrize("name", ["torch.py", "torch"])
def test_another_module_of_the_same_name_is_named(
    name: str, replace_torch: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A file or a folder in the way is not torch, and the error says where it is."""
    replace_torch("")
    if name == "torch":
        (tmp_path / "torch.py").unlink()
        (tmp_path / "torch").mkdir()
        monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(TorchError, match=re.escape(f"`{tmp_path / name}` is imported in its place")):
        load_torch()


def test_a_ctrl_c_while_torch_loads_is_no_broken_torch(replace_torch: Callable[[str], None]) -> None:
    """A `KeyboardInterrupt` passes through."""
    replace_torch("raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        load_torch()


def test_training_with_a_broken_torch_fails_in_one_line(tmp_path: Path) -> None:
    """The command has the exit code 1, prints an error and a hint, and starts no run."""
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("raise OSError('libc10.so: no such file')")
    done = spawn("train", "-c", "hello", env={"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"})
    error, hint = done.stderr.decode().splitlines()
    assert (done.returncode, done.stdout) == (1, b"")
    assert error == "error: this needs torch, which cannot be loaded: OSError: libc10.so: no such file"
    assert hint.startswith("hint: `pip install --force-reinstall ")
    assert not Path("runs").exists()


def test_the_hint_names_the_versions_of_the_package() -> None:
    """The package and the hint ask for the same versions of torch."""
    assert [line for line in PROJECT["dependencies"] if line.startswith("torch")] == [REQUIREMENT]
    assert issubclass(TorchError, CharlmError)


def test_the_page_lists_all_packages_but_torch() -> None:
    """The command that installs charlm without torch names every other dependency with its lowest version."""
    page = (ROOT / "docs" / "model-file.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"<!-- without torch -->\n```sh\n(.*?)\n```", page, flags=re.DOTALL)
    packages, charlm = block.replace("\\\n", "").splitlines()
    assert charlm == "pip install --no-deps ."
    listed = re.findall(r'"([^"]+)"', packages)
    assert packages.split() == ["pip", "install", *(f'"{name}"' for name in listed)]
    assert listed == [line for line in PROJECT["dependencies"] if not line.startswith("torch")]
