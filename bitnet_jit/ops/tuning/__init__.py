"""Tuning one problem: which kernels and configs can run it, whether they answer alike, and which is the fastest."""
