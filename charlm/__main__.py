"""The command `charlm`, and `python -m charlm`.

What the command changes for its whole process it changes here, before NumPy and torch are loaded. `import charlm`
changes nothing.
"""

from __future__ import annotations

import signal
import sys


def main() -> None:
    """Run the command line."""
    # Until a command starts there is nothing that Ctrl-C could interrupt: it ends the process without a traceback.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from charlm.machine import limit_numpy, limit_spinning

    limit_numpy()
    limit_spinning()
    from charlm.cli.app import app

    try:
        try:
            app()
        finally:
            # Nothing is left to interrupt. The exit hooks of torch would print a traceback.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
    except KeyboardInterrupt:
        # It came after Typer had caught all others.
        sys.exit(128 + signal.SIGINT)


if __name__ == "__main__":
    main()
