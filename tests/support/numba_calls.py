"""Kernels of the Numba backend on NumPy arrays, with outputs that are poisoned before the call. No torch here."""

import numpy as np

from bitnet_jit.kernels.numba.arrays import STORAGE, run


def run_linear(kernel, problem, config, x, w_packed, w_scale=None, bias=None, x_scale=None, y=None, team=None):
    """Run a linear kernel, whose x are floats or codes; return y, a new one where none is given to write over."""
    if y is None:
        y = np.full((x.shape[0], problem.out_features), 77, STORAGE[problem.y_dtype])
    values = {"x": x, "x_q": x, "x_scale": x_scale, "w_packed": w_packed, "w_scale": w_scale, "bias": bias, "y": y}
    run(kernel, problem, values, config, team)
    return y


def run_rows(kernel, problem, x, up=None, weight=None, eps=1e-5, team=None):
    """Run a row-wise kernel; return y or codes (rows, features), and scales (rows,), NaN where the op has none."""
    y, scale = np.full(x.shape, 77, STORAGE[problem.y_dtype]), np.full(x.shape[0], np.nan, np.float32)
    values = {"x": x, "gate": x, "up": up, "weight": weight, "eps": eps, "y": y, "x_q": y, "x_scale": scale}
    run(kernel, problem, values, team=team)
    return y, scale


def run_norm_gradients(kernel, problem, dy, x, weight, eps=1e-5, team=None):
    """Run a kernel of a norm's gradients; return dx (rows, features) and dw (features,); rows are at least one."""
    dx, dw = np.full(x.shape, 77, x.dtype), np.full(weight.shape, 77, weight.dtype)
    run(kernel, problem, {"dy": dy, "x": x, "weight": weight, "eps": eps, "dx": dx, "dw": dw}, team=team)
    return dx, dw
