"""charlm: character-level recurrent language models. This file holds the version and sets how threads wait."""

import os

__version__ = "0.1.0"

# Torch's threads wait for each other a thousand times in a training step. By default they spin meanwhile, and where any
# other program wants a core, a step of 0.1 s becomes one of several seconds. Asleep, they wait for as long as it takes.
# The library reads this once, when torch is loaded, so it must be said before; who sets it is not overruled.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
