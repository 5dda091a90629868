"""Packed bytes to operands: the fields of i2 and the digits of t5, for the matrix units and for dot products of bytes.

Inline assembly is NVIDIA's; the plain path beside it is for AMD and for Triton's interpreter.
"""

import triton
import triton.language as tl

FIELDS = tl.constexpr(-0x3F3F3F40)  # 0xC0C0C0C0: the top field of every byte of a word
UNPACK = tl.constexpr(  # by plane: four bytes of fields -> four int8
    tuple(f"{{ .reg .b32 t; shl.b32 t, $1, {6 - 2 * plane}; and.b32 $0, t, 0xC0C0C0C0; }}" for plane in range(4))
)
POWERS_OF_3 = tl.constexpr((1, 3, 9, 27, 81, 243))
ODD_BYTES = tl.constexpr(-0x00FF0100)  # 0xFF00FF00
DIGIT = tl.constexpr(  # by plane: four bytes of t5 -> four int8; the products of two bytes at a time fit in halves
    tuple(
        "{ .reg .b32 e, o; and.b32 e, $1, 0x00FF00FF; shr.u32 o, $1, 8; and.b32 o, o, 0x00FF00FF; "
        f"mul.lo.u32 e, e, {power}; and.b32 e, e, 0x00FF00FF; mul.lo.u32 e, e, 3; "
        f"mul.lo.u32 o, o, {power}; and.b32 o, o, 0x00FF00FF; mul.lo.u32 o, o, 3; "
        "prmt.b32 e, e, o, 0x7351; add.u32 e, e, 0x7F7F7F7F; xor.b32 $0, e, 0x80808080; }"
        for power in (1, 3, 9, 27, 81)
    )
)


def half_codes(table: str) -> tuple[str, ...]:
    """Return assembly by plane: four bytes of fields -> four halves, whose upper bytes fields select from a table."""
    return tuple(
        f"{{ .reg .b32 t, u; shf.l.wrap.b32 t, $2, $2, {4 - 2 * plane & 31}; and.b32 t, t, 0x30303030; "
        f"shr.u32 u, t, 16; prmt.b32 $0, {table}, 0, t; prmt.b32 $1, {table}, 0, u; }}"
        for plane in range(4)
    )


BFLOAT16 = tl.constexpr(half_codes("0xBF003F00"))  # -0.5, unused, 0.5, 0
FLOAT16 = tl.constexpr(half_codes("0xB8003800"))


@triton.jit
def unpack(packed, PLANE: tl.constexpr, ASM: tl.constexpr):
    """Unpack one plane of uint8 fields as int8, 64 times the weights; four bytes take one shift and one mask."""
    if ASM:
        field = tl.inline_asm_elementwise(UNPACK[PLANE], "=r,r", [packed], dtype=tl.int8, is_pure=True, pack=4)
    else:
        field = ((packed << (6 - 2 * PLANE)) & 0xC0).to(tl.uint8).to(tl.int8, bitcast=True)
    return field


@triton.jit
def operand(packed, PLANE: tl.constexpr, TYPE: tl.constexpr, ASM: tl.constexpr):
    """Unpack one plane as the matrix units take it beside x of TYPE: the weights times `epilogue.weight_unit`."""
    if tl.int8 == TYPE:
        field = unpack(packed, PLANE, ASM)
    elif ASM and tl.bfloat16 == TYPE:
        field = tl.inline_asm_elementwise(
            BFLOAT16[PLANE], "=&r,=r,r", [packed], dtype=tl.bfloat16, is_pure=True, pack=4
        )
    elif ASM and tl.float16 == TYPE:
        field = tl.inline_asm_elementwise(FLOAT16[PLANE], "=&r,=r,r", [packed], dtype=tl.float16, is_pure=True, pack=4)
    else:
        field = unpack(packed, PLANE, ASM).to(TYPE)
    return field


@triton.jit
def t5_operand(packed, PLANE: tl.constexpr, TYPE: tl.constexpr, ASM: tl.constexpr):
    """Unpack one plane of t5/planes as weights: the digit that the product with 3 carries out, less 1."""
    if ASM:
        weight = tl.inline_asm_elementwise(DIGIT[PLANE], "=r,r", [packed], dtype=tl.int8, is_pure=True, pack=4)
    else:
        rest = (packed.to(tl.int32) * POWERS_OF_3[PLANE]) & 0xFF
        weight = ((rest * 3 >> 8) - 1).to(tl.int8)
    return weight.to(TYPE)


@triton.jit
def t5_carries(packed, PLANE: tl.constexpr):
    """Return in each byte of words of t5/planes the number that its first PLANE + 1 digits make."""
    even = ((packed & 0x00FF00FF) * POWERS_OF_3[PLANE + 1] >> 8) & 0x00FF00FF
    odd = ((packed >> 8) & 0x00FF00FF) * POWERS_OF_3[PLANE + 1] & ODD_BYTES
    return even | odd


@triton.jit
def join_planes(packed, BYTES: tl.constexpr, CHUNK: tl.constexpr, TYPE: tl.constexpr, ASM: tl.constexpr):
    """Unpack (..., BYTES) to (..., 4 * BYTES) of TYPE in the order chunk, plane, byte; no register is moved."""
    even = tl.join(operand(packed, 0, TYPE, ASM), operand(packed, 2, TYPE, ASM))
    odd = tl.join(operand(packed, 1, TYPE, ASM), operand(packed, 3, TYPE, ASM))
    fields = tl.join(even, odd)
    if len(packed.shape) == 2:
        fields = tl.reshape(fields, (packed.shape[0], BYTES // CHUNK, CHUNK, 2, 2))
        joined = tl.reshape(tl.permute(fields, (0, 1, 3, 4, 2)), (packed.shape[0], 4 * BYTES))
    else:
        fields = tl.reshape(fields, (packed.shape[0], packed.shape[1], BYTES // CHUNK, CHUNK, 2, 2))
        joined = tl.reshape(tl.permute(fields, (0, 1, 2, 4, 5, 3)), (packed.shape[0], packed.shape[1], 4 * BYTES))
    return joined
