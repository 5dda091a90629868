"""Ternary decoders that write text: architecture, attention and cache, generation, and the reading of checkpoints."""
