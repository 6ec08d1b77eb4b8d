"""The command that writes text with a model."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from charlm.cli.copies import CopyCheck, check_options
from charlm.cli.options import SAMPLE_TEMPERATURE, Models, Seed, Unknown, predictor
from charlm.cli.render import BOUNDARY, TextWriter, print_json, say, write_texts
from charlm.cli.texts import as_read, given_lines, given_text
from charlm.errors import CharlmError, UnknownCharacterError, UsageError, as_given, counted
from charlm.files import write_new

if TYPE_CHECKING:
    from charlm.evaluation.copies import Copies
    from charlm.inference.generate import Generation
    from charlm.vocab import Vocabulary

# So many texts grow side by side. With more, the first would be complete much later, and all hardly sooner.
GROUP_SIZE = 64
ESCAPES = {r"\n": "\n", r"\r": "\r", r"\t": "\t", r"\0": "\0", r"\\": "\\"}

TopP = Annotated[float, typer.Option(help="Draw only from the most probable that together reach this probability.")]
MinP = Annotated[float, typer.Option(help="Draw only from those at least this share as probable as the most probable.")]
Num = Annotated[
    int, typer.Option(min=1, max=10_000, help="How many texts for each prompt; text k of all has the seed plus k.")
]
Prompts = Annotated[
    Path | None,
    typer.Option(
        help="Continue each line of this file, or of standard input for -, and print JSON lines; "
        "an empty line is an empty prompt."
    ),
]
Separator = Annotated[
    str | None,
    typer.Option(
        help="Print only this between texts, as in '\\n\\n' or '\\0'. By default, texts on a terminal have their seed "
        "as a heading; elsewhere, a line --- stands between them, or with --lines 1 nothing."
    ),
]
Out = Annotated[Path | None, typer.Option(help="Write each text into a file of its own, in this folder.")]
Clamp = Annotated[
    list[str] | None,
    typer.Option(
        metavar="LAYER.UNIT=VALUE",
        help="Hold a unit of the net at a value after every character: 1.17=0.9 the hidden state of unit 17 in layer "
        "1, 1.17.cell=2 its cell; may be repeated. N-grams count as before.",
    ),
]
CheckCopies = Annotated[
    bool,
    typer.Option(
        "--check-copies",
        help="Report what of the new text stands verbatim in the text that the model learned, where, and how much more "
        "that is than in held-out text. A terminal underlines long copies.",
    ),
]
LearnedCorpus = Annotated[
    list[str] | None,
    typer.Option(
        "--corpus",
        "-c",
        help="With --check-copies: where the text is now that the model learned, a file or a folder; may be repeated.",
    ),
]
JsonLines = Annotated[
    bool, typer.Option("--json", help="Print a line of JSON for each text, as soon as it is complete.")
]


def sample(
    prompt: Annotated[
        str, typer.Argument(help="The text to continue; - reads it from standard input, without its last line end.")
    ] = "",
    model: Models = None,
    length: Annotated[int, typer.Option("--length", "-n", min=0, help="How many new characters to write.")] = 500,
    temperature: Annotated[
        float, typer.Option("--temperature", "-t", help="0 takes the most probable; 1 draws as learned.")
    ] = (SAMPLE_TEMPERATURE),
    top_k: Annotated[int | None, typer.Option(help="Draw only from the K most probable characters.")] = None,
    top_p: TopP = 1.0,
    min_p: MinP = 0.0,
    num: Num = 1,
    prompts: Prompts = None,
    stop: Annotated[list[str] | None, typer.Option(help="Stop after this text; may be repeated.")] = None,
    lines: Annotated[int | None, typer.Option(min=1, help="Stop after this many lines.")] = None,
    hide_prompt: Annotated[bool, typer.Option("--hide-prompt", help="Print only the new text.")] = False,
    seed: Seed = None,
    clamp: Clamp = None,
    unknown: Unknown = "error",
    separator: Separator = None,
    out: Out = None,
    check_copies: CheckCopies = False,
    corpus: LearnedCorpus = None,
    as_json: JsonLines = False,
) -> None:
    """Write text with a model.

    charlm sample "Once upon a time" --temperature 0.7

    charlm sample --num 5 --lines 1 --seed 1

    charlm sample "Once" --seed 1 --clamp 1.17=0.9
    """
    from charlm.inference.clamp import read_clamps
    from charlm.inference.generate import check_stop, draw_seed, generate
    from charlm.inference.sampling import Sampling

    # Wrong options are refused before the model is loaded and the prompt is read.
    sampling, stops = Sampling(temperature, top_k, top_p, min_p), [as_given(text) for text in stop or ()]
    check_stop(stops)
    held = read_clamps(clamp or ())
    output = _Output(num > 1, not hide_prompt, prompts is not None, lines == 1, separator, out, as_json)
    if prompts and prompt:
        raise UsageError("the prompts are given twice", "use PROMPT for one text, or `--prompts FILE` for many")
    check_options(check_copies, corpus, prompt, prompts)
    stepper = predictor(model).holding(held)
    output.check = CopyCheck(model or [None], corpus) if check_copies else None
    given = _lines(prompts, stepper.vocabulary, unknown) if prompts else as_read(stepper.vocabulary, given_text(prompt))
    first_seed = draw_seed() if seed is None else seed
    for group in _groups(each for each in given for _ in range(num)):
        seeds = range(first_seed + output.written, first_seed + output.written + len(group))
        generation = generate(
            stepper, group, length=length, sampling=sampling, seeds=seeds, stop=stops, lines=lines, unknown=unknown
        )
        if seed is None and not output.written:
            say(f"seed {first_seed}")
        output.write(generation)
    output.finish()


class _Output:
    """Where texts go: each into a line of JSON or a file, or one after the other."""

    def __init__(
        self,
        has_headings: bool,
        with_prompt: bool,
        are_many_prompts: bool,
        are_lines: bool,
        separator: str | None,
        folder: Path | None,
        as_json: bool,
    ) -> None:
        if (separator is not None) + (folder is not None) + as_json > 1:
            raise UsageError("`--separator`, `--out` and `--json` exclude one another", "give one of them")
        self.written = 0
        self.check: CopyCheck | None = None
        self._with_prompt = with_prompt
        self._names_prompts = are_many_prompts
        self._as_json = as_json or (are_many_prompts and separator is None and folder is None)
        self._folder = folder
        if separator is not None:
            separator = re.sub(r"\\[nrt0\\]", lambda found: ESCAPES[found[0]], as_given(separator))
        self._writer = TextWriter(has_headings, separator, "" if are_lines else BOUNDARY)

    def write(self, generation: Generation) -> None:
        """Write some more texts."""
        if self._as_json:
            named = zip(generation.prompts, generation.seeds, self._completed(generation), strict=True)
            for prompt, seed, (text, copies) in named:
                row = {**({"prompt": prompt} if self._names_prompts else {}), "seed": seed, "text": text}
                print_json(row | ({"copies": copies.to_json()} if copies else {}))
        elif self._folder is not None:
            self._write_files(generation, self._folder)
        elif self.check:
            self._write_underlined(generation, self.check)
        else:
            write_texts(generation.in_reading_order(self._with_prompt), list(generation.seeds), self._writer)
        self.written += len(generation.seeds)

    def _completed(self, generation: Generation) -> Iterator[tuple[str, Copies | None]]:
        """Yield the whole texts, and what of each is copied if that is to be checked."""
        if self.check is None:
            yield from ((text, None) for text in generation.completed(self._with_prompt))
            return
        found = self.check.find(generation.seeds, generation.texts(with_prompt=False))
        for prompt, copies in zip(generation.prompts, found, strict=True):
            yield "".join(self._around(generation, prompt, copies.text)), copies

    def _around(self, generation: Generation, prompt: str, text: str) -> tuple[str, str, str]:
        """Return what stands before a new text, the text, and what stands after it."""
        prompt = prompt if self._with_prompt else ""
        return ("", text, prompt) if generation.stepper.is_backward else (prompt, text, "")

    def _write_underlined(self, generation: Generation, check: CopyCheck) -> None:
        found = check.find(generation.seeds, generation.texts(with_prompt=False))
        for prompt, seed, copies in zip(generation.prompts, generation.seeds, found, strict=True):
            before, text, after = self._around(generation, prompt, copies.text)
            self._writer.start(seed)
            self._writer.write(before)
            edges = [0, *(edge for span in copies.spans() for edge in span), len(text)]
            for number, (start, end) in enumerate(pairwise(edges)):
                # Every second piece is a copy.
                self._writer.write(text[start:end], is_underlined=number % 2 == 1)
            self._writer.write(after)

    def _write_files(self, generation: Generation, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        paths = [
            folder / f"{number:04}-seed-{seed}.txt" for number, seed in enumerate(generation.seeds, self.written + 1)
        ]
        # Found before the texts are written, which may take long.
        for path in filter(Path.exists, paths):
            raise UsageError(f"`{path}` exists", "`--out` names another folder")
        for path, (text, _) in zip(paths, self._completed(generation), strict=True):
            write_new(path, (text if text.endswith("\n") else f"{text}\n").encode("utf-8", "backslashreplace"))

    def finish(self) -> None:
        """End the output; report the files."""
        if self._folder is not None:
            say(f"{counted(self.written, 'text')} in {self._folder}")
        elif not self.written:
            say("note: there are no prompts")
        elif not self._as_json:
            self._writer.finish()
        if self.check and not self._as_json:
            self.check.report()


def _lines(source: Path, vocabulary: Vocabulary, unknown: str) -> Iterator[str]:
    """Yield the prompts of a file, or of standard input, as the model reads them.

    Raises:
        UnknownCharacterError: a line holds unknown characters, under `unknown="error"`.
    """
    from charlm.vocab import TextFilter

    if vocabulary.filter != "none":
        say("note: this model reads lower-case letters and one space in place of all else")
    for number, line in enumerate(given_lines(source), 1):
        text = TextFilter(vocabulary.filter)(line)
        try:
            vocabulary.encode(text, unknown)
        except UnknownCharacterError as error:
            raise UnknownCharacterError(f"line {number}: {error}", error.hint) from None
        yield text


def _groups(prompts: Iterable[str]) -> Iterator[Sequence[str]]:
    """Yield prompts in groups; what comes before an error is written before it is reported."""
    group: list[str] = []
    try:
        for prompt in prompts:
            group.append(prompt)
            if len(group) == GROUP_SIZE:
                yield group
                group = []
    except (CharlmError, UnicodeDecodeError):
        if group:
            yield group
        raise
    if group:
        yield group
