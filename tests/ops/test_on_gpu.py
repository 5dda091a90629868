"""The ops on a GPU: the CPU's bits, graphs, streams, several devices, odd tensors, large sizes, full memory."""

import numpy as np
import pytest
import torch

import bitnet_jit.ops  # noqa: F401
from bitnet_jit import PackedBitLinear
from bitnet_jit.errors import InvalidInput
from bitnet_jit.kernels import registry

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA or ROCm device"),
]
OPS = torch.ops.bitnet_jit
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
SHAPES = ((2560, 2560), (640, 2560), (2560, 6912), (131, 300))
ROWS = (1, 2, 3, 4, 8, 16, 17, 64, 130, 600)


def generator():
    return torch.Generator().manual_seed(0)


def codes(*shape, low=-1, high=2):
    return torch.randint(low, high, shape, generator=generator(), dtype=torch.int8)


def layer(shape, scale="tensor", format="i2", bias=False):
    """A packed layer on the CPU."""
    w_scale = torch.tensor(0.02) if scale == "tensor" else torch.rand(shape[0], generator=generator()) + 0.01
    return PackedBitLinear.from_codes(codes(*shape), w_scale, torch.randn(shape[0]) if bias else None, format=format)


def inputs(*shape, dtype=torch.float32):
    return torch.randn(shape, generator=generator()).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scale", ["tensor", "row"])
@pytest.mark.parametrize("format", ["i2", "t5"])
def test_outputs_are_the_cpus_bit_for_bit_for_every_number_of_rows(format, scale, dtype):
    for shape in SHAPES:
        on_cpu = layer(shape, scale, format, bias=scale == "row")
        x = inputs(max(ROWS), shape[1], dtype=dtype)
        wanted = on_cpu(x)
        on_gpu, x_gpu = on_cpu.cuda(), x.cuda()
        assert on_gpu.layout == registry.preferred_layout(format, "cuda").name
        for rows in ROWS:
            assert torch.equal(on_gpu(x_gpu[:rows]).cpu(), wanted[:rows]), (shape, rows)


def test_sums_of_extreme_codes():
    for in_features in (2560, 100_003):
        packed = layer((33, in_features))
        for value in (127, -128):
            x_q = torch.full((5, in_features), value, dtype=torch.int8)
            wanted = OPS.ternary_matmul(x_q, packed.w_packed, in_features, 33, packed.layout)
            on_gpu = packed.cuda()
            actual = OPS.ternary_matmul(x_q.cuda(), on_gpu.w_packed, in_features, 33, on_gpu.layout)
            assert torch.equal(actual.cpu(), wanted)
            packed = on_gpu.cpu()


def cases(rows):
    """Every op with a call on the GPU, by name."""
    packed, x = layer((300, 512), bias=True).cuda(), inputs(rows, 512, dtype=torch.bfloat16).cuda()
    weight, up = inputs(512).cuda(), inputs(rows, 512, dtype=torch.bfloat16).cuda() + 1
    x_q, x_scale = OPS.quantize_activation(x)
    attention, recurrence, head = pages(x), recurrent(rows), codes(1000, 512, low=-127, high=128).cuda()
    ids = torch.arange(rows, device="cuda") * 7 % 1000
    tensors, options = (packed.w_packed, packed.w_scale, packed.bias), (512, 300, packed.layout, 0)
    return {
        "bit_linear": lambda: OPS.bit_linear(x, *tensors, *options, "a8"),
        "bit_linear_a16": lambda: OPS.bit_linear(x, *tensors, *options, "a16"),
        "quantized_linear": lambda: OPS.quantized_linear(x_q, x_scale, *tensors, *options, torch.bfloat16),
        "ternary_matmul": lambda: OPS.ternary_matmul(x_q, packed.w_packed, 512, 300, packed.layout),
        "input_grad": lambda: OPS.bit_linear_input_grad(
            x[:, :300].contiguous(), packed.w_packed, packed.w_scale, *options
        ),
        "quantize_activation": lambda: OPS.quantize_activation(x),
        "rms_norm": lambda: OPS.rms_norm(x, weight, 1e-5),
        "rms_norm_quantize": lambda: OPS.rms_norm_quantize(x, weight, 1e-5),
        "add_rms_norm": lambda: OPS.add_rms_norm(x, up, weight, 1e-5),
        "relu2_mul_norm": lambda: OPS.relu2_mul_norm(x, up, weight, 1e-5),
        "silu_mul_norm": lambda: OPS.silu_mul_norm(x, up, None, 0.0),
        "sigmoid_mul_norm": lambda: OPS.sigmoid_mul_norm(x, up, None, 0.0),
        "gelu_mul_norm": lambda: OPS.gelu_mul_norm(x, up, None, 0.0),
        "relu2_mul_norm_quantize": lambda: OPS.relu2_mul_norm_quantize(x, up, weight, 1e-5),
        "embedding": lambda: OPS.embedding(ids, head, torch.ones(1000, device="cuda"), torch.bfloat16),
        "embedding_of_floats": lambda: OPS.embedding(ids, head.bfloat16(), None, torch.float32),
        "packed_embedding": lambda: OPS.packed_embedding(ids % 300, *tensors[:2], *options, torch.bfloat16),
        "greedy": lambda: OPS.greedy(x.float(), ids.clone(), None),
        "head_logits": lambda: OPS.head_logits(x, head.bfloat16(), None),
        "head_logits_int8": lambda: OPS.head_logits(x, head, torch.ones(1000, device="cuda")),
        "delta_net": lambda: OPS.delta_net(*recurrence),
        "paged_attention": lambda: OPS.paged_attention(*attention, None, None),
        "silu_mul_norm_quantize": lambda: OPS.silu_mul_norm_quantize(x, up, None, 0.0),
    }


