"""The command that answers programs and browsers."""

from __future__ import annotations

import re
import sys
from typing import Annotated

import typer

from charlm.cli.export import require_packages
from charlm.cli.options import Model, model_file
from charlm.cli.render import say
from charlm.errors import UsageError, counted, one_line

MIN_TOKEN = 8

Token = Annotated[
    str,
    typer.Option(
        envvar="CHARLM_TOKEN",
        show_envvar=False,
        help="What requests must show; needed for an address that other machines reach. By default the environment "
        "variable CHARLM_TOKEN, which other users of this machine cannot see.",
    ),
]


def serve(
    model: Model = None,
    host: Annotated[
        str, typer.Option(help="The address to listen at; the default can be reached from this machine only.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port to listen at; 0 takes a free one.")] = 8000,
    token: Token = "",
) -> None:
    """Answer programs and browsers with a model, until Ctrl-C.

    A page is at /. Programs send JSON to /generate, /predict and /score, or to /v1/completions as to OpenAI. It needs
    the extra charlm[serve].

    charlm serve

    charlm serve -m runs/fables-lstm-1 --port 8080
    """
    require_packages("serve", "starlette", "uvicorn")
    from charlm.inference.stepper import Stepper
    from charlm.run_folder import find_model, model_name
    from charlm.web.model_page import model_page
    from charlm.web.network import is_loopback, listen, run
    from charlm.web.server import Service

    _check_token(token)
    listening = listen(host, port)
    with listening:
        address, number = listening.getsockname()[:2]
        is_local = is_loopback(address)
        if not is_local and not token:
            raise UsageError(
                f"other machines can reach {one_line(host)}, so that requests must show a token",
                "set the environment variable CHARLM_TOKEN, or stay with `--host 127.0.0.1`",
            )
        file, name = model_file(model), model_name(find_model(model))
        shown = f"[{address}]" if ":" in address else address
        hosts = frozenset({shown, "localhost", host.lower(), f"[{host.lower()}]"}) if is_local and not token else None
        service = Service(Stepper(file), name, lambda: model_page(file, name), hosts, token, report=say)
        say(f"serving {name} at http://{shown}:{number}; Ctrl-C stops it")
        say("try it:")
        # Not wrapped, so that it can be copied.
        print(_example(f"http://{shown}:{number}", bool(token)), file=sys.stderr, flush=True)
        stopped_by = run(service, listening, _announce_end)
    say(f"answered {counted(service.num_answered, 'request')}, wrote {counted(service.batch.num_drawn, 'character')}")
    raise typer.Exit(128 + stopped_by)


def _announce_end(num_running: int) -> None:
    say(
        f"stopping: {counted(num_running, 'request')} may end; another Ctrl-C does not wait"
        if num_running
        else "stopping"
    )


def _check_token(token: str) -> None:
    """Refuse a token that no header can hold, or that can be guessed.

    Raises:
        UsageError: it is not one.
    """
    if token and (len(token) < MIN_TOKEN or not re.fullmatch(r"[!-~]+", token)):
        raise UsageError(
            f"a token has at least {MIN_TOKEN} characters, all of them ASCII and none a space",
            'python -c "import secrets; print(secrets.token_urlsafe())" makes one',
        )


def _example(url: str, needs_token: bool) -> str:
    """Return a command that asks for a text."""
    shows_token = ' -H "Authorization: Bearer $CHARLM_TOKEN"' if needs_token else ""
    return f"curl {url}/generate{shows_token} -H 'Content-Type: application/json' -d '{{\"length\": 200}}'"
