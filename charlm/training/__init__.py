"""The training loop, and everything a run needs and saves."""
