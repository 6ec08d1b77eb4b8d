"""Models in the formats of other programs, and models of other programs."""
