"""The command `charlm`, and `python -m charlm`."""

from __future__ import annotations

import signal


def main() -> None:
    """Run the command line."""
    # Until a command begins there is nothing that Ctrl-C could interrupt: it ends the process without a word.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from charlm.machine import limit_numpy

    # Before any command imports NumPy, which starts its threads then.
    limit_numpy()
    from charlm.cli.app import app

    app()


if __name__ == "__main__":
    main()
