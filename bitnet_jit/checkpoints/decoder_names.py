"""The tensors of a decoder by our names: readers are asked for them, and each format maps them to its own names.

| name                                                 | tensor                                                       |
|------------------------------------------------------|--------------------------------------------------------------|
| `embedding`, `head`                                  | (vocab_size, hidden_size); tied embeddings have no head      |
| `norm`                                               | (hidden_size,), the norm behind the last block               |
| `blocks.I.attention.norm`, `blocks.I.feed_forward.norm`         | (hidden_size,), the norms of the inputs           |
| `blocks.I.attention.sub_norm`, `blocks.I.feed_forward.sub_norm` | BitNet's norms before `output` and before `down`  |
| `blocks.I.attention.q_norm`, `blocks.I.attention.k_norm`        | (head_dim,), Qwen3's norms of the heads of q, k   |
| `blocks.I.attention.q`, `.k`, `.v`, `.output`        | ternary; q, k and v share their input                        |
| `blocks.I.feed_forward.gate`, `.up`, `.down`         | ternary; gate and up share their input                       |

Rows of q and k lie as the two halves of a head that turn together (Hugging Face's order, not llama.cpp's pairs).
"""

from collections.abc import Iterator
from dataclasses import dataclass

from bitnet_jit.models.config import DecoderConfig

EMBEDDING, FINAL_NORM, HEAD = "embedding", "norm", "head"


@dataclass(frozen=True)
class LinearName:
    """One ternary layer: its name, N, K, and whether it has a bias."""

    name: str
    out_features: int
    in_features: int
    has_bias: bool


@dataclass(frozen=True)
class BlockNames:
    """The tensors of one block; a norm is "" where the model has none. Layers that share an input are one tuple."""

    input_norm: str
    qkv: tuple[LinearName, ...]
    query_norm: str
    key_norm: str
    attention_sub_norm: str
    output: tuple[LinearName, ...]
    middle_norm: str
    gate_up: tuple[LinearName, ...]
    mlp_sub_norm: str
    down: tuple[LinearName, ...]

    @property
    def linears(self) -> tuple[tuple[LinearName, ...], ...]:
        return self.qkv, self.output, self.gate_up, self.down

    def norms(self, config: DecoderConfig) -> Iterator[tuple[str, int]]:
        """Yield (name, features) of each norm of the block."""
        yield self.input_norm, config.hidden_size
        yield self.middle_norm, config.hidden_size
        if config.qk_norms:
            yield self.query_norm, config.head_dim
            yield self.key_norm, config.head_dim
        if config.sub_norms:
            yield self.attention_sub_norm, config.q_features
            yield self.mlp_sub_norm, config.intermediate_size


def outer_shapes(config: DecoderConfig) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the tensors outside the blocks: embedding, norm, and the head where there is one."""
    shapes: dict[str, tuple[int, ...]] = {EMBEDDING: (config.vocab_size, config.hidden_size)}
    shapes[FINAL_NORM] = (config.hidden_size,)
    return shapes if config.tied_embeddings else shapes | {HEAD: shapes[EMBEDDING]}


def block_names(config: DecoderConfig, index: int) -> BlockNames:
    """Return the names of block `index`."""
    attention, mlp = f"blocks.{index}.attention", f"blocks.{index}.feed_forward"
    q, kv, middle, hidden = config.q_features, config.kv_features, config.intermediate_size, config.hidden_size

    def linears(block_part: str, sizes: dict[str, int], in_features: int, has_bias: bool) -> tuple[LinearName, ...]:
        return tuple(LinearName(f"{block_part}.{name}", size, in_features, has_bias) for name, size in sizes.items())

    return BlockNames(
        input_norm=f"{attention}.norm",
        qkv=linears(attention, {"q": q, "k": kv, "v": kv}, hidden, config.attention_bias),
        query_norm=f"{attention}.q_norm" if config.qk_norms else "",
        key_norm=f"{attention}.k_norm" if config.qk_norms else "",
        attention_sub_norm=f"{attention}.sub_norm" if config.sub_norms else "",
        output=linears(attention, {"output": hidden}, q, config.attention_bias),
        middle_norm=f"{mlp}.norm",
        gate_up=linears(mlp, {"gate": middle, "up": middle}, hidden, config.mlp_bias),
        mlp_sub_norm=f"{mlp}.sub_norm" if config.sub_norms else "",
        down=linears(mlp, {"down": hidden}, middle, config.mlp_bias),
    )
