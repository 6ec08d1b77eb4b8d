"""The command that writes text with a model."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from charlm.cli.options import SAMPLE_TEMPERATURE, Json, Model, Seed, Unknown, as_given, as_read, model_file
from charlm.cli.render import print_json, say, write_texts


def sample(
    prompt: Annotated[str, typer.Argument(help="The text to continue; - reads it from standard input.")] = "",
    model: Model = None,
    length: Annotated[int, typer.Option("--length", "-n", min=0, help="How many new characters to write.")] = 500,
    temperature: Annotated[
        float, typer.Option("--temperature", "-t", help="0 takes the most probable; 1 draws as learned.")
    ] = (SAMPLE_TEMPERATURE),
    top_k: Annotated[int | None, typer.Option(help="Draw only from the K most probable characters.")] = None,
    top_p: Annotated[
        float, typer.Option(help="Draw only from the most probable that together reach this probability.")
    ] = 1.0,
    min_p: Annotated[
        float, typer.Option(help="Draw only from those at least this share as probable as the most probable.")
    ] = 0.0,
    num: Annotated[int, typer.Option(min=1, max=10_000, help="How many texts; text k has the seed plus k.")] = 1,
    stop: Annotated[list[str] | None, typer.Option(help="Stop after this text; may be repeated.")] = None,
    lines: Annotated[int | None, typer.Option(min=1, help="Stop after this many lines.")] = None,
    hide_prompt: Annotated[bool, typer.Option("--hide-prompt", help="Print only the new text.")] = False,
    seed: Seed = None,
    unknown: Unknown = "error",
    as_json: Json = False,
) -> None:
    """Write text with a model.

    charlm sample "Once upon a time" --temperature 0.7

    charlm sample --num 5 --lines 1 --seed 1
    """
    from charlm.inference.generate import check_stop, draw_seed, generate
    from charlm.inference.sampling import Sampling
    from charlm.inference.stepper import Stepper

    # Wrong options are refused before the model is loaded and the prompt is read.
    sampling, stops = Sampling(temperature, top_k, top_p, min_p), [as_given(text) for text in stop or ()]
    check_stop(stops)
    stepper = Stepper(model_file(model))
    (text,) = as_read(stepper.vocabulary, sys.stdin.read() if prompt == "-" else as_given(prompt))
    first_seed = draw_seed() if seed is None else seed
    seeds = range(first_seed, first_seed + num)
    generation = generate(
        stepper, text, length=length, sampling=sampling, seeds=seeds, stop=stops, lines=lines, unknown=unknown
    )
    if seed is None:
        say(f"seed {first_seed}")
    if as_json:
        texts = generation.texts(not hide_prompt)
        print_json([{"seed": seed, "text": text} for seed, text in zip(seeds, texts, strict=True)])
    else:
        write_texts(generation.in_reading_order(not hide_prompt), list(seeds))
