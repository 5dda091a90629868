"""`head_logits` as an op: what its scales have to be, and the keys of its tuned choices."""

import pytest
import torch

from bitnet_jit.errors import InvalidInput
from bitnet_jit.ops import eager
from bitnet_jit.ops.head import HEAD_LOGITS, head_logits
from bitnet_jit.problem import Problem
from bitnet_jit.runtime.entries import asked_of, check_key

CODES = torch.ones(3, 5, dtype=torch.int8)
X, SCALE = torch.ones(2, 5), torch.ones(3)


def test_an_int8_head_needs_scales_and_no_other_takes_them():
    with pytest.raises(InvalidInput, match="head_scale: expected float32 .* beside a head of int8, got None"):
        head_logits(X, CODES, None)
    with pytest.raises(InvalidInput, match="head_scale: expected None beside a head of torch.float32"):
        head_logits(X, CODES.float(), SCALE)
    for meta in (head_logits, HEAD_LOGITS.torch):
        with pytest.raises(InvalidInput, match="head_scale: expected float32"):
            meta(X.to("meta"), CODES.to("meta"), None)


def test_sums_of_int8_have_a_limit():
    with pytest.raises(InvalidInput, match="head: a head of int8 has at most 65536 inputs, got"):
        head_logits(torch.ones(1, 2**16 + 1), torch.ones(1, 2**16 + 1, dtype=torch.int8), torch.ones(1))
    many = torch.ones(1, 2**16 + 1)
    torch.testing.assert_close(head_logits(many, many, None), torch.full((1, 1), 2.0**16 + 1))


@pytest.mark.parametrize("shape", [(5,), (2, 5), (3, 2, 5), (0, 5)])
def test_leading_dimensions_stay(shape):
    x = torch.ones(shape)
    for arguments in ((x, CODES, SCALE), (x, CODES.bfloat16(), None)):
        logits = eager("head_logits")(*arguments)
        assert (logits.dtype, logits.shape) == (torch.float32, (*shape[:-1], 3))
        assert bool((logits == 5).all())


def test_heads_that_are_views_are_read_as_such():
    head = torch.arange(30.0).reshape(5, 6).T[:, 1:4]  # of strides (1, 6)
    x = torch.arange(6.0).reshape(2, 3)
    torch.testing.assert_close(head_logits(x, head, None), x @ head.T)


def test_keys_tell_the_dtype_of_a_head_and_are_otherwise_as_they_were():
    layer = Problem("bit_linear", "cpu", 1, 3, 5, "i2", "a8", scale="tensor")
    head = Problem("head_logits", "cpu", 1, 3, 5, w_dtype="int8")
    assert "w_dtype" not in asked_of(layer)
    assert asked_of(head)["w_dtype"] == "int8"
    for problem in (layer, head):
        check_key({"problem": asked_of(problem), "device": "a cpu", "versions": {}})
    with pytest.raises(ValueError, match="w_dtype is 8"):
        check_key({"problem": asked_of(head) | {"w_dtype": 8}, "device": "a cpu", "versions": {}})
    without = {name: value for name, value in asked_of(head).items() if name != "bias"}
    with pytest.raises(ValueError, match="has not the fields"):
        check_key({"problem": without, "device": "a cpu", "versions": {}})
