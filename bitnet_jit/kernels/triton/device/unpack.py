"""Steps that kernels share: fields of packed bytes to operands, the order of K in x, dependent launches.

Inline assembly is NVIDIA's; the plain path beside it is for AMD and for Triton's interpreter.

A kernel that is launched dependently may begin while those ahead of it still run. It may read packed weights, their
scales and the bias at once: no kernel that writes them lets others begin early. All else it reads, and whatever it
writes, only behind `wait`, which every program of every kernel comes to: so whatever lies further back has ended too.
"""

import triton
import triton.language as tl

FIELDS = tl.constexpr(-0x3F3F3F40)  # 0xC0C0C0C0: the top field of every byte of a word
UNPACK = tl.constexpr(  # by the plane: four bytes of fields -> four int8
    tuple(f"{{ .reg .b32 t; shl.b32 t, $1, {6 - 2 * plane}; and.b32 $0, t, 0xC0C0C0C0; }}" for plane in range(4))
)
POWERS_OF_3 = tl.constexpr((1, 3, 9, 27, 81, 243))
ODD_BYTES = tl.constexpr(-0x00FF0100)  # 0xFF00FF00
DIGIT = tl.constexpr(  # by the plane: four bytes of t5 -> four int8; the products of two bytes at a time fit in halves
    tuple(
        "{ .reg .b32 e, o; and.b32 e, $1, 0x00FF00FF; shr.u32 o, $1, 8; and.b32 o, o, 0x00FF00FF; "
        f"mul.lo.u32 e, e, {power}; and.b32 e, e, 0x00FF00FF; mul.lo.u32 e, e, 3; "
        f"mul.lo.u32 o, o, {power}; and.b32 o, o, 0x00FF00FF; mul.lo.u32 o, o, 3; "
        "prmt.b32 e, e, o, 0x7351; add.u32 e, e, 0x7F7F7F7F; xor.b32 $0, e, 0x80808080; }"
        for power in (1, 3, 9, 27, 81)
    )
)


def half_codes(table: str) -> tuple[str, ...]:
    """By the plane: four bytes of fields -> four halves. A field selects the upper byte of its half from a table."""
    return tuple(
        f"{{ .reg .b32 t, u; shf.l.wrap.b32 t, $2, $2, {4 - 2 * plane & 31}; and.b32 t, t, 0x30303030; "
        f"shr.u32 u, t, 16; prmt.b32 $0, {table}, 0, t; prmt.b32 $1, {table}, 0, u; }}"
        for plane in range(4)
    )


BFLOAT16 = tl.constexpr(half_codes("0xBF003F00"))  # -0.5, unused, 0.5, 0
FLOAT16 = tl.constexpr(half_codes("0xB8003800"))


@triton.jit
def wait(DEPENDENT: tl.constexpr):
    """Wait until the kernels ahead have ended and what they wrote can be read."""
    if DEPENDENT:
        tl.inline_asm_elementwise("griddepcontrol.wait; // $0", "=r", [], dtype=tl.int32, is_pure=False, pack=1)


@triton.jit
def let_next_begin(DEPENDENT: tl.constexpr):
    """Let the kernel behind this one begin, once all programs have come here."""
    if DEPENDENT:
        tl.inline_asm_elementwise(
            "griddepcontrol.launch_dependents; // $0", "=r", [], dtype=tl.int32, is_pure=False, pack=1
        )


@triton.jit
def prefetch(row_ptrs, num_bytes):
    """Have rows of num_bytes brought into the second cache; addresses and num_bytes are multiples of 16. sm_90."""
    sizes = tl.zeros(row_ptrs.shape, tl.int32) + num_bytes
    tl.inline_asm_elementwise(
        "cp.async.bulk.prefetch.L2.global [$1], $2; // $0",
        "=r,l,r",
        [row_ptrs, sizes],
        dtype=tl.int32,
        is_pure=False,
        pack=1,
    )


