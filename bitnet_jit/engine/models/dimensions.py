"""`input_dim`, `output_dim`: how wide the rows are that a module takes and gives, as far as its layers tell."""

from torch import nn

from bitnet_jit.generation.decoder import Decoder

INPUTS = ("in_features", "in_channels", "num_embeddings")
OUTPUTS = ("out_features", "out_channels", "embedding_dim")


def input_dim(module: nn.Module) -> int | None:
    """Return the features that a module's first layer takes; of a decoder, which takes token ids, its vocabulary.

    >>> model = nn.Sequential(nn.ReLU(), nn.Linear(8, 4), nn.Linear(4, 2))
    >>> input_dim(model), output_dim(model), input_dim(nn.ReLU())
    (8, 2, None)
    """
    return module.config.vocab_size if isinstance(module, Decoder) else first_size([*module.modules()], INPUTS)


def output_dim(module: nn.Module) -> int | None:
    """Return the features that a module's last layer gives; of a decoder, which gives logits, its vocabulary."""
    return module.config.vocab_size if isinstance(module, Decoder) else first_size([*module.modules()][::-1], OUTPUTS)


def first_size(layers: list[nn.Module], names: tuple[str, ...]) -> int | None:
    """Return the first whole number that a layer has under one of these names; layers count as they are registered."""
    sizes = (getattr(layer, name, None) for layer in layers for name in names)
    return next((size for size in sizes if type(size) is int), None)
