"""Loads torch, or says in one line why this cannot be done."""

from __future__ import annotations

from charlm.errors import TorchError

# As in pyproject.toml.
REQUIREMENT = "torch>=2.9,<2.14"


def load_torch() -> None:
    """Import torch. What needs it calls this first, because every other module takes torch for granted.

    Raises:
        TorchError: torch is missing, or its installation is broken.
    """
    try:
        import torch
    except (Exception, SystemExit) as error:
        if isinstance(error, ModuleNotFoundError) and error.name == "torch":
            hint = f'`pip install "{REQUIREMENT}"` installs it'
            raise TorchError("this needs torch, which is not installed", hint) from error
        hint = f'`pip install --force-reinstall "{REQUIREMENT}"` installs it anew'
        raise TorchError(f"this needs torch, which cannot be loaded: {_reason(error)}", hint) from error
    if not hasattr(torch, "__version__"):
        place = torch.__file__ or next(iter(torch.__path__))
        raise TorchError(f"this needs torch, but `{place}` is imported in its place", "rename it")


def _reason(error: BaseException) -> str:
    """Return the first line of an error with the error's type, without which a `KeyError` says little."""
    first = next(iter(str(error).strip().splitlines()), "")
    return f"{type(error).__name__}: {first}" if first else type(error).__name__
