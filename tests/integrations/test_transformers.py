"""`patch` on models of transformers, made here with random weights: same layers, same text, less memory."""

import gc
import warnings
import weakref

import pytest
import torch
from torch import nn

pytest.importorskip("transformers", reason="the extra `transformers` is not installed")

with warnings.catch_warnings():
    # importing transformers imports torch.jit, which warns that it is deprecated
    warnings.simplefilter("ignore", DeprecationWarning)
    from transformers import BitNetConfig, BitNetForCausalLM, BitNetQuantConfig, LlamaConfig, LlamaForCausalLM
    from transformers.integrations.bitnet import AutoBitLinear, BitLinear, pack_weights, replace_with_bitnet_linear

from bitnet_jit import PackedBitLinear, patch
from bitnet_jit.errors import CheckpointError, CheckpointWarning, InvalidInput

SIZES = {
    "vocab_size": 64,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 63,
}
STORAGE = {
    "divisor": ("bitlinear", "offline"),
    "multiplier": ("autobitlinear", "offline"),
    "masters": ("autobitlinear", "online"),
}
FAMILIES = ("bitnet", "llama")
IDS = torch.arange(2, 26).reshape(2, 12)


@pytest.fixture(autouse=True)
def _their_functions_run_eagerly():
    """Keep transformers from compiling three small functions, which takes a C++ compiler and many seconds."""
    with torch.compiler.set_stance("force_eager"):
        yield


def build(family, storage, use_rms_norm=False, dtype=torch.float32):
    """Make a small model with loaded, random weights; the Llama has biases in its attention."""
    torch.manual_seed(0)
    if family == "bitnet":
        model = BitNetForCausalLM(BitNetConfig(**SIZES, tie_word_embeddings=True))
    else:
        model = LlamaForCausalLM(LlamaConfig(**SIZES, attention_bias=True))
    linear_class, mode = STORAGE[storage]
    quantization = BitNetQuantConfig(linear_class=linear_class, quantization_mode=mode, use_rms_norm=use_rms_norm)
    model = replace_with_bitnet_linear(model.to(dtype), ["lm_head"], quantization)
    for layer in theirs(model).values():
        fill(layer)
    return model.eval()


def fill(layer):
    """Draw ternary weights, their scale in the layer's own sense, and a bias; or masters."""
    if any(tensor.is_meta for tensor in layer.state_dict().values()):
        layer.to_empty(device="cpu")
    w_q = torch.randint(-1, 2, (layer.out_features, layer.in_features))
    scale = torch.empty(()).uniform_(0.02, 0.2).item()
    with torch.no_grad():
        if isinstance(layer, BitLinear):
            layer.weight.copy_(pack_weights(w_q))
            layer.weight_scale.fill_(1 / scale)
        elif layer.online_quant:
            layer.weight.normal_(0, scale)
        else:
            layer.weight.copy_(w_q)
            layer.weight_scale.fill_(scale)
        if layer.bias is not None:
            layer.bias.normal_()
        if layer.rms_norm is not None:
            layer.rms_norm.weight.uniform_(0.5, 2.0)


def theirs(model):
    return {name: module for name, module in model.named_modules() if isinstance(module, (BitLinear, AutoBitLinear))}


def num_bytes(model):
    """Return the bytes of all storages that a model holds."""
    tensors = [*model.parameters(), *model.buffers()]
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())


@torch.no_grad()
def record(model):
    """Return the input and output of each of their layers in one forward, and the logits."""
    calls, hooks = {}, []
    for name, layer in theirs(model).items():
        hooks.append(layer.register_forward_hook(lambda _, args, y, name=name: calls.update({name: (args[0], y)})))
    logits = model(IDS).logits
    for hook in hooks:
        hook.remove()
    return calls, logits


def same_codes(x):
    """Tell the rows of x (..., K) whose int8 codes are ours too, (...): all but a few.

    `127 / tensor` is 127 * (1 / tensor) in torch, rounded twice where the contract divides once; at times the two
    scales differ in the last bit, and a code near a half-integer with them.
    """
    x_q, _ = torch.ops.bitnet_jit.quantize_activation(x)
    scale = 127 / x.abs().amax(-1, keepdim=True).clamp(min=1e-5)
    same = ((x * scale).round() == x_q).all(-1)
    assert same.float().mean() > 0.8
    return same


@pytest.mark.parametrize("use_rms_norm", [False, True])
@pytest.mark.parametrize("storage", STORAGE)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_layer_and_the_logits_agree(family, storage, use_rms_norm):
    model = build(family, storage, use_rms_norm)
    calls, logits = record(model)
    assert len(calls) == 14
    assert patch(model) is model
    assert not theirs(model)
    with torch.no_grad():
        for name, (x, y) in calls.items():
            layer = model.get_submodule(name)
            difference = (layer(x) - y).abs()[same_codes(layer.rms_norm(x) if use_rms_norm else x)]
            assert difference.max() <= 1e-5 * y.abs().max()
        difference = (model(IDS).logits - logits).abs()
    # a code that flips on the last bit of a norm moves all that follows
    assert difference.mean() <= 0.01 * logits.std()


@pytest.mark.parametrize("storage", STORAGE)
@pytest.mark.parametrize("family", FAMILIES)
def test_generate_still_works(family, storage):
    model = build(family, storage)
    options = {"max_new_tokens": 8, "do_sample": False}
    with torch.no_grad():
        expected = model.generate(IDS[:, :4], **options)
        text = patch(model).generate(IDS[:, :4], **options)
    assert text.shape == expected.shape
    assert torch.equal(text[:, :5], expected[:, :5])


