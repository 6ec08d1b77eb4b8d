"""A trained model in NumPy, without torch: one character at a time."""