def recurrent(rows):
    """Arguments of a gated DeltaNet of 4 heads of 64 on 2, whose one sequence begins here: it gives the same again."""
    shapes = ((rows, 512), (rows, 8), (512, 4), (4,), (4,), (2, 3, 512), (2, 4, 64, 64))
    mixed, beta_alpha, weight, decay, bias, history, states = (inputs(*sizes).cuda() for sizes in shapes)
    ints = (a.to("cuda", torch.int32) for a in (torch.arange(rows), torch.tensor([0, rows]), torch.tensor([1])))
    return mixed.bfloat16(), beta_alpha, weight, -decay.abs(), bias, history.bfloat16(), states, *ints


def pages(qkv):
    """Arguments of an attention of 4 heads of 64 on 2 over 100 cached tokens and these, of one sequence."""
    rows, shape = len(qkv), ((3, 2, 64, 64), (3, 2, 64, 64), (192, 64))
    keys, values, rotary = (
        inputs(*sizes).to(qkv.dtype if len(sizes) == 4 else torch.float32).cuda() for sizes in shape
    )
    ints = (torch.arange(100, 100 + rows), torch.tensor([0, rows]), torch.tensor([[2, 0, 1]]))
    return qkv, keys, values, rotary, *(a.to("cuda", torch.int32) for a in ints)


def flat(result):
    return result if isinstance(result, tuple) else (result,)


@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype:UserWarning")
@pytest.mark.parametrize("rows", [1, 5, 40])
def test_every_op_is_captured_in_a_graph_and_waits_for_nothing(rows):
    for name, call in cases(rows).items():
        wanted = [a.clone() for a in flat(call())]
        torch.cuda.synchronize()
        try:
            torch.cuda.set_sync_debug_mode("error")
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                captured = flat(call())
        finally:
            torch.cuda.set_sync_debug_mode("default")
        for a in captured:
            a.fill_(99)
        graph.replay()
        assert all(torch.equal(a, b) for a, b in zip(captured, wanted, strict=True)), name


def test_a_graph_reads_its_inputs_anew():
    packed, x = layer((256, 512)).cuda(), inputs(3, 512).cuda()
    packed(x)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = packed(x)
    x.copy_(inputs(3, 512).cuda() * 3 + 1)
    graph.replay()
    assert torch.equal(y, packed(x))


def test_streams_do_not_disturb_one_another():
    packed = [layer((640, 2560)).cuda(), layer((2560, 640)).cuda()]
    x = [inputs(8, 2560).cuda(), inputs(8, 640).cuda()]
    wanted = [one(a) for one, a in zip(packed, x, strict=True)]
    streams = [torch.cuda.Stream(), torch.cuda.Stream()]
    torch.cuda.synchronize()
    actual = []
    for _ in range(200):
        for one, a, stream in zip(packed, x, streams, strict=True):
            with torch.cuda.stream(stream):
                actual.append(one(a))
    torch.cuda.synchronize()
    assert all(torch.equal(y, wanted[number % 2]) for number, y in enumerate(actual))


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there is one GPU only")
def test_kernels_run_where_the_tensors_are():
    packed, x = layer((256, 512)), inputs(3, 512)
    wanted = packed(x)
    for device in ("cuda:1", "cuda:0"):
        y = packed.to(device)(x.to(device))
        assert str(y.device) == device
        assert torch.equal(y.cpu(), wanted)
    assert torch.cuda.current_device() == 0


