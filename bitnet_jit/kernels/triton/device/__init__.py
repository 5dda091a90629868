"""Targets, launches, and the device functions that kernels share."""
