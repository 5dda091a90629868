"""Damaged GGUF files, a hundred thousand with `pytest -m exhaustive`: none is a raw error, a signal or a long wait."""

import os
import random
import struct
import time
import warnings

import pytest
from damage import HEADER, cut, flipped, grown
from gguf_files import I2_S, PTQ1_0, Q2_0, TQ2_0
from gguf_models import as_gguf

import bitnet_jit
from bitnet_jit.checkpoints.formats.gguf.file import GgufFile
from bitnet_jit.errors import BitNetError

SCRAPS = (b"\xff" * 8, b"\0" * 8, struct.pack("<Q", 2**40), struct.pack("<IQ", 9, 2**32), b"\xed\xa0\x80", b"GGUF", b"")
NUMBERS = (0, 1, 2**31, 2**32 - 1, 2**62, 2**63, 2**64 - 1)
MAX_SECONDS = 2.0  # of one file; a loaded machine takes longer than the one
WIDTH = {"hidden_size": 256, "intermediate_size": 256, "num_attention_heads": 2, "num_key_value_heads": 1}


def forged(draw, content):
    """Put a large number in the place of eight bytes, or of four: counts, offsets, sizes, types."""
    place = draw.randrange(min(len(content), HEADER) - 8)
    number = draw.choice(NUMBERS)
    content[place : place + 8] = struct.pack("<Q", number)
    return content


def scrap(draw, content):
    """Put something between two bytes, or in place of some."""
    start = draw.randrange(min(len(content), HEADER))
    return content[:start] + draw.choice(SCRAPS) + content[start + draw.choice((0, 0, 1, 8)) :]


DAMAGE = (flipped, cut, grown, forged, scrap)


def attack(path, inputs, seed):
    """Load so many damaged files; return how many were refused. Errors that are not ours are raised."""
    draw, whole, refused = random.Random(seed), path.read_bytes(), 0
    for number in range(inputs):
        content = draw.choice(DAMAGE)(draw, bytearray(whole))
        path.write_bytes(content)
        start = time.process_time()
        try:
            if number % 20:
                bitnet_jit.load(path)
            else:
                shrinks_while_open(draw, path, whole)
        except BitNetError as error:
            str(error).encode()
            refused += 1
        assert time.process_time() - start < MAX_SECONDS, f"input {number} of seed {seed}"
    return refused


def shrinks_while_open(draw, path, whole):
    """Read a whole file that becomes shorter after it was opened."""
    path.write_bytes(whole)
    with GgufFile(path) as file:
        os.truncate(path, draw.randrange(len(whole)))
        for name in file.tensors:
            file.read_bytes(name)


@pytest.fixture(params=[I2_S, TQ2_0, Q2_0, PTQ1_0])
def small(request, write_checkpoint, tmp_path):
    """Write a file as small as they come."""
    sizes = {**WIDTH, "head_dim": 128}
    origin = write_checkpoint(num_hidden_layers=1, vocab_size=16, tie_word_embeddings=True, **sizes)
    tokens = {"tokenizer.ggml.tokens": list("abcdefghijklmnop")}
    return as_gguf(bitnet_jit.load(origin), tmp_path / "a.gguf", "bitnet-b1.58", request.param, **tokens)


def test_many_lies(small):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert 100 < attack(small, 200, seed=1) < 200


@pytest.mark.exhaustive
def test_a_hundred_thousand_lies(small):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert 10_000 < attack(small, 25_000, seed=2) < 25_000
