"""Text on its way to the model: bytes, decoded once, encoded as ids, cut into batches. Never imports torch."""
