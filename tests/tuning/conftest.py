"""Fixtures of small checkpoints."""

from small_checkpoints import write_checkpoint as write_checkpoint
