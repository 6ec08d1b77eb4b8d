"""A run from a model has the weights of that model, and rows of their own for the characters that it lacked."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import charlm
from charlm.checkpoint import ModelFile, load_checkpoint
from charlm.errors import ConfigError
from charlm.settings.config_file import load_config
from charlm.training import forgetting, lifecycle
from charlm.training.events import Event, Note
from charlm.training.transfer import StartingModel, note_on_new_symbols
from charlm.vocab import Vocabulary
from tests.helpers.commands import HARE_AND_FOX, ONE_STEP, SHORT, answer, assert_refused, call
from tests.helpers.evaluation import module_of
from tests.helpers.model_files import random_model
from tests.helpers.training import assert_same_run, interrupt
from tests.helpers.untrusted import change_metadata, forge

NEW_TEXT = "Zwölf Hasen; «kalt», sagt der Fuchs.\n" * 40
NEW = "".join(sorted(set(NEW_TEXT) - set(HARE_AND_FOX)))
OLD_RUN = Path(__file__).parents[1] / "files" / "old_run_finished.safetensors"
# Without the sizes, which come from the model.
TRAIN = SHORT[4:]
SETTINGS = ("cell", "num_layers", "embedding_size", "direction", "initial_state")


@pytest.fixture(scope="module")
def folder_of_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two texts, a run on one of them, and a run from that on the other, to be copied."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CHARLM_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.chdir(folder)
        Path("hare.txt").write_text(HARE_AND_FOX, encoding="utf-8")
        Path("new.txt").write_text(NEW_TEXT, encoding="utf-8")
        assert call("train", "-c", "hare.txt", *SHORT, "--seed", "1", "--out", "base").exit_code == 0
        assert start(out="started").exit_code == 0
    return folder


@pytest.fixture
def base(folder_of_runs: Path) -> Path:
    """A run on the hare and the fox, and another text."""
    shutil.copytree(folder_of_runs, ".", dirs_exist_ok=True, ignore=shutil.ignore_patterns("started"))
    return Path("base")


@pytest.fixture
def run(folder_of_runs: Path, base: Path) -> Path:
    """A run from that run on the other text."""
    shutil.copytree(folder_of_runs / "started", "run")
    return Path("run")


def start(*options: str, base: str = "base", out: str = "run", corpus: str = "new.txt") -> Any:
    """Start a run from a model."""
    return call("train", "--from", base, "-c", corpus, *TRAIN, "--out", out, "--sample-length", "0", *options)


def grown(file: ModelFile, symbols: str) -> ModelFile:
    """Return a model with further symbols, as a run from it would start."""
    vocabulary = Vocabulary("characters", file.vocabulary.symbols + symbols)
    fresh = random_model(symbols=vocabulary, seed=9, **{k: file.config["model"][k] for k in SETTINGS})
    weights = StartingModel(Path("m"), file).weights_for(len(vocabulary), fresh.weights)
    return replace(fresh, arrays=weights)


# Weights


@pytest.mark.parametrize("cell", ["lstm", "mingru", "lstm-peephole"])
@pytest.mark.parametrize("direction", ["forward", "backward", "both"])
@pytest.mark.parametrize("embedding_size", [0, 5])
def test_a_grown_model_ranks_old_symbols_as_before(cell: str, direction: str, embedding_size: int) -> None:
    """Its logits for the old symbols are those of the model, and the new ones share their geometric mean."""
    file = random_model(cell, 2, direction=direction, embedding_size=embedding_size, initial_state="learned")
    larger, before = grown(file, "xyz"), len(file.vocabulary)
    tokens_TB = torch.randint(before, (7, 3), generator=torch.Generator().manual_seed(1))

    def logits(model: ModelFile) -> torch.Tensor:
        module, tokens = module_of(model), tokens_TB.clone()
        tokens[0] = model.spec.start_id
        right = tokens.flip(0) if model.spec.sees_both_sides else None
        logits_TBV: torch.Tensor = module(tokens, module.start_state(3), (), right)[0]
        return logits_TBV.detach()

    found, expected = logits(larger), logits(file)
    torch.testing.assert_close(found[..., :before], expected)
    mean = expected.mean(-1).exp()
    torch.testing.assert_close(found[..., before:].exp().sum(-1), mean)


def test_old_rows_stay_bit_for_bit() -> None:
    """The rows and columns of the old symbols and of the start of a text are copied, and new ones are new."""
    for embedding_size, name in ((4, "embedding.weight"), (0, "layers.0.weight_ih_l0")):
        file = random_model(embedding_size=embedding_size)
        larger, size = grown(file, "xy"), len(file.vocabulary)
        old, new = file.arrays[name], larger.arrays[name]
        old, new = (old, new) if embedding_size else (old.T, new.T)
        np.testing.assert_array_equal(new[:size], old[:size])
        np.testing.assert_array_equal(new[-1], old[-1])
        assert not (new[size] == new[size + 1]).any()
        np.testing.assert_array_equal(larger.arrays["output.weight"][:size], file.arrays["output.weight"])
        np.testing.assert_array_equal(larger.arrays["output.bias"][:size], file.arrays["output.bias"])
        assert {name: array.shape for name, array in larger.arrays.items()} == larger.spec.shapes


def test_new_symbols_come_after_the_old_ones() -> None:
    """Ids of the old symbols stay, and a vocabulary of bytes never grows."""
    assert Vocabulary("characters", "ca").grown_by(Vocabulary("characters", "abcd")).symbols == "cabd"
    assert Vocabulary("characters", "a", "letters").grown_by(Vocabulary("characters", "b")).filter == "letters"
    assert Vocabulary.of_bytes().grown_by(Vocabulary.of_bytes()) == Vocabulary.of_bytes()


def test_ten_new_characters_are_named_and_all_counted() -> None:
    """Characters that cannot be seen have a name."""
    note = note_on_new_symbols(Vocabulary("characters", "a"), Vocabulary("characters", "a\té"))
    assert note == "2 new characters: tab, 'é'"
    assert note_on_new_symbols(Vocabulary("characters", "a"), Vocabulary("characters", "a")) is None
    assert note_on_new_symbols(Vocabulary("characters", "a"), Vocabulary("characters", "aé")) == "1 new character: 'é'"
    many = note_on_new_symbols(Vocabulary("characters", "a"), Vocabulary("characters", "abcdefghijklmn"))
    assert many == f"13 new characters: {', '.join(map(repr, 'bcdefghijk'))} and 3 more"


# Runs


def test_a_run_starts_from_a_run_and_leaves_it_alone(base: Path) -> None:
    """It has the sizes of the model, a larger vocabulary, a folder of its own and says where it came from."""
    before = {path.name: path.read_bytes() for path in base.iterdir()}
    result = start()
    assert result.exit_code == 0, result.stderr
    assert {path.name: path.read_bytes() for path in base.iterdir()} == before
    old, new = (load_checkpoint(Path(run, "best.safetensors")) for run in ("base", "run"))
    assert new.config["model"]["hidden_size"] == 24
    assert new.vocabulary.symbols == old.vocabulary.symbols + NEW
    assert f"note: {len(NEW)} new characters: {', '.join(map(repr, NEW))}" in result.stderr
    sha256 = hashlib.sha256(before["best.safetensors"]).hexdigest()
    assert (new.base["name"], new.base["sha256"]) == ("base/best.safetensors", sha256)
    assert sha256 in Path("run/config.yaml").read_text(encoding="utf-8")
    assert load_config("run/config.yaml").model_dump() == new.config
    assert (old.base, call("eval", "-m", "run").exit_code) == ({}, 0)


def test_a_run_begins_where_the_model_ended(base: Path) -> None:
    """Before its first block its weights are those of the model, with a fresh optimiser, clock and schedule."""
    settings = ["train.steps=6", "train.threads=1", "train.precision=fp32", "train.batch_size=4", "train.block_size=16"]
    model = StartingModel.load(base)
    config = load_config(None, settings, {"data.corpus": "hare.txt", "seed": 1}, model.inherited)
    with lifecycle.begin(config, Path("run"), base=model) as trainer:
        interrupt(trainer, 0)
    last, best = load_checkpoint(Path("run/last.safetensors")), load_checkpoint(base / "best.safetensors")
    for name, array in best.arrays.items():
        np.testing.assert_array_equal(last.arrays[name], array, err_msg=name)
    assert (last.step, last.metrics["seconds"]) == (0, 0.0)
    assert not [name for name in last.arrays if name.startswith("optimizer.")]


@pytest.mark.parametrize("name", ["base/best.safetensors", "base/last.safetensors", str(OLD_RUN)])
def test_any_model_file_can_be_the_start(base: Path, name: str) -> None:
    """The best model, the last one with its optimiser, and a file of an older charlm."""
    result = start(base=name)
    assert result.exit_code == 0, result.stderr
    assert call("sample", "-m", "run", "-n", "5").exit_code == 0


@pytest.mark.parametrize(
    ("setting", "direction"),
    [("vocab=bytes", "forward"), ("vocab.filter=letters", "backward"), ("model.embedding_size=0", "both")],
)
def test_kind_filter_and_direction_come_from_the_model(text: str, setting: str, direction: str) -> None:
    """A vocabulary of bytes does not grow; a filter applies to the new text; one-hot inputs and both sides grow."""
    options = ["--set", setting, "--set", f"model.direction={direction}"]
    assert call("train", "-c", text, *ONE_STEP, *options, "--out", "base").exit_code == 0
    Path("new.txt").write_text(NEW_TEXT, encoding="utf-8")
    result = start()
    assert result.exit_code == 0, result.stderr
    old, new = (load_checkpoint(Path(run, "best.safetensors")) for run in ("base", "run"))
    assert (old.vocabulary.kind, old.vocabulary.filter) == (new.vocabulary.kind, new.vocabulary.filter)
    assert new.spec.direction == direction
    assert (len(new.vocabulary) == len(old.vocabulary)) == (setting == "vocab=bytes")
    assert ("new character" in result.stderr) == (setting != "vocab=bytes")
    assert call("eval", "-m", "run").exit_code == 0


def test_a_run_from_a_run_from_a_model(run: Path) -> None:
    """The vocabulary grows again, and the old text is that of the model in between."""
    Path("third.txt").write_text("Ŝi diris. " * 60, encoding="utf-8")
    result = start(base="run", out="third", corpus="third.txt")
    assert result.exit_code == 0, result.stderr
    symbols = load_checkpoint(Path("third/best.safetensors")).vocabulary.symbols
    assert symbols == load_checkpoint(Path("run/best.safetensors")).vocabulary.symbols + "Ŝ"
    assert "part of new.txt: " in result.stderr.split("step")[-1]


def test_a_run_from_a_model_resumes_exactly_without_it(base: Path) -> None:
    """Neither the model nor its folder is needed any more."""

    def run(name: str, blocks: int) -> Any:
        model = StartingModel.load(base)
        config = load_config(None, TRAIN[1::2], {"data.corpus": "new.txt", "seed": 5}, model.inherited)
        with lifecycle.begin(config, Path(name), base=model) as trainer:
            interrupt(trainer, blocks)
        return trainer

    straight, broken = run("straight", 100), run("broken", 3)
    for path in base.iterdir():
        path.unlink()
    with lifecycle.resume(Path("broken"), [], {}, False) as trainer:
        interrupt(trainer, 100)
        outcome = lifecycle.finish(trainer)
    lifecycle.finish(straight)
    assert_same_run(straight, trainer)
    assert outcome.forgetting
    assert load_checkpoint(broken.run.best).base == load_checkpoint(straight.run.best).base


def test_a_program_starts_from_a_model(base: Path) -> None:
    """`charlm.train` takes the model as `base`, and its notes are events."""
    events: list[Event] = []
    brief: dict[str, Any] = {"steps": 2, "threads": 1, "batch_size": 4, "block_size": 16}
    run = charlm.train("new.txt", base=base, hidden_size="auto", out="run", on_event=events.append, **brief)
    assert run.load()
    assert load_checkpoint(run.best).base["name"] == "base/best.safetensors"
    assert any("new characters" in event.message for event in events if isinstance(event, Note))
    with pytest.raises(ConfigError, match="has 24"):
        charlm.train("new.txt", base=base, hidden_size=32, **brief)


def test_a_dry_run_from_a_model_writes_nothing(base: Path) -> None:
    """It counts the parameters of the larger model and names the new characters."""
    found = answer("train", "--from", "base", "-c", "new.txt", *TRAIN, "--dry-run", "--json")
    before = sum(array.size for array in load_checkpoint(base / "best.safetensors").weights.values())
    assert found["parameters"] == before + len(NEW) * (8 + 24 + 1)
    assert "new characters" in call("train", "--from", "base", "-c", "new.txt", *TRAIN, "--dry-run").stderr
    assert not Path("runs").exists()


# Settings


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--set", "model.hidden_size=32"], ["model.hidden_size", "32", "has 24"]),
        (["--set", "model.cell=gru"], ["model.cell", "'gru'", "has 'lstm'"]),
        (["--set", "vocab=bytes"], ["--set vocab", "has 'characters'"]),
        (["--set", "vocab.filter=letters"], ["vocab.filter", "has 'none'"]),
        (["--set", "model.direction=both", "--set", "model.num_layers=2"], ["'both'", "has 'forward'", "has 1"]),
        (["gru"], ["gru.yaml", "model.cell", "has 'lstm'"]),
        (["mine.yaml"], ["mine.yaml:1", "model.embedding_size", "has 8"]),
    ],
)
def test_settings_that_contradict_the_model_are_refused(base: Path, given: list[str], said: list[str]) -> None:
    """A line for each setting names what the model has."""
    Path("mine.yaml").write_text("model: {embedding_size: 9}\n", encoding="utf-8")
    result = start(*given)
    assert_refused(result)
    assert all(word in result.stderr for word in said), result.stderr
    assert all(line.count("but the model `") == 1 for line in result.stderr.splitlines() if line.startswith("error: "))
    assert not Path("run").exists()


def test_settings_that_fit_the_model_are_accepted(base: Path) -> None:
    """The same values, `auto`, and everything that the weights do not depend on."""
    Path("mine.yaml").write_text("model: {cell: lstm, hidden_size: auto, dropout: [0.2]}\nvocab: characters\n", "utf-8")
    result = start("mine.yaml", "--set", "model.num_layers=1", "--set", "model.weight_dropout=0.1", "--seed", "4")
    assert result.exit_code == 0, result.stderr
    config = load_checkpoint(Path("run/best.safetensors")).config
    assert (config["model"]["dropout"], config["model"]["hidden_size"], config["seed"]) == ([0.2], 24, 4)


@pytest.mark.parametrize(
    ("options", "hinted"),
    [
        (["--from", "base"], "charlm train --from base --corpus TEXT"),
        (["--from", "base", "-c", "new.txt", "--resume", "base"], "charlm train --from base --corpus new.txt"),
        (["--resume", "base", "--out", "b"], "charlm train --from base --corpus TEXT --out b"),
        (["--resume", "base", "--out", "b", "-c", "new.txt"], "charlm train --from base --corpus new.txt --out b"),
        (["--resume", "base/best.safetensors"], "charlm train --from base/best.safetensors --corpus TEXT"),
        (["--resume", "base/best.safetensors"], "charlm train --resume base"),
        (["--resume", "base", "--new-text", "-c", "new.txt"], "charlm train --from base --corpus new.txt"),
        (["--resume", "base", "-c", "new.txt"], "charlm train --from base --corpus new.txt"),
        (["--resume", "base", "--set", "train.steps=3"], "charlm train --resume base --set train.steps=12"),
    ],
)
def test_a_refusal_hints_at_a_command_that_works(base: Path, options: list[str], hinted: str) -> None:
    """The command of the hint succeeds when a text takes the place of TEXT."""
    result = call("train", *options)
    assert_refused(result)
    hint = result.stderr.split("hint: ")[1]
    assert f"`{hinted}`" in hint
    assert "--unknown" not in hint
    command = shlex.split(hinted.replace("TEXT", "hare.txt"))[1:]
    done = call(*command, "--sample-length", "0", *([] if "--resume" in command else TRAIN))
    assert done.exit_code == 0, done.stderr


@pytest.mark.parametrize(
    ("changes", "option"),
    [
        ({}, "--set train.steps=12"),
        ({"train.steps": None, "train.epochs": 0.5}, "--set train.epochs=2"),
        ({"train.steps": None, "train.time": 20.0}, "--time 40s"),
        ({"train.steps": 9, "train.patience": 3}, "--set train.patience=6"),
    ],
)
def test_a_finished_run_says_what_makes_it_longer(base: Path, changes: dict[str, Any], option: str) -> None:
    """The note has a command that continues the run, by the setting that ended it."""
    last = base / "last.safetensors"
    finished = {"metrics.finished": "no better validation"} if "train.patience" in changes else {"metrics.seconds": 1.5}
    settings = {f"config.{key}": value for key, value in changes.items()}
    last.write_bytes(change_metadata(last.read_bytes(), settings | finished))
    command = f"charlm train --resume base {option}"
    assert f"note: this run ended at step 6; `{command}` continues it" in call("train", "--resume", "base").stderr
    with lifecycle.resume(base, [shlex.split(option.replace("--time ", "--set train.time="))[1]], {}, False) as trainer:
        assert trainer.share < 1
        assert not trainer.state.finished


# Forgetting


def test_the_old_text_is_scored_before_and_after(base: Path) -> None:
    """The figures are those that `eval` finds for the held-out part, with the model and with the new one."""
    result = start("--json")
    before = answer("eval", "-m", "base", "--json", "--no-baselines")["bits_per_character"]
    Path("part.txt").write_text(HARE_AND_FOX[int(0.9 * len(HARE_AND_FOX)) :], encoding="utf-8")
    after = answer("eval", "-m", "run", "--corpus", "part.txt", "--json")["bits_per_character"]
    found = json.loads(result.stdout)
    assert found["old_text_bits_per_character_before"] == pytest.approx(before, abs=1e-6)
    assert found["old_text_bits_per_character_after"] == pytest.approx(after, abs=1e-6)
    assert f"hare.txt: {before:.3f} bits per character before, {after:.3f} after" in result.stderr
    assert f"hare.txt: {before:.3f} bits per character before this training" in result.stderr
    assert load_checkpoint(Path("run/best.safetensors")).metrics["old_text_bits_per_character_after"] > 0


def test_a_sample_of_the_old_text_is_said_to_be_one(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its figure is not the one of the whole part, which `eval` finds."""
    monkeypatch.setattr(forgetting, "MAX_CHARACTERS", 40)
    result = start()
    assert result.exit_code == 0, result.stderr
    before, after = (line for line in result.stderr.splitlines() if "validation part of hare.txt" in line)
    assert re.search(r"note: [0-9]+ characters of the validation part of hare\.txt: .* before this training$", before)
    assert re.match(r"[0-9]+ characters of the validation part of hare\.txt: .* before, .* after$", after)


