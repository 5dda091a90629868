"""From text to text: tokenizers, sampling, stop rules, and the loop around a decoder."""
