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


def run_add_norm(kernel, problem, x, delta, weight, eps=1e-5, team=None):
    """Run a kernel of a sum's norm; return sums and y (rows, features), or sums, codes, and scales (rows,)."""
    total, y, x_q = (np.full(x.shape, 77, dtype) for dtype in (x.dtype, x.dtype, np.int8))
    values = {"x": x, "delta": delta, "weight": weight, "eps": eps, "total": total, "y": y, "x_q": x_q}
    values["x_scale"] = np.full(x.shape[0], np.nan, np.float32)
    run(kernel, problem, values, team=team)
    return (total, x_q, values["x_scale"]) if "quantize" in kernel.op else (total, y)


def run_norm_gradients(kernel, problem, dy, x, weight, eps=1e-5, team=None):
    """Run a kernel of a norm's gradients; return dx (rows, features) and dw (features,); rows are at least one."""
    dx, dw = np.full(x.shape, 77, x.dtype), np.full(weight.shape, 77, weight.dtype)
    run(kernel, problem, {"dy": dy, "x": x, "weight": weight, "eps": eps, "dx": dx, "dw": dw}, team=team)
    return dx, dw


def rounded(y, dtype):
    """Return the values of `dtype` nearest to a float32 result, half to even."""
    if dtype != "bfloat16":
        with np.errstate(over="ignore"):
            return y.astype(dtype).astype(np.float32)
    bits = y.view(np.uint32)
    bits = np.where(np.isnan(y), 0x7FC0, (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint32)
    return (bits << 16).view(np.float32)


def poisoned(rows, columns, dtype):
    """Return guard bytes that must not change, and inside them an output full of NaN (of 0x5A for integers)."""
    storage = np.dtype(STORAGE[dtype])
    buffer = np.full((rows * columns + 128) * storage.itemsize, 0x5A if dtype == "int32" else 0xFF, np.uint8)
    guarded = buffer.view(storage)
    return guarded, guarded[64 : 64 + rows * columns].reshape(rows, columns)


def assert_guarded(guarded):
    """Assert that the guard bytes around an output are as they were."""
    edges = np.concatenate([guarded[:64], guarded[-64:]]).view(np.uint8)
    assert (edges == edges[0]).all(), "the kernel wrote outside its output"
