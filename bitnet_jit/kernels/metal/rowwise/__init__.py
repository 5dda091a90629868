"""Ops on rows: activation quantization, norms and their fusions."""
