"""Steps that kernels share: fields to int8, dot products of four bytes, sums to outputs.

Inline assembly is NVIDIA's; the plain path beside it is for AMD and for Triton's interpreter.
"""

import triton
import triton.language as tl

FIELDS = tl.constexpr(-0x3F3F3F40)  # 0xC0C0C0C0: the top field of every byte of a word


@triton.jit
def unpack(packed, PLANE: tl.constexpr, ASM: tl.constexpr):
    """uint8 bytes of four fields -> int8, 64 times the weights of one plane; one shift and one mask for four bytes."""
    if ASM:
        if PLANE == 0:
            code: tl.constexpr = "{ .reg .b32 t; shl.b32 t, $1, 6; and.b32 $0, t, 0xC0C0C0C0; }"
        elif PLANE == 1:
            code: tl.constexpr = "{ .reg .b32 t; shl.b32 t, $1, 4; and.b32 $0, t, 0xC0C0C0C0; }"
        elif PLANE == 2:
            code: tl.constexpr = "{ .reg .b32 t; shl.b32 t, $1, 2; and.b32 $0, t, 0xC0C0C0C0; }"
        else:
            code: tl.constexpr = "and.b32 $0, $1, 0xC0C0C0C0;"
        field = tl.inline_asm_elementwise(code, "=r,r", [packed], dtype=tl.int8, is_pure=True, pack=4)
    else:
        field = ((packed << (6 - 2 * PLANE)) & 0xC0).to(tl.uint8).to(tl.int8, bitcast=True)
    return field


@triton.jit
def join_planes(packed, ROWS: tl.constexpr, BYTES: tl.constexpr, CHUNK: tl.constexpr, ASM: tl.constexpr):
    """(ROWS, BYTES) of packed bytes -> (ROWS, 4 * BYTES) int8 in the order chunk, plane, byte; moves no register."""
    even = tl.join(unpack(packed, 0, ASM), unpack(packed, 2, ASM))
    odd = tl.join(unpack(packed, 1, ASM), unpack(packed, 3, ASM))
    fields = tl.reshape(tl.join(even, odd), (ROWS, BYTES // CHUNK, CHUNK, 2, 2))
    return tl.reshape(tl.permute(fields, (0, 1, 3, 4, 2)), (ROWS, 4 * BYTES))


@triton.jit
def dot_bytes(a, b, acc, ASM: tl.constexpr):
    """acc + the products of the four int8 in each word of a and b."""
    if ASM:
        acc = tl.inline_asm_elementwise(
            "dp4a.s32.s32 $0, $1, $2, $3;", "=r,r,r,r", [a, b, acc], dtype=tl.int32, is_pure=True, pack=1
        )
    else:
        for byte in tl.static_range(4):
            acc += ((a << (24 - 8 * byte)) >> 24) * ((b << (24 - 8 * byte)) >> 24)
    return acc


@triton.jit
def finish(acc, x_scale, w_scale, bias, y_type: tl.constexpr, HAS_BIAS: tl.constexpr):
    """float32(acc) * (x_scale * w_scale) + bias, each rounded (no fused multiply-add), then in the type of y."""
    y = acc.to(tl.float32) * (x_scale * w_scale)
    if HAS_BIAS:
        y = y + bias.to(tl.float32)
    return y.to(y_type)
