"""A page that runs a model: its weights as integers, its n-grams, and what was measured of their loss."""

from __future__ import annotations

from base64 import b64encode
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from charlm.cells import CELLS
from charlm.checkpoint import NGRAMS_PREFIX, ModelFile
from charlm.errors import UsageError
from charlm.inference.cell_description import describe
from charlm.inference.mixture import Mixture
from charlm.inference.units import gates_of, parts_of
from charlm.ramps import DIVERGING, SEQUENTIAL
from charlm.web.kernel import COLUMNS, ROWS, module
from charlm.web.page import render_page
from charlm.web.quantised import Loss, Matrix, QuantisedNet
from charlm.web.text_view import MAX_BITS, packed, ramp_colours
