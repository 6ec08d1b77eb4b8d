"""The command that makes a page about a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from charlm.cli.pages import page_path, write_page
from charlm.cli.progress import ProgressLine, show_text_progress
from charlm.cli.render import say
from charlm.errors import one_line

# The command says what it does if it takes longer.
PATIENCE_SECONDS = 0.5


def report(
    run: Annotated[
        Path | None, typer.Argument(help="A run folder, or a model file in one; by default the newest run in runs/.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="The file to write.")] = Path("report.html"),
    corpus: Annotated[
        list[str] | None,
        typer.Option("--corpus", "-c", help="Where the text is now that the run learned; may be repeated."),
    ] = None,
) -> None:
    """Make a page about a run, to look at in a browser.

    It is one file, which needs no network. It has the curves of the run beside the baselines, what the model wrote
    along the way, the held-out text coloured by surprisal, all units, what it copies from the training text, and
    the settings.

    charlm report runs/fables-lstm-1

    charlm report runs/fables-lstm-1 -o fables.html
    """
    from charlm.run_folder import find_model
    from charlm.web.page import render_page
    from charlm.web.report import SCRIPTS
    from charlm.web.report import report as view_of

    path = page_path(out)
    if run is None:
        run = find_model(None).parent
        say(f"run {run}")
    with ProgressLine(PATIENCE_SECONDS) as line:
        view = view_of(run, corpus, line.show, show_text_progress)
    for section in view.values():
        if isinstance(section, dict) and "missing" in section:
            say(f"note: {section['missing'].removesuffix('.')}")
    write_page(path, render_page(f"charlm report: {one_line(str(run))}", view, SCRIPTS))
