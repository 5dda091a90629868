"""One call of an op without its tensors: the question to the registry of kernels, and the key of tuned choices."""

from dataclasses import dataclass

MAX_IN_FEATURES = 2**18  # below this no int32 accumulator of any kernel can overflow
MAX_INT8_HEAD_FEATURES = 2**16  # below this no int32 sum of an int8 head can overflow: 255 * 127 * 2^16 < 2^31
EPS = 1e-5  # quantizers divide by no smaller absolute maximum or mean (arXiv 2402.17764, eq. 3)
SCALES = ("tensor", "row", "group")  # of a weight, by the number of dimensions of their tensor
ACTIVATIONS = ("a8", "a16", "a8g")
MAX_BLOCK = 2**13  # features that one Hadamard transform mixes
MAX_HEAD_DIM = 512
MAX_TAPS = 4  # of a convolution over tokens
PAGE = 64  # tokens whose keys and values lie in one page of a cache
NO_TOKEN = -1  # the code of a row of logits that are NaN or infinite
WEIGHT_STEPS = 2**14 - 1  # of an attention weight of a page, where values are int8: two digits of seven bits


@dataclass(frozen=True, slots=True)
class Gpu:
    """The properties of a GPU that a kernel may know.

    Attributes:
        name: name of the model, as its driver reports it.
        arch: compute capability such as "9.0", or AMD's name such as "gfx942".
        multiprocessors: number of multiprocessors.
        shared_memory: bytes that one program may use.
    """

    name: str
    arch: str
    multiprocessors: int
    shared_memory: int


@dataclass(frozen=True, slots=True)
class Problem:
    """A problem that a kernel is asked to solve.

    Attributes:
        op: the op's name, as under `torch.ops.bitnet_jit`.
        device_type: torch's word for the device: "cpu", "cuda", "mps", ...
        rows: the bucket of M, a power of two (see `rows_bucket`).
        out_features: N; the number of features for the norms.
        in_features: K; the number of features for the norms.
        layout: name of the packed weight's layout, such as "i2" (canonical) or "i2/n64k16"; "" without a weight.
        activation: "a8" (int8 by row), "a8g" (int8 by the groups of the weight's scales) or "a16" (floating point); ""
            where it does not apply.
        x_dtype: dtype of the input, in torch's and NumPy's words: "float32", "bfloat16", "int8", ...
        y_dtype: dtype of the output.
        scale: "tensor", "row", "group", or "" where there is none.
        group_size: inputs that share a scale; 0 unless `scale` is "group".
        bias: dtype of the bias, of a norm's weight or of next positions; "" where there is none.
        heads: of queries; of values in `delta_net`; 0 where there are none, as for the next three.
        kv_heads: heads of keys and values; of queries and keys in `delta_net`.
        head_dim: numbers of a head; of keys in `delta_net`.
        cache_dtype: dtype of cached keys and values; "".
        w_dtype: dtype of a weight that is not packed, such as an output head; "" where there is none.
        block: features that one Hadamard transform mixes, a power of two; 0 where there is none.
        device: fingerprint of the device; two unlike devices never share one.
        gpu: the GPU, or None on other devices.
    """

    op: str
    device_type: str
    rows: int
    out_features: int
    in_features: int
    layout: str = ""
    activation: str = ""
    x_dtype: str = "float32"
    y_dtype: str = "float32"
    scale: str = ""
    group_size: int = 0
    bias: str = ""
    heads: int = 0
    kv_heads: int = 0
    head_dim: int = 0
    cache_dtype: str = ""
    device: str = ""
    gpu: Gpu | None = None
    w_dtype: str = ""
    block: int = 0

    def __str__(self) -> str:
        words = [f"{self.op} of {self.rows} x {self.in_features} -> {self.out_features}", f"on {self.device_type}"]
        words += [f"{self.x_dtype} -> {self.y_dtype}"]
        words += [f"layout {self.layout}"] if self.layout else []
        words += [f"a weight of {self.w_dtype}"] if self.w_dtype else []
        words += [f"{self.scale} scales"] if self.scale else []
        words += [self.activation] if self.activation else []
        words += [f"{self.heads} heads of {self.head_dim} on {self.kv_heads}"] if self.heads else []
        words += [f"cache {self.cache_dtype}"] if self.cache_dtype else []
        words += [f"blocks of {self.block}"] if self.block else []
        return ", ".join(words)


def scale_shape(scale: str, out_features: int, in_features: int, group_size: int) -> tuple[int, ...]:
    """Return the shape of a weight's scales.

    >>> [scale_shape(scale, 3, 10, 4) for scale in SCALES]
    [(), (3,), (3, 3)]
    """
    if scale == "group":
        return out_features, -(-in_features // group_size)
    return (out_features,) if scale == "row" else ()


def pages_for(tokens: int) -> int:
    """Return the number of pages that hold so many tokens.

    >>> [pages_for(tokens) for tokens in (0, 1, 64, 65)]
    [0, 1, 1, 2]
    """
    return -(-tokens // PAGE)


def aligned(count: int) -> int:
    """Return the next number of int32 at or above `count` that fills 16 bytes, as kernels read index tensors."""
    return -(-count // 4) * 4


def rows_bucket(rows: int) -> int:
    """Return the power of two at or above `rows` (1 for 0 rows): shapes in one bucket share a kernel and a config.

    >>> [rows_bucket(m) for m in (0, 1, 2, 3, 512, 513)]
    [1, 1, 2, 4, 512, 1024]
    """
    return 1 << (rows - 1).bit_length() if rows > 1 else 1
