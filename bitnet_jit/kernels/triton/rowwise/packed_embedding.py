"""`packed_embedding`: the rows of token ids in a packed table, y = w_q[id] * w_scale of the tensor, row or group.

A program writes one row; an id outside of the table gives NaN. `layout.py` has the order of the codes.
"""

import triton
import triton.language as tl

from bitnet_jit.kernels.kernel import Config, Kernel
from bitnet_jit.kernels.triton.device import target
from bitnet_jit.kernels.triton.device.launch import Bound, Launch
from bitnet_jit.kernels.triton.device.pdl import gdc_launch_dependents, gdc_wait
from bitnet_jit.kernels.triton.layout import I2_PLANES, PLANES, T5_PLANES, row_bytes
from bitnet_jit.problem import Problem

BLOCK = 1024  # bytes of a row at a time, at most
LAYOUTS = (I2_PLANES.name, T5_PLANES.name)


@triton.jit
def packed_embedding_kernel(
    ids_ptr,  # (M,) int64 or int32
    packed_ptr,  # (N, B) uint8
    scale_ptr,  # () or (N,) or (N, GROUPS) float32
    y_ptr,  # (M, K) float
    N,
    K: tl.constexpr,
    B: tl.constexpr,  # bytes of a row
    GROUPS: tl.constexpr,  # scales of a row; 0: one for the tensor
    GROUP_SIZE: tl.constexpr,
    PLANES: tl.constexpr,  # codes of a byte
    PDL: tl.constexpr,
    BLOCK: tl.constexpr,
):
    gdc_launch_dependents(PDL)
    gdc_wait(PDL)
    row = tl.program_id(0).to(tl.int64)
    token = tl.load(ids_ptr + row).to(tl.int64)
    inside = (token >= 0) & (token < N)
    token = tl.where(inside, token, 0)
    for start in range(0, B, BLOCK):
        byte = start + tl.arange(0, BLOCK)
        packed = tl.load(packed_ptr + token * B + byte, mask=byte < B, other=0).to(tl.int32)
        for plane in tl.static_range(PLANES):
            k = plane * B + byte
            is_input = (byte < B) & (k < K)
            if PLANES == 4:
                code = (packed << (30 - 2 * plane)) >> 30  # the field is the code in two's complement
            else:
                packed = packed * 3  # carries the next digit out
                code = (packed >> 8) - 1
                packed = packed & 255
            if GROUPS == 0:
                scale = tl.load(scale_ptr)
            else:
                scale = tl.load(scale_ptr + token * GROUPS + k // GROUP_SIZE, mask=is_input, other=0.0)
            y = tl.where(inside, code.to(tl.float32) * scale, float("nan"))
            tl.store(y_ptr + row * K + k, y.to(y_ptr.dtype.element_ty), mask=is_input)


def bind(problem: Problem, config: Config) -> Bound:
    """Bind ids (M,), w_packed (N, B), w_scale -> y (M, K)."""
    planes = PLANES[problem.layout]
    num_bytes, group_size = row_bytes(problem.in_features, planes), problem.group_size or problem.in_features
    block = min(BLOCK, triton.next_power_of_2(num_bytes))
    constants = {
        "N": problem.out_features,
        "K": problem.in_features,
        "B": num_bytes,
        "GROUPS": 0 if problem.scale == "tensor" else triton.cdiv(problem.in_features, group_size),
        "GROUP_SIZE": group_size,
        "PLANES": planes,
        "PDL": target.supports_pdl(problem.gpu),
        "BLOCK": block,
    }
    operands = ("ids", "w_packed", "w_scale", "y")
    return Bound(lambda m: (Launch(packed_embedding_kernel, m, operands, constants, max(1, block // 128)),))


def configs(problem: Problem) -> tuple[Config, ...]:
    """Return None alone: there is nothing to choose."""
    return (None,)


def unsupported_reason(problem: Problem) -> str | None:
    """Return why this kernel cannot run a problem, or None."""
    if problem.layout not in LAYOUTS:
        return f"reads the layouts {' and '.join(LAYOUTS)}, not {problem.layout!r}"
    return target.unsupported_reason(problem.gpu)


KERNELS = (Kernel("triton.packed_embedding", "packed_embedding", bind, configs, unsupported_reason),)
