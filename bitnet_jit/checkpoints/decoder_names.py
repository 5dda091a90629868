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

Where ternary layers have norms inside (BitNet embedding models), each has `<layer>.norm` (K,); where branches have some
(Gemma), `blocks.I.attention.branch_norm` and `blocks.I.feed_forward.branch_norm` are (hidden_size,).

A block of Qwen3.5 that does not attend has, in the place of attention:

| name                                                 | tensor                                                       |
|------------------------------------------------------|--------------------------------------------------------------|
| `blocks.I.delta_net.norm`                            | (hidden_size,), the norm of the input                        |
| `blocks.I.delta_net.qkv`, `.z`, `.output`            | ternary; qkv and z share their input                         |
| `blocks.I.delta_net.b`, `.a`                         | (value_heads, hidden_size): the gates of writing, forgetting |
| `blocks.I.delta_net.conv`                            | (mixed_features, taps), the last tap on the current token    |
| `blocks.I.delta_net.decay`, `.dt_bias`               | (value_heads,): -exp(A_log), and what is added to a          |
| `blocks.I.delta_net.head_norm`                       | (value_dim,), the norm of each head's output                 |

Norms multiply as they are: those that a file holds less 1 have it added. Its q has, head by head, the rows of queries,
then as many of the output's gate. Heads of values lie as their keys do: all that share a key side by side.

Rows of q and k lie as the two halves of a head that turn together (Hugging Face's order, not llama.cpp's pairs).
"""

from collections.abc import Iterator
from dataclasses import dataclass

from bitnet_jit.models.config import DecoderConfig

EMBEDDING, FINAL_NORM, HEAD = "embedding", "norm", "head"
Shaped = tuple[str, tuple[int, ...]]  # a tensor's name and shape


@dataclass(frozen=True)
class LinearName:
    """One ternary layer: its name, N, K, and whether it has a bias."""

    name: str
    out_features: int
    in_features: int
    has_bias: bool

    @property
    def norm(self) -> str:
        """Return the name of the norm inside the layer."""
        return f"{self.name}.norm"


@dataclass(frozen=True)
class AttentionNames:
    """The tensors of attention; a norm is "" where the model has none. Layers that share an input are one tuple."""

    norm: str
    qkv: tuple[LinearName, ...]
    query_norm: str
    key_norm: str
    sub_norm: str
    output: tuple[LinearName, ...]
    branch_norm: str

    @property
    def linears(self) -> tuple[tuple[LinearName, ...], ...]:
        return self.qkv, self.output

    def floats(self, config: DecoderConfig) -> Iterator[Shaped]:
        """Yield each norm."""
        yield self.norm, (config.hidden_size,)
        if config.qk_norms:
            yield self.query_norm, (config.head_dim,)
            yield self.key_norm, (config.head_dim,)
        if config.sub_norms:
            yield self.sub_norm, (config.q_features,)
        if config.branch_norms:
            yield self.branch_norm, (config.hidden_size,)


@dataclass(frozen=True)
class DeltaNetNames:
    """The tensors of a gated DeltaNet: `b` and `a` are its gates, all that is not a layer is floats."""

    norm: str
    projection: tuple[LinearName, ...]
    b: str
    a: str
    conv: str
    decay: str
    dt_bias: str
    head_norm: str
    output: tuple[LinearName, ...]

    @property
    def linears(self) -> tuple[tuple[LinearName, ...], ...]:
        return self.projection, self.output

    def floats(self, config: DecoderConfig) -> Iterator[Shaped]:
        """Yield each tensor of floats."""
        net = config.delta_net
        assert net is not None
        yield self.norm, (config.hidden_size,)
        yield self.b, (net.value_heads, config.hidden_size)
        yield self.a, (net.value_heads, config.hidden_size)
        yield self.conv, (net.mixed_features, net.taps)
        yield self.decay, (net.value_heads,)
        yield self.dt_bias, (net.value_heads,)
        yield self.head_norm, (net.value_dim,)


@dataclass(frozen=True)
class FeedForwardNames:
    """The tensors of a feed-forward part; a norm is "" where the model has none."""

    norm: str
    gate_up: tuple[LinearName, ...]
    sub_norm: str
    down: tuple[LinearName, ...]
    branch_norm: str

    @property
    def linears(self) -> tuple[tuple[LinearName, ...], ...]:
        return self.gate_up, self.down

    def floats(self, config: DecoderConfig) -> Iterator[Shaped]:
        """Yield each norm."""
        yield self.norm, (config.hidden_size,)
        if config.sub_norms:
            yield self.sub_norm, (config.intermediate_size,)
        if config.branch_norms:
            yield self.branch_norm, (config.hidden_size,)


@dataclass(frozen=True)
class BlockNames:
    """The tensors of one block: of attention or what stands in its place, and of what follows."""

    attention: AttentionNames | DeltaNetNames
    feed_forward: FeedForwardNames

    @property
    def linears(self) -> tuple[tuple[LinearName, ...], ...]:
        return *self.attention.linears, *self.feed_forward.linears

    def floats(self, config: DecoderConfig) -> Iterator[Shaped]:
        """Yield name and shape of each tensor of the block that is floats."""
        yield from self.attention.floats(config)
        yield from self.feed_forward.floats(config)
        if config.inner_norms:
            yield from ((layer.norm, (layer.in_features,)) for joint in self.linears for layer in joint)


def outer_shapes(config: DecoderConfig) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the tensors outside the blocks: embedding, norm, and the head where there is one."""
    shapes: dict[str, tuple[int, ...]] = {EMBEDDING: (config.vocab_size, config.hidden_size)}
    shapes[FINAL_NORM] = (config.hidden_size,)
    return shapes if config.tied_embeddings else shapes | {HEAD: shapes[EMBEDDING]}


