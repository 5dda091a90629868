"""Layouts: each one in the registry is an invertible order of bytes, for NumPy and torch."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bitnet_jit.errors import InvalidInput
from bitnet_jit.kernels import registry
from bitnet_jit.packing import CANONICAL, FORMATS

LAYOUTS = {layout.name: layout for layout in CANONICAL.values()}
for backend in registry.BACKENDS.values():
    if registry.absent_reason(backend.name) is None:
        LAYOUTS |= {layout.name: layout for layout in backend.layouts()}

EVERY_LAYOUT = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
SHAPES = st.tuples(st.integers(1, 140), st.integers(1, 90) | st.sampled_from([255, 256, 257, 320, 700]))


def canonical_weight(layout, out_features, in_features):
    rng = np.random.default_rng(out_features * 1009 + in_features)
    return layout.format.pack(rng.integers(-1, 2, (out_features, in_features), dtype=np.int8))


@EVERY_LAYOUT
@given(shape=SHAPES)
def test_round_trip(layout, shape):
    packed = canonical_weight(layout, *shape)
    laid = layout.from_canonical(packed, *shape)
    assert laid.dtype == np.uint8
    assert laid.shape == layout.shape(*shape)
    layout.check(laid, *shape)
    assert np.array_equal(layout.to_canonical(laid, *shape), packed)


@EVERY_LAYOUT
@given(shape=SHAPES)
def test_torch_lays_the_same_bytes(layout, shape):
    packed = canonical_weight(layout, *shape)
    laid = layout.from_canonical(torch.from_numpy(packed), *shape)
    assert np.array_equal(laid.numpy(), layout.from_canonical(packed, *shape))
    assert np.array_equal(layout.to_canonical(laid, *shape).numpy(), packed)


@pytest.mark.parametrize("piece_bytes", [1, 2048, 2049])
def test_numba_lays_the_same_bytes_in_pieces(monkeypatch, piece_bytes):
    layout = pytest.importorskip("bitnet_jit.kernels.numba.layout", reason="the package numba is not installed")
    for tiles in layout.LAYOUTS:
        packed = canonical_weight(tiles, 390, 37)
        whole = tiles.from_canonical(packed, 390, 37)
        monkeypatch.setattr(layout, "PIECE_BYTES", piece_bytes)
        assert np.array_equal(tiles.from_canonical(packed, 390, 37), whole)
        monkeypatch.undo()


@EVERY_LAYOUT
def test_check_names_the_argument_and_the_shape(layout):
    wrong = np.zeros((3, 3, 3), np.uint8)
    with pytest.raises(InvalidInput, match=r"weight: expected uint8 .* got uint8 \(3, 3, 3\)"):
        layout.check(wrong, 64, 64, "weight")
    with pytest.raises(InvalidInput, match="float32"):
        layout.check(np.zeros(layout.shape(64, 64), np.float32), 64, 64)


@EVERY_LAYOUT
def test_a_layout_is_found_by_its_name(layout):
    assert registry.get_layout(layout.name) == layout
    assert layout.name.partition("/")[0] == layout.format.name


@pytest.mark.parametrize("name", FORMATS)
def test_the_canonical_layout_is_the_format(name):
    packed = canonical_weight(CANONICAL[name], 3, 7)
    assert CANONICAL[name].from_canonical(packed, 3, 7) is packed
