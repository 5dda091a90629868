"""mlx-lm's server on our kernels, as a process of its own: the same text as mlx-lm's generate on a patched model."""

import json
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

import bitnet_jit.mlx as bjm
from bitnet_jit import InvalidInput
from bitnet_jit.mlx.server import taken

mlx_lm = pytest.importorskip("mlx_lm", reason="needs mlx-lm: pip install mlx-lm")
PROMPT, TOKENS = "In the beginning", 6


def asked(url, body=None):
    """Return the answer to a request, as JSON."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.loads(answer.read())


def wait_for(url, process):
    """Wait until a server answers."""
    for _ in range(600):
        assert process.poll() is None, process.stderr.read().decode()
        try:
            return asked(url)
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.1)
    raise TimeoutError(url)


@pytest.fixture
def folder(embedded_for_transformers, tmp_path):
    """Return the embedded model as transformers and mlx-lm read it, with a tokenizer of bytes."""
    copied = shutil.copytree(embedded_for_transformers, tmp_path / "model")
    names = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({name: number for number, name in enumerate(names)}, []))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer.save(str(copied / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": names[0]}
    (copied / "tokenizer_config.json").write_text(json.dumps(config))
    return copied


def test_the_server_writes_what_generate_does(folder):
    model, tokenizer = mlx_lm.load(str(folder))
    expected = mlx_lm.generate(bjm.patch(model, "a8"), tokenizer, PROMPT, max_tokens=TOKENS)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "bitnet_jit.mlx.server", "--model", str(folder), "--port", str(port)]
    with subprocess.Popen([*command, "--activation", "a8"], stderr=subprocess.PIPE) as process:
        try:
            wait_for(f"http://127.0.0.1:{port}/health", process)
            body = {"model": "default_model", "prompt": PROMPT, "max_tokens": TOKENS, "temperature": 0}
            answer = asked(f"http://127.0.0.1:{port}/v1/completions", body)
        finally:
            process.kill()
    assert answer["choices"][0]["text"] == expected


def test_another_activation_is_refused():
    with pytest.raises(InvalidInput, match="--activation: expected a8 or a16, got 'a4'"):
        taken(["--activation", "a4"])
    with pytest.raises(InvalidInput, match="got ''"):
        taken(["--activation"])
