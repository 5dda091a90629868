"""Collects nothing where MLX is absent: pip install 'mlx[cpu]'."""

import importlib.util

collect_ignore_glob = [] if importlib.util.find_spec("mlx") else ["test_*.py"]
