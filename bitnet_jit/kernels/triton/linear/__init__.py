"""Ternary linear layers, and the gradient of their input."""
