"""Whole blocks and their gradients: the torch model, its layers and their kernels."""
