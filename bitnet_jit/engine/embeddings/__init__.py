"""Vectors of texts: their requests, and the hidden states that they are made of."""
