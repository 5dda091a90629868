"""`bit_linear_input_grad`, the gradient of a packed layer's input, as torch sees it."""

from bitnet_jit.errors import InvalidInput
from bitnet_jit.kernels import registry
from bitnet_jit.ops.calls import describe, dtype_name, keep, make_call, new_calls
from bitnet_jit.ops.library import define
from bitnet_jit.ops.linear import SCALES

CALLS = new_calls()


def bit_linear_input_grad(dy, w_packed, w_scale, in_features, out_features, layout, group_size):
    """dX = dY @ (w_q * w_scale), in float32 and rounded once; dY (..., N) -> (..., K)."""
    weight = (w_packed.shape, w_packed.dtype, w_packed.device, w_scale.shape, w_scale.dtype, w_scale.device)
    key = (dy.shape, dy.dtype, dy.device, weight, in_features, out_features, layout, group_size)
    call = CALLS.get(key)
    if call is None:
        if dy.shape[-1:] != (out_features,) or w_packed.device != dy.device:
            raise InvalidInput(
                f"dy: expected (..., {out_features}) on {w_packed.device} as w_packed, "
                f"got {tuple(dy.shape)} on {dy.device}"
            )
        registry.get_layout(layout).check(w_packed, out_features, in_features)
        problem = describe(
            "bit_linear_input_grad",
            dy,
            out_features,
            in_features=in_features,
            layout=layout,
            y_dtype=dtype_name(dy.dtype),
            scale=SCALES[w_scale.dim()],
            group_size=group_size,
        )
        call = keep(CALLS, key, make_call(problem, dy))
    return call(dy, w_packed, w_scale)


def fake_bit_linear_input_grad(dy, w_packed, w_scale, in_features, out_features, layout, group_size):
    return dy.new_empty((*dy.shape[:-1], in_features))


define(
    "bit_linear_input_grad(Tensor dy, Tensor w_packed, Tensor w_scale, int in_features, int out_features, "
    "str layout, int group_size) -> Tensor",
    bit_linear_input_grad,
    fake_bit_linear_input_grad,
)
