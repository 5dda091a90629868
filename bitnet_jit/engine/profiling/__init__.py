"""What a model takes: latency, memory by phase, its hot spots, the backends and batches that suit it, leaks."""