def block_names(config: DecoderConfig, index: int) -> BlockNames:
    """Return the names of block `index`."""
    names = attention_names if config.attends[index] else delta_net_names
    return BlockNames(names(config, f"blocks.{index}"), feed_forward_names(config, f"blocks.{index}"))


def attention_names(config: DecoderConfig, block: str) -> AttentionNames:
    """Return the names of a block's attention."""
    part, kv, hidden, bias = f"{block}.attention", config.kv_features, config.hidden_size, config.attention_bias
    queries = config.q_features * (2 if config.output_gate else 1)
    return AttentionNames(
        norm=f"{part}.norm",
        qkv=linears(part, {"q": queries, "k": kv, "v": kv}, hidden, bias),
        query_norm=f"{part}.q_norm" if config.qk_norms else "",
        key_norm=f"{part}.k_norm" if config.qk_norms else "",
        sub_norm=f"{part}.sub_norm" if config.sub_norms else "",
        output=linears(part, {"output": hidden}, config.q_features, bias),
        branch_norm=f"{part}.branch_norm" if config.branch_norms else "",
    )


def delta_net_names(config: DecoderConfig, block: str) -> DeltaNetNames:
    """Return the names of a block's gated DeltaNet."""
    part, net = f"{block}.delta_net", config.delta_net
    assert net is not None
    sizes = {"qkv": net.mixed_features, "z": net.value_features}
    names = {name: f"{part}.{name}" for name in ("norm", "b", "a", "conv", "decay", "dt_bias", "head_norm")}
    return DeltaNetNames(
        projection=linears(part, sizes, config.hidden_size, False),
        output=linears(part, {"output": config.hidden_size}, net.value_features, False),
        **names,
    )


def feed_forward_names(config: DecoderConfig, block: str) -> FeedForwardNames:
    """Return the names of a block's feed-forward part."""
    part, middle, bias = f"{block}.feed_forward", config.intermediate_size, config.mlp_bias
    return FeedForwardNames(
        norm=f"{part}.norm",
        gate_up=linears(part, {"gate": middle, "up": middle}, config.hidden_size, bias),
        sub_norm=f"{part}.sub_norm" if config.sub_norms else "",
        down=linears(part, {"down": config.hidden_size}, middle, bias),
        branch_norm=f"{part}.branch_norm" if config.branch_norms else "",
    )


def linears(part: str, sizes: dict[str, int], in_features: int, has_bias: bool) -> tuple[LinearName, ...]:
    """Return the layers of a part that share an input, by names and outputs."""
    return tuple(LinearName(f"{part}.{name}", size, in_features, has_bias) for name, size in sizes.items())
