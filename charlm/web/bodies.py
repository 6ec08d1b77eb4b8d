"""What a request may ask for: its JSON, checked, and the reasons to refuse it. Knows no models."""

from __future__ import annotations

import json
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, ValidationError, model_validator

from charlm.errors import CharlmError, counted, did_you_mean, one_line
from charlm.inference.sampling import Sampling

# Bounds of one request.
MAX_BYTES = 256 * 1024
MAX_CHARACTERS = 20_000
MAX_LENGTH = 10_000
MAX_TEXTS = 64
MAX_DRAWN = 100_000
# A symbol with its alternatives takes some hundred bytes.
MAX_SCORED = 20_000
MAX_ALTERNATIVES = 5
MAX_STOPS = 16
MAX_STOP_CHARACTERS = 200
# What a seed and the numbers of its texts may be.
MAX_SEED = 2**63 - 1 - MAX_TEXTS


class Refusal(CharlmError):
    """A request that is not answered.

    Attributes:
        status: of the HTTP response.
        code: a word for programs.
        field: the field of the JSON that is wrong, or None.
        retry_after: after how many seconds it may succeed, or None.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        hint: str = "",
        field: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message, hint)
        self.status, self.code, self.field, self.retry_after = status, code, field, retry_after


def _text(value: Any) -> str:
    # pydantic's own strings are UTF-8, and the lone surrogates of JSON are not.
    if not isinstance(value, str):
        raise ValueError("this is not a string")
    if len(value) > MAX_CHARACTERS:
        raise ValueError(f"there are more than {counted(MAX_CHARACTERS, 'character')}")
    return value


def _texts(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        return (_text(value),)
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise ValueError("this is neither a string nor a list of strings")
    if not 1 <= len(value) <= MAX_TEXTS:
        raise ValueError(f"a list has from 1 to {MAX_TEXTS} strings")
    _text("".join(value))
    return tuple(value)


def _stops(value: Any) -> tuple[str, ...]:
    stops = () if value == [] else _texts(value)
    if len(stops) > MAX_STOPS or any(len(stop) > MAX_STOP_CHARACTERS for stop in stops):
        raise ValueError(f"there may be {MAX_STOPS} strings of {MAX_STOP_CHARACTERS} characters")
    if "" in stops:
        raise ValueError("an empty string would end every text at once")
    return stops


String = Annotated[str, PlainValidator(_text)]
Strings = Annotated[tuple[str, ...], PlainValidator(_texts)]
Stops = Annotated[tuple[str, ...], PlainValidator(_stops)]
Seed = Annotated[int, Field(ge=0, le=MAX_SEED)]
Length = Annotated[int, Field(ge=0, le=MAX_LENGTH)]
NumTexts = Annotated[int, Field(ge=1, le=MAX_TEXTS)]


class Body(BaseModel):
    """The JSON of a request. Null stands for a field that is not given."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, frozen=True)
    # Fields that are ignored, and the values that they may have; an empty tuple allows any.
    neutral: ClassVar[dict[str, tuple[Any, ...]]] = {}

    unknown: String = "error"

    @model_validator(mode="before")
    @classmethod
    def _without_neutral_fields(cls, values: dict[str, Any]) -> dict[str, Any]:
        for name, harmless in cls.neutral.items():
            if values.get(name) is not None and harmless and values[name] not in harmless:
                raise ValueError(f"`{name}` is not supported")
        return {name: value for name, value in values.items() if value is not None and name not in cls.neutral}


class PredictBody(Body):
    """What may come after a text."""

    text: String = ""
    top: int = Field(10, ge=1, le=1000)


class ScoreBody(Body):
    """What each character of a text costs."""

    text: String
    top: int = Field(10, ge=0, le=1000)


