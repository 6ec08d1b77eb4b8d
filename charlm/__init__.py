"""charlm: character-level recurrent language models. This file holds the version and imports nothing."""

__version__ = "0.1.0"
