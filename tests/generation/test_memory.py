"""The memory that a model takes: its weights, its head and its cache, and little beside them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from ternary_heads import make_head_ternary

CONTEXT, TOKENS, VOCABULARY = 1024, 24, 60_000
SHAPE = {
    "hidden_size": 512,
    "intermediate_size": 1024,
    "num_hidden_layers": 4,
    "max_position_embeddings": CONTEXT,
    "eos_token_id": None,
    "tie_word_embeddings": True,
}
ALLOWANCE = 44 * 2**20  # of activations, of pieces of a head in float32, and of allocators

# The first model, of a small vocabulary, brings all code that the second one runs.
CHILD = """
import gc, json, sys
from pathlib import Path
import bitnet_jit
from bitnet_jit.system.memory import give_back

def resident(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))

def peak_of(work):
    Path("/proc/self/clear_refs").write_text("5")  # the peak is what is resident now
    return work(), resident("VmHWM")

def write(decoder):
    prompt = [token % 256 for token in range(CONTEXT - TOKENS)]
    assert len(decoder.generate(prompt, max_new_tokens=TOKENS)) == CONTEXT

small, large, head = sys.argv[1:]
decoder = bitnet_jit.load(small, head=head)
write(decoder)
del decoder
gc.collect()
give_back()
base = resident("VmRSS")
decoder, load = peak_of(lambda: bitnet_jit.load(large, head=head))
_, run = peak_of(lambda: write(decoder))
weights = sum(parameter.nbytes for parameter in decoder.parameters())
cache = 2 * SHAPE["num_hidden_layers"] * CONTEXT * decoder.config.kv_features * decoder.dtype.itemsize
print(json.dumps({"weights": weights, "cache": cache, "load": load - base, "run": run - base}))
"""


@pytest.mark.slow
@pytest.mark.parametrize(("head", "codes_per_byte"), [("int8", 1), ("i2", 4)])
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux tells a process's peak")
def test_a_text_takes_little_more_than_weights_head_and_cache(write_checkpoint, head, codes_per_byte):
    folders = [write_checkpoint(name=str(size), vocab_size=size, **SHAPE) for size in (256, VOCABULARY)]
    if head != "int8":
        folders = [make_head_ternary(folder, "group") for folder in folders]
    code = f"{CONTEXT = }; {TOKENS = }; {SHAPE = }\n{CHILD}"
    child = subprocess.run([sys.executable, "-c", code, *folders, head], capture_output=True, text=True, check=True)
    figures = json.loads(child.stdout)
    elements = VOCABULARY * SHAPE["hidden_size"]
    stored = elements // codes_per_byte
    assert stored < figures["weights"] < stored + 8 * 2**20
    assert figures["run"] < figures["weights"] + figures["cache"] + ALLOWANCE, figures
    assert figures["load"] < figures["weights"] + 2 * elements + ALLOWANCE, figures  # the checkpoint's is of 16 bits
