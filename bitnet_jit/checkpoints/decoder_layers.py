"""The tensors of an open reader by kind: ternary layers, a packed embedding or head among them, and floats."""

from bitnet_jit.checkpoints.decoder_names import LinearName, block_names, outer_shapes
from bitnet_jit.checkpoints.formats.reader import Reader


def ternary_layers(reader: Reader) -> list[LinearName]:
    """Return the ternary layers of a model, those of the blocks first."""
    config = reader.config
    blocks = (block_names(config, index) for index in range(config.num_layers))
    layers = [layer for names in blocks for joint in names.linears for layer in joint]
    tables = [(name, shape) for name, shape in outer_shapes(config).items() if len(shape) == 2]
    return layers + [LinearName(name, shape[0], shape[1], False) for name, shape in tables if reader.holds_codes(name)]


def dense_tensors(reader: Reader) -> list[str]:
    """Return the names of a model's tensors that are floats."""
    config = reader.config
    outer = [name for name, shape in outer_shapes(config).items() if len(shape) == 1 or not reader.holds_codes(name)]
    blocks = (block_names(config, index) for index in range(config.num_layers))
    return outer + [name for names in blocks for name, _ in names.floats(config)]
