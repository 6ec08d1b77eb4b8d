"""Every setting of a run with its meaning, default and bounds. Reads no files and runs nothing."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    ValidationInfo,
    field_validator,
    model_validator,
)

from charlm.cells import CELLS
from charlm.errors import ConfigError, counted, did_you_mean
from charlm.settings.durations import Interval, parse_seconds
from charlm.settings.expressions import compile_line_start
from charlm.spec import Direction, InitialState, ModelSpec

DURATIONS = ("steps", "epochs", "time")
DEFAULT_TIME = 60.0
# A word in place of a group stands for one of its settings: `vocab: bytes` for `vocab: {kind: bytes}`.
SHORT_FOR = {"vocab": "kind"}
NAMED_INITIALISER = re.compile(r"(normal|uniform)\(([0-9]+(?:\.[0-9]+)?(?:e-?[0-9]+)?)\)")
# Settings of `train` that have an effect only with certain values of another setting.
ONLY_BESIDE: dict[str, tuple[str, tuple[str, ...]]] = {
    "matrix_learning_rate": ("optimizer", ("muon",)),
    "decay_fraction": ("schedule", ("linear", "cosine")),
    "step_factor": ("schedule", ("step",)),
    "step_after_epochs": ("schedule", ("step",)),
}
# Marks a setting of `train` that gives the saved state of a run its meaning: a resumed run cannot change it.
FIXED: dict[str, JsonValue] = {"fixed": True}
# Words for where documents begin.
DOCUMENTS = ("files", "blank-line")
# Settings whose text is read as it is. In all others it is a name, and names are read in any case.
FREE_TEXT = ("corpus", "encoding", "documents")


def _as_seconds(value: Any) -> Any:
    seconds = parse_seconds(value)
    if isinstance(seconds, bool) or not isinstance(seconds, int | float | None):
        raise ValueError("should be a time, as in 60s, 15m or 2h")
    return seconds


def _interval_or_none(value: Any) -> Any:
    if value is not None:
        Interval.parse(value)
    return value


def _as_names(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _auto_or_up_to(limit: float, may_be_list: bool = False) -> BeforeValidator:
    def check(value: Any) -> Any:
        numbers = value if may_be_list and isinstance(value, list) else [value]
        if value == "auto" or all(type(number) in (int, float) and 0 <= number <= limit for number in numbers):
            return value
        lists = ", or a list of such numbers" if may_be_list else ""
        raise ValueError(f"should be `auto` or a number from 0 to {limit:g}{lists}")

    return BeforeValidator(check)


def _auto_or_whole(least: int, limit: int) -> BeforeValidator:
    def check(value: Any) -> Any:
        if value == "auto" or (type(value) is int and least <= value <= limit):
            return value
        raise ValueError(f"should be `auto` or a whole number from {least} to {limit}")

    return BeforeValidator(check)


def too_many_durations(train: Mapping[str, Any]) -> str:
    """Return what is wrong if more than one duration is set, or an empty string."""
    given = [name for name in DURATIONS if train.get(name) is not None]
    return f"steps, epochs and time exclude each other; {' and '.join(given)} are set" if len(given) > 1 else ""


def _order(value: Any) -> Any:
    if value == "auto" or (type(value) is int and (value == 0 or 2 <= value <= 9)):
        return value
    raise ValueError("should be `auto`, 0, or a whole number from 2 to 9")


_auto_or_order = BeforeValidator(_order)


def _initialiser(value: str) -> str:
    named = NAMED_INITIALISER.fullmatch(value)
    if value in ("auto", "glorot", "orthogonal") or (named and 0 < float(named[2]) <= 10):
        return value
    raise ValueError("should be auto, glorot, orthogonal, normal(S) or uniform(A), with S or A up to 10")


def _documents(value: str) -> str:
    if value in DOCUMENTS:
        return value
    if value.replace("-", "").isalpha() and (question := did_you_mean(value, DOCUMENTS)):
        raise ValueError(f"should be files, blank-line or a regular expression; {question}")
    try:
        compile_line_start(value)
    except ValueError as error:
        raise ValueError(f"{error}; it should be files, blank-line or a regular expression") from None
    return value


def _cell(value: str) -> str:
    if value in CELLS:
        return value
    question = did_you_mean(value, CELLS)
    raise ValueError(f"should be one of {', '.join(CELLS)}" + (f"; {question}" if question else ""))


def _as_vocab(value: Any) -> Any:
    return {SHORT_FOR["vocab"]: value} if isinstance(value, str) else _group_or_defaults(value)


def _group_or_defaults(value: Any) -> Any:
    # A group that holds only comments is None.
    if value is None:
        return {}
    if not isinstance(value, dict | Settings):
        raise ValueError("should be a group of settings")
    return value


Seconds = Annotated[float, BeforeValidator(_as_seconds), Field(gt=0, le=30 * 86400)]
Fraction = Annotated[float, Field(ge=0, le=0.5)]


class Settings(BaseModel):
    """The base of all groups of settings: frozen, strict, and without unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _in_any_case(cls, value: Any, info: ValidationInfo) -> Any:
        return value.lower() if isinstance(value, str) and info.field_name not in FREE_TEXT else value


