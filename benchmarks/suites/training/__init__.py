"""The suite of training: layers of a block forward and backward, and quantizers."""
