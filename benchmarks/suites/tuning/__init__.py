"""The suite of tuning: what the tuner chooses beside an exhaustive search."""
