"""The rotation of a head by its position.

A head x is split in halves and rotated in float32, each product and sum rounded: (x1 cos - x2 sin, x2 cos + x1 sin).
"""

from bitnet_jit.kernels.numba.compiler.jit import jit
from bitnet_jit.kernels.numba.intrinsics.elements import load_float, load_float32, store_float32


@jit
def rotate(spec, job, first, position, scale, out, stride):
    """Write head qkv[first:first + head_dim] at a position, rotated and scaled, `stride` floats apart to out."""
    cos = position * spec.head_dim
    sin = cos + spec.half
    for i in range(spec.half):
        x1, x2 = load_float(spec.x_dtype, job.qkv, first + i), load_float(spec.x_dtype, job.qkv, first + spec.half + i)
        c, s = load_float32(job.rotary, cos + i), load_float32(job.rotary, sin + i)
        store_float32(out, i * stride, (x1 * c - x2 * s) * scale)
        store_float32(out, (spec.half + i) * stride, (x2 * c + x1 * s) * scale)
