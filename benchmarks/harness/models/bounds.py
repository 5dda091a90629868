"""The bytes and operations that a step of a model cannot do without, and the time that limits of a machine allow it.

decode of B texts with L tokens behind each    bytes = packed weights + head + B * (L * cache per token + states)
prefill of T tokens of a prompt                bytes = packed weights + head (one row of logits) + T * cache per token

seconds = max(bytes / read, operations / peak)    operations = 2 * weights * tokens

Products of attention and head are not among the operations: they run in floating point, for which `peak`, of int8
products, is no limit. Embedding rows, norms and activations are not among the bytes: they are thousandths.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from bitnet_jit.checkpoints.decoder_names import LinearName, block_names
from bitnet_jit.models.config import DecoderConfig


@dataclass(frozen=True)
class Storage:
    """How a model holds its parts.

    Attributes:
        weight_bits: per ternary weight, scales of groups among them.
        head_bytes: per weight of the head.
        cache_bytes: per number in the cache of keys and values.
    """

    weight_bits: float
    head_bytes: float
    cache_bytes: float


@dataclass(frozen=True)
class Rates:
    """Limits of a machine, measured: bytes per second read from memory, int8 operations per second (0: not known)."""

    read: float
    peak: float


@dataclass(frozen=True)
class Demand:
    """What a step reads from memory, and what it multiplies and adds."""

    num_bytes: float
    num_ops: float

    def min_seconds(self, rates: Rates) -> float:
        """Return the time that the nearer limit allows.

        >>> Demand(100, 50).min_seconds(Rates(10.0, 1.0))
        50.0
        """
        return max(self.num_bytes / rates.read, self.num_ops / rates.peak if rates.peak else 0.0)

    def nearer_limit(self, rates: Rates) -> str:
        """Return "read" or "peak"."""
        return "read" if self.min_seconds(rates) == self.num_bytes / rates.read else "peak"


def linears(config: DecoderConfig) -> Iterator[LinearName]:
    """Yield every ternary layer."""
    for index in range(config.num_layers):
        for joint in block_names(config, index).linears:
            yield from joint


def weight_bytes(config: DecoderConfig, storage: Storage) -> float:
    """Return the bytes of the ternary weights."""
    return num_weights(config) * storage.weight_bits / 8


def head_bytes(config: DecoderConfig, storage: Storage) -> float:
    """Return the bytes of the head."""
    return config.vocab_size * config.hidden_size * storage.head_bytes


def cache_bytes(config: DecoderConfig, storage: Storage, tokens: float) -> float:
    """Return the bytes of the keys and values of so many tokens in all layers that attend."""
    return 2 * config.attends.count(True) * config.kv_features * storage.cache_bytes * tokens


def state_bytes(config: DecoderConfig) -> float:
    """Return the bytes of a text's states, each read and written by a token."""
    if (net := config.delta_net) is None:
        return 0
    return 2 * net.attends.count(False) * 4 * net.value_features * net.key_dim


def num_weights(config: DecoderConfig) -> int:
    """Return the number of ternary weights."""
    return sum(layer.out_features * layer.in_features for layer in linears(config))


def decode_demand(config: DecoderConfig, storage: Storage, context: float, batch: int) -> Demand:
    """Return the demand of a step that writes a token of each of `batch` texts, with `context` tokens behind each."""
    constant = weight_bytes(config, storage) + head_bytes(config, storage)
    of_texts = cache_bytes(config, storage, batch * context) + batch * state_bytes(config)
    return Demand(constant + of_texts, 2 * batch * num_weights(config))


def prefill_demand(config: DecoderConfig, storage: Storage, tokens: int) -> Demand:
    """Return the demand of reading a prompt, with the logits of its last token."""
    constant = weight_bytes(config, storage) + head_bytes(config, storage)
    return Demand(constant + cache_bytes(config, storage, tokens), 2 * tokens * num_weights(config))


def resident_bytes(config: DecoderConfig, storage: Storage, tokens: int) -> float:
    """Return the bytes of weights, head and cache, and of an embedding in 16 bits where it is not the head itself."""
    embedding = 0 if config.tied_embeddings else 2 * config.vocab_size * config.hidden_size
    total = weight_bytes(config, storage) + head_bytes(config, storage) + cache_bytes(config, storage, tokens)
    return total + embedding
