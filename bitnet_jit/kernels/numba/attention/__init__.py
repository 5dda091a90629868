"""Attention over a cache of pages."""
