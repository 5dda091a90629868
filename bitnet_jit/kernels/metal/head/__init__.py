"""`head_logits`: output heads of floats, and of int8 with a scale per row."""
