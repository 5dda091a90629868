"""Fixtures of small checkpoints, which several folders of tests share."""

from small_checkpoints import kjv as kjv
from small_checkpoints import tiny as tiny
from small_checkpoints import write_checkpoint as write_checkpoint
