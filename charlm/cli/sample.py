"""The command that writes text with a model."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from charlm.cli.options import (
    SAMPLE_TEMPERATURE,
    Json,
    Model,
    Seed,
    Unknown,
    as_given,
    as_read,
    model_file,
)
from charlm.cli.render import print_json, say, write_texts
from charlm.errors import UsageError


def sample(
    prompt: Annotated[str, typer.Argument(help="The text to go on from; - reads it from standard input.")] = "",
    model: Model = None,
    length: Annotated[int, typer.Option("--length", "-n", min=0, help="New characters, the prompt not counted.")] = 500,
    temperature: Annotated[
        float, typer.Option("--temperature", "-t", help="0 takes the likeliest; 1 draws as learned.")
    ] = (SAMPLE_TEMPERATURE),
    top_k: Annotated[int | None, typer.Option(help="Draw from the K likeliest characters only.")] = None,
    top_p: Annotated[float, typer.Option(help="Draw from the likeliest that reach this probability together.")] = 1.0,
    min_p: Annotated[
        float, typer.Option(help="Leave out what is less than this share as likely as the likeliest.")
    ] = 0.0,
    num: Annotated[int, typer.Option(min=1, max=10_000, help="How many samples; text k has the seed plus k.")] = 1,
    stop: Annotated[list[str] | None, typer.Option(help="End at this text, which is kept; may be repeated.")] = None,
    lines: Annotated[int | None, typer.Option(min=1, help="End after so many lines.")] = None,
    hide_prompt: Annotated[bool, typer.Option("--hide-prompt", help="Print the new text alone.")] = False,
    seed: Seed = None,
    unknown: Unknown = "error",
    as_json: Json = False,
) -> None:
    """Write text with a model.

    charlm sample "Once upon a time" --temperature 0.7

    charlm sample --num 5 --lines 1 --seed 1
    """
    from charlm.inference import generate as sampling
    from charlm.inference.stepper import Stepper

    stepper = Stepper(model_file(model))
    (text,) = as_read(stepper.vocabulary, sys.stdin.read() if prompt == "-" else as_given(prompt))
    choice = sampling.Choice(temperature, top_k, top_p, min_p)
    logits_BV, state = sampling.start(stepper, text, unknown)
    stops = [as_given(end) for end in stop or ()]
    if "" in stops:
        raise UsageError("an empty stop text would end every text at once", "leave `--stop` away for none")
    first_seed = sampling.draw_seed() if seed is None else seed
    if seed is None:
        say(f"seed {first_seed}")
    seeds = [first_seed + index for index in range(num)]
    pieces = sampling.stream(
        stepper, logits_BV, state, length=length, choice=choice, seeds=seeds, stop=stops, lines=lines
    )
    shown = "" if hide_prompt else text
    if as_json:
        texts = sampling.joined(stepper, pieces, shown, num)
        print_json([{"seed": seed, "text": text} for seed, text in zip(seeds, texts, strict=True)])
    elif stepper.is_backward:
        # It grows from its end, and can be shown only when it has begun.
        write_texts(enumerate(sampling.joined(stepper, pieces, shown, num)), "", seeds)
    else:
        write_texts(pieces, shown, seeds)
