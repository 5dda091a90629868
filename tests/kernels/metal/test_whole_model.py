"""A whole model on Metal's kernels, as torch's "mps" device runs it: its text is that of every other backend.

The tensors lie on the CPU, whose first backend is Metal's here, and the host harness runs the kernels.
"""

from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from metal_calls import needs_clang
from metal_host.fake_mps import mps

import bitnet_jit
from bitnet_jit.devices.kinds import KINDS
from bitnet_jit.kernels import registry
from bitnet_jit.ops import calls

pytestmark = needs_clang
PROMPT = torch.tensor([list(b"In th")])
TOKENS = 2
FOLDER = Path(bitnet_jit.__file__).parent / "assets" / "tiny-bitnet"


@contextmanager
def on_metal():
    """Make Metal's kernels the CPU's first ones; steps are not recorded, which asks kernels for addresses."""
    ours = replace(registry.BACKENDS["mps"], device_types=("cpu",), priority=99)
    plain = replace(KINDS["cpu"], records=False)
    try:
        with mps(), patch.dict(KINDS, {"cpu": plain}), patch.dict(registry.BACKENDS, {"mps": ours}):
            forget()
            yield
    finally:
        forget()


def forget():
    """Choose kernels anew."""
    registry.forget()
    calls.forget()


def generate():
    """Return the text of a model that is loaded now."""
    return bitnet_jit.load(FOLDER).generate(PROMPT, max_new_tokens=TOKENS)


@pytest.mark.slow
def test_the_text_is_that_of_the_cpu():
    expected = generate()
    with on_metal():
        assert torch.equal(generate(), expected)
        chosen = {choice.problem.op: choice.kernel.backend for choice in calls.DISPATCHER._choices.values()}
    assert {op for op, backend in chosen.items() if backend == "mps"} >= {
        "rms_norm_bit_linear",
        "paged_attention",
        "relu2_mul_norm_bit_linear",
        "head_logits",
    }
