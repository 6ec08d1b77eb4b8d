"""The command `charlm`, and `python -m charlm`."""

from __future__ import annotations

import signal


def main() -> None:
    """Run the command line."""
    # While it is loaded nothing is begun that Ctrl-C could interrupt: it ends the process without a word.
    is_ordinary = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if is_ordinary:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from charlm.cli import app

    if is_ordinary:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    app()


if __name__ == "__main__":
    main()
