"""What the page of a comparison holds: the tables and curves that `compare` prints as JSON."""

from __future__ import annotations

from typing import Any

from charlm.evaluation.compare import Comparison
from charlm.web.page import spread

# The assets that draw it.
SCRIPTS = ("chart.js", "comparison.js")
# A page has room for about so many points of all curves.
MAX_POINTS = 20_000


def comparison_view(comparison: Comparison) -> dict[str, Any]:
    """Return a comparison as plain values; of long curves only points that are spread over them."""
    values = comparison.to_json()
    most = max(2, MAX_POINTS // len(values["rows"]))
    rows = [row | {"curve": spread(row["curve"], most)} for row in values["rows"]]
    return {"comparison": values | {"rows": rows}}
