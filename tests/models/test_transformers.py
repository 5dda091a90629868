"""Every kind of checkpoint against transformers' own layers in float32: layer by layer, then the whole model."""

import pytest
import torch
from small_checkpoints import EXACT

import bitnet_jit

DIVISOR = {"quant_method": "bitnet"}
MULTIPLIER = {"quant_method": "bitnet", "linear_class": "autobitlinear", "quantization_mode": "offline"}
ONLINE = {"quant_method": "bitnet", "linear_class": "autobitlinear", "quantization_mode": "online"}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
YARN = {"rope_type": "yarn", "rope_theta": 500.0, "factor": 4.0, "original_max_position_embeddings": 16}
KINDS = {
    "bitnet, multiplier": {"quantization": MULTIPLIER},
    "bitnet, online, tied": {"quantization": ONLINE, "tie_word_embeddings": True},
    "bitnet, divisor, biases": {"quantization": DIVISOR, "attention_bias": True},
    "bitnet, rope_parameters": {"rope_parameters": {"rope_type": "default", "rope_theta": 777.0}},
    "llama, divisor": {"quantization": DIVISOR, "model_type": "llama"},
    "llama, online": {"quantization": ONLINE, "model_type": "llama", "dtype": torch.float32},
    "llama, llama3 rope": {"quantization": DIVISOR, "model_type": "llama", "rope_parameters": LLAMA3},
    "llama, old rope_scaling": {
        "quantization": DIVISOR,
        "model_type": "llama",
        "rope_theta": 5000.0,
        "rope_scaling": {key: value for key, value in LLAMA3.items() if key != "rope_theta"},
    },
    "llama, multiplier, biases, wide heads": {
        "model_type": "llama",
        "quantization": MULTIPLIER,
        "attention_bias": True,
        "mlp_bias": True,
        "head_dim": 24,
        "intermediate_size": 76,
    },
    "qwen3, divisor, wide heads": {"quantization": DIVISOR, "model_type": "qwen3", "head_dim": 24},
    "qwen3, multiplier, biases, tied": {
        "model_type": "qwen3",
        "attention_bias": True,
        "head_dim": 16,
        "tie_word_embeddings": True,
        "rope_theta": 777.0,
    },
    "qwen3, online, rope_parameters": {
        "quantization": ONLINE,
        "model_type": "qwen3",
        "head_dim": 18,
        "num_key_value_heads": 1,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
    },
    "qwen3, ternary floats": {"quantization": EXACT, "model_type": "qwen3", "head_dim": 24},
    "llama, ternary floats, yarn": {"quantization": EXACT, "model_type": "llama", "rope_parameters": YARN},
    "llama, one head a group": {"quantization": DIVISOR, "model_type": "llama", "num_key_value_heads": 4},
}


@pytest.fixture(params=[*KINDS, "embedded"])
def pair(request, write_checkpoint, make_twin, embedded_for_transformers):
    """Load the same files as our decoder and as transformers' model."""
    embedded = request.param == "embedded"
    directory = embedded_for_transformers if embedded else write_checkpoint(**KINDS[request.param])
    return bitnet_jit.load(directory), make_twin(directory)


def our_layer(decoder, name: str):
    """Return the packed layer that holds transformers' layer of that name, and the place of its rows."""
    _, _, index, _, projection = name.split(".")
    attention, feed_forward = decoder.blocks[int(index)].attention, decoder.blocks[int(index)].feed_forward
    q, kv, middle = decoder.config.q_features, decoder.config.kv_features, decoder.config.intermediate_size
    places = {
        "q_proj": (attention.qkv, 0, q),
        "k_proj": (attention.qkv, q, kv),
        "v_proj": (attention.qkv, q + kv, kv),
        "o_proj": (attention.output, 0, attention.output.out_features),
        "gate_proj": (feed_forward.gate_up, 0, middle),
        "up_proj": (feed_forward.gate_up, middle, middle),
        "down_proj": (feed_forward.down, 0, feed_forward.down.out_features),
    }
    layer, start, rows = places[projection]
    return layer, slice(start, start + rows)