class GrowingBody(Body):
    """How texts are drawn."""

    top_k: int | None = Field(None, ge=1, le=2**31)
    top_p: float = Field(1.0, gt=0, le=1)
    min_p: float = Field(0.0, ge=0, le=1)
    stop: Stops = ()
    seed: Seed | None = None
    stream: bool = False

    def sampling(self, temperature: float) -> Sampling:
        """Return how each symbol is drawn."""
        return Sampling(temperature, self.top_k, self.top_p, self.min_p)


class GenerateBody(GrowingBody):
    """How a prompt is continued."""

    prompt: String = ""
    length: Length = 500
    temperature: float = Field(0.7, ge=0)
    lines: int | None = Field(None, ge=1, le=MAX_LENGTH)
    num: NumTexts = 1

    @model_validator(mode="after")
    def _check_total(self) -> GenerateBody:
        _check_total(self.num, self.length)
        return self


class StreamOptions(BaseModel):
    """What a stream also tells."""

    model_config = ConfigDict(strict=True, extra="forbid")

    include_usage: bool = False
    include_obfuscation: bool = False


class CompletionBody(GrowingBody):
    """The same in the words of OpenAI's `/v1/completions`, with their defaults."""

    neutral: ClassVar[dict[str, tuple[Any, ...]]] = {
        "user": (),
        "best_of": (1,),
        "suffix": ("",),
        "frequency_penalty": (0,),
        "presence_penalty": (0,),
        "logit_bias": ({},),
    }

    model: String | None = None
    prompt: Strings = ("",)
    max_tokens: Length = 16
    temperature: float = Field(1.0, ge=0)
    n: NumTexts = 1
    logprobs: int | None = Field(None, ge=0, le=MAX_ALTERNATIVES)
    echo: bool = False
    stream_options: StreamOptions = StreamOptions()

    @model_validator(mode="after")
    def _check_total(self) -> CompletionBody:
        num_texts = self.n * len(self.prompt)
        _check_total(num_texts, self.max_tokens)
        num_read = self.n * sum(map(len, self.prompt)) if self.echo else 0
        if self.logprobs is not None and num_texts * self.max_tokens + num_read > MAX_SCORED:
            raise ValueError(f"`logprobs` are given for at most {MAX_SCORED:,} characters in all")
        return self


AnyBody = TypeVar("AnyBody", bound=Body)


def read_body(kind: type[AnyBody], content: bytes) -> AnyBody:
    """Read the JSON of a request.

    Raises:
        Refusal: it is no JSON, or asks for what there is not.
    """
    try:
        values = json.loads(content.decode("utf-8"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise Refusal(400, "invalid_json", f"the body is not JSON: {reason[:200]}") from None
    if not isinstance(values, dict):
        raise Refusal(400, "invalid_json", "the body is no JSON object", 'an example is {"prompt": "To be"}')
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise _refusal(kind, error) from None


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


def _refusal(kind: type[Body], error: ValidationError) -> Refusal:
    problem = error.errors(include_url=False, include_context=False, include_input=False)[0]
    name = one_line(".".join(map(str, problem["loc"]))[:60])
    if problem["type"] == "extra_forbidden":
        fields = [*kind.model_fields, *kind.neutral]
        return Refusal(400, "unknown_field", f"there is no field `{name}`", did_you_mean(name, fields), name)
    if problem["type"] == "missing":
        return Refusal(400, "missing_field", f"the field `{name}` is missing", field=name)
    message = problem["msg"].removeprefix("Value error, ")
    for spelled, plain in (
        ("Input should be", "it should be"),
        ("a valid integer", "an integer"),
        ("a valid dictionary or instance of StreamOptions", "an object"),
        ("a valid", "a"),
    ):
        message = message.replace(spelled, plain)
    return Refusal(400, "invalid_value", f"`{name}`: {message}" if name else message, field=name or None)


def _check_total(num_texts: int, length: int) -> None:
    if num_texts > MAX_TEXTS:
        raise ValueError(f"there are more than {MAX_TEXTS} texts in all")
    if num_texts * length > MAX_DRAWN:
        raise ValueError(f"the texts would have more than {counted(MAX_DRAWN, 'character')} in all")
