"""`autotune` for models on MLX's arrays: the search, the cache and the report of `bitnet_jit.autotune`."""

import time
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from typing import Any

import mlx.core as mx
import torch
from mlx import nn

from bitnet_jit.errors import InvalidInput
from bitnet_jit.mlx.packed import PackedBitLinear
from bitnet_jit.problem import Problem
from bitnet_jit.tuning.autotune import ROWS, bar, check_options, silent, tune_all
from bitnet_jit.tuning.report import Report
from bitnet_jit.tuning.work import work_of


def autotune(
    model: nn.Module,
    rows: Sequence[int] = ROWS,
    dtype: mx.Dtype | None = None,
    budget_seconds: float | None = None,
    effort: str = "quick",
    progress: bool = True,
) -> Report:
    """Find the fastest kernel and config for the packed layers of a model, and keep them for all later processes.

    Args:
        model: with packed layers, such as one that `patch` or `pack` has changed.
        rows: numbers of rows (batch size times tokens) to tune for; each stands for its power of two.
        dtype: of activations; None: that of the model's other parameters, else float16.
        budget_seconds, effort, progress: as in `bitnet_jit.autotune`.

    Returns:
        The outcomes; print them.

    Raises:
        InvalidInput: the model has no packed layer, or an argument cannot be meant; it is named.

    >>> from bitnet_jit.mlx import autotune, convert, pack
    >>> report = autotune(pack(convert(nn.Sequential(nn.Linear(64, 128)))), rows=(1,), progress=False)
    >>> [outcome.problem.op for outcome in report.outcomes]
    ['bit_linear']
    """
    start = time.monotonic()
    numbers, seconds = check_options(rows, budget_seconds, effort)
    problems = problems_of(model, numbers, dtype)
    with bar() if progress else nullcontext(silent) as advance:
        outcomes = tune_all(problems, torch.device("cpu"), start + seconds, effort, advance)
    return Report(tuple(outcomes), time.monotonic() - start)


def problems_of(model: Any, rows: Iterable[int], dtype: mx.Dtype | None) -> list[Problem]:
    """Return the problems of a model's packed layers, those that take most of a pass first."""
    modules = list(model.modules()) if isinstance(model, nn.Module) else []
    layers = [module for module in modules if isinstance(module, PackedBitLinear)]
    if not layers:
        raise InvalidInput(
            f"model: {type(model).__name__} has no packed layer of bitnet_jit.mlx; see its patch, convert and pack"
        )
    x_dtype = activation_dtype(modules) if dtype is None else dtype
    counts = Counter(layer.problem(mx.zeros((m, layer.in_features), dtype=x_dtype)) for layer in layers for m in rows)
    return sorted(counts, key=lambda problem: -counts[problem] * work_of(problem).weight)


def activation_dtype(modules: Iterable[nn.Module]) -> mx.Dtype:
    """Return the dtype of parameters beside packed layers, which is that of what layers hand on; else float16."""
    others = (module for module in modules if not isinstance(module, PackedBitLinear))
    arrays = (array for module in others for array in module.values() if isinstance(array, mx.array))
    return next((array.dtype for array in arrays if mx.issubdtype(array.dtype, mx.floating)), mx.float16)
