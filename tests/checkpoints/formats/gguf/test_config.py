"""Metadata as an architecture; what we cannot run is refused with the key's name."""

import array
from pathlib import Path

import numpy as np
import pytest
import torch

from bitnet_jit.checkpoints.formats.gguf.config import KINDS, read_config
from bitnet_jit.checkpoints.formats.gguf.keys import Keys
from bitnet_jit.checkpoints.formats.gguf.values import Strings
from bitnet_jit.errors import CheckpointError
from bitnet_jit.models.rope_scaling import DividedScaling, LinearScaling, YarnScaling, yarn_magnitude

BLOCKS = dict.fromkeys(("blk.0.attn_q.weight", "output.weight"), (2560, 2560))
OFFICIAL = {  # of microsoft's 2B-4T
    "general.architecture": "bitnet-b1.58",
    "bitnet-b1.58.vocab_size": 128256,
    "bitnet-b1.58.context_length": 4096,
    "bitnet-b1.58.embedding_length": 2560,
    "bitnet-b1.58.block_count": 30,
    "bitnet-b1.58.feed_forward_length": 6912,
    "bitnet-b1.58.rope.dimension_count": 128,
    "bitnet-b1.58.attention.head_count": 20,
    "bitnet-b1.58.attention.head_count_kv": 5,
    "bitnet-b1.58.attention.layer_norm_rms_epsilon": 1e-5,
    "bitnet-b1.58.rope.freq_base": 500000.0,
    "tokenizer.ggml.bos_token_id": 128000,
    "tokenizer.ggml.eos_token_id": 128001,
}
STRINGS = Strings(b"abc", array.array("q", [1, 2, 3]))
YARN = {"A__rope__scaling__type": "yarn", "A__rope__scaling__factor": 4.0}
YARN |= {"A__rope__scaling__original_context_length": 16384}
SCALED = {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0}


def read(tensors=BLOCKS, architecture="bitnet-b1.58", **changes):
    """Read the official keys under the name of an architecture, some of them changed; None leaves one out."""
    keys = {key.replace("bitnet-b1.58", architecture): given for key, given in OFFICIAL.items()}
    keys |= {"general.architecture": architecture}
    keys |= {name.replace("A__", f"{architecture}.").replace("__", "."): given for name, given in changes.items()}
    return read_config(Keys({key: given for key, given in keys.items() if given is not None}, "file"), tensors)


def test_the_official_file():
    config = read({"blk.0.attn_q.weight": (2560, 2560)})
    assert (config.vocab_size, config.hidden_size, config.intermediate_size, config.num_layers) == (
        128256,
        2560,
        6912,
        30,
    )
    assert (config.num_heads, config.num_kv_heads, config.head_dim, config.context_length) == (20, 5, 128, 4096)
    assert (config.norm_eps, config.rope_theta, config.eos_ids) == (1e-5, 500000.0, (128001,))
    assert (config.activation, config.sub_norms, config.tied_embeddings) == ("relu2", True, True)
    assert not config.attention_bias
    assert not config.qk_norms


def test_what_a_key_may_leave_out():
    config = read(
        A__attention__head_count_kv=None,
        A__rope__dimension_count=None,
        A__vocab_size=None,
        tokenizer__ggml__tokens=STRINGS,
        tokenizer__ggml__eos_token_id=2,
    )
    assert (config.num_kv_heads, config.vocab_size, config.tied_embeddings) == (20, 3, False)


def test_the_vocabulary_is_that_of_the_embedding_where_no_key_says_it():
    rows = {"token_embd.weight": (151936, 2560)}
    assert read(BLOCKS | rows, A__vocab_size=None, tokenizer__ggml__tokens=STRINGS).vocab_size == 151936
    keys = {"A__vocab_size": None, "tokenizer__ggml__tokens": STRINGS, "tokenizer__ggml__eos_token_id": 2}
    assert read({"token_embd.weight": ()}, **keys).vocab_size == 3, "of a type that is not read"


def test_numbers_per_layer_that_are_the_same():
    heads = np.full(30, 20, np.int32)
    assert read(A__attention__head_count=heads, A__attention__head_count_kv=heads).num_kv_heads == 20


