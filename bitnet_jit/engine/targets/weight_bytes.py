"""The memory that packed weights save: t5 against bfloat16."""

from bitnet_jit.engine.targets.layers import random_layer
from bitnet_jit.engine.targets.target import Target

LIMIT = 90.0  # per cent
SHAPE = (6912, 2560)  # outputs x inputs, the largest layer of BitNet 2B-4T


def measure_weight_bytes() -> Target:
    """Compare the bytes of a layer's weights in t5, as they lie in memory, with those in bfloat16."""
    packed, dense = random_layer(*SHAPE, packing="t5").w_packed.nbytes, 2 * SHAPE[0] * SHAPE[1]
    how = f"{SHAPE[0]} x {SHAPE[1]}: {packed:,} bytes in t5, {dense:,} in bfloat16, without the weight's one scale"
    return Target("weights", LIMIT, "% less than bfloat16", True, 100 * (dense - packed) / dense, how)
