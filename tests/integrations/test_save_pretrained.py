"""`save_pretrained` of a model with packed layers raises, in whatever way it is reached; all others write as before."""

import copy
import pickle
import subprocess
import sys
import warnings

import pytest
import torch
from torch import nn

pytest.importorskip("transformers", reason="the extra `transformers` is not installed")

with warnings.catch_warnings():
    # importing transformers imports torch.jit, which warns that it is deprecated
    warnings.simplefilter("ignore", DeprecationWarning)
    from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments
    from transformers.integrations.bitnet import replace_with_bitnet_linear

import bitnet_jit
from bitnet_jit.errors import InvalidInput

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")

SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "pad_token_id": 0,
}


def dense():
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SIZES))


def packed():
    return bitnet_jit.pack(bitnet_jit.convert(dense()))


def patched():
    from transformers import BitNetQuantConfig

    config = BitNetQuantConfig(linear_class="autobitlinear", quantization_mode="online")
    model = replace_with_bitnet_linear(dense(), ["lm_head"], config)
    for name, module in model.named_modules():
        if type(module).__name__ == "AutoBitLinear":
            module.to_empty(device="cpu")
            nn.init.normal_(module.weight, std=0.1)
            assert "lm_head" not in name
    return bitnet_jit.patch(model)


def inner_alone():
    model = dense()
    bitnet_jit.pack(bitnet_jit.convert(model.model))
    return model


def one_layer_alone():
    model = dense()
    layer = model.model.layers[0].mlp
    layer.up_proj = bitnet_jit.BitLinear(32, 48, bias=False).pack("t5")
    return model


def with_adapters():
    return bitnet_jit.add_lora(packed(), r=2, include=["*.q_proj"])


MODELS = {
    "packed": packed,
    "patched": patched,
    "inner model": inner_alone,
    "one layer": one_layer_alone,
    "adapters": with_adapters,
    "deepcopy": lambda: copy.deepcopy(packed()),
    "unpickled": lambda: pickle.loads(pickle.dumps(with_adapters())),
}


@pytest.mark.parametrize("kind", MODELS)
def test_save_pretrained_raises(kind, tmp_path):
    model = MODELS[kind]()
    for options in ({}, {"state_dict": model.state_dict()}, {"max_shard_size": "1KB"}):
        with pytest.raises(InvalidInput, match=r"use bitnet_jit.save\(model, directory\)"):
            model.save_pretrained(tmp_path / "model", **options)
    assert not (tmp_path / "model").exists()


def test_a_trainer_raises(tmp_path):
    arguments = TrainingArguments(output_dir=str(tmp_path / "run"), report_to=[], use_cpu=True)
    trainer = Trainer(model=with_adapters(), args=arguments)
    with pytest.raises(InvalidInput, match=r"bitnet_jit.lora_state_dict\(model\) gives the adapters alone"):
        trainer.save_model(str(tmp_path / "model"))


def test_dense_and_trainable_models_are_written_as_before(tmp_path):
    packed()  # the guard is there
    for model in (dense(), bitnet_jit.convert(dense())):
        model.save_pretrained(tmp_path)
        again = LlamaForCausalLM.from_pretrained(tmp_path)
        assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in model.state_dict().items())


def test_the_guard_is_put_on_once():
    packed()
    before = LlamaForCausalLM.save_pretrained
    packed()
    assert LlamaForCausalLM.save_pretrained is before
    assert before.__name__ == "save_pretrained"
    assert before.__doc__


def test_a_model_unpickled_by_another_process_raises(tmp_path):
    file = tmp_path / "model.pickle"
    file.write_bytes(pickle.dumps(packed()))
    script = f"""
import pickle, sys, warnings
warnings.simplefilter("ignore")
model = pickle.loads(open({str(file)!r}, "rb").read())
try:
    model.save_pretrained({str(tmp_path / "model")!r})
except ValueError as error:
    sys.exit("bitnet_jit.save" not in str(error))
sys.exit(2)
"""
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
