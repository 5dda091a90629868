"""`bitnet-jit bench --device mlx`: the same layers on MLX's arrays."""

from collections.abc import Callable


def layer_on_mlx(out_features: int, in_features: int, rows: int) -> tuple[Callable[[], object], int]:
    """Return what runs a packed layer with random codes on MLX's default device, and the bytes of its weight."""
    import mlx.core as mx
    import numpy as np

    from bitnet_jit.mlx import PackedBitLinear
    from bitnet_jit.mlx.ops import lay
    from bitnet_jit.packing import FORMATS

    rng = np.random.default_rng(0)
    codes = rng.integers(-1, 2, (out_features, in_features)).astype(np.int8)
    w_packed = lay(mx.array(FORMATS["i2"].pack(codes)), out_features, in_features)
    layer = PackedBitLinear(w_packed, mx.array(0.02), in_features=in_features)
    layer.eval()
    x = mx.array(rng.standard_normal((rows, in_features)).astype(np.float32))
    mx.eval(x, w_packed)
    return lambda: mx.eval(layer(x)), w_packed.nbytes
