"""The architecture of a decoder, in our own words: sizes, activation, norms, positions."""

from dataclasses import dataclass
from typing import Literal

from bitnet_jit.models.rope_scaling import RopeScaling


@dataclass(frozen=True)
class Multipliers:
    """Constants of MiniCPM and Gemma, which `load` multiplies into scales and norms: a `Decoder` has none.

    Attributes:
        embedding: of the rows of the embedding.
        residual: of what each branch adds to the residual stream.
        logits: of the last norm's output.
        query: of the heads of queries, behind their norm.
    """

    embedding: float = 1.0
    residual: float = 1.0
    logits: float = 1.0
    query: float = 1.0


@dataclass(frozen=True)
class LocalLayers:
    """The layers of Gemma 3 that see a window of the last tokens, which is as long as the context here.

    Attributes:
        is_local: layer by layer, whether it is one.
        rope_theta: base of their rotary frequencies, which are not scaled.
    """

    is_local: tuple[bool, ...]
    rope_theta: float


@dataclass(frozen=True)
class DeltaNetConfig:
    """The gated DeltaNet of a decoder, which stands in the place of attention in most of its blocks.

    Attributes:
        attends: block by block, whether it has attention instead.
        key_heads: heads of queries and keys; divides `value_heads`.
        value_heads: heads of values, each with a state of its own.
        key_dim: width of a head of queries or keys.
        value_dim: width of a head of values.
        taps: tokens that the convolution before it sees, the current one among them.
    """

    attends: tuple[bool, ...]
    key_heads: int
    value_heads: int
    key_dim: int
    value_dim: int
    taps: int

    @property
    def mixed_features(self) -> int:
        """Return the number of features of queries, keys and values side by side."""
        return 2 * self.key_heads * self.key_dim + self.value_features

    @property
    def value_features(self) -> int:
        """Return the number of features of all heads of values."""
        return self.value_heads * self.value_dim


@dataclass(frozen=True)
class DecoderConfig:
    """The architecture of a decoder with ternary linear layers.

    Attributes:
        vocab_size: rows of the embedding.
        hidden_size: width of the residual stream.
        intermediate_size: width of the feed-forward middle.
        num_layers: blocks.
        num_heads: query heads.
        num_kv_heads: key and value heads; divides `num_heads`.
        head_dim: width of a head, even.
        context_length: limit of the tokens of prompt and continuation together.
        norm_eps: added to the mean square in every RMSNorm.
        rope_theta: base of the rotary frequencies.
        rope_scaling: None for plain rotary positions.
        activation: "relu2" is relu(gate)^2 * up, "silu" is silu(gate) * up, "gelu" the same of GELU by tanh.
        sub_norms: BitNet's two further norms, before o_proj and before down_proj.
        tied_embeddings: the output head is the embedding.
        attention_bias: q, k, v and o have biases.
        mlp_bias: gate, up and down have biases.
        eos_ids: tokens that end a text.
        qk_norms: Qwen3's norms of each head of queries and of keys, before they turn.
        multipliers: constants of MiniCPM and Gemma.
        output_gate: Qwen3.5's gate of what attention gives back; q_proj has its rows, behind those of each head.
        rotated_dims: of a head, the first ones, which turn with positions; 0: all of them.
        delta_net: Qwen3.5's gated DeltaNet; None: all blocks have attention.
        inner_norms: BitNet embedding models' norms inside each ternary layer, before its quantizer.
        branch_norms: Gemma's norms of what each branch adds to the residual stream.
        local: Gemma 3's layers with rotary frequencies of their own; None: all layers have the same.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    context_length: int
    norm_eps: float
    rope_theta: float
    rope_scaling: RopeScaling | None
    activation: Literal["relu2", "silu", "gelu"]
    sub_norms: bool
    tied_embeddings: bool
    attention_bias: bool
    mlp_bias: bool
    eos_ids: tuple[int, ...]
    qk_norms: bool = False
    multipliers: Multipliers = Multipliers()
    output_gate: bool = False
    rotated_dims: int = 0
    delta_net: DeltaNetConfig | None = None
    inner_norms: bool = False
    branch_norms: bool = False
    local: LocalLayers | None = None

    @property
    def attends(self) -> tuple[bool, ...]:
        """Return of each block whether it has attention."""
        return (True,) * self.num_layers if self.delta_net is None else self.delta_net.attends

    def place(self, layer: int) -> int:
        """Return how many blocks before one are of its kind: where a cache keeps what its tokens leave."""
        return self.attends[:layer].count(self.attends[layer])

    @property
    def q_features(self) -> int:
        """Return the number of features of all heads of queries: the inputs of o_proj."""
        return self.num_heads * self.head_dim

    @property
    def kv_features(self) -> int:
        """Return the number of outputs of k_proj, and of v_proj."""
        return self.num_kv_heads * self.head_dim
