"""Ops on rows of activations: quantization, RMSNorm, their fusions and gradients."""