class ModelConfig(Settings):
    """The model: its cell, its sizes and how its weights start."""

    cell: Annotated[str, AfterValidator(_cell)] = Field(
        "lstm", description="the recurrence; `charlm explain CELL` shows its equations"
    )
    embedding_size: int = Field(
        64, ge=0, le=4096, description="size of a character's embedding at the input; 0 for one-hot inputs"
    )
    hidden_size: Annotated[int | Literal["auto"], _auto_or_whole(1, 16384)] = Field(
        512, description="units in each recurrent layer; auto: the number that predicts best in the training time"
    )
    num_layers: int = Field(1, ge=1, le=16, description="recurrent layers, one on top of the other")
    direction: Direction = Field(
        "forward", description="reads from the left, from the right, or from both sides, to fill blanks"
    )
    initial_state: InitialState = Field("zero", description="the state before the first character")
    initialiser: Annotated[str, AfterValidator(_initialiser)] = Field(
        "auto", description="how matrices are initialised: glorot, orthogonal, normal(0.01), uniform(0.08), or auto"
    )
    dropout: Annotated[float | list[float] | Literal["auto"], _auto_or_up_to(0.95, may_be_list=True)] = Field(
        "auto",
        description="share of each layer's outputs that is dropped, one mask per block, or a list with a share for "
        "each layer; auto: chosen from the number of epochs",
    )
    weight_dropout: Annotated[float | Literal["auto"], _auto_or_up_to(0.95)] = Field(
        "auto",
        description="share of each layer's recurrent weights that is dropped, one mask per block; "
        "auto: chosen from the number of epochs",
    )

    ngram_order: Annotated[int | Literal["auto"], _auto_or_order] = Field(
        "auto",
        description="longest n-grams that are counted beside the net, 2 to 9; 0: none; auto: the longest that fit, "
        "for a text of 20,000 characters or more",
    )
    ngram_weight: Annotated[float | Literal["auto"], _auto_or_up_to(1)] = Field(
        "auto", description="weight of the n-grams, 0 to 1; auto: fitted on training text that is kept back for that"
    )

    @model_validator(mode="after")
    def _fits_together(self) -> ModelConfig:
        if self.direction == "both" and self.ngram_order not in ("auto", 0):
            raise ValueError("ngram_order is for models that read in one direction")
        if isinstance(self.dropout, list) and len(self.dropout) != self.num_layers:
            raise ValueError(
                f"dropout has {counted(len(self.dropout), 'number')} for {counted(self.num_layers, 'layer')}"
            )
        if self.weight_dropout not in ("auto", 0) and not CELLS[self.cell].products:
            raise ValueError(f"weight_dropout is for recurrent weights, and {self.cell} has none")
        return self

    def spec(self, num_symbols: int, size: int | None = None) -> ModelSpec:
        """Return the model that these settings describe.

        Args:
            num_symbols: V.
            size: units of a layer; by default those of the settings, which must not be `auto` then.
        """
        units = self.num_units if size is None else size
        sizes = (num_symbols, self.embedding_size, units, self.num_layers)
        return ModelSpec(self.cell, *sizes, self.direction, self.initial_state)

    @property
    def num_units(self) -> int:
        """Units in each recurrent layer; `hidden_size` must not be `auto` any more."""
        assert isinstance(self.hidden_size, int), "`hidden_size` is still `auto`"
        return self.hidden_size


