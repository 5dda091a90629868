"""Files that nothing tells how to read: the loss of a text does, and warns of a model that was misread."""

import logging
import warnings

import numpy as np
import pytest
import torch
from gguf_files import I2_S, i2_s, write_gguf
from gguf_models import assert_same_weights, metadata_of, tensors_of

import bitnet_jit
from bitnet_jit.checkpoints import sanity
from bitnet_jit.errors import CheckpointError, CheckpointWarning, InvalidInput


@pytest.fixture
def write(tiny, tmp_path):
    """Return a function that writes the embedded model as a variant of I2_S."""

    def write(variant):
        tensors = tensors_of(tiny, "bitnet-b1.58")
        for name, (type_id, shape, content) in tensors.items():
            if type_id == I2_S:
                digits = np.frombuffer(content[: shape[0] * shape[1] // 4], np.uint8).reshape(-1, 1, 32)
                codes = (digits >> np.array([6, 4, 2, 0])[:, None] & 3).astype(np.int8).reshape(shape) - 1
                scale = np.frombuffer(content[-32:-28], np.float32)[0]
                tensors[name] = type_id, shape, i2_s(codes, scale, variant)
        return write_gguf(tmp_path / f"{variant}.gguf", metadata_of(tiny, "bitnet-b1.58"), tensors)

    return write


@pytest.mark.parametrize("variant", ["x86", "arm", "rows4"])
def test_the_variant_of_i2_s_is_found_by_the_loss_of_a_text(tiny, write, caplog, variant):
    path = write(variant)
    assert_same_weights(tiny, bitnet_jit.load(path, i2_s=variant))
    with caplog.at_level(logging.INFO):
        assert_same_weights(tiny, bitnet_jit.load(path, i2_s="auto"))
    for name in ("x86", "arm", "rows4"):
        assert f"read as {name}, the loss of a text is" in caplog.text
        assert f"a GGUF file, bitnet-b1.58 in I2_S (as {name})" in caplog.text


def test_auto_is_the_usual_variant_where_there_is_nothing_to_choose(tiny, tmp_path):
    bitnet_jit.save(tiny, tmp_path / "folder")
    assert_same_weights(tiny, bitnet_jit.load(tmp_path / "folder", i2_s="auto"))
    with pytest.raises(InvalidInput, match="i2_s: expected one of x86, arm, rows4, auto, got 'x68'"):
        bitnet_jit.load(tmp_path / "folder", i2_s="x68")


def test_a_variant_that_cannot_be_is_passed_over(tmp_path):
    def refused():
        raise CheckpointError("no")

    good = bitnet_jit.load()
    assert sanity.best_of({"a": refused, "b": lambda: (good, None), "c": refused}, "file") == (good, None)
    with pytest.raises(CheckpointError, match="no"):
        sanity.best_of({"a": refused, "b": refused}, "file")


def test_a_model_that_was_misread_is_warned_of(tiny, write, monkeypatch):
    monkeypatch.setattr(sanity, "MIN_VOCABULARY", 256)
    path = write("arm")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        bitnet_jit.load(path, i2_s="arm")
    with pytest.warns(
        CheckpointWarning, match=r"arm.gguf: expected a loss .* below chance \(5.5 .*, found \d"
    ) as caught:
        bitnet_jit.load(path)
    assert caught[0].filename == __file__


def test_logits_that_are_no_numbers_are_warned_of(tiny, monkeypatch):
    monkeypatch.setattr(sanity, "MIN_VOCABULARY", 256)
    monkeypatch.setattr(sanity, "loss_of", lambda decoder: float("nan"))
    with pytest.warns(CheckpointWarning, match="found nan"):
        sanity.check_sane(tiny, "file")


def test_models_that_would_take_long_are_not_tried(tiny, monkeypatch):
    monkeypatch.setattr(sanity, "MIN_VOCABULARY", 256)
    monkeypatch.setattr(sanity, "loss_of", lambda decoder: pytest.fail("was tried"))
    monkeypatch.setattr(sanity, "MAX_SECONDS", 1e-4)
    sanity.check_sane(tiny, "file")
    monkeypatch.setattr(sanity, "MIN_VOCABULARY", 257)
    monkeypatch.setattr(sanity, "MAX_SECONDS", 10)
    sanity.check_sane(tiny, "file")


def test_the_loss_is_that_of_the_text(tiny):
    ids = torch.tensor([list(b"In the beginning")])
    logits = tiny(ids)[0].log_softmax(-1)
    expected = -sum(float(logits[place, ids[0, place + 1]]) for place in range(15)) / 15
    assert sanity.loss_of(tiny, "In the beginning") == pytest.approx(expected, rel=1e-5)


def test_the_embedded_model_is_no_reason_to_warn(tiny):
    assert sanity.loss_of(tiny) < 5.0
