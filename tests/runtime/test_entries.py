"""Keys of tuned choices: fields that problems got later leave the keys of other problems as they were."""

import dataclasses

import pytest

from bitnet_jit.problem import Problem
from bitnet_jit.runtime.cache import key_of
from bitnet_jit.runtime.entries import LATER_FIELDS, check_key

LINEAR = Problem("bit_linear", "cpu", 1, 64, 96, "i2/n64k16", "a8", scale="tensor")
ATTENTION = Problem("paged_attention", "cpu", 1, 64, 128, heads=4, kv_heads=2, head_dim=16, cache_dtype="bfloat16")
HEAD = Problem("head_logits", "cpu", 1, 64, 128, w_dtype="int8")
ROTATION = Problem("hadamard", "cpu", 1, 128, 128, block=64)
FIRST_FIELDS = {
    *("op", "device_type", "rows", "out_features", "in_features", "layout", "activation"),
    *("x_dtype", "y_dtype", "scale", "group_size", "bias"),
}


def test_keys_of_linear_layers_have_the_fields_that_they_always_had():
    assert set(key_of(LINEAR)["problem"]) == FIRST_FIELDS
    check_key(key_of(LINEAR))


def test_keys_of_attention_tell_its_heads():
    assert set(key_of(ATTENTION)["problem"]) == FIRST_FIELDS | {"heads", "kv_heads", "head_dim", "cache_dtype"}
    assert set(key_of(HEAD)["problem"]) == FIRST_FIELDS | {"w_dtype"}
    check_key(key_of(ATTENTION))
    check_key(key_of(HEAD))


@pytest.mark.parametrize("field", sorted(LATER_FIELDS))
def test_each_added_field_tells_keys_apart(field):
    problem = next(problem for problem in (HEAD, ATTENTION, ROTATION) if getattr(problem, field))
    other = dataclasses.replace(problem, **{field: type(getattr(problem, field))()})
    assert key_of(other) != key_of(problem)
    check_key(key_of(other))


@pytest.mark.parametrize("wrong", [{"heads": "4"}, {"kv_heads": -1}, {"of": 1}])
def test_wrong_fields_are_refused(wrong):
    key = key_of(ATTENTION)
    with pytest.raises(ValueError, match="heads|fields"):
        check_key(key | {"problem": key["problem"] | wrong})
