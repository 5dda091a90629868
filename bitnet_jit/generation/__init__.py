"""Text to text: tokenizers, sampling, stop rules, and the loop around a network."""
