"""The host harness itself: faults are reported, small floats are those of torch, and places are what they should be."""

import numpy as np
import pytest
import torch
from metal_calls import needs_clang
from metal_host.host import HOST, HostFault, library_of_text

pytestmark = needs_clang


def run(body, *buffers, grid=(1, 1, 1), threads=64, written=("y",), names=("x", "y"), dtypes=None, seed=0):
    """Run a kernel's body; return the buffers as it left them."""
    library = library_of_text("", body, names, dtypes or [str(buffer.dtype) for buffer in buffers], set(written))
    return HOST.run(library, buffers, grid, threads, seed)


def test_places_of_threads():
    body = """
    const int me = int(threadgroup_position_in_grid.y * 3 + threadgroup_position_in_grid.x) * 64;
    y[me + thread_index_in_threadgroup] = int(thread_index_in_simdgroup + 100 * simdgroup_index_in_threadgroup);
    """
    y = run(body, np.zeros(1, np.int32), np.full(384, -1, np.int32), grid=(3, 2, 1))[1]
    assert np.array_equal(y, np.tile([*range(32), *range(100, 132)], 6))


def test_sums_and_shuffles_of_a_simdgroup():
    body = """
    const int me = int(thread_index_in_threadgroup);
    y[me] = simd_sum(x[me]) + 1000 * simd_shuffle_xor(x[me], 1) + 100000 * simd_max(x[me]);
    """
    x = np.arange(64, dtype=np.int32)
    y = run(body, x, np.zeros_like(x))[1]
    assert np.array_equal(y, x.reshape(2, 32).sum(1).repeat(32) + 1000 * (x ^ 1) + 100000 * (31 + 32 * (x // 32)))


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("y[thread_index_in_threadgroup + 1] = 0;", "heap-buffer-overflow"),
        ("y[0] = x[-1];", "heap-buffer-overflow"),
        ("y[0] = x[0] << (32 + x[0]);", "shift exponent"),
        ("y[0] = 2147483647 + x[1];", "signed integer overflow"),
        ("y[0] = int(1e30f * float(x[1]));", "outside the range"),
        ("if (thread_index_in_threadgroup < 32) BARRIER();", "some threads end where others wait"),
        ("if (thread_index_in_simdgroup < 7) simd_sum(1);", "do not come to the same operation"),
        ("SHARED(int, s, 4); s[thread_index_in_threadgroup] = 1;", "heap-buffer-overflow"),
    ],
)
def test_faults_are_reported_and_the_next_call_runs(body, words):
    x = np.arange(64, dtype=np.int32)
    with pytest.raises(HostFault, match=words):
        run(body, x, x)
    assert run("y[thread_index_in_threadgroup] = 5;", x, x)[1].tolist() == [5] * 64


def test_a_race_gives_more_than_one_answer():
    body = "SHARED(int, s, 1); s[0] = int(thread_index_in_threadgroup); BARRIER(); y[0] = s[0];"
    x = np.zeros(1, np.int32)
    assert len({int(run(body, x, x, seed=seed)[1][0]) for seed in range(8)}) > 2


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_small_floats_are_rounded_as_torch_rounds(dtype):
    torch_dtype = getattr(torch, dtype)
    every = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16)  # all bits
    wide = every.view(torch_dtype).float()
    rng = np.random.default_rng(0)
    random = torch.from_numpy(rng.integers(0, 2**32, 2**16, dtype=np.uint32).view(np.float32).copy())
    between = torch.from_numpy(np.nextafter(wide.nan_to_num(1).numpy(), np.float32(0))) * 1.0009765625
    for x in (wide, random, between):
        y = np.zeros(len(x), np.uint16)
        dtypes = ("float32", dtype)
        body = "const int i = int(threadgroup_position_in_grid.x) * 64 + int(thread_index_in_threadgroup); "
        kind = {"float16": "half", "bfloat16": "bfloat"}[dtype]
        bits = run(f"{body} y[i] = {kind}(x[i]);", x.numpy(), y, grid=(1024, 1, 1), dtypes=dtypes)[1]
        expected = x.to(torch_dtype)
        assert torch.equal(
            torch.from_numpy(bits.view(np.int16)).view(torch_dtype).nan_to_num(7), expected.nan_to_num(7)
        )
        widened = run(f"{body} y[i] = float(x[i]);", bits, x.numpy(), grid=(1024, 1, 1), dtypes=dtypes[::-1])[1]
        assert np.array_equal(widened, expected.float().numpy(), equal_nan=True)
