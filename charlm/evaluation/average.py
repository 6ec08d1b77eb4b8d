"""The mean of the weights of several models: made, and measured beside each of them. No torch.

It is worth something only for models of one origin: checkpoints of one run, or copies that were trained further. The
units of nets that were trained apart have nothing to do with one another, and neither has their mean.

Source: Polyak & Juditsky 1992; Izmailov et al. 2018 (stochastic weight averaging); Wortsman et al. 2022 (model soups).
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from charlm.checkpoint import NGRAMS_PREFIX, Arrays, ModelFile, hash_of_file, load_checkpoint
from charlm.data.holdout import Part
from charlm.errors import UsageError, counted
from charlm.evaluation.compare import is_number, learned_part
from charlm.evaluation.scored_text import load_own_text
from charlm.evaluation.stepping import symbol_bits
from charlm.files import expanded
from charlm.inference.ensemble import vocabulary_difference
from charlm.inference.mixture import WEIGHT_NAME
from charlm.inference.stepper import Progress, Stepper
from charlm.run_folder import KEPT_FOLDER, RunFolder, best_in, find_model

# So much held-out text is read with each model.
MAX_READ = 50_000
HOW_TO_KEEP = "`charlm train --set train.keep_every=100` keeps a model every 100 blocks"
SIZES = ("cell", "num_layers", "hidden_size", "embedding_size", "direction", "initial_state")


@dataclass(frozen=True)
class Average:
    """The mean of several models.

    Attributes:
        file: the model; its settings and its text are those of the first of them.
        notes: what a person should know.
    """

    file: ModelFile
    notes: list[str]


def average_models(paths: Sequence[Path], weights: Sequence[float] | None = None) -> Average:
    """Average the weights of models in float64. They are loaded one at a time.

    N-grams are kept if all models that count and have some have the same, learned from one text.

    Args:
        paths: model files or run folders, at least two.
        weights: how much each counts; equal by default.

    Raises:
        UsageError: the models do not fit together, are fewer than two or the same, or the weights are wrong.
        ModelFileError: there is no such model, or its file is damaged.
    """
    files = [_found(path) for path in paths]
    if len(files) < 2:
        raise _too_few(files)
    shares = _shares(paths, files, weights)
    total: Arrays = {}
    members: list[dict[str, Any]] = []
    tables: list[_Table] = []
    reached: dict[str, list[float]] = {"step": [], "epoch": [], "seconds": []}
    first: ModelFile | None = None
    for path, file, share in zip(paths, files, shares, strict=True):
        model = load_checkpoint(file)
        first = first or replace(model, arrays={})
        if difference := _difference((str(paths[0]), first), (str(path), model)):
            raise UsageError(difference, "models of the same sizes and characters can be averaged")
        for name, array in model.weights.items():
            total[name] = total.get(name, 0) + share * array.astype(np.float64)
        # A model whose share is 0 is only measured.
        if share and WEIGHT_NAME in model.arrays:
            table = {name: array for name, array in model.arrays.items() if name.startswith(NGRAMS_PREFIX)}
            tables.append(_Table(table, share, learned_part(model)))
        members.append({"model": str(path), "sha256": hash_of_file(file), "weight": share})
        for name, values in reached.items():
            if is_number(model.metrics.get(name)):
                values.append(model.metrics[name])
    assert first is not None
    ngrams, notes = _common_ngrams(tables)
    metrics = {name: max(values) for name, values in reached.items() if values} | {"averaged": members}
    arrays = {name: array.astype(np.float32) for name, array in total.items()} | ngrams
    return Average(replace(first, arrays=arrays, metrics=metrics), notes)


def _found(path: Path) -> Path:
    """Return the file of a model; say of a folder of kept models that there are none."""
    folder = expanded(path)
    run = RunFolder(folder.parent)
    if folder.name == KEPT_FOLDER and not best_in(folder) and best_in(run.path) and not run.kept_models():
        raise UsageError(f"the run `{run.path}` kept no models", HOW_TO_KEEP)
    return find_model(path)


def _too_few(files: Sequence[Path]) -> UsageError:
    """Return the error about fewer than two models; the hint is about the run that the one is of."""
    message, hint = "an average needs at least two models", "the folder `kept` of a run stands for all in it"
    folder = files[0].parent if files else Path()
    run = RunFolder(folder.parent if folder.name == KEPT_FOLDER else folder)
    if files and best_in(run.path):
        number = len(run.kept_models())
        if number > 1:
            hint = f"`charlm average {shlex.quote(str(run.kept))}` averages those that the run kept"
        else:
            message += f", and the run `{run.path}` kept {'only one' if number else 'none'}"
            hint = HOW_TO_KEEP
    return UsageError(message, hint)


def _shares(paths: Sequence[Path], files: Sequence[Path], weights: Sequence[float] | None) -> list[float]:
    """Return how much each model counts, all together 1."""
    same = [file.resolve() for file in files]
    if twice := next((path for path, file in zip(paths, same, strict=True) if same.count(file) > 1), None):
        raise UsageError(f"`{twice}` is given twice", "give each model once; `--weights` lets one count more")
    given = [1.0] * len(files) if weights is None else list(weights)
    if len(given) != len(files):
        raise UsageError(
            f"{counted(len(given), 'weight')} for {counted(len(files), 'model')}", "give one for each model"
        )
    total = sum(given)
    if not all(0 <= weight < math.inf for weight in given) or not 0 < total < math.inf:
        raise UsageError("the weights must be 0 or more, and not all 0", "for example: `--weights 1,2`")
    return [weight / total for weight in given]


def _difference(first: tuple[str, ModelFile], other: tuple[str, ModelFile]) -> str:
    """Return the first reason why two models cannot be averaged, or an empty string."""
    (name, model), (other_name, other_model) = first, other
    for size in SIZES:
        values = getattr(model.spec, size), getattr(other_model.spec, size)
        if values[0] != values[1]:
            return f"`{name}` has model.{size} {values[0]}, and `{other_name}` has {values[1]}"
    if difference := vocabulary_difference((name, model.vocabulary), (other_name, other_model.vocabulary)):
        return difference
    if model.vocabulary != other_model.vocabulary:
        return f"`{name}` and `{other_name}` have the same characters in another order, so they have no common origin"
    return ""


class _Table(NamedTuple):
    """The n-grams of a model, how much the model counts, and what it learned."""

    arrays: Arrays
    share: float
    text: tuple[Any, ...]


def _common_ngrams(tables: Sequence[_Table]) -> tuple[Arrays, list[str]]:
    """Return the n-grams of the average, and what is to be said about them."""
    if not tables:
        return {}, []
    (first, _, text), names = tables[0], tables[0].arrays.keys() - {WEIGHT_NAME}
    if any(
        table.arrays.keys() != first.keys()
        or not all(np.array_equal(table.arrays[name], first[name]) for name in names)
        for table in tables
    ):
        return {}, ["the models have different n-grams, so the average is a net alone"]
    if any(table.text != text for table in tables):
        return {}, ["the models with n-grams learned different texts, so the average is a net alone"]
    weights, shares = zip(*((float(table.arrays[WEIGHT_NAME]), table.share) for table in tables), strict=True)
    return first | {WEIGHT_NAME: np.array(np.average(weights, weights=shares), np.float32)}, []


@dataclass(frozen=True)
class Measured:
    """What a model costs on held-out text, in bits per character.

    Attributes:
        name: of the model.
        bits: of the model.
        net_bits: of its net alone, if it has n-grams; otherwise the same.
    """

    name: str
    bits: float
    net_bits: float


@dataclass(frozen=True)
class Measurement:
    """An average and its models on the same held-out text.

    Attributes:
        text: the name of the text.
        characters: how many were scored, the same ones for each model.
        total: how many the text has.
        average: the average.
        members: the models, in the order they were given.
    """

    text: str
    characters: int
    total: int
    average: Measured
    members: list[Measured]

    @property
    def best(self) -> Measured:
        """The model with the best net: what is averaged is the net."""
        return min(self.members, key=lambda member: member.net_bits)


def measure_average(
    average: ModelFile, paths: Sequence[Path], progress: Callable[[int], Progress] | None = None
) -> Measurement:
    """Score the text that was held out from the first model, or a sample of it, with the average and each model.

    Args:
        average: the average.
        paths: the models.
        progress: returns what is called with how much is done, for the model of this number; the average is 0.

    Raises:
        CharlmError: the text cannot be read or nothing is held out, a model overflows, or they read from both sides.
    """
    text = load_own_text(average)
    each = list(_measured(average, paths, text.ids, progress))
    return Measurement(text.name, each[0][1], len(text.ids), each[0][0], [found for found, _ in each[1:]])


def _measured(
    average: ModelFile, paths: Sequence[Path], text: Part, progress: Callable[[int], Progress] | None
) -> Iterator[tuple[Measured, int]]:
    for number, name in enumerate(["average", *map(str, paths)]):
        model = load_checkpoint(find_model(Path(name))) if number else average
        listener = progress(number) if progress else None
        bits_PN = symbol_bits(Stepper(model), text, num_read=MAX_READ, progress=listener)
        bits_P = bits_PN.mean(axis=1)
        yield Measured(name, float(bits_P[0]), float(bits_P[-1])), bits_PN.shape[1]


def with_figures(average: ModelFile, measurement: Measurement) -> ModelFile:
    """Return the average with its figures among its metrics, as a run writes them."""
    found = measurement.average
    figures: dict[str, Any] = {
        "validation_bits_per_character": found.bits,
        "validation_characters": measurement.characters,
    }
    if WEIGHT_NAME in average.arrays:
        figures["validation_net_bits_per_character"] = found.net_bits
    return replace(average, metrics=average.metrics | average.vocabulary.in_units(figures))