@triton.jit
def unpack(packed, PLANE: tl.constexpr, ASM: tl.constexpr):
    """uint8 bytes of four fields -> int8, 64 times the weights of one plane; one shift and one mask for four bytes."""
    if ASM:
        field = tl.inline_asm_elementwise(UNPACK[PLANE], "=r,r", [packed], dtype=tl.int8, is_pure=True, pack=4)
    else:
        field = ((packed << (6 - 2 * PLANE)) & 0xC0).to(tl.uint8).to(tl.int8, bitcast=True)
    return field


@triton.jit
def operand(packed, PLANE: tl.constexpr, TYPE: tl.constexpr, ASM: tl.constexpr):
    """The weights of one plane as the matrix units want them beside x of TYPE, times `outputs.weight_unit`."""
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
    """Bytes of t5/planes -> the weights of one plane: the digit that the product with 3 carries out, less 1."""
    if ASM:
        weight = tl.inline_asm_elementwise(DIGIT[PLANE], "=r,r", [packed], dtype=tl.int8, is_pure=True, pack=4)
    else:
        rest = (packed.to(tl.int32) * POWERS_OF_3[PLANE]) & 0xFF
        weight = ((rest * 3 >> 8) - 1).to(tl.int8)
    return weight.to(TYPE)


@triton.jit
def t5_carries(packed, PLANE: tl.constexpr):
    """Words of t5/planes -> in each byte the number that its first PLANE + 1 digits make."""
    even = ((packed & 0x00FF00FF) * POWERS_OF_3[PLANE + 1] >> 8) & 0x00FF00FF
    odd = ((packed >> 8) & 0x00FF00FF) * POWERS_OF_3[PLANE + 1] & ODD_BYTES
    return even | odd


@triton.jit
def join_planes(packed, BYTES: tl.constexpr, CHUNK: tl.constexpr, TYPE: tl.constexpr, ASM: tl.constexpr):
    """(..., BYTES) of packed bytes -> (..., 4 * BYTES) of TYPE in the order chunk, plane, byte; moves no register."""
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


@triton.jit
def inputs_of(BYTES: tl.constexpr, CHUNK: tl.constexpr, B, NATURAL: tl.constexpr):
    """Where the inputs of joined planes lie in a row of x, from the first byte's on; B is the bytes of a row.

    Only whole ranges are divided: Triton follows runs of neighbours through no other division.
    """
    place = tl.arange(0, 4 * BYTES)
    if NATURAL:
        run, chunk = place // CHUNK, place // (4 * CHUNK)
        place = (run - 4 * chunk) * B + chunk * CHUNK + place % CHUNK
    return place


@triton.jit
def first_input(tile, BYTES: tl.constexpr, CHUNK: tl.constexpr):
    """The input at the lowest bits of the first byte of a tile of a row of i2/chunks; of i2/planes, where CHUNK is 0.

    Written so that the compiler sees of what it is a multiple: it follows no remainder of the byte's own number.
    """
    if CHUNK > BYTES:
        PARTS: tl.constexpr = CHUNK // BYTES
        first = tile // PARTS * (4 * CHUNK) + tile % PARTS * BYTES
    else:
        first = tile * BYTES * (4 if CHUNK else 1)
    return first


@triton.jit
def lowest_inputs(BYTES: tl.constexpr, CHUNK: tl.constexpr):
    """The same of every byte of a tile, from the first one's on."""
    byte = tl.arange(0, BYTES)
    return byte // CHUNK * (4 * CHUNK) + byte % CHUNK if CHUNK else byte


@triton.jit
def load_step(
    w_ptrs, x_ptrs, packed_byte, inputs, x_inside, start, B, X_STRIDE, X_STEP: tl.constexpr, WHOLE: tl.constexpr
):
    """The packed bytes and the x of one step of K, which begins at byte `start`; 0 behind the end of a row.

    x_inside says which rows of x there are; None: all.
    """
    if WHOLE:
        packed = tl.load(w_ptrs)
        x = tl.load(x_ptrs) if x_inside is None else tl.load(x_ptrs, mask=x_inside, other=0)
    else:
        packed = tl.load(w_ptrs, mask=packed_byte < B - start, other=0)
        inside = inputs < X_STRIDE - start * X_STEP
        x = tl.load(x_ptrs, mask=inside if x_inside is None else x_inside & inside, other=0)
    return packed, x


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
