"""Metadata of a GGUF file -> our `DecoderConfig`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch

from bitnet_jit.checkpoints.formats.gguf.delta_net import with_delta_net
from bitnet_jit.checkpoints.formats.gguf.gemma3 import read_gemma3
from bitnet_jit.checkpoints.formats.gguf.keys import Keys
from bitnet_jit.checkpoints.formats.gguf.names import EMBEDDING, GEMMA3, HEAD, IN_BLOCK, INNER_NORMS, QWEN35
from bitnet_jit.checkpoints.formats.gguf.rope import read_rope_scaling
from bitnet_jit.checkpoints.formats.gguf.values import Strings
from bitnet_jit.errors import CheckpointError, InvalidInput
from bitnet_jit.models.config import DecoderConfig, Multipliers
from bitnet_jit.models.pooling import CLS, LAST, MEAN
from bitnet_jit.models.rope import check_rope
from bitnet_jit.problem import MAX_IN_FEATURES


@dataclass(frozen=True)
class ModelKind:
    """The consequences of a general.architecture.

    Attributes:
        activation, sub_norms, qk_norms, branch_norms: as in `DecoderConfig`; Gemma 3 alone has the last ones.
        pairs: whether rows of q and k stand as llama.cpp turns them, two by two: see row_order.py.
        quantizes: whether models were trained with activations of int8, where their scales are of whole weights.
        multiplies: whether the file has MiniCPM's constants.
        mixes: whether blocks have Qwen3.5's gated DeltaNet, and its attention.
        names: of tensors in a block.
    """

    activation: Literal["relu2", "silu", "gelu"] = "silu"
    sub_norms: bool = False
    qk_norms: bool = False
    branch_norms: bool = False
    pairs: bool = False
    quantizes: bool = True
    multiplies: bool = False
    mixes: bool = False
    names: Mapping[str, str] = field(default_factory=lambda: IN_BLOCK)


Shapes = Mapping[str, tuple[int, ...]]
POOLINGS, MAX_POOLING = {1: MEAN, 2: CLS, 3: LAST}, 4  # 0 is none, 4 ranks pairs of texts
ACTIVATION = "bitnet_jit.activation"  # a key of ours: "a8" or "a16"
KINDS = {
    "bitnet-b1.58": ModelKind("relu2", sub_norms=True),
    "bitnet-25": ModelKind("relu2", sub_norms=True),
    "bitnet": ModelKind("silu", sub_norms=True),
    "llama": ModelKind(pairs=True),
    "minicpm": ModelKind(pairs=True, quantizes=False, multiplies=True),
    "qwen3": ModelKind(qk_norms=True, quantizes=False),
    "gemma3": ModelKind("gelu", qk_norms=True, branch_norms=True, quantizes=False, names=GEMMA3),
    "qwen35": ModelKind(qk_norms=True, quantizes=False, mixes=True, names=QWEN35),
}


def read_kind(keys: Keys) -> ModelKind:
    """Return the kind of model that a file says it holds."""
    return KINDS[keys.word("general.architecture", tuple(KINDS))]


def read_config(keys: Keys, tensors: Shapes, divisors: torch.Tensor | None = None) -> DecoderConfig:
    """Return the architecture that metadata describes.

    Args:
        keys, tensors: of the file; the latter tell of biases, of a head of its own, and of the vocabulary.
        divisors: of rotary frequencies; see `read_rope_scaling`.

    Raises:
        CheckpointError: a key is missing, wrong, or describes a model that we cannot run; it names the key.
    """
    kind, architecture = read_kind(keys), keys.text("general.architecture")
    of = f"{architecture}.{{}}".format
    hidden_size = keys.integer(of("embedding_length"), high=MAX_IN_FEATURES)
    num_heads, num_kv_heads, head_dim = read_heads(keys, of, hidden_size)
    vocab_size = keys.integer(of("vocab_size"), num_rows(keys, tensors))
    config = DecoderConfig(
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        intermediate_size=keys.same_integer(of("feed_forward_length"), high=MAX_IN_FEATURES),
        num_layers=read_num_layers(keys, of),
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        context_length=keys.integer(of("context_length"), 2048),
        norm_eps=keys.positive(of("attention.layer_norm_rms_epsilon"), 1e-5),
        rope_theta=keys.positive(of("rope.freq_base"), 10_000.0),
        rope_scaling=read_rope_scaling(keys, architecture, divisors),
        activation=activation_of(keys, kind, architecture),
        sub_norms=kind.sub_norms,
        tied_embeddings=HEAD not in tensors,
        attention_bias="blk.0.attn_q.bias" in tensors,
        mlp_bias="blk.0.ffn_gate.bias" in tensors,
        eos_ids=read_eos_ids(keys, vocab_size),
        qk_norms=kind.qk_norms,
        multipliers=read_multipliers(keys, of) if kind.multiplies else Multipliers(),
        inner_norms=kind.qk_norms and not kind.mixes and has_inner_norms(tensors),
    )
    config = with_parts(config, kind, keys, of)
    check_refused(keys, of, config)
    return config


def with_parts(config: DecoderConfig, kind: ModelKind, keys: Keys, of: Callable[[str], str]) -> DecoderConfig:
    """Return an architecture with the parts that its kind alone has."""
    if kind.mixes:
        return with_delta_net(config, keys, of)
    return read_gemma3(config, keys, of) if kind.branch_norms else config


def read_num_layers(keys: Keys, of: Callable[[str], str]) -> int:
    """Return the number of blocks, without the last ones, which guess tokens; one is left at least."""
    count = keys.integer(of("block_count"), high=2**16)
    return count - keys.integer(of("nextn_predict_layers"), 0, low=0, high=count - 1)


def read_heads(keys: Keys, of: Callable[[str], str], hidden_size: int) -> tuple[int, int, int]:
    """Return the number of heads of queries and of keys, and the width of one."""
    num_heads = keys.same_integer(of("attention.head_count"), high=2**16)
    num_kv_heads = keys.same_integer(of("attention.head_count_kv"), num_heads, high=num_heads)
    width = keys.integer(of("attention.key_length"), max(1, hidden_size // num_heads), high=MAX_IN_FEATURES)
    return num_heads, num_kv_heads, width


def read_multipliers(keys: Keys, of: Callable[[str], str]) -> Multipliers:
    """Return MiniCPM's constants, none of which has a default here; that of logits divides in the file."""
    embedding, residual = keys.positive(of("embedding_scale")), keys.positive(of("residual_scale"))
    return Multipliers(embedding, residual, 1 / keys.positive(of("logit_scale")))