@pytest.mark.parametrize("fate", ["gone", "changed", "stdin", "empty"])
def test_an_old_text_that_cannot_be_scored_is_no_error(base: Path, fate: str) -> None:
    """A note gives the reason."""
    if fate == "gone":
        Path("hare.txt").unlink()
    elif fate == "changed":
        Path("hare.txt").write_text(HARE_AND_FOX[::-1], encoding="utf-8")
    else:
        file = load_checkpoint(base / "best.safetensors")
        data = file.config["data"] | ({"corpus": ["-"]} if fate == "stdin" else {"validation_fraction": 0.0})
        replace(file, config=file.config | {"data": data}).save(base / "best.safetensors")
    result = start()
    assert result.exit_code == 0, result.stderr
    assert "note: how much it forgets of its old text is not measured: " in result.stderr
    assert "before, " not in result.stderr


def test_an_old_text_that_disappears_is_no_error(run: Path) -> None:
    """The figure from before stands, with the reason why there is none after."""
    Path("hare.txt").unlink()
    result = call("train", "--resume", "run", "--set", "train.steps=9", "--sample-length", "0")
    assert result.exit_code == 0, result.stderr
    assert "before, not measured after: " in result.stderr


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *[("name", 5), ("sha256", "x"), ("num_symbols", 0), ("num_symbols", "9"), ("other", 1)],
        *[("old_text", 5), ("old_text", {}), ("old_text.characters_read", -1), ("old_text.bits_per_character", None)],
    ],
)
def test_a_run_with_a_false_base_is_refused(run: Path, key: str, value: Any) -> None:
    """What a run says about its model is checked like all of a model file."""
    last = run / "last.safetensors"
    record = load_checkpoint(last).base
    group, _, name = key.rpartition(".")
    (record[group] if group else record)[name] = value
    last.write_bytes(forge(last.read_bytes(), base=json.dumps(record)))
    assert_refused(call("train", "--resume", "run"))


