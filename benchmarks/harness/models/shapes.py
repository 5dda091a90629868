"""Shapes of the models that people run, as architectures of ours, with where their weights come from.

Contexts are wider than the checkpoints say, so that tokens can be written behind 4,096 others; that costs nothing.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from benchmarks.harness.models.random_weights import RandomReader
from bitnet_jit.checkpoints.embedded import embedded_model
from bitnet_jit.checkpoints.formats.reader import Reader
from bitnet_jit.checkpoints.formats.registry import make_reader
from bitnet_jit.models.config import DecoderConfig, DeltaNetConfig

CONTEXT = 16384


@dataclass(frozen=True)
class ModelShape:
    """A model to measure.

    Attributes:
        name: as in --shape.
        title: the name in tables, which says what differs from the model of that name.
        group_size: inputs that share a scale; 0 is one scale per weight.
        open_reader: returns a reader of its weights, the same values each time.
    """

    name: str
    title: str
    group_size: int
    open_reader: Callable[[], Reader]


def llama_config(
    vocab_size: int, hidden_size: int, intermediate_size: int, num_layers: int, num_heads: int, num_kv_heads: int,
    head_dim: int, rope_theta: float,
) -> DecoderConfig:  # fmt: skip
    """Return a decoder as Llama is built: SiLU, no norms inside, a head of its own."""
    return DecoderConfig(
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        intermediate_size=intermediate_size,
        num_layers=num_layers,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        context_length=CONTEXT,
        norm_eps=1e-5,
        rope_theta=rope_theta,
        rope_scaling=None,
        activation="silu",
        sub_norms=False,
        tied_embeddings=False,
        attention_bias=False,
        mlp_bias=False,
        eos_ids=(),
    )


BITNET_2B = DecoderConfig(  # microsoft/bitnet-b1.58-2B-4T
    vocab_size=128256,
    hidden_size=2560,
    intermediate_size=6912,
    num_layers=30,
    num_heads=20,
    num_kv_heads=5,
    head_dim=128,
    context_length=CONTEXT,
    norm_eps=1e-5,
    rope_theta=500000.0,
    rope_scaling=None,
    activation="relu2",
    sub_norms=True,
    tied_embeddings=True,
    attention_bias=False,
    mlp_bias=False,
    eos_ids=(),
)
FALCON3_7B = llama_config(131072, 3072, 23040, 28, 12, 4, 256, 1000042.0)
LLAMA3_8B = llama_config(128256, 4096, 14336, 32, 32, 8, 128, 500000.0)
QWEN3_8B = replace(llama_config(151936, 4096, 12288, 36, 32, 8, 128, 1000000.0), norm_eps=1e-6, qk_norms=True)
QWEN35_4B = replace(
    llama_config(248320, 2560, 9216, 32, 16, 4, 256, 10000000.0),
    norm_eps=1e-6,
    qk_norms=True,
    output_gate=True,
    rotated_dims=64,
    delta_net=DeltaNetConfig((False, False, False, True) * 8, 16, 32, 128, 128, 4),
)
SMALL_QWEN35 = replace(
    QWEN35_4B,
    vocab_size=96,
    hidden_size=512,
    intermediate_size=512,
    num_layers=2,
    num_heads=4,
    head_dim=128,
    rotated_dims=32,
    delta_net=DeltaNetConfig((False, True), 2, 4, 32, 128, 4),
)
SMALL_QWEN3 = replace(llama_config(96, 256, 512, 2, 4, 2, 64, 10000.0), qk_norms=True)
SMALL = replace(SMALL_QWEN3, activation="relu2", sub_norms=True, tied_embeddings=True, qk_norms=False)


def random_shape(
    name: str, title: str, config: DecoderConfig, group_size: int = 0, block: int = 0, packs_tables: bool = False
) -> ModelShape:
    """Return a shape with random weights; see `RandomReader`."""
    return ModelShape(name, title, group_size, lambda: RandomReader(config, group_size, block, packs_tables))


SHAPES = {
    shape.name: shape
    for shape in (
        random_shape("2b-4t", "BitNet 2B-4T", BITNET_2B),
        random_shape("falcon3-7b", "Falcon3-7B", FALCON3_7B),
        random_shape("llama3-8b", "Llama3-8B", LLAMA3_8B),
        random_shape("qwen3-8b", "Qwen3-8B, groups of 128", QWEN3_8B, 128),
        random_shape("qwen3.5-4b", "Qwen3.5-4B, groups of 128, rotated in blocks of 512", QWEN35_4B, 128, 512, True),
        random_shape("qwen3.5-4b-plain", "Qwen3.5-4B, groups of 128", QWEN35_4B, 128, 0, True),
        random_shape("small-qwen3.5", "two blocks as Qwen3.5 has them, rotated", SMALL_QWEN35, 128, 512, True),
        random_shape("small", "two blocks as BitNet has them, to see that everything works", SMALL),
        random_shape("small-qwen3", "two blocks as Qwen3 has them, groups of 128", SMALL_QWEN3, 128),
        ModelShape("tiny", "the model in the package", 0, lambda: make_reader(embedded_model())),
    )
}
