"""The models of an engine: by name in a store that makes room, and how each gets there from its files."""
