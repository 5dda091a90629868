"""Models of transformers that `convert` made ternary, trained as people train them: no bit depends on how."""

import warnings

import pytest
import torch

pytest.importorskip("transformers", reason="the extra `transformers` is not installed")

with warnings.catch_warnings():
    # importing transformers imports torch.jit, which warns that it is deprecated
    warnings.simplefilter("ignore", DeprecationWarning)
    from transformers import BitNetConfig, BitNetForCausalLM, LlamaConfig, LlamaForCausalLM

from bitnet_jit import BitLinear, convert

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of the imports of torch.compile
    # newer versions of transformers have another name for gradient checkpointing
    pytest.mark.filterwarnings("ignore:.*is deprecated and will be removed:FutureWarning"),
]

SIZES = {
    "vocab_size": 64,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,  # compiled, attention adds up gradients of shared keys in another order
    "pad_token_id": 0,
    "use_cache": False,  # checkpointing would turn it off
}
IDS = torch.arange(2, 26).reshape(2, 12)


def build(family, reentrant=None):
    torch.manual_seed(0)
    if family == "bitnet":
        model = BitNetForCausalLM(BitNetConfig(**SIZES, tie_word_embeddings=True))
    else:
        model = LlamaForCausalLM(LlamaConfig(**SIZES, attention_bias=True))
    if reentrant is not None:
        model.gradient_checkpointing_enable({"use_reentrant": reentrant})
        model.enable_input_require_grads()  # reentrant checkpointing takes gradients of inputs only
    return convert(model).train()


def loss_and_gradients(model, run, autocast):
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        loss = run(input_ids=IDS, labels=IDS).loss
    loss.backward()
    return loss.detach(), *(parameter.grad for parameter in model.parameters())


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("family", ["bitnet", "llama"])
def test_gradient_checkpointing(family, reentrant, autocast):
    plain, model = build(family), build(family, reentrant)
    layers = [module for module in model.modules() if isinstance(module, BitLinear)]
    calls = []
    for layer in layers:
        layer.register_forward_pre_hook(lambda *_: calls.append(1))
    with torch.compiler.set_stance("force_eager"):  # transformers compiles small functions of its own
        results = loss_and_gradients(model, model, autocast)
        expected = loss_and_gradients(plain, plain, autocast)
    for a, b in zip(results, expected, strict=True):
        assert torch.equal(a, b)
    assert len(layers) == 14
    assert len(calls) == 2 * len(layers)


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize(("family", "reentrant"), [("bitnet", None), ("llama", False)])
def test_compiled_whole(family, reentrant, autocast):
    torch._dynamo.reset()
    plain, model = build(family), build(family, reentrant)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    results = loss_and_gradients(model, compiled, autocast)
    for a, b in zip(results, loss_and_gradients(plain, plain, autocast), strict=True):
        assert torch.equal(a, b)
