"""Vectors of texts: their requests, and the mean of hidden states."""
