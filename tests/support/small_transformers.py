"""Small models of transformers, their logits, and the folders that hold them."""

import json
import warnings

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import bitnet_jit

transformers = pytest.importorskip("transformers", reason="the extra `transformers` is not installed")

SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
}
LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 16}
ROPES = {
    "default": {"rope_theta": 500.0},
    "llama3": {"rope_theta": 5000.0, **LLAMA3},
    "linear": {"rope_theta": 5000.0, "factor": 4.0},
    "dynamic": {"rope_theta": 5000.0, "factor": 4.0},
    "yarn": {"rope_theta": 5000.0, "factor": 4.0, "original_max_position_embeddings": 16},
    "longrope": {
        "rope_theta": 5000.0,
        "factor": 4.0,
        "original_max_position_embeddings": 16,
    },
}
LONG = {"short_factor": 1.0, "long_factor": 2.0}
OURS = ("default", "linear", "llama3", "yarn", "longrope")
FAMILIES = {"bitnet": "BitNet", "llama": "Llama", "qwen3": "Qwen3"}
HUGGING_FACE = ("autobitlinear", "bitlinear")
FORMATS = (*HUGGING_FACE, "i2", "t5")
NEAR = 2e-2  # of logits that deviate by 0.1: an activation at a half-integer may get another code
IDS = torch.randint(3, 60, (2, 40), generator=torch.Generator().manual_seed(3))


@pytest.fixture
def eager_transformers():
    """Keep transformers from compiling at its first call, which takes a C++ compiler and many seconds; silence it."""
    level = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    with torch.compiler.set_stance("force_eager"):
        yield
    transformers.logging.set_verbosity(level)


def build(family, rope="default", head_dim=8, **fields):
    """Make a model of transformers with random weights and biases that are not zero."""
    torch.manual_seed(0)
    fields = {**SIZES, "eos_token_id": 2, "num_key_value_heads": 2, **fields}
    if family == "bitnet":
        head_dim = 8  # its config has no such field
    if family != "llama":
        fields.pop("mlp_bias", None)
    if family != "bitnet":
        fields["head_dim"] = head_dim
    config = getattr(transformers, f"{FAMILIES[family]}Config")(
        **fields, rope_parameters=rope_parameters(rope, head_dim)
    )
    model = getattr(transformers, f"{FAMILIES[family]}ForCausalLM")(config)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(parameter, std=0.1)
        if name.endswith(("q_norm.weight", "k_norm.weight")):
            nn.init.uniform_(parameter, 0.5, 2.0)
    return model.eval()


def rope_parameters(rope, head_dim):
    """Return the rotary parameters of a kind; longrope has a factor per pair of dimensions."""
    lists = {name: [first + 0.5 * i for i in range(head_dim // 2)] for name, first in LONG.items()}
    return {"rope_type": rope, **ROPES[rope], **(lists if rope == "longrope" else {})}


def logits(model):
    with torch.no_grad():
        output = model(IDS)
    return output if isinstance(output, torch.Tensor) else output.logits


def read_by_transformers(folder, dtype=None):
    options = {} if dtype is None else {"dtype": dtype}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return transformers.AutoModelForCausalLM.from_pretrained(folder, **options).eval()


def shard(folder, count=3):
    """Part model.safetensors into several files with an index."""
    tensors, weight_map = load_file(folder / "model.safetensors"), {}
    for index in range(count):
        file = f"model-{index + 1:05}-of-{count:05}.safetensors"
        names = sorted(tensors)[index::count]
        save_file({name: tensors[name].clone() for name in names}, folder / file, {"format": "pt"})
        weight_map |= dict.fromkeys(names, file)
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def assert_same_layers(decoder, model, exact):
    """Assert that codes and scales of a decoder's layers are those of the model of transformers."""
    for block, theirs in zip(decoder.blocks, model.model.layers, strict=True):
        pairs = {
            block.attention.qkv: [theirs.self_attn.q_proj, theirs.self_attn.k_proj, theirs.self_attn.v_proj],
            block.attention.output: [theirs.self_attn.o_proj],
            block.feed_forward.gate_up: [theirs.mlp.gate_proj, theirs.mlp.up_proj],
            block.feed_forward.down: [theirs.mlp.down_proj],
        }
        for ours, layers in pairs.items():
            packed = [layer if isinstance(layer, bitnet_jit.PackedBitLinear) else layer.pack() for layer in layers]
            codes, scale = ours.unpack()
            assert torch.equal(codes, torch.cat([layer.unpack()[0] for layer in packed]))
            wanted = torch.cat([layer.unpack()[1].expand(layer.out_features) for layer in packed])
            torch.testing.assert_close(scale.expand(len(codes)), wanted, rtol=0 if exact else 2e-7, atol=0)
