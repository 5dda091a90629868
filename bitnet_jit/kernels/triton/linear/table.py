"""The table of linear kernels: every algorithm for codes and for floats, as a kernel of each op that it serves."""

from functools import partial

from bitnet_jit.kernels.kernel import Kernel
from bitnet_jit.kernels.triton.linear import (
    fused_gemv,
    gemm,
    gemv,
    group_gemm,
    group_small,
    input_grad,
    norm_gemm,
    norm_gemv,
    planes,
    small,
    split,
)
from bitnet_jit.kernels.triton.linear.algorithm import Algorithm, bind_bit_linear, bind_codes, bind_floats, single
from bitnet_jit.kernels.triton.linear.refusals import (
    Refusal,
    all_of,
    codes_unsupported_reason,
    floats_unsupported_reason,
    groups_unsupported_reason,
    i2_unsupported_reason,
    planes_unsupported_reason,
    takes_rows,
    unsupported_reason,
)


def algorithm_unsupported_reason(algorithm: Algorithm, activation_unsupported_reason: Refusal) -> Refusal:
    """Return the refusal of an algorithm's kernels: chunks are refused unless it wants x in their order."""
    of_layout = () if algorithm.chunks else (planes_unsupported_reason,)
    return all_of(*algorithm.refusals, *of_layout, activation_unsupported_reason, unsupported_reason)


FOR_CODES = (
    Algorithm(
        "gemv",
        single(gemv.launch),
        False,
        gemv.configs,
        gemv.space,
        (gemv.unsupported_reason, groups_unsupported_reason),
        gemv.priority,
    ),
    Algorithm(
        "small",
        single(small.launch),
        True,
        small.configs,
        small.space,
        (takes_rows(small.MIN_ROWS, small.MAX_ROWS), i2_unsupported_reason),
        small.priority,
        late=small.late,
    ),
    Algorithm("gemm", single(gemm.launch), True, gemm.configs, gemm.space, (i2_unsupported_reason,)),
    Algorithm(
        "split",
        split.launches,
        True,
        split.configs,
        split.space,
        (takes_rows(split.MIN_ROWS, split.MAX_ROWS), i2_unsupported_reason),
        split.priority,
        split.scratch,
    ),
    Algorithm("planes", single(planes.launch), False, planes.configs, planes.space, (planes.unsupported_reason,)),
)
FOR_FLOATS = (
    Algorithm("gemm", single(gemm.launch), False, gemm.float_configs, gemm.float_space, (i2_unsupported_reason,)),
    Algorithm(
        "group_small",
        single(group_small.launch),
        False,
        group_small.configs,
        group_small.space,
        (group_small.unsupported_reason, takes_rows(1, group_small.MAX_ROWS)),
    ),
    Algorithm(
        "group_gemm",
        single(group_gemm.launch),
        False,
        group_gemm.configs,
        group_gemm.space,
        (group_small.unsupported_reason, takes_rows(group_gemm.MIN_ROWS)),
    ),
    Algorithm("planes", single(planes.launch), False, planes.configs, planes.space, (planes.unsupported_reason,)),
)
FLOAT_OPS = {"a16": "bit_linear", "logits": "packed_logits"}  # by the ends of the names of their kernels
OPS = {"bit_linear": bind_bit_linear, "quantized_linear": bind_codes, "ternary_matmul": bind_codes}
KERNELS = (
    Kernel(
        "triton.fused_bit_linear",
        "bit_linear",
        fused_gemv.bind,
        fused_gemv.configs,
        all_of(
            codes_unsupported_reason,
            unsupported_reason,
            fused_gemv.unsupported_reason,
            groups_unsupported_reason,
            planes_unsupported_reason,
        ),
        fused_gemv.space,
        fused_gemv.priority,
    ),
    *(
        Kernel(
            f"triton.{op}",
            op,
            norm_gemv.bind,
            norm_gemv.configs,
            all_of(
                codes_unsupported_reason,
                unsupported_reason,
                norm_gemv.unsupported_reason,
                groups_unsupported_reason,
            ),
        )
        for op in norm_gemv.OPERANDS
    ),
    *(
        Kernel(
            f"triton.gemm_{op}",
            op,
            norm_gemm.bind,
            gemm.configs,
            all_of(
                codes_unsupported_reason,
                unsupported_reason,
                takes_rows(norm_gemm.MIN_ROWS),
                i2_unsupported_reason,
            ),
            gemm.space,
        )
        for op in norm_gemm.FIRST_STEPS
    ),
    *(
        Kernel(
            f"triton.{algorithm.name}_{op}",
            op,
            partial(bind, algorithm=algorithm),
            algorithm.configs,
            algorithm_unsupported_reason(algorithm, codes_unsupported_reason),
            algorithm.space,
            algorithm.priority,
        )
        for algorithm in FOR_CODES
        for op, bind in OPS.items()
    ),
    *(
        Kernel(
            f"triton.{algorithm.name}_{name}",
            op,
            partial(bind_floats, algorithm=algorithm),
            algorithm.configs,
            algorithm_unsupported_reason(algorithm, floats_unsupported_reason),
            algorithm.space,
            algorithm.priority,
        )
        for algorithm in FOR_FLOATS
        for name, op in FLOAT_OPS.items()
    ),
    Kernel(
        "triton.input_grad",
        "bit_linear_input_grad",
        input_grad.bind,
        input_grad.configs,
        all_of(i2_unsupported_reason, unsupported_reason),
        input_grad.space,
    ),
)
