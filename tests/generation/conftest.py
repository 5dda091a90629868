"""Fixtures of small checkpoints, which several folders of tests share, and of tokenizers."""

import json

import pytest
from small_checkpoints import embedded_for_transformers as embedded_for_transformers
from small_checkpoints import kjv as kjv
from small_checkpoints import make_twin as make_twin
from small_checkpoints import reference as reference
from small_checkpoints import tiny as tiny
from small_checkpoints import write_checkpoint as write_checkpoint

import bitnet_jit
from bitnet_jit.generation.tokenizer import FileTokenizer


@pytest.fixture
def write(tmp_path):
    """Return a function that writes a tokenizer, or JSON, or bytes, and reads it again."""

    def written(content) -> FileTokenizer:
        path = tmp_path / "tokenizer.json"
        if isinstance(content, (dict, list)):
            content = json.dumps(content)
        path.write_bytes(
            content if isinstance(content, bytes) else getattr(content, "to_str", lambda: content)().encode()
        )
        return FileTokenizer(path)

    return written


@pytest.fixture
def model(write_checkpoint):
    """Return a function that gives a model a tokenizer."""

    def load(library, vocab_size=320, **fields):
        directory = write_checkpoint(vocab_size=vocab_size, **fields)
        library.save(str(directory / "tokenizer.json"))
        return bitnet_jit.load(directory)

    return load