class VocabConfig(Settings):
    """The symbols that the model reads and predicts."""

    kind: Literal["characters", "bytes"] = Field(
        "characters", description="the text's own characters, or the 256 byte values"
    )
    filter: Literal["none", "letters"] = Field(
        "none", description="letters: makes a text lower case and replaces everything between words with one space"
    )

    @model_validator(mode="after")
    def _fits_together(self) -> VocabConfig:
        if self.kind == "bytes" and self.filter != "none":
            raise ValueError(f"filter {self.filter} is for characters, not for bytes")
        return self


class DataConfig(Settings):
    """The training text and the held-out text."""

    corpus: Annotated[list[str], BeforeValidator(_as_names)] = Field(
        ["fables"], min_length=1, description="corpora by name, files, folders, globs, or `-`; one or a list"
    )
    encoding: str = Field("utf-8", description="character encoding of the text")
    skip_undecodable: bool = Field(False, description="leave out files that are no text in this encoding")
    validation_fraction: Fraction = Field(0.1, description="share of the text that is never trained on")
    test_fraction: Fraction = Field(0.0, description="another share, which training does not read at all")
    holdout: Literal["auto", "end", "spread"] = Field(
        "auto",
        description="which text these shares are: its end, or blocks that are spread over it; auto: end for one text, "
        "spread for several",
    )
    documents: Annotated[str, AfterValidator(_documents)] | None = Field(
        None,
        description="where a document begins, which is never divided between the parts: `files`, `blank-line` (after "
        "one), or a regular expression that its first line begins with; null: anywhere",
    )
    reset_state_at_documents: bool = Field(
        False, description="read each document from the initial state, also where it begins inside a block"
    )

    @model_validator(mode="after")
    def _has_documents(self) -> DataConfig:
        if self.reset_state_at_documents and self.documents is None:
            raise ValueError("reset_state_at_documents needs `documents`, which says where they begin")
        return self


class TrainConfig(Settings):
    """How the model is trained. Only one of steps, epochs and time may be set; it is the length of the run."""

    steps: int | None = Field(None, ge=1, le=10**9, description="blocks to train on")
    epochs: float | None = Field(None, gt=0, le=10**6, description="how often to read the training part")
    time: Seconds | None = Field(
        None, description="how long to train, in seconds or as `60s`, `15m`, `2h`; 60s if none of the three is set"
    )
    batch_size: int = Field(64, ge=1, le=65536, description="streams read side by side (B)", json_schema_extra=FIXED)
    block_size: int = Field(
        64, ge=1, le=65536, description="characters per stream between two updates (T)", json_schema_extra=FIXED
    )
    accumulate: int = Field(
        1, ge=1, le=65536, description="parts in which a block is computed, one after another, to save memory"
    )
    optimizer: Literal["muon", "adamw", "adam", "rmsprop", "adagrad", "sgd"] = Field(
        "muon",
        description="muon: Muon for the recurrent layers' matrices and AdamW for the rest; "
        "any other trains all weights",
        json_schema_extra=FIXED,
    )
    learning_rate: float = Field(6e-3, gt=0, le=10, description="learning rate; with optimizer muon, that of AdamW")
    matrix_learning_rate: float = Field(6e-2, gt=0, le=10, description="optimizer muon: Muon's learning rate")
    weight_decay: Annotated[float | Literal["auto"], _auto_or_up_to(10)] = Field(
        "auto",
        description="decay of the recurrent layers' matrices; auto: chosen from the number of epochs, "
        "for muon and adamw only",
    )
    warmup_fraction: float = Field(0.03, ge=0, le=1, description="share of the run in which the rate rises from 0")
    schedule: Literal["linear", "cosine", "step", "constant"] = Field(
        "linear",
        description="how the rate falls: linearly or as a half cosine over decay_fraction, in steps, or not at all",
    )
    decay_fraction: float = Field(0.5, ge=0, le=1, description="share of the run, at its end, in which it falls to 0")
    step_factor: float = Field(0.97, gt=0, le=1, description="schedule step: factor of the rate after each epoch")
    step_after_epochs: int = Field(10, ge=1, le=10**6, description="schedule step: epochs before the rate first falls")
    clip_norm: float | None = Field(1.0, gt=0, le=1e6, description="largest norm of the whole gradient; null: none")
    clip_value: float | None = Field(None, gt=0, le=1e6, description="largest absolute value in the gradient")
    reset_probability: float = Field(
        0.01,
        ge=0,
        le=1,
        description="probability that a stream's state is reset before a block, so that the model learns cold starts",
        json_schema_extra=FIXED,
    )
    evaluations: int = Field(
        10,
        ge=1,
        le=10**6,
        description="number of evaluations on the validation part; fewer if they would slow down a timed run",
    )
    evaluation_characters: int = Field(
        20_000,
        ge=1,
        le=10**9,
        description="most characters of the validation part that an evaluation reads; the best model is measured on "
        "more",
        json_schema_extra=FIXED,
    )
    patience: int | None = Field(None, ge=1, le=10**6, description="evaluations without improvement that end the run")
    keep_every: Annotated[int | str | None, BeforeValidator(_interval_or_none)] = Field(
        None,
        description="how often to keep a small model file along the way, in `kept/` of the run folder, as in 500 "
        "(blocks), `0.5 epochs` or `30s`; null: never",
    )
    sample_every: int | None = Field(
        None, ge=1, le=10**9, description="blocks between two samples of the model's text; null: no samples"
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto", description="arithmetic of training; auto: whichever measures faster on this machine"
    )
    device: Literal["auto", "cpu", "cuda", "mps"] = Field(
        "auto", description="the device to train on; auto: the one that measures fastest for a block"
    )
    threads: int | None = Field(None, ge=1, le=1024, description="CPU threads; by default one for each usable core")

    @model_validator(mode="before")
    @classmethod
    def _default_duration(cls, data: Any) -> Any:
        if isinstance(data, dict) and all(data.get(name) is None for name in DURATIONS):
            return data | {"time": DEFAULT_TIME}
        return data

    def idle_settings(self) -> list[tuple[str, str, tuple[str, ...]]]:
        """Return the settings that have no effect, each with the other setting that is the reason, and its values.

        With one of these values the setting would have an effect.
        """
        pairs = ONLY_BESIDE.items()
        return [(name, other, values) for name, (other, values) in pairs if getattr(self, other) not in values]

    @model_validator(mode="after")
    def _one_duration(self) -> TrainConfig:
        if problem := too_many_durations(self.model_dump(include=set(DURATIONS))):
            raise ValueError(problem)
        return self


