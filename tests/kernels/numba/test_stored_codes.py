"""The compiled passes of a load: stored codes -> canonical ones, and those -> the resident layout.

Both against the same in torch's operations, over all bytes there are, and between guards.
"""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bitnet_jit.checkpoints.checks import count_codes
from bitnet_jit.checkpoints.formats import decoding
from bitnet_jit.checkpoints.formats.gguf.i2_s import STORED
from bitnet_jit.checkpoints.formats.gguf.types import TYPES
from bitnet_jit.checkpoints.formats.hf_packing import HUGGING_FACE
from bitnet_jit.devices.threads import THREADS
from bitnet_jit.kernels import registry
from bitnet_jit.packing import FORMATS
from bitnet_jit.packing.stored import Blocks, Columns

BLOCKS = {of.name: of.stored for of in TYPES.values() if of.runs} | {"x86": STORED["x86"], "arm": STORED["arm"]}
COLUMNS = {"HF": HUGGING_FACE, "rows4": STORED["rows4"]}
GUARD = 64
FEW = settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow], deadline=None)


@pytest.fixture(autouse=True)
def _every_size_is_compiled(monkeypatch):
    monkeypatch.setattr(decoding, "MIN_BYTES", 1)


def drawn(seed, shape):
    """Return bytes of every value at an odd address."""
    content = np.random.default_rng(seed).integers(0, 256, int(np.prod(shape)) + 3, np.uint8)
    return torch.from_numpy(content)[3:].view(*shape)


def assert_decoded(stored, source, rows, in_features, threads=2):
    """Assert that both ways give the same codes and counts, and write nothing beside them."""
    columns = -(-in_features // 4)
    expected = torch.full((rows, columns), 0xFF, dtype=torch.uint8)
    decoding.decode_by_torch(stored, source, expected, in_features)
    guarded = torch.full((rows * columns + 2 * GUARD,), 0xFF, dtype=torch.uint8)
    out = guarded[GUARD : GUARD + rows * columns].view(rows, columns)
    with THREADS.using(threads):
        count = decoding.decode(stored, source, out, in_features)
    assert torch.equal(out, expected)
    assert bool((guarded[:GUARD] == 0xFF).all() & (guarded[-GUARD:] == 0xFF).all())
    assert count == count_codes(expected, in_features)


def test_the_cpu_has_a_compiled_pass():
    assert registry.decoder("cpu") is not None
    assert registry.preferred_layout("i2", "cpu").lay is not None


@pytest.mark.parametrize("name", BLOCKS)
@FEW
@given(
    rows=st.sampled_from((1, 3, 4, 5, 17, 64)),
    per_row=st.integers(1, 9),
    threads=st.integers(1, 3),
    seed=st.integers(0),
)
def test_blocks(name, rows, per_row, threads, seed):
    stored: Blocks = BLOCKS[name]
    source = drawn(seed, (rows * per_row, stored.num_bytes))
    assert_decoded(stored, source, rows, per_row * stored.elements, threads)


@pytest.mark.parametrize("name", COLUMNS)
@FEW
@given(
    rows=st.integers(1, 40),
    in_features=st.integers(1, 140) | st.just(700),
    threads=st.integers(1, 3),
    seed=st.integers(0),
)
def test_columns(name, rows, in_features, threads, seed):
    stored: Columns = COLUMNS[name]
    rows = -(-rows // 4) * 4 if stored.adjoining else rows
    assert_decoded(stored, drawn(seed, (-(-rows // 4), in_features)), rows, in_features, threads)


@pytest.mark.parametrize("packing", FORMATS)
@FEW
@given(
    rows=st.integers(1, 40),
    in_features=st.integers(1, 340) | st.just(997),
    threads=st.integers(1, 3),
    seed=st.integers(0),
)
def test_packings_of_ours(packing, rows, in_features, threads, seed):
    columns = FORMATS[packing].packed_shape(1, in_features)[1]
    assert_decoded(packing, drawn(seed, (rows, columns)), rows, in_features, threads)


@pytest.mark.parametrize("packing", FORMATS)
def test_every_byte_of_a_packing(packing):
    source = torch.arange(256, dtype=torch.uint8).repeat(2, 1)
    assert_decoded(packing, source, 2, 256 * FORMATS[packing].codes_per_byte)


@pytest.mark.parametrize("name", BLOCKS)
def test_every_byte_at_every_place_of_a_block(name):
    stored = BLOCKS[name]
    source = torch.arange(256, dtype=torch.uint8)[:, None].repeat(1, stored.num_bytes)
    assert_decoded(stored, source, 256, stored.elements)


def test_many_pieces_on_many_threads():
    stored = BLOCKS["TQ2_0"]
    assert_decoded(stored, drawn(7, (4099, stored.num_bytes)), 4099, stored.elements, threads=4)
    assert_decoded(HUGGING_FACE, drawn(8, (500, 1025)), 1999, 1025, threads=4)


@FEW
@given(
    out_features=st.integers(1, 140),
    in_features=st.integers(1, 90) | st.sampled_from([255, 256, 257, 512, 700]),
    threads=st.integers(1, 3),
    seed=st.integers(0),
)
def test_tiles(out_features, in_features, threads, seed):
    layout = registry.preferred_layout("i2", "cpu")
    packed = drawn(seed, FORMATS["i2"].packed_shape(out_features, in_features))
    expected = layout.from_canonical(packed, out_features, in_features)
    guarded = torch.full((expected.numel() + 2 * GUARD,), 0xFF, dtype=torch.uint8)
    out = guarded[GUARD:-GUARD].view(expected.shape)
    with THREADS.using(threads):
        layout.lay(packed, out, in_features)
    assert torch.equal(out, expected)
    assert bool((guarded[:GUARD] == 0xFF).all() & (guarded[-GUARD:] == 0xFF).all())
