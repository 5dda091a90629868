"""Utilization: the share of the memory bandwidth that one row through a large layer reaches."""

from copy import deepcopy

import torch

from bitnet_jit.devices.kinds import kind_of
from bitnet_jit.devices.threads import get_num_threads
from bitnet_jit.engine.targets.layers import BYTES_PER_WEIGHT, random_layer, random_rows
from bitnet_jit.engine.targets.target import Target
from bitnet_jit.engine.tensors.memory_used import memory_used
from bitnet_jit.nn.packed_bit_linear import PackedBitLinear
from bitnet_jit.system.memory import total_memory
from bitnet_jit.tuning.roofline import measure_rates

LIMIT = 80.0  # per cent
SHAPES = ((28672, 8192), (8192, 8192), (4096, 4096))  # outputs x inputs, the largest that fits in memory
COLD_BYTES = 2**29  # of all copies, more than caches hold: as many as the measurement of the bandwidth reads
MEMORY_SHARE = 0.5  # of what is free


def measure_bandwidth(
    device: str, seconds: float, shape: tuple[int, int] | None = None, cold_bytes: int = COLD_BYTES
) -> Target:
    """Measure the time of a row and the bandwidth of the device in turn.

    Args:
        device: torch's word for where to run.
        seconds: for the layer.
        shape: outputs and inputs; None: the largest of SHAPES for which there is memory.
        cold_bytes: of the copies of the layer that take turns, so that each comes from memory.
    """
    out_features, in_features = shape or fitting_shape()
    layers = copies(random_layer(out_features, in_features, device), cold_bytes)
    x = random_rows(1, in_features, device)
    place = torch.device(device)
    kind = kind_of(place)
    threads = get_num_threads() if kind.times_alone else 0
    before = measure_rates(place, threads)
    with torch.inference_mode(), kind.current(place):
        for layer in layers:  # compiles, and touches each weight
            layer(x)
        measure = kind.measure([lambda layer: layer(x)], [(layer,) for layer in layers])
        microseconds = min(measure([0], seconds)[0])
    bandwidth = max(before.bytes, measure_rates(place, threads).bytes)
    rate = layers[0].w_packed.nbytes / microseconds * 1e6
    rates = f"{rate / 1e9:.1f} GB/s of weights, of {bandwidth / 1e9:.1f} GB/s read in the same run, each at its best"
    how = f"one row, {out_features} x {in_features}: {rates}"
    return Target("utilization", LIMIT, "% of the memory bandwidth", True, 100 * rate / bandwidth, how)


def fitting_shape() -> tuple[int, int]:
    """Return the largest shape whose making takes no more than a share of the memory that is free."""
    free = (1 - memory_used(None)) * total_memory() * MEMORY_SHARE - 2 * COLD_BYTES
    return next((shape for shape in SHAPES if BYTES_PER_WEIGHT * shape[0] * shape[1] <= free), SHAPES[-1])


def copies(layer: PackedBitLinear, num_bytes: int) -> list[PackedBitLinear]:
    """Return a layer and copies of it, of so many bytes beside it."""
    return [layer, *(deepcopy(layer) for _ in range(num_bytes // layer.w_packed.nbytes))]
