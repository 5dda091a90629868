"""The operations that loops are made of: instruction sets, registers, elements of every dtype."""