def test_weights_written_just_before_are_read():
    """A dependent launch reads weights before the kernels ahead of it have ended: those must not be older ones."""
    packed = [layer((4096, 2560)).cuda() for _ in range(2)]
    packed[1].w_packed.data = packed[1].w_packed.flip(0).contiguous()
    x, target = inputs(1, 2560, dtype=torch.bfloat16).cuda(), layer((4096, 2560)).cuda()
    wanted = [one(x) for one in packed]
    for turn in range(500):
        target.w_packed.copy_(packed[turn % 2].w_packed)
        assert torch.equal(target(x), wanted[turn % 2])


@pytest.mark.parametrize("rows", [1, 4, 8, 40, 130])
@torch.no_grad()
def test_weights_that_a_kernel_writes_just_before_are_read_in_a_graph(rows):
    """The same with nothing between the write and the product but the order of the stream: the host takes no time."""
    target, x = layer((4096, 2560)).cuda(), inputs(rows, 2560, dtype=torch.bfloat16).cuda()
    sources, wanted, actual = [target.w_packed.clone(), target.w_packed.flip(0).contiguous()], [], []
    for source in sources:
        target.w_packed.copy_(source)
        torch.cuda.synchronize()
        wanted.append(target(x))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for turn in range(20):
            torch.bitwise_or(sources[turn % 2], 0, out=target.w_packed)
            actual.append(target(x))
    for _ in range(25):
        graph.replay()
        assert all(torch.equal(y, wanted[turn % 2]) for turn, y in enumerate(actual))


def test_views_at_odd_addresses_and_with_gaps():
    packed = layer((64, 300)).cuda()
    x = inputs(4, 700, dtype=torch.bfloat16).cuda()
    for view in (x[:, 3:303], x[:, ::2][:, :300], x.flatten()[5 : 5 + 1200].view(4, 300), x.T[:300].T):
        assert torch.equal(packed(view), packed(view.contiguous().clone()))


@pytest.mark.parametrize("shape", [(1, 1), (1, 17), (17, 1), (5, 15), (3, 257)])
def test_tiny_shapes(shape):
    packed = layer(shape)
    for rows in (0, 1, 4, 33):
        x = inputs(rows, shape[1])
        wanted = packed.cpu()(x)
        assert torch.equal(packed.cuda()(x.cuda()).cpu(), wanted)


def test_tensors_on_two_devices_are_refused_in_words():
    packed = layer((64, 300)).cuda()
    with pytest.raises(InvalidInput, match="w_packed: is on cuda:0, x on cpu; move one of them"):
        OPS.bit_linear(inputs(1, 300), packed.w_packed, packed.w_scale, None, 300, 64, packed.layout, 0, "a8")


@pytest.mark.slow
def test_more_than_two_to_the_31_elements():
    free = torch.cuda.mem_get_info()[0]
    if free < 40e9:
        pytest.skip(f"needs 40 GB of free memory, there are {free / 1e9:.0f}")
    small, times = layer((64, 8192)).cuda(), 2**14 + 1  # weights of 2^31 bytes and more
    w_packed, x = small.w_packed.repeat(times, 1), inputs(16, 8192, dtype=torch.bfloat16).cuda()
    for rows in (1, 16):
        y = OPS.bit_linear(x[:rows], w_packed, small.w_scale, None, 8192, 64 * times, small.layout, 0, "a8")
        assert torch.equal(y.view(rows, times, 64), small(x[:rows])[:, None].expand(rows, times, 64))
    del w_packed, y
    x = x[:1].repeat(2**18 + 3, 1)  # inputs and, below, outputs
    y = small(x)
    assert torch.equal(y, y[:1].expand_as(y))
    del y
    wide = PackedBitLinear.from_codes(codes(8200, 64), torch.tensor(0.5)).cuda()
    y = wide(x[:, :64].contiguous())
    assert torch.equal(y[-1], y[0])
    assert torch.equal(y[2**17], y[0])


def test_after_memory_ran_out_calls_work_as_before():
    packed, x = layer((2560, 2560)).cuda(), inputs(4, 2560).cuda()
    wanted = packed(x)
    rows = torch.cuda.mem_get_info()[1] // (4 * 2560)
    with pytest.raises(torch.OutOfMemoryError):
        packed(x[:1].expand(rows, -1))
    assert torch.equal(packed(x), wanted)


def test_norms_are_near_the_cpus():
    x, weight = inputs(40, 2560), inputs(2560)
    np.testing.assert_allclose(
        OPS.rms_norm(x.cuda(), weight.cuda(), 1e-5).cpu().numpy(), OPS.rms_norm(x, weight, 1e-5).numpy(), rtol=1e-5
    )
