"""`head_logits`: hidden states by the output head, a product bound by the memory that the head is read from."""
