"""One character at a time: a trained model stepped with NumPy, without torch."""
