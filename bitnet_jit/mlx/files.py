"""`load_arrays`: the tensors of a model's files as arrays of MLX, ternary weights packed as kernels read them."""

from collections.abc import Iterator
from os import PathLike
from pathlib import Path

import mlx.core as mx

from bitnet_jit.checkpoints.decoder_names import LinearName, block_names, outer_shapes
from bitnet_jit.checkpoints.formats.reader import Reader
from bitnet_jit.checkpoints.formats.registry import make_reader
from bitnet_jit.checkpoints.ternary import empty_i2
from bitnet_jit.devices.mlx import to_array
from bitnet_jit.errors import CheckpointError
from bitnet_jit.mlx.ops import lay


def load_arrays(path: str | PathLike[str]) -> dict[str, mx.array]:
    """Read a model of any format that `bitnet_jit.load` takes from a disk: Hugging Face's, mlx-lm's, ours, GGUF.

    Args:
        path: a folder or a file.

    Returns:
        Arrays by name, as `bitnet_jit/checkpoints/decoder_names.py` has them: floats in the dtype of the file, and of
        each ternary layer `<name>.w_packed` (uint8, in the layout i2/words), `<name>.w_scale` (float32) and, where it
        has one, `<name>.bias`: what `PackedBitLinear` takes.

    Raises:
        CheckpointError: the files are damaged, are of no known kind, or have layers that rotate their inputs.

    >>> from bitnet_jit import embedded_model
    >>> arrays = load_arrays(embedded_model())
    >>> arrays["blocks.0.attention.q.w_packed"].shape, arrays["norm"].shape
    ((384, 96), (384,))
    """
    with make_reader(Path(path)) as reader:
        return dict(arrays_of(reader, Path(path)))


def arrays_of(reader: Reader, path: Path) -> Iterator[tuple[str, mx.array]]:
    """Yield the arrays of a model by name, each as it is read."""
    config = reader.config
    for name in outer_shapes(config):
        yield name, to_array(reader.dense(name))
    for index in range(config.num_layers):
        names = block_names(config, index)
        for name, _ in names.floats(config):
            yield name, to_array(reader.dense(name))
        for layers in names.linears:
            for layer in layers:
                yield from layer_arrays(reader, layer, path)


def layer_arrays(reader: Reader, layer: LinearName, path: Path) -> Iterator[tuple[str, mx.array]]:
    """Yield the arrays of a ternary layer by name."""
    sizes = layer.out_features, layer.in_features
    weight = reader.ternary(layer, empty_i2(*sizes))
    if weight.rotation is not None:
        raise CheckpointError(f"{path}: {layer.name} rotates its input, which layers of MLX do not")
    yield f"{layer.name}.w_packed", lay(to_array(weight.w_packed), *sizes)
    yield f"{layer.name}.w_scale", to_array(weight.w_scale)
    if weight.bias is not None:
        yield f"{layer.name}.bias", to_array(weight.bias)
