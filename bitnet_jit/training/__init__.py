"""Training of a decoder with ternary layers on a text, for `bitnet-jit train`."""
