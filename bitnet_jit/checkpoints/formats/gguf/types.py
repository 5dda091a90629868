"""The tensor types of GGUF that are read, by their ids."""

import torch

from bitnet_jit.checkpoints.formats.gguf.floats import q4_0, q4_k, q6_k, q8_0
from bitnet_jit.checkpoints.formats.gguf.tensor_type import TensorType
from bitnet_jit.packing.stored import Run

BITS = (0, 2, 4, 6)
TQ1_0_RUNS = (Run(0, 32, 0, trits=5), Run(32, 16, 160, trits=5), Run(48, 4, 240, trits=4))
TQ2_0_RUNS = (Run(0, 32, 0, BITS), Run(32, 32, 128, BITS))
PTQ1_0_RUNS = (Run(0, 16, 0, trits=5), Run(16, 8, 80, trits=5), Run(24, 2, 120, trits=4))

Q2_0_ID = 42
Q2_0 = TensorType("Q2_0", 64, 18, (Run(2, 16, 0),), 0)
Q2_0_LEGACY = TensorType("Q2_0 of 128", 128, 34, (Run(2, 32, 0),), 0)
I2_S = TensorType("I2_S", 4, 1, extra=32)

TYPES = {
    0: TensorType("F32", 1, 4, dtype=torch.float32),
    1: TensorType("F16", 1, 2, dtype=torch.float16),
    2: TensorType("Q4_0", 32, 18, to_floats=q4_0),
    8: TensorType("Q8_0", 32, 34, to_floats=q8_0),
    12: TensorType("Q4_K", 256, 144, to_floats=q4_k),
    14: TensorType("Q6_K", 256, 210, to_floats=q6_k),
    30: TensorType("BF16", 1, 2, dtype=torch.bfloat16),
    34: TensorType("TQ1_0", 256, 54, TQ1_0_RUNS, 52),
    35: TensorType("TQ2_0", 256, 66, TQ2_0_RUNS, 64),
    36: I2_S,
    Q2_0_ID: Q2_0,
    142: TensorType("PQ2_0", 128, 34, (Run(2, 32, 0),), 0),
    143: TensorType("PTQ1_0", 128, 28, PTQ1_0_RUNS, 26),
}
# names of some that are not read, for errors
OTHERS = {3: "Q4_1", 6: "Q5_0", 7: "Q5_1", 9: "Q8_1", 10: "Q2_K", 11: "Q3_K", 13: "Q5_K", 15: "Q8_K", 38: "TL1"}
OTHERS |= {37: "I8_S", 39: "TL2 (microsoft's) or MXFP4", 41: "Q1_0", 137: "I2_S of ik_llama.cpp", 141: "PQ1_0"}
