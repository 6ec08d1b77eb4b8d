"""`charlm export --format html`: a page that runs a model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from charlm.cli.options import model_file
from charlm.cli.pages import page_path
from charlm.cli.progress import ProgressLine, show_text_progress
from charlm.cli.render import say
from charlm.errors import CharlmError, UsageError, counted

if TYPE_CHECKING:
    from charlm.checkpoint import ModelFile
    from charlm.evaluation.scored_text import TextToScore
    from charlm.web.quantised import Loss, QuantisedNet

COMMAND = "charlm export --format html"


def page_of(given: Path, model: Path | None, net_only: bool, corpus: list[str] | None) -> tuple[Path, str, ModelFile]:
    """Return where the page of a model is to be written, the page, and the model with all that was left out."""
    from charlm.export.net import net_of
    from charlm.run_folder import find_model, model_name
    from charlm.web.model_page import check_fits, model_page
    from charlm.web.quantised import QuantisedNet

    path, whole = page_path(given), model_file(model)
    shown = net_of(whole) if net_only else whole
    check_fits(shown)
    name = model_name(find_model(model))
    net = QuantisedNet(shown)
    loss = _loss(shown, net, corpus)
    return path, model_page(shown, f"charlm: {name}", net, loss), whole


def _loss(model: ModelFile, net: QuantisedNet, corpus: list[str] | None) -> Loss | str:
    """Measure what the rounding costs, or say why it could not be measured."""
    from charlm.web.model_page import NOT_MEASURED
    from charlm.web.quantised import measure_loss

    try:
        text, name = _text(model, corpus)
    except CharlmError as error:
        if corpus:
            raise
        say(f"note: what the rounding of the weights costs was not measured: {error}")
        say("hint: `--corpus FILE` measures it on another text")
        return NOT_MEASURED
    with ProgressLine() as line:
        loss = measure_loss(model, net, text.ids, name, line.about("of the text scored"))
    unit = model.vocabulary.unit
    say(
        f"{loss.bits:.4f} bits per {unit} with 8-bit weights, {loss.bits_full:.4f} with the full ones, on "
        f"{counted(loss.characters, unit)} of {name}; no probability there changed by more than "
        f"{loss.tolerance}"
    )
    return loss


def _text(model: ModelFile, corpus: list[str] | None) -> tuple[TextToScore, str]:
    """Return the text that a model is measured on, and what the page calls it: its own, or another one."""
    from charlm.evaluation.scored_text import load_other_text, load_own_text

    # Standard input can be read only once.
    if corpus is None or "-" not in corpus:
        try:
            return load_own_text(model, "validation", corpus, COMMAND, show_text_progress), "its validation text"
        except UsageError:
            if corpus is None:
                raise
    return load_other_text(model, corpus, "skip", show_text_progress), "another text"
