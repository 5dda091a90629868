"""`target_modules="all-linear"` of peft on models with packed layers."""

import pytest
import torch
from peft_models import (
    IDS,
    IN,
    OUT,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    Mlp,
    adapted,
    config,
    peft,
)
from torch import nn

from bitnet_jit import PackedBitLinear, convert, pack
from bitnet_jit.integrations.peft import register
from bitnet_jit.nn.lora import add_lora


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


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
