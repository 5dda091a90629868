"""Ternary linear layers."""
