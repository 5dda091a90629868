"""peft's LoRA on packed layers: the same numbers as ours, its training, saving, several adapters, and the merge."""

import copy
import pickle
import warnings

import pytest
import torch
from torch import nn

pytest.importorskip("transformers", reason="the extra `transformers` is not installed")
with warnings.catch_warnings():
    # what peft and transformers import of torch says at import that it is deprecated
    warnings.simplefilter("ignore", DeprecationWarning)
    peft = pytest.importorskip("peft", reason="peft is not installed (pip install peft)")
    from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

from bitnet_jit import PackedBitLinear, RMSNorm, convert, pack
from bitnet_jit.errors import InvalidInput
from bitnet_jit.integrations.peft import LOSSY, register
from bitnet_jit.nn.lora import add_lora, lora_layers
from bitnet_jit.nn.lora_merge import merge_lora

IN, HIDDEN, OUT, RANK = 20, 32, 6, 4
IDS = torch.arange(24).reshape(2, 12)


class Mlp(nn.Module):
    """Two packed layers, of different formats and scales."""

    def __init__(self):
        super().__init__()
        self.up = packed(IN, HIDDEN, torch.rand(HIDDEN) + 0.1, "t5")
        self.down = packed(HIDDEN, OUT, torch.tensor(0.3), "i2")

    def forward(self, x):
        return self.down(torch.relu(self.up(x)))


def packed(in_features, out_features, w_scale, format):
    w_q = torch.randint(-1, 2, (out_features, in_features), dtype=torch.int8)
    return PackedBitLinear.from_codes(w_q, w_scale, torch.randn(out_features), format=format)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def config(**options):
    options = {"r": RANK, "lora_alpha": 8, "target_modules": ["up", "down"], **options}
    return register(peft.LoraConfig(**options))


def adapted(base=None, **options):
    """A model with trained-looking adapters."""
    model = peft.get_peft_model(Mlp() if base is None else base, config(**options))
    disturb(model)
    return model


def disturb(model):
    for parameter in model.parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter, std=0.3)


def ours(model, base):
    """The same factors in our own layers."""
    twin = add_lora(copy.deepcopy(base), r=RANK, alpha=8.0)
    for name, layer in lora_layers(twin).items():
        theirs = model.base_model.model.get_submodule(name)
        layer.lora_A.load_state_dict(theirs.lora_A["default"].state_dict())
        layer.lora_B.load_state_dict(theirs.lora_B["default"].state_dict())
    return twin


def test_numbers_and_gradients_are_those_of_our_own_layers():
    base, x = Mlp(), torch.randn(5, IN)
    model = adapted(copy.deepcopy(base))
    twin = ours(model, base)
    results = []
    for run, layers in ((model, model.base_model.model), (twin, twin)):
        y = run(x)
        y.square().sum().backward()
        factors = [layers.up.lora_A, layers.up.lora_B, layers.down.lora_A, layers.down.lora_B]
        weights = [(f["default"] if isinstance(f, nn.ModuleDict) else f).weight for f in factors]
        results.append([y.detach(), *(weight.grad for weight in weights)])
    for found, wanted in zip(*results, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


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
    twin, y = ours(model, base), model(x)
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
def test_what_a_packed_base_cannot_have(options, error, words):
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


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing:FutureWarning")  # peft's of transformers
class TestAllLinear:
    """target_modules="all-linear" means packed layers, too."""

    LAYERS = {
        f"model.layers.{i}.{name}"
        for i in range(2)
        for name in (*(f"self_attn.{n}_proj" for n in "qkvo"), *(f"mlp.{n}_proj" for n in ("gate", "up", "down")))
    }

    @staticmethod
    def llama(head=LlamaForCausalLM, **options):
        torch.manual_seed(0)
        sizes = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2}
        model = head(LlamaConfig(vocab_size=64, num_hidden_layers=2, pad_token_id=0, **sizes)).eval()
        return pack(convert(model, **options))

    @staticmethod
    def targeted(model, **options):
        adapted = peft.get_peft_model(model, config(**{"target_modules": "all-linear", **options}))
        return set(adapted.targeted_module_names)

    def test_every_packed_layer_but_the_head(self):
        assert self.targeted(self.llama()) == self.LAYERS
        assert self.targeted(self.llama(exclude=[])) == self.LAYERS  # the head is packed, too
        assert self.targeted(self.llama(), target_modules="ALL-linear") == self.LAYERS
        head = peft.TaskType.SEQ_CLS
        sequences = self.llama(LlamaForSequenceClassification, exclude=["score"])
        assert self.targeted(sequences, task_type=head) == self.LAYERS

    def test_dense_layers_beside_packed_ones(self):
        assert self.targeted(self.llama(include=["*.mlp.*"])) == self.LAYERS
        assert self.targeted(nn.Sequential(Mlp(), nn.Linear(OUT, 2))) == {"0.up", "0.down", "1"}

    def test_excluded_modules(self):
        attention = {name for name in self.LAYERS if "mlp" not in name}
        assert self.targeted(self.llama(), exclude_modules=["up_proj", "gate_proj", "down_proj"]) == attention
        assert self.targeted(self.llama(), exclude_modules=r".*\.mlp\..*") == attention

    def test_a_second_adapter_and_none_inside_adapters(self):
        model = peft.get_peft_model(self.llama(), config(target_modules="all-linear"))
        model.add_adapter("second", config(target_modules="all-linear", r=2))
        assert set(model.targeted_module_names) == self.LAYERS
        assert all("second" in model.base_model.model.get_submodule(name).lora_A for name in self.LAYERS)
        ours = add_lora(nn.Sequential(Mlp(), Mlp()), include=["0.*"])
        assert self.targeted(ours) == {"1.up", "1.down"}

    def test_only_registered_configs_are_changed(self):
        plain = peft.LoraConfig(target_modules="all-linear")
        model = peft.get_peft_model(nn.Sequential(nn.Linear(IN, IN), Mlp()), plain)
        assert set(model.targeted_module_names) == {"0"}

    @pytest.mark.parametrize("low_cpu_mem_usage", [True, False])
    def test_saved_and_loaded(self, tmp_path, low_cpu_mem_usage):
        model = adapted(self.llama(), target_modules="all-linear")
        model.save_pretrained(tmp_path)
        again = peft.PeftModel.from_pretrained(
            self.llama(),
            tmp_path,
            config=register(peft.LoraConfig.from_pretrained(tmp_path)),
            low_cpu_mem_usage=low_cpu_mem_usage,
        )
        assert torch.equal(again(IDS).logits, model(IDS).logits)
        with pytest.warns(UserWarning, match="ternary"):
            merged = again.merge_and_unload()
        assert type(merged.model.layers[0].mlp.up_proj) is PackedBitLinear
