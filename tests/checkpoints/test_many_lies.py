"""Damaged folders of each format, a hundred thousand with `pytest -m exhaustive`: none is a raw error or a signal."""

import json
import os
import random
import warnings

import pytest
import qwen35_models
from damage import cut, flipped, grown
from small_checkpoints import EXACT, write

import bitnet_jit
from bitnet_jit.checkpoints.tensor_files import TensorFiles
from bitnet_jit.errors import BitNetError

WEIGHTS, CONFIG = "model.safetensors", "config.json"
SIZES = {
    "hidden_size": 8,
    "intermediate_size": 8,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "num_hidden_layers": 1,
    "vocab_size": 16,
    "tie_word_embeddings": True,
}
BOTH = ["linear_attention", "full_attention"]
SCRAPS = (
    b"[" * 5000,
    b'{"a":' * 5000,
    b'"\\ud800"',
    b"9" * 5000,
    b"NaN",
    b"1e999",
    b"-1",
    b"\xff\xfe",
    b"null",
    b"{}",
    b"",
)


def scrap(draw, content):
    """Put something between two bytes, or in place of some: nesting, halves of surrogate pairs, numbers without end."""
    start = draw.randrange(min(len(content), 4000))
    return content[:start] + draw.choice(SCRAPS) + content[start + draw.choice((0, 0, 1, 10)) :]


def lying(draw, content):
    """Put a wrong value into a safetensors header, whose size stays right, or into a field of config.json."""
    size = int.from_bytes(content[:8], "little")
    is_json = content[:1] == b"{"
    header = json.loads(content if is_json else content[8 : 8 + size])
    entry = header if is_json else header[draw.choice(sorted(header))]
    key = draw.choice(sorted(entry))
    values = (None, -1, 0, 1, 2**31, 2**63, 2**64, 1.5, True, "U8", "x", [], [0], [2**62, 4], [0, 2**50], {}, "\ud800")
    entry[key] = draw.choice(values)
    text = json.dumps(header).encode()
    return bytearray(text) if is_json else bytearray(len(text).to_bytes(8, "little") + text + content[8 + size :])


DAMAGE = (flipped, cut, grown, scrap, lying)


def damaged(draw, directory, whole):
    """Damage one file of a directory; return its name."""
    name = draw.choice(sorted(whole))
    content = draw.choice(DAMAGE)(draw, bytearray(whole[name]))
    (directory / name).write_bytes(content)
    if draw.random() < 0.01:
        os.truncate(directory / name, 2**42)  # holes, to terabytes
    return name


def shrinks_while_open(draw, directory):
    """Read a whole file that becomes shorter after it was opened."""
    with TensorFiles(directory) as files:
        names = sorted(files.entries)
        os.truncate(directory / WEIGHTS, draw.randrange((directory / WEIGHTS).stat().st_size))
        for name in names:
            files.read(name)


def attack(directory, inputs, seed):
    """Load so many damaged checkpoints; return how many were refused. Errors that are not ours are raised."""
    draw, refused = random.Random(seed), 0
    whole = {name: (directory / name).read_bytes() for name in (WEIGHTS, CONFIG)}
    for number in range(inputs):
        name = WEIGHTS
        try:
            if number % 20:
                name = damaged(draw, directory, whole)
                bitnet_jit.load(directory)
            else:
                shrinks_while_open(draw, directory)
        except BitNetError as error:
            str(error).encode()
            refused += 1
        finally:
            (directory / name).write_bytes(whole[name])
    return refused


def packed(directory):
    """Write a folder of Hugging Face with packed weights."""
    return write(directory / "hf", **SIZES)


def ours(directory):
    """Write a folder of our own."""
    bitnet_jit.convert_checkpoint(packed(directory), directory / "i2", "i2")
    return directory / "i2"


def mlx(directory):
    """Write a folder of mlx-lm."""
    floats = write(directory / "floats", EXACT, "qwen3", **SIZES | {"hidden_size": 32, "intermediate_size": 32})
    bitnet_jit.convert_checkpoint(floats, directory / "mlx", "mlx")
    return directory / "mlx"


def qwen35(directory):
    """Write a folder of floats with a gated DeltaNet."""
    qwen35_models.random_model(num_hidden_layers=2, vocab_size=16, layer_types=BOTH).save_pretrained(directory / "net")
    return directory / "net"


def rotated_mlx(directory):
    """Write a folder of mlx-lm with a gated DeltaNet, whose layers are rotated."""
    pytest.importorskip("mlx.core")
    from qwen35_mlx import as_prism_mlx

    sizes = {"hidden_size": 512, "intermediate_size": 512, "head_dim": 128, "linear_value_head_dim": 128}
    model = qwen35_models.random_model(num_hidden_layers=2, vocab_size=16, group=128, layer_types=BOTH, **sizes)
    return as_prism_mlx(model, directory / "prism", 512)


@pytest.fixture(params=[packed, ours, mlx, qwen35, rotated_mlx])
def small(request, tmp_path):
    """Write a checkpoint as small as they come."""
    return request.param(tmp_path)


def test_many_lies(small):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert 100 < attack(small, 300, seed=1) < 300


@pytest.mark.exhaustive
def test_a_hundred_thousand_lies(small):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert 30_000 < attack(small, 100_000, seed=2) < 100_000
