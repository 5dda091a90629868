"""Compile jitted functions, and keep their object code on disk."""
