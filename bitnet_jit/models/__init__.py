"""The network alone, packed or trained: architecture, attention and cache, blocks, from token ids to logits."""