def seen_layers(model, input_ids):
    """Record (name, input, output) of every ternary layer in one forward of transformers' model."""
    seen = []
    for name, module in model.named_modules():
        if name.endswith("_proj"):
            module.register_forward_hook(lambda _, x, y, name=name: seen.append((name, x[0], y)))
    with torch.no_grad():
        model(input_ids)
    return seen


def test_heads_are_normalized_as_there(write_checkpoint, make_twin):
    directory = write_checkpoint(**KINDS["qwen3, divisor, wide heads"])
    decoder, model = bitnet_jit.load(directory), make_twin(directory)
    seen = {}
    for name, module in model.named_modules():
        if name.endswith(("q_norm", "k_norm", "v_proj")):
            module.register_forward_hook(lambda _, x, y, name=name: seen.update({name: (x[0], y)}))
    with torch.no_grad():
        model(prompt(17))
    for index, block in enumerate(decoder.blocks):
        (q, q_normed), (k, k_normed) = (seen[f"model.layers.{index}.self_attn.{name}_norm"] for name in "qk")
        _, v = seen[f"model.layers.{index}.self_attn.v_proj"]
        v = v.view(k.shape)
        qkv, expected = (torch.cat(parts, 2).flatten(2).flatten(0, 1) for parts in ((q, k, v), (q_normed, k_normed, v)))
        torch.testing.assert_close(block.attention.head_norms(qkv), expected, rtol=1e-6, atol=1e-6)


def prompt(tokens: int) -> torch.Tensor:
    return torch.randint(0, 256, (2, tokens), generator=torch.Generator().manual_seed(tokens))


def flipped_codes(x: torch.Tensor) -> torch.Tensor:
    """Return bool, like x: true where transformers' int8 code differs from the contract's.

    `127 / tensor` is 127 * (1 / tensor) in torch, rounded twice; the contract divides once. The two scales differ in
    their last bit at times, and a code at a half-integer follows.
    """
    absmax = x.abs().amax(-1, keepdim=True).clamp(min=1e-5)
    once = x * (torch.full_like(absmax, 127) / absmax)
    flipped = once.round() != (x * (127 / absmax)).round()
    assert ((once[flipped] % 1 - 0.5).abs() < 1e-4).all()
    return flipped


def test_every_layer_gives_the_same_output(pair):
    decoder, model = pair
    seen = seen_layers(model, prompt(33))
    assert len(seen) == 7 * decoder.config.num_layers
    number_flipped = number = 0
    for name, x, expected in seen:
        layer, rows = our_layer(decoder, name)
        flipped = flipped_codes(x) if layer.activation == "a8" else torch.zeros_like(x, dtype=torch.bool)
        difference = (layer(x)[..., rows] - expected).abs()[~flipped.any(-1)]
        assert difference.max() <= 1e-5 * expected.abs().max(), name
        number_flipped, number = number_flipped + int(flipped.sum()), number + x.numel()
    assert number_flipped < 1e-4 * number


def test_logits_are_near(pair):
    decoder, model = pair
    with torch.no_grad():
        expected = model(prompt(40)).logits
    difference = (decoder(prompt(40)) - expected).abs() / (expected.std() / 6.4)
    assert difference.mean() < 0.1
    assert difference.max() < 0.6


def test_greedy_continuation_forks_at_near_ties_only(pair):
    decoder, model = pair
    start = prompt(12)[:1]
    tokens = decoder.generate(start, max_new_tokens=24)
    with torch.no_grad():
        logits = model(tokens).logits[0, start.shape[1] - 1 : -1]
    chosen = logits.gather(1, tokens[0, start.shape[1] :, None])[:, 0]
    # where the choice differs, transformers' best logit is no more than a near tie above the chosen one
    assert (logits.amax(1) - chosen).max() < 0.3 * float(logits.std() / 6.4) + 1e-6
