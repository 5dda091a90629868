"""bitnet_jit on MLX's arrays: layers of mlx.nn, models of mlx-lm, and files.

Ops run by the same records, dispatcher and tuned choices as on torch tensors, on kernels of the backend "mlx".
Importing this package imports MLX. Where that is absent, it raises MissingPackage, an InvalidInput and
ImportError that names what to install.
"""

from bitnet_jit.mlx.version import check_mlx

check_mlx()

from bitnet_jit.mlx.calls import call as call  # noqa: E402
from bitnet_jit.mlx.converting import convert as convert  # noqa: E402
from bitnet_jit.mlx.converting import pack as pack  # noqa: E402
from bitnet_jit.mlx.files import load_arrays as load_arrays  # noqa: E402
from bitnet_jit.mlx.norm import RMSNorm as RMSNorm  # noqa: E402
from bitnet_jit.mlx.ops import bit_linear as bit_linear  # noqa: E402
from bitnet_jit.mlx.ops import dequantize_weight as dequantize_weight  # noqa: E402
from bitnet_jit.mlx.ops import quantize_activation as quantize_activation  # noqa: E402
from bitnet_jit.mlx.ops import quantize_weight as quantize_weight  # noqa: E402
from bitnet_jit.mlx.ops import quantized_linear as quantized_linear  # noqa: E402
from bitnet_jit.mlx.ops import rms_norm as rms_norm  # noqa: E402
from bitnet_jit.mlx.ops import ternary_matmul as ternary_matmul  # noqa: E402
from bitnet_jit.mlx.packed import PackedBitLinear as PackedBitLinear  # noqa: E402
from bitnet_jit.mlx.patching import patch as patch  # noqa: E402
from bitnet_jit.mlx.training import BitLinear as BitLinear  # noqa: E402, behind the check
from bitnet_jit.mlx.tuning import autotune as autotune  # noqa: E402

__all__ = [
    "BitLinear",
    "PackedBitLinear",
    "RMSNorm",
    "autotune",
    "bit_linear",
    "call",
    "convert",
    "dequantize_weight",
    "load_arrays",
    "pack",
    "patch",
    "quantize_activation",
    "quantize_weight",
    "quantized_linear",
    "rms_norm",
    "ternary_matmul",
]
