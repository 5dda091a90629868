"""What an engine is told before it begins: its config, levels of optimization, and the builder of both."""
