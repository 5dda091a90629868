"""What goes into pages and what is read from them: rotated keys, values, and pages made float32."""

import numpy as np

from bitnet_jit.kernels.numba.attention.code_pages import quantize_queries, write_key_codes, write_value_codes
from bitnet_jit.kernels.numba.attention.job import keys_at, page_of, values_at
from bitnet_jit.kernels.numba.attention.turning import rotate
from bitnet_jit.kernels.numba.compiler.jit import jit, one_of
from bitnet_jit.kernels.numba.intrinsics.elements import load_float, load_float32, store_float, store_float32
from bitnet_jit.kernels.numba.intrinsics.scalars import F0, F1, least
from bitnet_jit.problem import PAGE


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


put_keys = one_of(lambda spec: write_key_codes if spec.is_int8 else write_keys)
put_values = one_of(lambda spec: write_value_codes if spec.is_int8 else write_values)


@jit
def write_block(spec, job, block, scratch):
    """Write the keys and values of a piece's tokens and heads into their pages."""
    done = 0
    while done < block.tokens:
        position = block.position + done
        count = least(PAGE - position % PAGE, block.tokens - done)
        page = page_of(job, block.sequence, position // PAGE)
        for kv_head in range(block.head, block.head + block.heads):
            put_keys(spec, job, block.token + done, position, count, page, kv_head, scratch)
            put_values(spec, job, block.token + done, position, count, page, kv_head)
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
def rotate_queries(spec, job, block, kv_head, scale, scratch):
    """Write the queries of a block that share a head of keys, token by token, rotated and times a scale."""
    for i in range(block.tokens):
        for g in range(spec.group):
            first = (block.token + i) * spec.width + (kv_head * spec.group + g) * spec.head_dim
            out = scratch.q + 4 * (i * spec.group + g) * spec.head_dim
            rotate(spec, job, first, block.position + i, scale, out, 1)


@jit
def prepare_floats(spec, job, block, kv_head, scratch):
    """Write the queries of a block that share a head of keys, rotated and scaled."""
    rotate_queries(spec, job, block, kv_head, F1 / np.sqrt(np.float32(spec.head_dim)), scratch)


@jit
def prepare_codes(spec, job, block, kv_head, scratch):
    """Write the codes of the queries of a block that share a head of keys, and their scales."""
    rotate_queries(spec, job, block, kv_head, F1, scratch)
    quantize_queries(spec, block.tokens * spec.group, scratch)


prepare_queries = one_of(lambda spec: prepare_codes if spec.is_int8 else prepare_floats)
