"""charlm: character-level recurrent language models.

    import charlm

    run = charlm.train("fables", cell="gru", time="30s")

Importing this loads neither NumPy nor torch, and changes nothing in the process.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from charlm.training.run import train as train

__all__ = ["__version__", "train"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Load the functions for programs when they are first used."""
    if name == "train":
        from charlm.training.run import train

        return train
    raise AttributeError(f"module `charlm` has no attribute `{name}`")


def __dir__() -> list[str]:
    """Return the public names."""
    return sorted(__all__)
