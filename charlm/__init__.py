"""charlm: character-level recurrent language models. The version, and how torch's threads wait."""

import os

__version__ = "0.1.0"

# Torch's threads wait for each other a thousand times in a training step. By default GNU OpenMP spins for long, and
# where any other program wants a core, a step of 0.08 s becomes one of several seconds. After so few spins they sleep
# instead, which costs next to nothing on a quiet machine. The library reads this once, when torch is loaded.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
