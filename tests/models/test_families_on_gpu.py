"""Every architecture on a GPU in bfloat16: near its float32 model on the CPU, and the same bits in any cut."""

from pathlib import Path

import embedding_models
import pytest
import qwen35_models
import torch
from small_checkpoints import DIVISOR, EXACT, ONLINE, write

import bitnet_jit
from bitnet_jit.runner.runner import Runner
from bitnet_jit.runner.step import Chunk

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA or ROCm device here"),
]
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
YARN = {"rope_type": "yarn", "rope_theta": 500.0, "factor": 4.0, "original_max_position_embeddings": 16}
LONGROPE = {"rope_type": "longrope", "short_factor": [1.0 + n / 4 for n in range(8)], "long_factor": [2.0] * 8}
MINI = {"scale_emb": 12, "scale_depth": 1.4, "dim_model_base": 16, "rms_norm_eps": 1e-6, "rope_theta": 1e4}
ORIGINAL = {"original_max_position_embeddings": 32}
WRITTEN = {
    "bitnet": {},
    "bitnet, online, biases": {"quantization": ONLINE, "attention_bias": True},
    "llama, divisor": {"quantization": DIVISOR, "model_type": "llama"},
    "llama, llama3": {"model_type": "llama", "rope_parameters": LLAMA3 | ORIGINAL | {"rope_theta": 5e5}},
    "llama, groups, yarn": {"model_type": "llama", "quantization": EXACT, "rope_parameters": YARN},
    "qwen3": {"model_type": "qwen3", "quantization": DIVISOR, "head_dim": 32},
    "qwen3, groups, tied": {"model_type": "qwen3", "quantization": EXACT, "tie_word_embeddings": True},
    "minicpm, longrope": {"model_type": "minicpm", "quantization": EXACT, "rope_scaling": LONGROPE | ORIGINAL} | MINI,
}
EMBEDDING = {"embedding, qwen3": "qwen3", "embedding, gemma3": "gemma3"}


def write_family(name: str, folder: Path) -> Path:
    """Write the model of a name."""
    if name in WRITTEN:
        return write(folder / "model", max_position_embeddings=256, **WRITTEN[name])
    if name in EMBEDDING:
        return embedding_models.as_folder(
            embedding_models.random_model(EMBEDDING[name]), folder / "model", "mean_tokens"
        )
    qwen35_models.random_model().save_pretrained(folder / "model")
    return folder / "model"


@pytest.fixture(scope="module", params=[*WRITTEN, "qwen3.5", *EMBEDDING])
def pair(request, tmp_path_factory):
    """Load a model in bfloat16 on the GPU, and in float32 on the CPU, where other tests hold it to transformers."""
    folder = write_family(request.param, tmp_path_factory.mktemp("family"))
    return bitnet_jit.load(folder, "cuda", torch.bfloat16), bitnet_jit.load(folder)


def prompt(tokens: int) -> list[int]:
    return torch.randint(0, 256, (tokens,), generator=torch.Generator().manual_seed(tokens)).tolist()


@pytest.mark.parametrize("tokens", [1, 17, 60])
def test_logits_are_near(pair, tokens):
    on_gpu, on_cpu = pair
    if on_cpu.pooling is not None:
        vectors = [decoder.encode([prompt(tokens)]).cpu()[0] for decoder in pair]
        assert vectors[0] @ vectors[1] > 0.999
        return
    expected = on_cpu([prompt(tokens)])
    difference = (on_gpu([prompt(tokens)]).cpu() - expected).abs() / expected.std()
    assert difference.mean() < 0.02
    assert difference.max() < 0.3


def test_greedy_text_forks_at_near_ties_only(pair):
    on_gpu, on_cpu = pair
    tokens = on_gpu.generate([prompt(12)], max_new_tokens=24)
    logits = on_cpu(tokens.cpu())[0, 11:-1]
    chosen = logits.gather(1, tokens.cpu()[0, 12:, None])[:, 0]
    assert (logits.amax(1) - chosen).max() < 0.3 * float(logits.std())


@pytest.mark.parametrize("cuts", [[1] * 12, [5, 1, 1, 9, 33, 2], [17, 3, 40], [64, 1, 64, 1]])
def test_any_cut_gives_the_same_bits(pair, cuts):
    decoder = pair[0]
    ids = [token for count in cuts for token in prompt(count)]
    runner = Runner(decoder, 32, num_sequences=3)
    alone, cut, other = (runner.cache.new_sequence() for _ in range(3))
    whole, start = runner.step([Chunk(alone, ids, len(ids))]), 0
    for count in cuts:
        part, beside = Chunk(cut, ids[start : start + count], count), Chunk(other, [7] * (1 + count % 3))
        parts = runner.step([beside, part])[1:] if count > 1 else runner.repeat([beside, part])[-1:]
        assert torch.equal(parts, whole[start : start + count])
        start += count
