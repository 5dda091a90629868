"""Contenders for whole models: ours, llama.cpp, transformers."""
