"""The border: foreign file names, packings and scale senses come in here, and leave as ours or not at all."""
