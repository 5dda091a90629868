"""Fixtures of small checkpoints, which several folders of tests share."""

from small_checkpoints import embedded_for_transformers as embedded_for_transformers
from small_checkpoints import kjv as kjv
from small_checkpoints import make_twin as make_twin
from small_checkpoints import reference as reference
from small_checkpoints import tiny as tiny
from small_checkpoints import write_checkpoint as write_checkpoint
