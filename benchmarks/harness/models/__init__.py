"""Whole models: their shapes and random weights, what their steps must read, timing in turns, reports and pictures."""
