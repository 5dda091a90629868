"""Fixtures of small checkpoints."""

from small_checkpoints import embedded_for_transformers as embedded_for_transformers
from small_checkpoints import reference as reference
from small_checkpoints import tiny as tiny
from small_checkpoints import write_checkpoint as write_checkpoint