@pytest.mark.parametrize("text_of_base", ["null", "[]", "5", "{}"])
def test_a_run_without_its_base_is_refused_or_resumes(run: Path, text_of_base: str) -> None:
    """Without it the symbols are not those of the text."""
    last = run / "last.safetensors"
    last.write_bytes(forge(last.read_bytes(), base=text_of_base))
    assert_refused(call("train", "--resume", "run"))


def test_the_name_of_a_model_sends_no_control_sequences(run: Path) -> None:
    """The name in a file, and the name of its text, are shown as printable text, also in `config.yaml`."""
    last = run / "last.safetensors"
    record = load_checkpoint(last).base
    record["name"] = record["old_text"]["name"] = "\x1b[2J\nmodel: 5\u2028"
    last.write_bytes(forge(last.read_bytes(), base=json.dumps(record)))
    result = call("train", "--resume", "run", "--set", "train.steps=8", "--sample-length", "0")
    assert result.exit_code == 0, result.stderr
    assert "\x1b" not in result.stderr + Path("run/config.yaml").read_text(encoding="utf-8")
    assert load_config("run/config.yaml")


@pytest.mark.parametrize(
    "changes",
    [{"config.model.hidden_size": 2}, {"config.model.num_layers": 17}, {"config.model": None}, {"vocabulary": {}}],
)
def test_an_untrusted_model_is_checked_before_a_run(base: Path, changes: dict[str, Any]) -> None:
    """A damaged model is refused in one line, before there is a folder."""
    Path("m.safetensors").write_bytes(change_metadata((base / "best.safetensors").read_bytes(), changes))
    assert_refused(start(base="m.safetensors"))
    assert not Path("run").exists()


def test_a_model_larger_than_any_setting_is_refused(make_model: Callable[..., ModelFile], text: str) -> None:
    """The settings of a run have bounds that a file alone does not."""
    file = make_model(hidden_size=2, num_layers=1, embedding_size=1, symbols="ab")
    wide = {name: np.zeros((*array.shape[:-1], 5000), np.float32) for name, array in file.arrays.items()}
    arrays = file.arrays | {name: wide[name] for name in ("embedding.weight", "layers.0.weight_ih_l0")}
    config = file.config | {"model": file.config["model"] | {"embedding_size": 5000}}
    replace(file, arrays=arrays, config=config).save(Path("m.safetensors"))
    assert_refused(start(base="m.safetensors", corpus=text))
