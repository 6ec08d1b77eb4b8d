"""Environments in which NumPy computes as on a processor with fewer instructions."""

from __future__ import annotations

from importlib import import_module

import numpy as np

_umath = import_module("numpy._core._multiarray_umath" if hasattr(np, "_core") else "numpy.core._multiarray_umath")
# What this NumPy uses on this processor beyond what every processor has.
_features = [name for name in _umath.__cpu_dispatch__ if _umath.__cpu_features__[name]]
# The instructions of most laptops, and those of the oldest machines, for matrix products and for all else.
OLDER_CPU = {"OPENBLAS_CORETYPE": "Haswell", "NPY_DISABLE_CPU_FEATURES": " ".join(_features)}
OLDEST_CPU = OLDER_CPU | {"OPENBLAS_CORETYPE": "Prescott"}
