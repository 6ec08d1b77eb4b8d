"""How strictly a saved state is read: exact types, and numbers within bounds."""

from __future__ import annotations

from typing import Annotated

from pydantic import ConfigDict, Field

STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
# No run comes near these.
MAX_NUMBER = 10**12
Count = Annotated[int, Field(ge=0, le=MAX_NUMBER)]
Number = Annotated[float, Field(ge=0, le=MAX_NUMBER)]
