"""What goes into pages and what is read from them: rotated keys, values, and pages made float32.

A head x is split in halves and rotated in float32, each product and sum rounded: (x1 cos - x2 sin, x2 cos + x1 sin).
"""

import numpy as np

from bitnet_jit.kernels.numba.attention.job import keys_at, page_of, values_at
from bitnet_jit.kernels.numba.compiler.jit import jit
from bitnet_jit.kernels.numba.intrinsics.elements import load_float, load_float32, store_float, store_float32
from bitnet_jit.kernels.numba.intrinsics.scalars import F0, F1, least
from bitnet_jit.problem import PAGE


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


@jit
def write_keys(spec, job, token, position, count, page, kv_head, scratch):
    """Write the keys of `count` tokens, whose slots in a page follow one another."""
    slot = position % PAGE
    for i in range(count):
        first = (token + i) * spec.width + (spec.heads + kv_head) * spec.head_dim
        rotate(spec, job, first, position + i, F1, scratch.k + 4 * i, PAGE)
    keys = keys_at(spec, job, page, kv_head)
    for d in range(spec.head_dim):
        for i in range(count):
            store_float(spec.cache_dtype, keys, d * PAGE + slot + i, load_float32(scratch.k, d * PAGE + i))


@jit
def write_values(spec, job, token, position, count, page, kv_head):
    """Write the values of `count` tokens, whose slots in a page follow one another."""
    values = values_at(spec, job, page, kv_head)
    for i in range(count):
        first = (token + i) * spec.width + (spec.heads + spec.kv_heads + kv_head) * spec.head_dim
        place = (position % PAGE + i) * spec.head_dim
        for d in range(spec.head_dim):
            store_float(spec.cache_dtype, values, place + d, load_float(spec.x_dtype, job.qkv, first + d))


@jit
def write_block(spec, job, block, scratch):
    """Write the keys and values of a piece's tokens and heads into their pages."""
    done = 0
    while done < block.tokens:
        position = block.position + done
        count = least(PAGE - position % PAGE, block.tokens - done)
        page = page_of(job, block.sequence, position // PAGE)
        for kv_head in range(block.head, block.head + block.heads):
            write_keys(spec, job, block.token + done, position, count, page, kv_head, scratch)
            write_values(spec, job, block.token + done, position, count, page, kv_head)
        done += count


@jit
def pack_page(spec, keys, values, scratch):
    """Make a page float32, in scratch memory, whose rows of values are whole registers."""
    for i in range(spec.head_dim * PAGE):
        store_float32(scratch.k, i, load_float(spec.cache_dtype, keys, i))
    for s in range(PAGE):
        for d in range(spec.head_dim):
            value = load_float(spec.cache_dtype, values, s * spec.head_dim + d)
            store_float32(scratch.v, s * spec.stride + d, value)
        for d in range(spec.head_dim, spec.stride):
            store_float32(scratch.v, s * spec.stride + d, F0)


@jit
def rotate_queries(spec, job, block, kv_head, scratch):
    """Write the queries of a block that share a head of keys, token by token, rotated and scaled."""
    scale = F1 / np.sqrt(np.float32(spec.head_dim))
    for i in range(block.tokens):
        for g in range(spec.group):
            first = (block.token + i) * spec.width + (kv_head * spec.group + g) * spec.head_dim
            out = scratch.q + 4 * (i * spec.group + g) * spec.head_dim
            rotate(spec, job, first, block.position + i, scale, out, 1)
