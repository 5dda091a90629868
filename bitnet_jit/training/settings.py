"""Settings of a training run: sizes of the decoder and of its training, checked as a whole before anything begins."""

from dataclasses import dataclass, fields

from bitnet_jit.arguments import as_real, show, whole_number
from bitnet_jit.errors import InvalidInput
from bitnet_jit.models.config import DecoderConfig
from bitnet_jit.problem import MAX_IN_FEATURES

VOCABULARY = 256  # bytes
ROPE_THETA = 10_000.0
NORM_EPS = 1e-5
END = 0  # the byte that ends a text, which texts do not hold
MIN_VALUES = {"warmup_steps": 0, "seed": 0}  # of whole numbers; others are at least 1
MAX_VALUES = {  # of whole numbers; others are at most MAX_COUNT. A seed and a step together fit into 64 bits
    "layers": 2**16,
    "heads": 2**16,
    "kv_heads": 2**16,
    "hidden_size": MAX_IN_FEATURES,
    "intermediate_size": MAX_IN_FEATURES,
    "seed": 2**63 - 1,
}
MAX_COUNT = 2**31 - 1  # of a whole number in a config.json
MAX_NUMBER = 1e300
NOT_NEGATIVE = ("weight_decay", "final_learning_rate", "dropout")


@dataclass(frozen=True)
class TrainSettings:
    """A training run; two with the same settings, text and device see the same data in the same order.

    Attributes:
        layers: blocks of the decoder.
        hidden_size: width of the residual stream, a multiple of `heads`.
        intermediate_size: width of the feed-forward middle.
        heads: query heads, each hidden_size / heads wide, an even number.
        kv_heads: key and value heads, a divisor of `heads`; None: a third of them where that is possible, else all.
        context_length: limit of the tokens that the decoder takes.
        window: bytes that are predicted in a row, up to context_length.
        dense: nn.Linear in place of ternary layers, to compare with.
        steps: updates of the weights.
        batch_size: windows per step.
        learning_rate: the highest, after the warm-up.
        final_learning_rate: the last one, as a share of the highest; it sinks along a cosine.
        warmup_steps: number of steps in which it rises.
        weight_decay: AdamW's, of matrices.
        dropout: share of the outputs of attention, feed-forward and embedding that is left out in a step.
        clip: the largest norm of all gradients together.
        seed: of the first weights, and of the order of the data.
    """

    layers: int = 6
    hidden_size: int = 384
    intermediate_size: int = 1024
    heads: int = 6
    kv_heads: int | None = None
    context_length: int = 1024
    window: int = 512
    dense: bool = False
    steps: int = 6000
    batch_size: int = 32
    learning_rate: float = 1e-3
    final_learning_rate: float = 0.05
    warmup_steps: int = 100
    weight_decay: float = 0.5
    dropout: float = 0.2
    clip: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if type(field.default) is int or (field.name == "kv_heads" and value is not None):
                most = MAX_VALUES.get(field.name, MAX_COUNT)
                object.__setattr__(
                    self, field.name, whole_number(field.name, value, MIN_VALUES.get(field.name, 1), most)
                )
            elif type(field.default) is float:
                object.__setattr__(self, field.name, checked_real(field.name, value))
            elif type(field.default) is bool and type(value) is not bool:
                raise InvalidInput(f"{field.name}: expected True or False, got {show(value)}")
        self._check_sizes()

    def _check_sizes(self) -> None:
        """Raise InvalidInput where sizes do not go together."""
        if self.hidden_size % self.heads or self.hidden_size // self.heads % 2:
            raise InvalidInput(
                f"hidden_size: expected an even multiple of heads={self.heads}, so that a head has an even width, "
                f"got {self.hidden_size}"
            )
        if self.heads % self.key_value_heads:
            raise InvalidInput(f"kv_heads: expected a divisor of heads={self.heads}, got {self.kv_heads}")
        if self.window > self.context_length:
            raise InvalidInput(f"window: expected at most context_length={self.context_length}, got {self.window}")
        if self.final_learning_rate > 1:
            raise InvalidInput(
                f"final_learning_rate: expected a share of the learning rate, got {self.final_learning_rate}"
            )
        if self.dropout >= 1:
            raise InvalidInput(f"dropout: expected a share below 1, got {self.dropout}")

    @property
    def key_value_heads(self) -> int:
        """Return the number of key and value heads."""
        if self.kv_heads is not None:
            return self.kv_heads
        return self.heads // 3 if self.heads % 3 == 0 else self.heads

    def decoder(self) -> DecoderConfig:
        """Return the architecture: BitNet's, on bytes."""
        return DecoderConfig(
            vocab_size=VOCABULARY,
            hidden_size=self.hidden_size,
            intermediate_size=self.intermediate_size,
            num_layers=self.layers,
            num_heads=self.heads,
            num_kv_heads=self.key_value_heads,
            head_dim=self.hidden_size // self.heads,
            context_length=self.context_length,
            norm_eps=NORM_EPS,
            rope_theta=ROPE_THETA,
            rope_scaling=None,
            activation="relu2",
            sub_norms=True,
            tied_embeddings=True,
            attention_bias=False,
            mlp_bias=False,
            eos_ids=(END,),
        )


def checked_real(name: str, value: object) -> float:
    """Return a setting as a float; InvalidInput where it is no finite number, or below its range."""
    number, zero = as_real(value), name in NOT_NEGATIVE
    if number is None or not (number >= 0 if zero else number > 0) or number > MAX_NUMBER:
        raise InvalidInput(f"{name}: expected a finite number {'at least' if zero else 'above'} 0, got {show(value)}")
    return number
