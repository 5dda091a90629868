"""Packings: lossless for every shape on NumPy and torch, their exact bits, and bytes that are no packing."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from bitnet_jit.errors import InvalidInput
from bitnet_jit.packing import FORMATS, get_format

EVERY_FORMAT = pytest.mark.parametrize("name", FORMATS)

CODES = st.tuples(st.integers(0, 9), st.integers(1, 70)).flatmap(
    lambda shape: arrays(np.int8, shape, elements=st.integers(-1, 1))
)


def digits_of(byte: int, base: int, count: int) -> list[int]:
    """Return the digits of a byte from the lowest up, by division."""
    return [byte // base**digit % base for digit in range(count)]


@EVERY_FORMAT
@given(w_q=CODES)
def test_round_trip_in_numpy(name, w_q):
    format = FORMATS[name]
    packed = format.pack(w_q)
    assert packed.dtype == np.uint8
    assert packed.shape == format.packed_shape(*w_q.shape)
    assert packed.nbytes == format.num_bytes(*w_q.shape)
    assert np.array_equal(format.unpack(packed, w_q.shape[1]), w_q)


@EVERY_FORMAT
@given(w_q=CODES)
def test_torch_packs_the_same_bytes(name, w_q):
    format = FORMATS[name]
    packed = format.pack(torch.from_numpy(w_q))
    assert packed.dtype == torch.uint8
    assert np.array_equal(packed.numpy(), format.pack(w_q))
    unpacked = format.unpack(packed, w_q.shape[1])
    assert unpacked.dtype == torch.int8
    assert np.array_equal(unpacked.numpy(), w_q)


@pytest.mark.parametrize(("name", "base"), [("i2", 4), ("t5", 3)])
@given(w_q=CODES)
def test_a_byte_holds_its_codes_from_the_lowest_digit_up(name, base, w_q):
    format = FORMATS[name]
    packed = format.pack(w_q)
    in_features = w_q.shape[1]
    for n, row in enumerate(packed.tolist()):
        codes = [code for byte in row for code in digits_of(byte, base, format.codes_per_byte)]
        assert codes[:in_features] == (w_q[n] + 1).tolist()
        assert set(codes[in_features:]) <= {1}, "missing codes are the weight 0"


@EVERY_FORMAT
@given(w_q=CODES, seed=st.integers(0, 99))
def test_strides_do_not_matter(name, w_q, seed):
    format = FORMATS[name]
    assert np.array_equal(format.pack(np.asfortranarray(w_q)), format.pack(w_q))
    backwards = format.pack(w_q)[::-1]
    assert np.array_equal(format.unpack(backwards, w_q.shape[1]), w_q[::-1])
    assert np.array_equal(format.pack(torch.from_numpy(w_q.T.copy()).T).numpy(), format.pack(w_q))


@EVERY_FORMAT
def test_no_inputs_take_no_bytes(name):
    format = FORMATS[name]
    packed = format.pack(np.zeros((3, 0), np.int8))
    assert packed.shape == (3, 0)
    assert format.unpack(packed, 0).shape == (3, 0)


def test_sizes_of_a_layer():
    assert FORMATS["i2"].num_bytes(6912, 2560) == 6912 * 640
    assert FORMATS["t5"].num_bytes(6912, 2560) == 6912 * 512
    assert FORMATS["i2"].packed_shape(3, 5) == (3, 2)
    assert FORMATS["t5"].packed_shape(3, 6) == (3, 2)


@EVERY_FORMAT
def test_every_byte_is_read_or_refused(name):
    format = FORMATS[name]
    base = {"i2": 4, "t5": 3}[name]
    for byte in range(256):
        packed = np.array([[byte]], np.uint8)
        codes = digits_of(byte, base, format.codes_per_byte)
        if byte < base**format.codes_per_byte and max(codes) <= 2:
            assert (format.unpack(packed, format.codes_per_byte) + 1).tolist() == [codes]
            format.check_bytes(packed)
        else:
            with pytest.raises(InvalidInput, match="code 3"):
                format.unpack(packed, format.codes_per_byte)
            with pytest.raises(InvalidInput, match="code 3"):
                format.unpack(torch.from_numpy(packed), format.codes_per_byte)
            for array in (packed, torch.from_numpy(packed)):
                with pytest.raises(InvalidInput, match="w_packed: found the code 3"):
                    format.check_bytes(array, "w_packed")


@EVERY_FORMAT
@pytest.mark.parametrize(
    ("w_q", "said"),
    [
        (np.zeros((2, 3), np.int16), "int16"),
        (np.zeros(3, np.int8), r"\(3,\)"),
        (np.array([[2, 0]], np.int8), r"0\.\.2"),
        (np.array([[-1, -2]], np.int8), r"-2\.\.-1"),
        (torch.zeros(2, 3), "float32"),
        (torch.full((1, 2), 7, dtype=torch.int8), r"7\.\.7"),
    ],
)
def test_pack_names_a_wrong_weight(name, w_q, said):
    with pytest.raises(InvalidInput, match=f"w_q.*{said}"):
        FORMATS[name].pack(w_q)


@EVERY_FORMAT
@pytest.mark.parametrize(
    ("packed", "said"),
    [
        (np.zeros((2, 9), np.uint8), r"\(2, 9\)"),
        (np.zeros((2, 2), np.int8), "int8"),
        (np.zeros(2, np.uint8), r"\(2,\)"),
        (torch.zeros(2, 2, dtype=torch.int32), "int32"),
    ],
)
def test_unpack_names_a_wrong_weight(name, packed, said):
    with pytest.raises(InvalidInput, match=f"packed: expected uint8.*{said}"):
        FORMATS[name].unpack(packed, 2 * FORMATS[name].codes_per_byte)


def test_lists_are_no_arrays():
    with pytest.raises(InvalidInput, match="list"):
        FORMATS["i2"].pack([[0, 1]])


def test_an_unknown_packing_lists_the_known_names():
    with pytest.raises(InvalidInput, match="i2, t5, got 'i3'"):
        get_format("i3")
