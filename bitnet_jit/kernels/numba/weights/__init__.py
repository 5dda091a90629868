"""Pack float weights, and unpack them."""
