"""Every op in plain NumPy, rounding by rounding: the numeric contract of all backends and the oracle of all tests.

Notation: x (M, K) activations, w (N, K) weights, codes x_q and w_q int8, scales float32. A scale always multiplies:
x is about x_q * x_scale, w about w_q * w_scale. Operations are float32 and round once, unless a line says otherwise.

    w_scale = max(mean|w|, 1e-5)                  in float64, rounded once (BitNet b1.58, arXiv 2402.17764, eq. 1-3)
    w_q     = clip(rint(w / w_scale), -1, 1)      rint rounds half to even
    x_q     = clip(rint(x * (127 / max|x|)))      per row, max|x| at least 1e-5
    y       = float32(x_q @ w_q.T) * (x_scale * w_scale), then + bias: each rounded, no fused multiply-add

With scales of groups g of inputs, w_scale (N, G), float32 sums run over g in ascending order, from 0:

    a8    y = (sum of float32(x_q[g] @ w_q[g].T) * w_scale[g]) * x_scale, then + bias
    a8g   y =  sum of float32(x_q[g] @ w_q[g].T) * (x_scale[g] * w_scale[g]), then + bias; each group of x is quantized
          as a row is above: x_scale is (M, G)
    a16   y =  sum over parts of (sum of x * w_q) * w_scale[g], then + bias: see `bit_linear_a16`

So y of a row depends on nothing but that row: not on M, the kernel, its config, the number of threads, or the device.
Numba's and torch's kernels keep that with groups too, and Numba's with float activations (AMX refuses both); Triton's
kernels, and torch's for floats, may differ there in the last bits.
The `*_float64` functions are the same ops where sums of floats may run in any order: they bound a backend's result.
"""

from bitnet_jit.reference.hadamard import add_rms_norm_hadamard as add_rms_norm_hadamard
from bitnet_jit.reference.hadamard import hadamard as hadamard
from bitnet_jit.reference.hadamard import inverse_hadamard as inverse_hadamard
from bitnet_jit.reference.hadamard import rms_norm_hadamard as rms_norm_hadamard
from bitnet_jit.reference.hadamard import silu_mul_hadamard as silu_mul_hadamard
from bitnet_jit.reference.head import head_logits as head_logits
from bitnet_jit.reference.head import head_logits_float64 as head_logits_float64
from bitnet_jit.reference.head import quantize_head as quantize_head
from bitnet_jit.reference.head import quantize_hidden as quantize_hidden
from bitnet_jit.reference.linear import bit_linear as bit_linear
from bitnet_jit.reference.linear import bit_linear_a8g as bit_linear_a8g
from bitnet_jit.reference.linear import bit_linear_a16 as bit_linear_a16
from bitnet_jit.reference.linear import bit_linear_a16_float64 as bit_linear_a16_float64
from bitnet_jit.reference.linear import expand_scale as expand_scale
from bitnet_jit.reference.linear import quantize_weight as quantize_weight
from bitnet_jit.reference.linear import quantized_linear as quantized_linear
from bitnet_jit.reference.linear import ternary_matmul as ternary_matmul
from bitnet_jit.reference.rows import EPS as EPS
from bitnet_jit.reference.rows import F32 as F32
from bitnet_jit.reference.rows import add_rms_norm as add_rms_norm
from bitnet_jit.reference.rows import add_rms_norm_quantize as add_rms_norm_quantize
from bitnet_jit.reference.rows import codes_agree as codes_agree
from bitnet_jit.reference.rows import gelu_mul as gelu_mul
from bitnet_jit.reference.rows import gelu_mul_norm as gelu_mul_norm
from bitnet_jit.reference.rows import quantize_activation as quantize_activation
from bitnet_jit.reference.rows import quantize_activation_groups as quantize_activation_groups
from bitnet_jit.reference.rows import relu2_mul as relu2_mul
from bitnet_jit.reference.rows import relu2_mul_norm as relu2_mul_norm
from bitnet_jit.reference.rows import relu2_mul_norm_quantize as relu2_mul_norm_quantize
from bitnet_jit.reference.rows import rms_norm as rms_norm
from bitnet_jit.reference.rows import rms_norm_float64 as rms_norm_float64
from bitnet_jit.reference.rows import rms_norm_gradients_float64 as rms_norm_gradients_float64
from bitnet_jit.reference.rows import rms_norm_quantize as rms_norm_quantize
from bitnet_jit.reference.rows import sigmoid_mul as sigmoid_mul
from bitnet_jit.reference.rows import sigmoid_mul_norm as sigmoid_mul_norm
from bitnet_jit.reference.rows import silu_mul as silu_mul
from bitnet_jit.reference.rows import silu_mul_norm as silu_mul_norm
from bitnet_jit.reference.rows import silu_mul_norm_quantize as silu_mul_norm_quantize
from bitnet_jit.reference.tokens import embedding as embedding
from bitnet_jit.reference.tokens import greedy as greedy
