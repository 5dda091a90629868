"""llama.cpp itself reads the files that we write, and gives logits near ours; needs llama-cpp-python (extra peers)."""

import numpy as np
import pytest
import torch
from qwen35_models import random_model
from tokenizer_files import byte_level

import bitnet_jit

llama_cpp = pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")

WIDE = {"hidden_size": 512, "intermediate_size": 768, "head_dim": 128, "vocab_size": 280}
IDS = list(range(5, 40))


@pytest.mark.parametrize("model_type", ["llama", "qwen3"])
@pytest.mark.parametrize(("format", "group_size"), [("tq1_0", 256), ("tq2_0", 256), ("q2_0", 64)])
def test_logits_and_tokens_are_those_of_llama_cpp(write_checkpoint, tmp_path, model_type, format, group_size):
    origin = write_checkpoint({"group_size": group_size}, model_type, torch.float16, rms_norm_eps=1e-6, **WIDE)
    byte_level().save(str(origin / "tokenizer.json"))
    bitnet_jit.convert_checkpoint(origin, tmp_path / "a.gguf", format, lossy=True)
    theirs = llama_cpp.Llama(str(tmp_path / "a.gguf"), n_ctx=64, logits_all=True, verbose=False)
    theirs.eval(IDS)
    decoder = bitnet_jit.load(tmp_path / "a.gguf")
    logits = decoder(torch.tensor([IDS]))[0].numpy()
    difference = np.abs(logits - theirs.scores[: len(IDS)]) / logits.std()  # llama.cpp quantizes activations by blocks
    assert difference.mean() < 0.02
    assert difference.max() < 0.3
    text = "hello the world, and then"
    assert theirs.tokenize(text.encode(), add_bos=False) == decoder.tokenizer.encode_part(text)


def test_a_gated_delta_net_is_that_of_llama_cpp(tmp_path):
    heads = {"linear_key_head_dim": 128, "linear_value_head_dim": 128}  # llama.cpp takes one width for both
    random_model(group=64, **WIDE, **heads).save_pretrained(tmp_path / "folder")
    byte_level().save(str(tmp_path / "folder" / "tokenizer.json"))
    bitnet_jit.convert_checkpoint(tmp_path / "folder", tmp_path / "a.gguf", "q2_0")
    theirs = llama_cpp.Llama(str(tmp_path / "a.gguf"), n_ctx=64, logits_all=True, verbose=False)
    theirs.eval(IDS)
    logits = bitnet_jit.load(tmp_path / "folder")(torch.tensor([IDS]))[0].numpy()
    difference = np.abs(logits - theirs.scores[: len(IDS)]) / logits.std()
    assert difference.mean() < 0.02
    assert difference.max() < 0.3


@pytest.mark.parametrize("model_type", ["llama", "qwen3"])
@pytest.mark.parametrize(("file_type", "format"), [("TQ1_0", "tq1_0"), ("TQ2_0", "tq2_0"), ("Q2_0", "q2_0")])
def test_a_file_that_llama_cpp_wrote_is_read(write_checkpoint, tmp_path, model_type, file_type, format):
    """Its quantizer finds the codes of weights that are ternary already; embedding and head become Q4_K or Q6_K."""
    origin = write_checkpoint({"group_size": 256}, model_type, torch.float16, rms_norm_eps=1e-6, **WIDE)
    byte_level().save(str(origin / "tokenizer.json"))
    bitnet_jit.convert_checkpoint(origin, tmp_path / "a.gguf", "q2_0" if format != "q2_0" else "tq2_0", lossy=True)
    options = llama_cpp.llama_model_quantize_default_params()
    options.ftype, options.allow_requantize = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{file_type}"), True
    files = (str(tmp_path / name).encode() for name in ("a.gguf", "b.gguf"))
    assert llama_cpp.llama_model_quantize(*files, options) == 0
    ours, theirs = bitnet_jit.load(tmp_path / "a.gguf"), bitnet_jit.load(tmp_path / "b.gguf")
    assert file_type in bitnet_jit.inspect_checkpoint(tmp_path / "b.gguf").description
    for one, other in zip(ours.blocks, theirs.blocks, strict=True):
        for layer, again in (
            (one.feed_forward.down, other.feed_forward.down),
            (one.attention.qkv, other.attention.qkv),
        ):
            assert torch.equal(layer.unpack()[0], again.unpack()[0])
    runs = llama_cpp.Llama(str(tmp_path / "b.gguf"), n_ctx=64, logits_all=True, verbose=False)
    runs.eval(IDS)
    logits = theirs(torch.tensor([IDS]))[0].numpy()
    assert (np.abs(logits - runs.scores[: len(IDS)]) / logits.std()).mean() < 0.02
