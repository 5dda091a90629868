"""Providers: one module per origin of contenders; `linear` and `norm` have those of a suite by name."""
