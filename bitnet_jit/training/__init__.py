"""Training a decoder with ternary layers on a text: what `bitnet-jit train` runs."""
