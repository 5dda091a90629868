"""The layers on a GPU: the CPU's numbers, the same training eagerly and compiled, and moves between the two devices."""

import copy
import pickle

import numpy as np
import pytest
import torch
from torch import nn

from bitnet_jit import BitLinear, PackedBitLinear, add_lora, convert, pack, reference
from bitnet_jit.kernels import registry
from bitnet_jit.quant import quantize_weight

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA or ROCm device"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # from what inductor imports
    pytest.mark.filterwarnings("ignore:.*TensorFloat32:UserWarning"),  # inductor recommends what we do not want
]

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@pytest.mark.parametrize(("scale", "group_size"), [("tensor", 0), ("row", 0), ("group", 64)])
def test_weights_are_quantized_as_on_the_cpu(scale, group_size):
    w = torch.randn(700, 513)
    for result, expected in zip(
        quantize_weight(w.cuda(), scale, group_size), quantize_weight(w, scale, group_size), strict=True
    ):
        assert torch.equal(result.cpu(), expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 70), (3, 2560), (130, 513), (0, 70)])
def test_training_and_packed_outputs_are_the_reference(dtype, shape):
    layer, x = BitLinear(shape[-1], 37).cuda().eval(), torch.randn(shape).to(dtype)
    w_q, w_scale = reference.quantize_weight(layer.weight.detach().cpu())
    expected = torch.from_numpy(reference.bit_linear(x.float(), w_q, w_scale, layer.bias.detach().cpu())).to(dtype)
    assert torch.equal(layer(x.cuda()).cpu(), expected)
    for format in ("i2", "t5"):
        assert torch.equal(layer.pack(format)(x.cuda()).cpu(), expected)


@pytest.mark.parametrize("rows", [1, 4, 16, 300])
@pytest.mark.parametrize("in_features", [2560, 2561])
def test_no_product_begins_before_its_weight_is_quantized(rows, in_features):
    """Change the weights at every call: kernels may begin before the one ahead has ended, and load weights at once."""
    layer = BitLinear(in_features, 2560, bias=False, device="cuda")
    x = torch.randn(rows, in_features, device="cuda", dtype=torch.bfloat16)
    outputs = []
    with torch.no_grad():
        first = layer(x)
        for _ in range(100):
            layer.weight.neg_()
            outputs.append(layer(x))
    assert all(torch.equal(y, first if i % 2 else -first) for i, y in enumerate(outputs))


@pytest.mark.parametrize("tf32", [False, True])
def test_gradients_are_the_cpus(tf32):
    """Compare a wide layer: TF32, where it is allowed, may round gradients, and never the forward."""
    layer, x, dy = BitLinear(1000, 300), torch.randn(50, 1000), torch.randn(50, 300)
    on_gpu, x_gpu = copy.deepcopy(layer).cuda(), x.cuda().requires_grad_()
    x.requires_grad_()
    y = layer(x)
    y.backward(dy)
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = tf32
    try:
        y_gpu = on_gpu(x_gpu)
        y_gpu.backward(dy.cuda())
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
    assert torch.equal(y_gpu.cpu(), y)
    tolerance = 1e-2 if tf32 else 1e-5
    for a, b in ((x_gpu, x), (on_gpu.weight, layer.weight), (on_gpu.bias, layer.bias)):
        assert (a.grad.cpu() - b.grad).abs().max() <= tolerance * b.grad.abs().max()


@pytest.mark.parametrize("use_rms_norm", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [1, 3, 60, 300])  # few rows read the packed weight, many read floats
def test_gradients_are_the_straight_through_estimators(rows, dtype, use_rms_norm):
    layer = BitLinear(1001, 299, use_rms_norm=use_rms_norm, rms_norm_eps=1e-5).to("cuda", dtype)
    x, dy = torch.randn(rows, 1001, dtype=dtype), torch.randn(rows, 299, dtype=dtype)
    on_gpu = x.cuda().requires_grad_()
    layer(on_gpu).backward(dy.cuda())
    norm = layer.rms_norm.weight.detach() if use_rms_norm else None
    gradients = [tensor.grad.double().cpu() for tensor in (on_gpu, *layer.parameters())]
    results = estimator(layer, x, dy, norm), estimator(layer, x, dy, norm, absolute=True)
    bound = 8 * (max(rows, 1001) + 8) * 2.0**-24 if dtype == torch.float32 else 0.02
    for gradient, expected, magnitude in zip(gradients, *results, strict=True):
        assert ((gradient - expected).abs() <= bound * magnitude + 1e-30).all()


def estimator(layer, x, dy, norm, absolute=False):
    """Return gradients of x, weight, bias and norm's weight in float64 on the CPU; of all magnitudes if `absolute`."""
    size = torch.abs if absolute else torch.clone
    ops = torch.ops.bitnet_jit
    on_gpu = x.cuda()
    x_q, x_scale = ops.quantize_activation(on_gpu) if norm is None else ops.rms_norm_quantize(on_gpu, norm, 1e-5)
    w_q, w_scale = (tensor.double().cpu() for tensor in quantize_weight(layer.weight))
    seen = x_q.double().cpu() * x_scale.double().cpu()[:, None]
    x, dy = size(x.double()), size(dy.double())
    inner, rest = dy @ size(w_q * w_scale), (dy.T @ size(seen), dy.sum(0))
    if norm is None:
        return inner, *rest
    g = size(norm.double().cpu())
    r = (x.square().mean(1, keepdim=True) + 1e-5).rsqrt()
    back = r**2 * (inner * g * x).mean(1, keepdim=True) * x
    return r * (inner * g + back if absolute else inner * g - back), *rest, (inner * x * r).sum(0)


