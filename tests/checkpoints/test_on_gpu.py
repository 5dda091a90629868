"""Checkpoints read straight onto a GPU: every tensor is, bit for bit, what it is on the CPU."""

import pytest
import torch

import bitnet_jit
from bitnet_jit.checkpoints.formats.hf_packing import repack
from bitnet_jit.checkpoints.formats.own_packing import to_i2
from bitnet_jit.devices import cuda
from bitnet_jit.errors import CheckpointError
from bitnet_jit.packing import FORMATS

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA or ROCm device"),
]


def unpacked(decoder):
    """Return all numbers of a decoder on the CPU, codes apart from the layout in which a device keeps them."""
    numbers = {name: tensor.cpu() for name, tensor in decoder.state_dict().items() if "w_packed" not in name}
    for name, layer in decoder.named_modules():
        if isinstance(layer, bitnet_jit.PackedBitLinear):
            numbers[f"{name} codes"] = layer.unpack()[0].cpu()
    return numbers


@pytest.mark.parametrize("head", ["checkpoint", "int8"])
@pytest.mark.parametrize("format", ["i2", "t5", "bitlinear", "autobitlinear"])
def test_a_model_is_the_same_on_both(tmp_path, format, head):
    bitnet_jit.save(bitnet_jit.load(), tmp_path / "model", format)
    expected = unpacked(bitnet_jit.load(tmp_path / "model", head=head))
    actual = unpacked(bitnet_jit.load(tmp_path / "model", "cuda", head=head))
    assert actual.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(actual[name], tensor), name


@pytest.mark.parametrize("size", [0, 1, cuda.UPLOAD_BYTES - 1, cuda.UPLOAD_BYTES, 3 * cuda.UPLOAD_BYTES + 17])
def test_pieces_make_the_whole(size):
    source = torch.randint(0, 256, (size,), dtype=torch.uint8)
    target = torch.zeros(size, dtype=torch.uint8, device="cuda")

    def fill(buffer, start):
        buffer[:] = source[start : start + len(buffer)].numpy().data

    cuda.upload(target, fill)
    assert torch.equal(target.cpu(), source)


@pytest.mark.parametrize("shape", [(1, 1), (3, 17), (33, 33), (257, 1031)])
def test_packings_become_ours_there_too(shape):
    codes = torch.randint(-1, 2, shape, dtype=torch.int8)
    expected = FORMATS["i2"].pack(codes)
    for packing in FORMATS:
        out = torch.full_like(expected, 255).cuda()
        to_i2(FORMATS[packing].pack(codes).cuda(), out, shape[1], packing)
        assert torch.equal(out.cpu(), expected)
    source = torch.randint(0, 256, (-(-shape[0] // 4), shape[1]), dtype=torch.uint8)
    here, there = torch.empty_like(expected), torch.empty_like(expected).cuda()
    repack(source, here, shape[1])
    repack(source.cuda(), there, shape[1])
    assert torch.equal(there.cpu(), here)


def test_a_code_three_is_refused_there_too(tmp_path):
    bitnet_jit.save(bitnet_jit.load(), tmp_path / "model", "i2")
    file = tmp_path / "model" / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-4096:] = bytes([255]) * 4096
    file.write_bytes(content)
    with pytest.raises(CheckpointError):
        bitnet_jit.load(tmp_path / "model", "cuda")
