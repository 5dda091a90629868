"""Steps of a network over any mix of sequences, whose keys and values lie in pages."""