def test_two_tokens_may_end_a_text():
    assert read(tokenizer__ggml__eot_token_id=128009).eos_ids == (128001, 128009)


@pytest.mark.parametrize(
    ("architecture", "activation"), [("bitnet", "silu"), ("bitnet-25", "relu2"), ("llama", "silu")]
)
def test_the_activation_is_that_of_the_architecture(architecture, activation):
    assert read(architecture=architecture).activation == activation


def test_the_activation_may_be_named():
    assert read(architecture="bitnet", A__hidden_activation="relu2").activation == "relu2"


def test_biases_are_told_by_their_tensors():
    config = read(BLOCKS | dict.fromkeys(("blk.0.attn_q.bias", "blk.0.ffn_gate.bias"), (2560,)), "llama")
    assert config.attention_bias
    assert config.mlp_bias


def test_every_architecture_that_is_known_is_named_where_another_comes():
    with pytest.raises(CheckpointError) as error:
        read(general__architecture="mamba")
    assert all(repr(name) in str(error.value) for name in KINDS)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"A__vocab_size": None, "tokenizer__ggml__tokens": 3}, "vocab_size: expected a whole number from 1"),
        ({"A__block_count": None}, "bitnet-b1.58.block_count: expected a whole number .*, found no such field"),
        ({"A__embedding_length": -5}, "embedding_length: expected a whole number from 1"),
        ({"A__attention__head_count_kv": 7}, "head_count_kv: expected a divisor of attention.head_count 20, found 7"),
        (
            {"A__attention__head_count": np.array([20, 21])},
            r"the same number .*, found an array of 2: \[20",
        ),
        (
            {"A__attention__key_length": 127, "A__rope__dimension_count": 127},
            "an even number, found 127",
        ),
        ({"A__attention__value_length": 64}, "value_length: expected that of keys, 128, found 64"),
        ({"A__rope__dimension_count": 64}, "dimension_count: expected 128 .*, found 64"),
        ({"A__attention__sliding_window": 512}, "sliding_window: expected none.*, found 512"),
        ({"A__rope__scaling__type": "new"}, "scaling.type: expected .*, found 'new'"),
        ({"A__rope__scaling__type": "yarn"}, "original_context_length: expected a whole number"),
        ({**YARN, "A__rope__scaling__yarn_log_multiplier": 2.0}, "log_multiplier: expected 1, found 2.0"),
        ({"A__rope__freq_base": 0.0}, "freq_base: expected a positive number, found 0.0"),
        ({"tokenizer__ggml__eos_token_id": 128256}, "eos_token_id: expected a whole number from 0 to 128255"),
    ],
)
def test_a_key_that_is_wrong_is_named(changes, words):
    with pytest.raises(CheckpointError, match=f"file: .*{words}"):
        read(**changes)


def test_rotary_scalings():
    assert read(A__rope__scaling__type="linear", A__rope__scaling__factor=1.0).rope_scaling is None
    assert read(A__rope__scaling__type="linear", A__rope__scaling__factor=2.0).rope_scaling == LinearScaling(2.0)
    assert read(**YARN).rope_scaling == YarnScaling(4.0, 16384, magnitude=yarn_magnitude(4.0))
    scaling = read(**YARN, A__rope__scaling__attn_factor=0.5, A__rope__scaling__yarn_beta_slow=2.0).rope_scaling
    assert scaling == YarnScaling(4.0, 16384, 32.0, 2.0, 0.5 * yarn_magnitude(4.0))
    divisors = torch.linspace(1, 8, 64)
    keys = {key.replace("bitnet-b1.58", "llama"): given for key, given in OFFICIAL.items()}
    config = read_config(Keys(keys | {"general.architecture": "llama"}, "file"), BLOCKS, divisors)
    assert config.rope_scaling == DividedScaling(tuple(divisors.tolist()))
    with pytest.raises(CheckpointError, match=r"factor: expected 1 beside rope_freqs\.weight, found 4\.0"):
        read_config(Keys(keys | {"general.architecture": "llama", **SCALED}, "file"), BLOCKS, divisors)


def test_a_path_is_part_of_every_error():
    with pytest.raises(CheckpointError, match=r"dir/model\.gguf: general\.architecture: expected"):
        read_config(Keys({}, str(Path("dir") / "model.gguf")), {})