@pytest.mark.parametrize("storage", STORAGE)
def test_the_old_weights_are_freed(storage):
    model = build("llama", storage)
    before = {name: (layer.weight.numel(), layer.bias is not None) for name, layer in theirs(model).items()}
    layers = [weakref.ref(layer) for layer in theirs(model).values()]
    others = num_bytes(model) - num_bytes(nn.ModuleList(theirs(model).values()))
    patch(model)
    gc.collect()
    assert [layer() for layer in layers] == [None] * len(before)
    packed = {name: model.get_submodule(name) for name in before}
    expected = sum(
        p.w_packed.numel() + 4 + (4 * p.out_features if before[name][1] else 0) for name, p in packed.items()
    )
    assert num_bytes(model) == others + expected


def test_the_packed_weight_is_theirs():
    for storage in STORAGE:
        model = build("llama", storage)
        name, layer = next(iter(theirs(model).items()))
        weight = layer.weight.detach().clone()
        w_q, w_scale = patch(model).get_submodule(name).unpack()
        if storage == "divisor":
            assert torch.equal(pack_weights(w_q.int()), weight)
            torch.testing.assert_close(w_scale, 1 / layer.weight_scale.reshape(()))
        elif storage == "multiplier":
            assert torch.equal(w_q.float(), weight)
            assert w_scale == layer.weight_scale
        else:
            torch.testing.assert_close(w_scale, weight.abs().mean())


def test_bfloat16_models_and_the_other_format():
    model = build("bitnet", "multiplier", dtype=torch.bfloat16)
    calls, _ = record(model)
    patch(model, format="t5")
    for name, (x, y) in calls.items():
        layer = model.get_submodule(name)
        assert layer.format == "t5"
        assert layer(x).dtype == torch.bfloat16
        assert (layer(x).float() - y.float()).abs().max() <= 0.03 * y.float().abs().max()


def test_a_patched_layer_compiles_whole():
    layer = patch(build("bitnet", "divisor")).get_submodule("model.layers.0.mlp.up_proj")
    x = torch.randn(3, 48)
    torch._dynamo.reset()
    with torch.compiler.set_stance("default"):
        compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
        assert torch.equal(compiled(x), layer(x))


def test_the_state_of_a_patched_model_loads_into_another():
    first, second = build("llama", "divisor"), build("llama", "divisor")
    for layer in theirs(second).values():
        fill(layer)
    patch(second).load_state_dict(patch(first).state_dict())
    with torch.no_grad():
        assert torch.equal(second(IDS).logits, first(IDS).logits)


def test_nothing_to_patch():
    with pytest.raises(InvalidInput, match="LlamaForCausalLM holds no .*BitLinear or .*AutoBitLinear"):
        patch(LlamaForCausalLM(LlamaConfig(**SIZES)))


def test_a_model_that_is_not_loaded():
    with pytest.raises(InvalidInput, match=r"q_proj\.weight: .*meta"):
        patch(build("llama", "divisor").to("meta"))


DAMAGE = {
    "code 3": ("divisor", "weight", 255, "layers.1.mlp.down_proj.weight: .*the code 3"),
    "no code at all": ("multiplier", "weight", 0.5, "layers.1.mlp.down_proj.weight: .*found 0.5"),
    "NaN among codes": ("multiplier", "weight", torch.nan, "layers.1.mlp.down_proj.weight: .*found nan"),
    "NaN among masters": ("masters", "weight", torch.nan, "layers.1.mlp.down_proj: w_scale: .*nan"),
    "divisor of 0": ("divisor", "weight_scale", 0.0, "layers.1.mlp.down_proj.weight_scale: .*found 0"),
    "negative scale": ("multiplier", "weight_scale", -1.0, "layers.1.mlp.down_proj.weight_scale: .*found -1"),
    "infinite scale": ("multiplier", "weight_scale", torch.inf, "layers.1.mlp.down_proj.weight_scale: .*found inf"),
}


@pytest.mark.parametrize(("storage", "name", "value", "words"), DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_layer_is_named_and_the_model_stays(storage, name, value, words):
    model = build("bitnet", storage)
    getattr(model.model.layers[1].mlp.down_proj, name).data[0] = value
    with pytest.raises(CheckpointError, match=words):
        patch(model)
    assert len(theirs(model)) == 14


@pytest.mark.parametrize(
    ("storage", "name", "value", "words"),
    [
        ("divisor", "weight_scale", 0.05, r"down_proj.weight_scale = 0.05 \(BitLinear .*looks like a multiplier"),
        ("multiplier", "weight_scale", 20.0, r"down_proj.weight_scale = 20 \(AutoBitLinear .*looks like a divisor"),
        ("multiplier", "weight", 0.0, r"down_proj.weight: .*0\.2\.\.0\.95, found 0\.000"),
        ("masters", "weight", 0.1, r"down_proj.weight: .*found 1\.000"),
    ],
)
def test_unlikely_values_are_told_once(storage, name, value, words):
    model = build("bitnet", storage)
    for layer in model.model.layers:
        getattr(layer.mlp.down_proj, name).data.fill_(value)
    with pytest.warns(CheckpointWarning, match=words + ".*; and 1 more") as told:
        patch(model)
    assert len(told) == 1
    assert isinstance(model.model.layers[0].mlp.down_proj, PackedBitLinear)
