"""A recorded function does again what it did, on the values that its tensors have then."""

import gc

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bitnet_jit.kernels import registry
from bitnet_jit.nn.bit_linear import BitLinear
from bitnet_jit.ops.norm import add_rms_norm_quantize, relu2_mul_norm_quantize, rms_norm_quantize
from bitnet_jit.ops.program import Arena, record

ROWS, IN, OUT = 3, 70, 132


@pytest.fixture(scope="module")
def layers():
    torch.manual_seed(0)
    return [BitLinear(*sizes).pack() for sizes in ((IN, OUT), (OUT // 2, IN))]


def block(layers, x, delta, weights):
    """What a block of a model does: sums, norms, products, views that have gaps, and torch's own operations."""
    up_down, down = layers
    total, *codes = add_rms_norm_quantize(x, delta, weights[0], 1e-5)
    gate, up = up_down.forward_quantized(*codes, torch.float32).chunk(2, -1)
    codes = relu2_mul_norm_quantize(gate, up, weights[1], 1e-5)
    y = down.forward_quantized(*codes, torch.float32) + total
    return y, rms_norm_quantize(y * 2, weights[0], 1e-5)[0]


@settings(max_examples=8, deadline=None)
@given(seeds=st.lists(st.integers(0, 2**31), min_size=1, max_size=4))
def test_runs_are_the_function_on_new_values(layers, seeds):
    x, delta, weights = torch.zeros(ROWS, IN), torch.zeros(ROWS, IN), (torch.ones(IN), torch.ones(OUT // 2))
    with torch.no_grad():
        run, (y, codes) = record(lambda: block(layers, x, delta, weights))
        gc.collect()
        for seed in seeds:
            generator = torch.Generator().manual_seed(seed)
            x.normal_(generator=generator)
            delta.normal_(generator=generator)
            y.fill_(torch.nan)
            codes.fill_(77)
            run()
            wanted, wanted_codes = block(layers, x, delta, weights)
            assert torch.equal(y, wanted)
            assert torch.equal(codes, wanted_codes)


def test_kernels_that_cannot_be_bound_to_addresses_are_called_again(layers, monkeypatch):
    x, weights = torch.randn(ROWS, IN), (torch.ones(IN), torch.ones(OUT // 2))
    numba = registry.BACKENDS["numba"]

    def without_prepare(*args):
        call = numba.bind_call(*args)
        return lambda *arguments: call(*arguments)

    monkeypatch.setitem(registry.BACKENDS, "numba", numba.__class__(**{**vars(numba), "bind_call": without_prepare}))
    with torch.no_grad():
        from bitnet_jit.ops.calls import forget

        forget()
        run, (y, codes) = record(lambda: block(layers, x, x, weights))
        x.mul_(-3)
        run()
        monkeypatch.undo()
        forget()
        wanted, wanted_codes = block(layers, x, x, weights)
    assert torch.equal(y, wanted)
    assert torch.equal(codes, wanted_codes)


def test_what_is_written_into_a_tensor_is_written_again():
    x, store = torch.ones(2), torch.zeros(2)
    run, result = record(lambda: store.add_(x))
    assert result is store
    assert store.tolist() == [1, 1]
    run()
    run()
    assert store.tolist() == [3, 3]


def test_a_function_that_looks_at_values_is_refused():
    with pytest.raises(RuntimeError, match="looks at the values"):
        record(lambda: torch.ones(1).item())


def test_memory_is_taken_again_when_nobody_looks_at_it():
    arena = Arena()
    first = arena.empty((4, 3), (3, 1), torch.float32)
    address, view = first.data_ptr(), first[1:]
    assert arena.empty((4, 3), (3, 1), torch.float32).data_ptr() != address
    del first
    assert arena.empty((12,), (1,), torch.float32).data_ptr() != address
    del view
    gc.collect()
    others = [arena.empty((6, 4), (4, 1), torch.bfloat16) for _ in range(4)]
    assert address in {other.data_ptr() for other in others}
    assert len({other.data_ptr() for other in others}) == 4


def test_blocks_of_a_program_share_their_memory(layers):
    x, weights = torch.randn(ROWS, IN), (torch.ones(IN), torch.ones(OUT // 2))

    def blocks(count):
        y = x
        for _ in range(count):
            y, _ = block(layers, y, x, weights)
        return y

    with torch.no_grad():
        sizes = []
        for count in (4, 40):
            run, _ = record(lambda count=count: blocks(count))
            free = run.recorder._arena._free
            sizes.append(sum(block.nbytes for same_size in free.values() for block in same_size))
    assert sizes[0] == sizes[1] > 0


def test_gate_and_up_at_other_distances_are_copied_in_every_run():
    gate, up = torch.zeros(ROWS, 2 * IN)[:, :IN], torch.zeros(ROWS, 3 * IN)[:, IN : 2 * IN]
    run, (codes, scales) = record(lambda: relu2_mul_norm_quantize(gate, up, torch.ones(IN), 1e-5))
    gate.normal_()
    up.normal_()
    run()
    wanted = relu2_mul_norm_quantize(gate.contiguous(), up.contiguous(), torch.ones(IN), 1e-5)
    assert torch.equal(codes, wanted[0])
    assert torch.equal(scales, wanted[1])