# The settings of `train` that a resumed run cannot change.
FIXED_OF_TRAIN = {name for name, field in TrainConfig.model_fields.items() if field.json_schema_extra == FIXED}


class Config(Settings):
    """All settings of a run."""

    model: Annotated[ModelConfig, BeforeValidator(_group_or_defaults)] = ModelConfig()
    vocab: Annotated[VocabConfig, BeforeValidator(_as_vocab)] = VocabConfig()
    data: Annotated[DataConfig, BeforeValidator(_group_or_defaults)] = DataConfig()
    train: Annotated[TrainConfig, BeforeValidator(_group_or_defaults)] = TrainConfig()
    seed: int | None = Field(
        None, ge=0, lt=2**63, description="random seed, which makes a run repeatable; if absent, one is drawn and saved"
    )

    @model_validator(mode="after")
    def _fits_together(self) -> Config:
        if self.train.sample_every and self.model.direction == "both":
            raise ValueError("train.sample_every needs a model of one direction; a model of both writes no samples")
        return self


GROUPS: dict[str, type[Settings]] = {
    "model": ModelConfig,
    "vocab": VocabConfig,
    "data": DataConfig,
    "train": TrainConfig,
}


class Inherited(NamedTuple):
    """The settings that a run takes over from the model it starts from.

    Attributes:
        owner: the name of the model.
        values: the settings by dotted key.
    """

    owner: str
    values: Mapping[str, Any]

    def contradiction(self, key: str, given: Any, place: str) -> str | None:
        """Return what is wrong with a given value of an inherited setting; None if it is the same or `auto`."""
        if str(given).lower() in ("auto", str(self.values[key]).lower()):
            return None
        return f"{place}: `{key}` is {reprlib.repr(given)}, but the model `{self.owner}` has {self.values[key]!r}"

    def refuse(self, contradictions: Sequence[str]) -> None:
        """Refuse what contradicts these settings.

        Raises:
            ConfigError: something does.
        """
        if contradictions:
            hint = "a run that starts from a model keeps its cell, sizes, direction and vocabulary: leave these out"
            raise ConfigError("; ".join(contradictions), hint, contradictions)
