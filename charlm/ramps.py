"""Ramps of colours for values, the same on terminals and on pages.

The colours differ in lightness as well as in hue, so that a reader who is colour-blind can tell them apart.
"""

from __future__ import annotations

import math
from typing import NamedTuple


class Ramp(NamedTuple):
    """Shades in order.

    Attributes:
        colours: an RGB colour for each shade, as 0xRRGGBB.
        indices: the same in the palette of 256 colours.
        marks: the same as marks.
        lowest: the value that has the first shade; 1 has the last one.
    """

    colours: tuple[int, ...]
    indices: tuple[int, ...]
    marks: str
    lowest: int

    def shade(self, value: float) -> int:
        """Return the index of the shade of a value; values outside the ramp have its first or last shade."""
        share = (min(max(value, self.lowest), 1) - self.lowest) / (1 - self.lowest)
        return math.floor(share * (len(self.marks) - 1) + 0.5)


# From dark blue over grey to yellow, after cividis (Nunez, Anderton and Renslow, 2018): for values from 0 to 1.
SEQUENTIAL = Ramp(
    (0x00224E, 0x123570, 0x3B496C, 0x575D6D, 0x707173, 0x8A8678, 0xA59C74, 0xC3B369, 0xE1CC55, 0xFEE838),
    (17, 18, 60, 243, 102, 144, 179, 185, 221, 227),
    " 123456789",
    0,
)
# From blue over white to orange: for values from -1 to 1.
DIVERGING = Ramp(
    (0x0B4F8C, 0x2F74B5, 0x649BCC, 0x9BC0E0, 0xC9DDED, 0xEEEEEE, 0xFADCBF, 0xF6B97A, 0xE8923F, 0xC56A15, 0x964B00),
    (24, 31, 74, 110, 153, 255, 223, 216, 208, 166, 130),
    "edcba ABCDE",
    -1,
)

# White and black have the same contrast to this luminance: 1.05 / (x + 0.05) = (x + 0.05) / 0.05.
MIDDLE_LUMINANCE = math.sqrt(1.05 * 0.05) - 0.05


def is_dark(colour: int) -> bool:
    """Return whether white is easier to read on a colour than black."""
    return luminance(colour) < MIDDLE_LUMINANCE


def luminance(colour: int) -> float:
    """Return the relative luminance of a colour, from 0 for black to 1 for white, as the WCAG define it."""
    parts = [(colour >> shift & 255) / 255 for shift in (16, 8, 0)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
