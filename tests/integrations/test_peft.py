"""peft's LoRA on packed layers: the same numbers as ours, its training, saving, several adapters, and the merge."""

import copy
import pickle

import pytest
import torch
from peft_models import (
    IDS,
    IN,
    OUT,
    LlamaConfig,
    LlamaForCausalLM,
    Mlp,
    adapted,
    config,
    disturb,
    peft,
    with_our_layers,
)
from torch import nn

from bitnet_jit import RMSNorm, convert, pack
from bitnet_jit.errors import InvalidInput
from bitnet_jit.integrations.peft import LOSSY, register
from bitnet_jit.nn.lora_merge import merge_lora


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def test_numbers_and_gradients_are_those_of_our_own_layers():
    base, x = Mlp(), torch.randn(5, IN)
    model = adapted(copy.deepcopy(base))
    twin = with_our_layers(model, base)
    results = []
    for run, layers in ((model, model.base_model.model), (twin, twin)):
        y = run(x)
        y.square().sum().backward()
        factors = [layers.up.lora_A, layers.up.lora_B, layers.down.lora_A, layers.down.lora_B]
        weights = [(f["default"] if isinstance(f, nn.ModuleDict) else f).weight for f in factors]
        results.append([y.detach(), *(weight.grad for weight in weights)])
    for theirs, wanted in zip(*results, strict=True):
        torch.testing.assert_close(theirs, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_training_learns_and_touches_no_base(dtype):
    model = peft.get_peft_model(Mlp(), config(lora_dropout=0.1))
    before = {name: t.clone() for name, t in model.state_dict().items() if "base_layer" in name}
    assert len(before) == 6
    assert all("lora_" in name for name, parameter in model.named_parameters() if parameter.requires_grad)
    x, target = torch.randn(32, IN).to(dtype), torch.randn(32, OUT)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(30):
        y = model(x)
        assert y.dtype == dtype
        loss = (y.float() - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
    for name, tensor in before.items():
        assert torch.equal(model.state_dict()[name], tensor)


def test_autocast():
    model, x = adapted(), torch.randn(5, IN)
    with torch.autocast("cpu", torch.bfloat16):
        y = model(x)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), model(x), rtol=0.1, atol=0.2)


def test_save_and_load(tmp_path):
    base, x = Mlp(), torch.randn(5, IN)
    model = adapted(copy.deepcopy(base))
    model.save_pretrained(tmp_path)
    loaded = peft.PeftModel.from_pretrained(base, tmp_path, config=config())
    assert torch.equal(loaded(x), model(x))


def test_adapters_are_switched_off_and_mixed_in_a_batch():
    base, x = Mlp(), torch.randn(2, IN)
    y = base(x)
    model = adapted(base)
    first = model(x)
    with model.disable_adapter():
        assert torch.equal(model(x), y)
    model.add_adapter("other", config())
    model.set_adapter("other")
    disturb(model)
    second = model(x)
    mixed = model.eval()(x, adapter_names=["default", "other"])
    torch.testing.assert_close(mixed, torch.stack([first[0], second[1]]))


def test_copies_and_pickles():
    model, x = adapted(), torch.randn(5, IN)
    layer = model.base_model.model.up
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(other(x), layer(x))


def test_merging_is_our_merge_and_unmerging_is_exact():
    base, x = Mlp(), torch.randn(5, IN)
    model = adapted(copy.deepcopy(base))
    twin, y = with_our_layers(model, base), model(x)
    assert merge_lora(twin).changed > 0
    with pytest.warns(UserWarning, match=LOSSY):
        model.merge_adapter()
    assert torch.equal(model(x), twin(x))
    model.unmerge_adapter()
    assert torch.equal(model(x), y)
    with pytest.warns(UserWarning, match=LOSSY):
        merged = model.merge_and_unload()
    assert isinstance(merged, Mlp)
    for name, tensor in twin.state_dict().items():
        assert torch.equal(merged.state_dict()[name], tensor)


def test_merged_adapters_are_switched_off_too():
    base, x = Mlp(), torch.randn(5, IN)
    y = base(x)
    model = adapted(base)
    with pytest.warns(UserWarning, match=LOSSY):
        model.merge_adapter()
    with model.disable_adapter():
        assert torch.equal(model(x), y)


def test_adapters_merged_one_after_the_other_are_rounded_once():
    model = adapted()
    model.add_adapter("other", config())
    model.set_adapter("other")
    disturb(model)
    with pytest.warns(UserWarning, match=LOSSY):
        model.merge_adapter(["default", "other"])
    together = model.base_model.model.up.base_layer.unpack()[0]
    model.unmerge_adapter()
    with pytest.warns(UserWarning, match=LOSSY):
        model.merge_adapter(["default"])
    with pytest.warns(UserWarning, match="Already following adapters were merged|" + LOSSY):
        model.merge_adapter(["other"])
    assert torch.equal(model.base_model.model.up.base_layer.unpack()[0], together)
    assert model.base_model.model.up.merged_adapters == ["default", "other"]


def test_unload_gives_the_base_back():
    base, x = Mlp(), torch.randn(5, IN)
    y = base(x)
    assert torch.equal(adapted(base).unload()(x), y)


def test_broken_factors_are_not_merged():
    model = adapted()
    layer = model.base_model.model.up
    nn.init.constant_(layer.lora_A["default"].weight, torch.nan)
    base = layer.base_layer
    with pytest.raises(InvalidInput, match=r"default\.lora_A\.weight: .*nan"):
        layer.merge()
    assert layer.base_layer is base
    assert not layer.merged


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"init_lora_weights": "pissa"}, InvalidInput, "init_lora_weights: .*'pissa'"),
        ({"lora_bias": True}, InvalidInput, "lora_bias: .*True"),
        ({"use_dora": True}, ValueError, "use_dora"),
    ],
)
def test_options_that_a_packed_base_cannot_have_are_refused(options, error, words):
    with pytest.raises(error, match=words):
        peft.get_peft_model(Mlp(), config(**options))


def test_a_norm_inside_the_base_is_refused():
    base = Mlp()
    base.up.put_inside(RMSNorm(IN))
    with pytest.raises(InvalidInput, match=r"base_layer: has a norm inside.*bitnet_jit\.add_lora"):
        peft.get_peft_model(base, config())


def test_versions_with_other_arguments_are_refused(monkeypatch):
    monkeypatch.setattr(peft, "__version__", "0.19.1")
    with pytest.raises(ImportError, match=r"peft: expected version 0\.20 or newer, found 0\.19\.1"):
        config()


def test_register_takes_configs_only():
    with pytest.raises(InvalidInput, match=r"config: expected a peft\.LoraConfig, got dict"):
        register({"r": 4})


@pytest.mark.filterwarnings(
    "ignore:.*is deprecated and will be removed:FutureWarning"
)  # peft uses transformers' old names
def test_a_transformers_model_with_gradient_checkpointing():
    sizes = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4}
    base = LlamaForCausalLM(LlamaConfig(**sizes, num_hidden_layers=2, num_key_value_heads=2, pad_token_id=0))
    pack(convert(base))
    model = peft.get_peft_model(base, config(target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM"))
    disturb(model)
    model.enable_input_require_grads()
    gradients = []
    for checkpointed in (False, True):
        if checkpointed:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        model.zero_grad()
        model(input_ids=IDS, labels=IDS).loss.backward()
        gradients.append({n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad})
    assert len(gradients[0]) == 8
    assert all(gradient.any() for gradient in gradients[0].values())
    for name, gradient in gradients[1].items():
        torch.testing.assert_close(gradient, gradients[0][name])
