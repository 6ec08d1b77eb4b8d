"""Text on its way to the model, without torch: bytes, decoded once, encoded as ids, cut into batches."""
