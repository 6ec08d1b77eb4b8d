"""One character at a time: a trained model stepped with NumPy. Never imports torch."""
