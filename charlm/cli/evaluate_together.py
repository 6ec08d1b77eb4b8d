"""`charlm eval` of several models: what a text costs them together, and each alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from charlm.cli.evaluation_phrases import about_baseline, about_reading
from charlm.cli.layout import Column, table_lines, wrapped
from charlm.cli.progress import ProgressLine
from charlm.cli.render import say
from charlm.errors import UsageError, counted, one_line

if TYPE_CHECKING:
    from charlm.checkpoint import ModelFile
    from charlm.evaluation.baselines import Baseline
    from charlm.evaluation.scored_text import TextToScore
    from charlm.inference.stepper import Stepper
    from charlm.vocab import Vocabulary


@dataclass(frozen=True)
class Together:
    """What a text costs several models.

    Attributes:
        vocabulary: that of the first; it gives the unit of the figures.
        text: the name of the text.
        characters: how many were scored.
        num_blocks: the number of blocks of it that are scored, each as a text of its own.
        window: the number of characters after which the models started anew; None if the state was carried through.
        bits: per character, by the mean of the probabilities that the models give each character.
        each: the name of each model, and its bits per character.
        baselines: scores of the same text without a model.
    """

    vocabulary: Vocabulary
    text: str
    characters: int
    num_blocks: int
    window: int | None
    bits: float
    each: list[tuple[str, float]]
    baselines: list[Baseline]

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values, named by the units of the vocabulary."""
        in_units = self.vocabulary.in_units
        return {
            "corpus": self.text,
            "window": self.window,
            **in_units({"characters": self.characters, **_figures(self.bits)}),
            "models": [{"model": name, **in_units(_figures(bits))} for name, bits in self.each],
            "baselines": [in_units(row.to_json()) for row in self.baselines],
        }

    def to_lines(self, width: int | None) -> list[str]:
        """Lay it out: the figures of all together, and their place among the models and the baselines."""
        unit, number, figures = self.vocabulary.unit, len(self.each), _figures(self.bits)
        context = about_reading(self.num_blocks, self.window, unit)
        head = [
            f"{self.bits:8.4f} bits per {unit} ({figures['nats_per_character']:.4f} nats) by the mean of the "
            f"probabilities of {number} models; lower is better",
            f"{figures['perplexity_per_character']:8.3f} perplexity per {unit}: "
            f"as unsure as between so many equally probable {unit}s",
        ]
        rows = [(self.bits, "together", f"the mean of the probabilities of {number} models")]
        rows += [(bits, one_line(name), "one of the models") for name, bits in self.each]
        rows += [(row.bits_per_character, row.name, about_baseline(row.name, unit)) for row in self.baselines]
        rows.sort(key=lambda row: row[0])
        columns = [Column("    bits", is_number=True), Column("by"), Column("what it is", rank=1, least=36)]
        return [
            *wrapped(f"{one_line(self.text)}, {counted(self.characters, unit)}, {context}", width),
            *(line for figure in head for line in wrapped(figure, width, " " * 9)),
            "",
            *table_lines(columns, [(f"{bits:8.4f}", name, about) for bits, name, about in rows], width),
            *wrapped(self._conclusion(), width),
        ]

    def _conclusion(self) -> str:
        """Say whether the models are better together than the best of them alone."""
        name, best = min(self.each, key=lambda model: model[1])
        per = f"bits per {self.vocabulary.unit}"
        gain = round(best - self.bits, 4)
        if gain > 0:
            return f"together they need {gain:.4f} {per} fewer than the best of them, `{one_line(name)}`"
        return f"`{one_line(name)}` alone is " + (f"better: it needs {-gain:.4f} {per} fewer" if gain else "as good")


class OpenModel(NamedTuple):
    """One of the models: its path as it was given, its file, and what reads with it."""

    path: Path
    file: ModelFile
    stepper: Stepper


def open_models(paths: Sequence[Path]) -> list[OpenModel]:
    """Read the models.

    Raises:
        UsageError: one reads from both sides, they do not know the same symbols, or read from different sides.
    """
    from charlm.checkpoint import load_checkpoint
    from charlm.inference.ensemble import Ensemble
    from charlm.inference.stepper import Stepper
    from charlm.run_folder import find_model

    models = []
    for path in paths:
        file = load_checkpoint(find_model(path))
        if file.spec.sees_both_sides:
            raise UsageError(
                f"`{path}` reads from both sides, and such models do not predict together", "give it alone"
            )
        models.append(OpenModel(path, file, Stepper(file)))
    # It refuses models that do not fit together; each is scored alone.
    Ensemble([(str(model.path), model.stepper) for model in models])
    return models


def measure_together(
    models: Sequence[OpenModel], text: TextToScore, window: int | None, with_baselines: bool
) -> Together:
    """Score a text with several models and with the baselines."""
    from charlm.evaluation.baselines import baselines
    from charlm.evaluation.stepping import bits_together, symbol_bits
    from charlm.inference.ensemble import ids_in

    first = models[0].file.vocabulary
    bits_MN = []
    for number, model in enumerate(models, 1):
        with ProgressLine() as line:
            progress = line.about(f"of the text scored by model {number} of {len(models)}")
            ids_V = ids_in(model.file.vocabulary, first)
            bits_MN.append(symbol_bits(model.stepper, text.ids, window, ids_V=ids_V, progress=progress)[0])
    learned = text.training_ids if with_baselines else None
    return Together(
        first,
        text.name,
        len(bits_MN[0]),
        len(text.ids.bounds_S2),
        window,
        float(bits_together(bits_MN).mean()),
        [(str(model.path), float(bits_N.mean())) for model, bits_N in zip(models, bits_MN, strict=True)],
        [] if learned is None else list(baselines(learned, text.ids, first)),
    )


def note_on_learned(models: Sequence[OpenModel]) -> None:
    """Report which models may have learned what the first one held out."""
    from charlm.evaluation.compare import learned_part

    for path, file, _ in models:
        if learned_part(file) != learned_part(models[0].file):
            say(f"note: `{path}` learned another text, or holds out another part: it may have learned what is scored")


def _figures(bits: float) -> dict[str, float]:
    """Return a cost in all units."""
    perplexity = math.exp(min(bits * math.log(2), 700.0))
    return {
        "nats_per_character": bits * math.log(2),
        "bits_per_character": bits,
        "perplexity_per_character": perplexity,
    }
