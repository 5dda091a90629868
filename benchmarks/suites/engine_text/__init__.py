"""What the engine costs and how it shares: against the runner alone, long prompts beside streams, cached prefixes."""
