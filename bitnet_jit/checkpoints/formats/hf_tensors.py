"""Which tensors a Hugging Face decoder consists of: names and shapes, checked against the files before any is read."""

from collections.abc import Iterator
from dataclasses import dataclass

from bitnet_jit.checkpoints.tensor_files import TensorFiles
from bitnet_jit.checkpoints.ternary import TernaryReader
from bitnet_jit.errors import CheckpointError
from bitnet_jit.models.config import DecoderConfig

EMBEDDING = "model.embed_tokens.weight"
FINAL_NORM = "model.norm.weight"
HEAD = "lm_head.weight"
MAX_NAMED = 3  # missing or extra tensors that an error names


@dataclass(frozen=True)
class LinearNames:
    """Ternary layers that share an input, in the order of their rows.

    Attributes:
        parts: (name, out_features) of each.
        in_features: K of all.
        has_bias: whether each has a bias.
    """

    parts: tuple[tuple[str, int], ...]
    in_features: int
    has_bias: bool


@dataclass(frozen=True)
class BlockNames:
    """The tensors of one block; a sub-norm is "" where the model has none."""

    input_norm: str
    qkv: LinearNames
    attention_sub_norm: str
    output: LinearNames
    middle_norm: str
    gate_up: LinearNames
    mlp_sub_norm: str
    down: LinearNames

    @property
    def linears(self) -> tuple[LinearNames, ...]:
        return self.qkv, self.output, self.gate_up, self.down

    def norms(self, config: DecoderConfig) -> Iterator[tuple[str, int]]:
        """(name, features) of each norm that there is."""
        yield self.input_norm, config.hidden_size
        yield self.middle_norm, config.hidden_size
        if config.sub_norms:
            yield self.attention_sub_norm, config.q_features
            yield self.mlp_sub_norm, config.intermediate_size


def block_names(config: DecoderConfig, index: int) -> BlockNames:
    """The names of block `index`."""
    block = f"model.layers.{index}"
    attention, mlp = f"{block}.self_attn", f"{block}.mlp"
    kv, middle, hidden = config.kv_features, config.intermediate_size, config.hidden_size
    qkv = ((f"{attention}.q_proj", config.q_features), (f"{attention}.k_proj", kv), (f"{attention}.v_proj", kv))
    return BlockNames(
        input_norm=f"{block}.input_layernorm.weight",
        qkv=LinearNames(qkv, hidden, config.attention_bias),
        attention_sub_norm=f"{attention}.attn_sub_norm.weight" if config.sub_norms else "",
        output=LinearNames(((f"{attention}.o_proj", hidden),), config.q_features, config.attention_bias),
        middle_norm=f"{block}.post_attention_layernorm.weight",
        gate_up=LinearNames(((f"{mlp}.gate_proj", middle), (f"{mlp}.up_proj", middle)), hidden, config.mlp_bias),
        mlp_sub_norm=f"{mlp}.ffn_sub_norm.weight" if config.sub_norms else "",
        down=LinearNames(((f"{mlp}.down_proj", hidden),), middle, config.mlp_bias),
    )


def check_tensors(config: DecoderConfig, files: TensorFiles, reader: TernaryReader) -> None:
    """Raise CheckpointError unless the files hold exactly the model's tensors, with the right shapes and dtypes."""
    expected: set[str] = set()
    shapes = {EMBEDDING: (config.vocab_size, config.hidden_size), FINAL_NORM: (config.hidden_size,)}
    if not config.tied_embeddings:
        shapes[HEAD] = shapes[EMBEDDING]
    for name, shape in shapes.items():
        files.require(name, shape)
    for index in range(config.num_layers):
        expected |= check_block(config, block_names(config, index), files, reader)
    extra = sorted(name for name in files.entries.keys() - expected - shapes.keys() if not harmless(name))
    if extra:
        named = ", ".join(f"{name} in {files.entries[name].file.name}" for name in extra[:MAX_NAMED])
        raise CheckpointError(
            f"{files.directory}: found {len(extra)} tensors that a model of {config.num_layers} layers, "
            f"sub_norms={config.sub_norms}, attention_bias={config.attention_bias} does not have: {named}"
        )


def check_block(config: DecoderConfig, block: BlockNames, files: TensorFiles, reader: TernaryReader) -> set[str]:
    """Check the tensors of one block; returns their names."""
    names: set[str] = set()
    for name, features in block.norms(config):
        files.require(name, (features,))
        names.add(name)
    for linear in block.linears:
        for name, out_features in linear.parts:
            reader.require(name, out_features, linear.in_features, linear.has_bias)
            names.update(reader.tensor_names(name, linear.has_bias))
    return names


def harmless(name: str) -> bool:
    """Tensors that files hold and no model needs: a tied head, and the rotary frequencies that old versions saved."""
    return name == HEAD or name.endswith(".rotary_emb.inv_freq")