def activation_of(keys: Keys, kind: ModelKind, architecture: str) -> Literal["relu2", "silu", "gelu"]:
    """Return the activation: that of the kind, unless the file names another."""
    words: dict[str, Literal["relu2", "silu", "gelu"]] = {"relu2": "relu2", "silu": "silu", "gelu": "gelu"}
    return words[keys.word(f"{architecture}.hidden_activation", tuple(words), kind.activation)]


def has_inner_norms(tensors: Shapes) -> bool:
    """Return whether a file has a norm inside a layer, as BitNet embedding models do."""
    return any(f"blk.0.{name}.weight" in tensors for name in INNER_NORMS.values())


def read_pooling(keys: Keys) -> str | None:
    """Return how texts become vectors, None where the file says nothing of it."""
    name = f"{keys.text('general.architecture')}.pooling_type"
    return POOLINGS.get(keys.integer(name, 0, low=0, high=MAX_POOLING))


def pooling_keys(architecture: str, pooling: str | None) -> dict[str, int]:
    """Return the key of a pooling; none where no file says how to pool."""
    numbers = {name: number for number, name in POOLINGS.items()}
    return {} if pooling is None else {f"{architecture}.pooling_type": numbers[pooling]}


def num_rows(keys: Keys, tensors: Shapes) -> int:
    """Return the rows of the embedding, or the number of tokens, where the architecture has no vocab_size."""
    tokens = keys.take("tokenizer.ggml.tokens", (), "an array of strings")
    return tensors[EMBEDDING][0] if tensors.get(EMBEDDING) else len(tokens) if isinstance(tokens, Strings) else 0


def read_eos_ids(keys: Keys, vocab_size: int) -> tuple[int, ...]:
    """Return the tokens that end a text."""
    names = ("tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id")
    ids = [keys.token(name, vocab_size) for name in names]
    return tuple(dict.fromkeys(number for number in ids if number is not None))


def check_refused(keys: Keys, of: Callable[[str], str], config: DecoderConfig) -> None:
    """Raise CheckpointError where a model needs what we cannot run, or its parts do not go together."""
    if config.num_heads % config.num_kv_heads:
        raise keys.refuse(of("attention.head_count_kv"), f"a divisor of attention.head_count {config.num_heads}")
    if config.head_dim % 2:
        raise CheckpointError(f"{keys.where}: the width of a head: expected an even number, found {config.head_dim}")
    if keys.integer(of("attention.value_length"), config.head_dim) != config.head_dim:
        raise keys.refuse(of("attention.value_length"), f"that of keys, {config.head_dim}")
    if keys.integer(of("rope.dimension_count"), config.head_dim) != (config.rotated_dims or config.head_dim):
        raise keys.refuse(of("rope.dimension_count"), f"{config.head_dim} (every dimension of a head turns)")
    if not config.branch_norms and keys.same_integer(of("attention.sliding_window"), 0, low=0):
        raise keys.refuse(of("attention.sliding_window"), "none: every token sees all tokens before it")
    try:
        check_rope(config)
    except InvalidInput as error:
        raise CheckpointError(f"{keys.where}: {error}") from None
