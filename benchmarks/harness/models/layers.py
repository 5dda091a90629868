"""A shape with fewer layers: all that a step does, in less time, where a whole model would take hours."""

from dataclasses import replace

from benchmarks.harness.models.random_weights import RandomReader
from benchmarks.harness.models.shapes import ModelShape


def with_layers(shape: ModelShape, layers: int | None) -> ModelShape:
    """Return a shape of random weights with so many layers; None: as it is.

    Raises:
        ValueError: it has no more than that, or its weights are those of a file.
    """
    reader = shape.open_reader()
    config = reader.config
    if layers is None or layers == config.num_layers:
        return shape
    if not isinstance(reader, RandomReader) or layers > config.num_layers:
        raise ValueError(f"layers: {shape.name} has {config.num_layers}, got {layers}")
    fewer = replace(config, num_layers=layers)
    title = f"{layers} layers of {shape.title}"
    return replace(shape, title=title, open_reader=lambda: RandomReader(fewer, shape.group_size))