@pytest.mark.parametrize("format", ["i2", "t5"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 70), (3, 2560), (130, 513), (0, 70)])
def test_a_layer_with_a_norm_inside_is_the_same_packed(shape, dtype, format):
    layer = BitLinear(shape[-1], 37, use_rms_norm=True).to("cuda", dtype).eval()
    nn.init.uniform_(layer.rms_norm.weight, 0.5, 2.0)
    x = torch.randn(shape, device="cuda", dtype=dtype)
    assert torch.equal(layer.pack(format)(x), layer(x))


@pytest.mark.parametrize("rows", [3, 300])
def test_lora_on_a_packed_layer_is_the_cpus(rows):
    torch.manual_seed(0)
    layer = add_lora(BitLinear(130, 70).pack(), r=4)
    nn.init.normal_(layer.lora_B.weight)
    x, dy = torch.randn(rows, 130, requires_grad=True), torch.randn(rows, 70)
    on_gpu, x_gpu = copy.deepcopy(layer).cuda(), x.detach().cuda().requires_grad_()
    y, y_gpu = layer(x), on_gpu(x_gpu)
    y.backward(dy)
    y_gpu.backward(dy.cuda())
    torch.testing.assert_close(y_gpu.cpu(), y, rtol=1e-4, atol=1e-4)
    for a, b in ((x_gpu, x), (on_gpu.lora_A.weight, layer.lora_A.weight), (on_gpu.lora_B.weight, layer.lora_B.weight)):
        torch.testing.assert_close(a.grad.cpu(), b.grad, rtol=1e-4, atol=1e-3)


def train(model, run, autocast, steps=20):
    """Return the losses of some steps of Adam on a fixed regression."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(64, 16, generator=generator).cuda()
    target = torch.stack([x[:, :4].sum(1), x[:, 4:8].prod(1), x[:, 8].abs(), x[:, 9] * x[:, 10]], 1)
    optimizer, losses = torch.optim.Adam(model.parameters(), lr=1e-2), []
    for _ in range(steps):
        with torch.autocast("cuda", torch.bfloat16, enabled=autocast):
            loss = (run(x).float() - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.filterwarnings("ignore:The CUDA Graph is empty:UserWarning")
@pytest.mark.parametrize(
    "options", [{"backend": "aot_eager"}, {"backend": "inductor"}, {"mode": "reduce-overhead"}], ids=str
)
@pytest.mark.parametrize("autocast", [False, True])
def test_compiled_training_is_eager_training(autocast, options):
    torch._dynamo.reset()
    torch.manual_seed(0)
    eager = convert(nn.Sequential(nn.Linear(16, 32), nn.SiLU(), nn.Linear(32, 32), nn.SiLU(), nn.Linear(32, 4))).cuda()
    compiled = copy.deepcopy(eager)
    losses = train(eager, eager, autocast)
    compiled_losses = train(compiled, torch.compile(compiled, fullgraph=True, **options), autocast)
    assert losses[-1] < 0.7 * losses[0]
    if options.get("backend") == "aot_eager":
        np.testing.assert_allclose(compiled_losses, losses, rtol=1e-5)
    else:  # a code may flip on the last bit of inductor's SiLU
        np.testing.assert_allclose(compiled_losses[:3], losses[:3], rtol=1e-2 if autocast else 1e-4)
        np.testing.assert_allclose(compiled_losses[-1], losses[-1], rtol=0.1)


@pytest.mark.parametrize("format", ["i2", "t5"])
def test_moves_between_devices(format):
    model, x = pack(nn.Sequential(BitLinear(70, 64), nn.ReLU(), BitLinear(64, 37)), format), torch.randn(3, 70)
    expected, state = model(x), model.state_dict()
    model.cuda().half()
    assert model[0].layout == registry.preferred_layout(format, "cuda").name
    for name, tensor in model.state_dict().items():
        assert tensor.is_cuda
        if not name.endswith("bias"):
            assert torch.equal(tensor.cpu(), state[name])
    model.float().load_state_dict(state)  # the biases were halves in between
    assert torch.equal(pickle.loads(pickle.dumps(model))(x.cuda()).cpu(), expected)
    model.to("cpu")
    assert model[0].layout == registry.preferred_layout(format, "cpu").name
    assert torch.equal(copy.deepcopy(model)(x), expected)


def test_assigning_a_state_moves_the_layer():
    layer = PackedBitLinear(70, 37, device="meta")
    other = BitLinear(70, 37).pack()
    x = torch.randn(3, 70)
    expected = other(x)
    layer.load_state_dict(other.cuda().state_dict(), assign=True)
    assert layer.w_packed.is_cuda
    assert torch.equal(layer(x.cuda()).cpu(), expected)
