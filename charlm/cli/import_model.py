"""The command that imports a model of another program."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from charlm.cli.render import say, tell_next
from charlm.errors import RunError, UsageError, counted, did_you_mean


def import_model(
    file: Annotated[Path, typer.Argument(help="A `state_dict` of torch in a safetensors file.")],
    vocabulary: Annotated[
        str | None,
        typer.Option(
            "--vocabulary",
            "-v",
            help="A list of characters or a dictionary of their ids in JSON, or the text that was learned, "
            "or the word printable, or bytes.",
        ),
    ] = None,
    cell: Annotated[
        str | None, typer.Option(help="The cell of its layers, where shapes leave a choice, such as rnn-relu.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The run folder to make.")] = None,
) -> None:
    """Import a net of another program.

    It is an embedding or one-hot inputs, recurrent layers, and a linear layer. Its arrays may have the names of
    char-rnn.pytorch, of nanoGPT or of others like them. Their shapes say what it is.

    charlm import net.safetensors --vocabulary input.txt

    charlm import net.safetensors --vocabulary characters.json --out runs/imported
    """
    from charlm.cells import CELLS
    from charlm.export.foreign import import_net
    from charlm.export.foreign_vocabulary import read_vocabulary
    from charlm.export.safetensors_file import read_safetensors
    from charlm.files import expanded, write_atomic
    from charlm.run_folder import RunFolder
    from charlm.settings.config import Config
    from charlm.settings.config_file import to_yaml

    if cell is not None and cell.lower() not in CELLS:
        raise UsageError(f"there is no cell `{cell}`", did_you_mean(cell, CELLS) or f"charlm has {', '.join(CELLS)}")
    if out:
        RunFolder.check_free(out, trains=False)
    content = read_safetensors(expanded(file))
    symbols = read_vocabulary(vocabulary) if vocabulary else None
    model, notes = import_net(content, symbols, cell.lower() if cell else None, file.name)
    run = RunFolder.create(out, file.stem)
    try:
        write_atomic(run.config, to_yaml(Config.model_validate(model.config)).encode())
        model.save(run.best)
    except OSError as error:
        raise RunError(f"`{run.path}` cannot be written: {error.strerror or error}") from error
    spec = model.spec
    layers = f"{counted(spec.num_layers, 'layer')} of {counted(spec.hidden_size, 'unit')}"
    say(f"run {run.path}: {spec.cell}, {layers}, {counted(spec.num_symbols, model.vocabulary.unit)}")
    for note in notes:
        say(f"note: {note}")
    tell_next(run.path)
