"""The devices that an engine computes on: what they can do, which is chosen, and what happens when one fails."""
