"""Fixtures of small checkpoints; nothing is collected where MLX is absent."""

import importlib.util

from small_checkpoints import embedded_for_transformers as embedded_for_transformers
from small_checkpoints import reference as reference
from small_checkpoints import tiny as tiny
from small_checkpoints import write_checkpoint as write_checkpoint

collect_ignore_glob = [] if importlib.util.find_spec("mlx") else ["test_*.py"]
