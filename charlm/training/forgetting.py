"""What a run that started from a model forgets: the held-out text of that model, scored before and after."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from charlm.checkpoint import MAX_FIELD_CHARACTERS, ModelFile
from charlm.errors import CharlmError, RunError, counted, one_line
from charlm.evaluation.evaluate import evaluate_sample, reading_that_fits
from charlm.evaluation.scored_text import TextToScore, load_own_text
from charlm.inference.mixture import Mixture
from charlm.nn.model import CharModel
from charlm.training.events import Listener
from charlm.training.final_evaluation import Stopped, ticking
from charlm.training.state_types import STRICT, Count, Number
from charlm.training.trainer import Trainer
from charlm.training.transfer import StartingModel
from charlm.vocab import Vocabulary

# The most characters that are read, and the share of a timed run that each of the two scorings may take.
MAX_CHARACTERS = 50_000
MAX_SHARE = 0.03


@dataclass(frozen=True)
class OldText:
    """The held-out text of the base, and how well the base predicted it.

    Attributes:
        name: what people call it, and how much of it is scored if that is not all.
        data: the settings that say where the text is and what of it is held out.
        sha256: the hash of the text.
        num_bytes: how many bytes the text has.
        has_base: whether the base has a base itself, and so perhaps symbols that its text lacks.
        characters_read: how many of its characters are read, or more than it has.
        bits_per_character: of the base.
    """

    __pydantic_config__ = STRICT

    name: str
    data: dict[str, Any]
    sha256: str
    num_bytes: Count
    has_base: bool
    characters_read: Count
    bits_per_character: Number


@dataclass(frozen=True)
class Base:
    """What a run saves about the model that it started from.

    Attributes:
        name: its file.
        sha256: the hash of that file.
        num_symbols: how many symbols it had; they are the first of the run.
        old_text: the text that it had learned; None if that could not be scored.
    """

    __pydantic_config__ = STRICT

    name: str
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    num_symbols: Annotated[int, Field(ge=1)]
    old_text: OldText | None

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Base:
        """Read it from a model file, which is untrusted.

        Raises:
            RunError: a value is missing, unknown, or not of its type.
        """
        try:
            return TypeAdapter(cls).validate_json(json.dumps(dict(values)))
        except (ValidationError, ValueError) as error:
            raise RunError("the run does not say correctly which model it started from", "start a new run") from error

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


def load_old_text(base: StartingModel) -> TextToScore | str:
    """Return the held-out text of a model; the reason if it cannot be read."""
    try:
        return load_own_text(base.file)
    except CharlmError as error:
        return str(error)


def start_from(trainer: Trainer, base: StartingModel, text: TextToScore | str) -> None:
    """Give a new run the weights of a model, and note how well the model predicts its own held-out text.

    Args:
        trainer: of the run, which has not started.
        base: the model.
        text: what `load_old_text` returned.
    """
    model = trainer.learner.model
    model.load_arrays(base.weights_for(model.spec.num_symbols, model.arrays()))
    old_text = None
    if not isinstance(text, str):
        try:
            old_text = _score_before(trainer, base, text)
        except CharlmError as error:
            text = str(error)
    num_symbols = len(base.file.vocabulary)
    record = Base(one_line(str(base.path)), base.sha256, num_symbols, old_text)
    if len(json.dumps(record.to_json())) > MAX_FIELD_CHARACTERS:
        record, text = Base(record.name, record.sha256, num_symbols, None), "its settings are too long"
    trainer.base = record.to_json()
    trainer.notes.insert(0, f"started from `{record.name}`")
    if not isinstance(text, str) and text.training_ids and trainer.learner.counting.order:
        trainer.learner.counting.count_also(text.training_ids)
        trainer.notes.append("the n-grams count the old text as well, with the same weight as the new one")
    if record.old_text:
        trainer.notes.append(f"{_figure(trainer, record.old_text)} before this training")
    else:
        trainer.notes.append(f"how much it forgets of its old text is not measured: {text}")


def _score_before(trainer: Trainer, base: StartingModel, text: TextToScore) -> OldText:
    """Score the old text with the base itself, on as much of it as there is time for."""
    model, budget, num_read = CharModel(base.file.spec), trainer.config.train.time, MAX_CHARACTERS
    model.load_arrays(base.file.weights)
    model.to(trainer.runtime.device)
    if budget is not None:
        fitting, seconds = reading_that_fits(model, text.ids, MAX_SHARE * budget, trainer.clock.now)
        num_read, trainer.old_text_seconds = min(num_read, fitting), seconds
    scores, file = evaluate_sample(model, text.ids, num_read), base.file
    unit = file.vocabulary.unit
    sample = "" if scores.characters == len(text.ids) else f"{counted(scores.characters, unit)} of the "
    facts = file.corpus["sha256"], file.corpus_bytes, bool(file.base)
    data = dict(file.config.get("data") or {})
    return OldText(f"{sample}{text.name}", data, *facts, num_read, scores.bits_per_character)


def measure_forgetting(trainer: Trainer, listener: Listener) -> str:
    """Score the old text with the best model of a run, and write the result into its file.

    Args:
        trainer: of a run that has ended. Afterwards it holds the best model.
        listener: called with the share that is scored.

    Returns:
        a sentence on the old text before and after; empty if there is none, or if the trainer was asked to stop.
    """
    if not trainer.base:
        return ""
    base = Base.from_json(trainer.base)
    old_text, best = base.old_text, trainer.logbook.best
    if not old_text:
        return ""
    before = f"{_figure(trainer, old_text)} before"
    try:
        ids = load_own_text(_as_model(base, old_text, trainer.corpus.vocabulary)).ids
        model, tick = trainer.learner.model, ticking(trainer, listener)
        model.load_arrays(best.weights)
        bits = evaluate_sample(model, ids, old_text.characters_read, tick).bits_per_character
    except Stopped:
        return ""
    except CharlmError as error:
        return f"{before}, not measured after: {error}"
    names = {"before": old_text.bits_per_character, "after": bits}
    figures = trainer.in_units({f"old_text_bits_per_character_{name}": value for name, value in names.items()})
    trainer.write_down(best=trainer.model_file(best.weights, Mixture.of(best), best.metrics | figures))
    return f"{before}, {bits:.3f} after"


def _as_model(base: Base, old_text: OldText, vocabulary: Vocabulary) -> ModelFile:
    """Return what is known of the base as a model file without weights, which is enough to find its text."""
    own = Vocabulary(vocabulary.kind, vocabulary.symbols[: base.num_symbols], vocabulary.filter)
    corpus = {"sha256": old_text.sha256, "bytes": old_text.num_bytes}
    return ModelFile({}, own, {"data": old_text.data}, {}, corpus, base={"base": True} if old_text.has_base else {})


def _figure(trainer: Trainer, old_text: OldText) -> str:
    per = trainer.corpus.vocabulary.scored_unit(trainer.learner.model.spec.sees_both_sides)
    return f"{old_text.name}: {old_text.bits_per_character:.3f} bits per {per}"
