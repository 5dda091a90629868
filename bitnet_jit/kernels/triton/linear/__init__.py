"""Kernels of ternary linear layers, and of the gradient of their input."""
