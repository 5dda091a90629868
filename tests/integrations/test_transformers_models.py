"""Models of transformers that read a layer's weight, its dtype or device compute the same after `pack` as before."""

import warnings

import pytest
import torch

pytest.importorskip("transformers", reason="the extra `transformers` is not installed")
with warnings.catch_warnings():
    # importing transformers imports torch.jit, which warns that it is deprecated
    warnings.simplefilter("ignore", DeprecationWarning)
    import transformers

from bitnet_jit import PackedBitLinear, add_lora, convert, pack

VOCABULARY = 64
T5 = {"vocab_size": VOCABULARY, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
MAMBA = {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 8}
CONVOLUTIONS = {"conv_dim": (32, 32), "conv_stride": (5, 2), "conv_kernel": (10, 3), "num_feat_extract_layers": 2}
POSITIONS = {"num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4}
MODELS = {
    "T5ForConditionalGeneration": ("T5Config", T5),
    "Wav2Vec2Model": ("Wav2Vec2Config", SIZES | CONVOLUTIONS | POSITIONS),
    "WavLMModel": ("WavLMConfig", SIZES | CONVOLUTIONS | POSITIONS),
    "MambaForCausalLM": ("MambaConfig", MAMBA),
    "FalconMambaForCausalLM": ("FalconMambaConfig", MAMBA),
    "GPTNeoXForCausalLM": ("GPTNeoXConfig", SIZES | {"vocab_size": VOCABULARY}),
    "BertModel": ("BertConfig", SIZES | {"vocab_size": VOCABULARY}),
}


def inputs(name, dtype):
    ids = torch.arange(1, 11)[None]
    if name.startswith(("Wav2Vec2", "WavLM")):
        return {"input_values": torch.randn(1, 400, generator=torch.Generator().manual_seed(0)).to(dtype)}
    return {"input_ids": ids} | ({"decoder_input_ids": ids[:, :6]} if name.endswith("ConditionalGeneration") else {})


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", MODELS)
def test_packing_changes_no_output(name, dtype):
    torch.manual_seed(0)
    kind, options = MODELS[name]
    model = convert(getattr(transformers, name)(getattr(transformers, kind)(**options)).eval()).to(dtype)
    with torch.no_grad():
        expected = model(**inputs(name, dtype))[0]
        packed = pack(model)
        assert any(isinstance(module, PackedBitLinear) for module in packed.modules())
        assert torch.equal(packed(**inputs(name, dtype))[0], expected)
        assert torch.equal(add_lora(packed)(**inputs(name, dtype))[0], expected)
