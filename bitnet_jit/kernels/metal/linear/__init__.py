"""Ternary products: `few` for few rows, by sums over a simdgroup; `many` for many, by its matrices."""
