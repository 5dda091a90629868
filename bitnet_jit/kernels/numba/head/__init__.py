"""Kernels of the output head: float32 logits from a head of floats, or of int8 with a scale per row."""
