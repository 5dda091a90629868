"""Files of every kind as arrays of MLX: the same codes, scales and floats as the readers give torch."""

import mlx.core as mx
import numpy as np
import pytest
from small_checkpoints import DIVISOR, EXACT, MULTIPLIER

import bitnet_jit
import bitnet_jit.mlx as bjm
from bitnet_jit import CheckpointError


@pytest.mark.parametrize("storage", ["multiplier", "divisor", "t5", "mlx"])
def test_a_layer_of_a_file_is_a_layer_of_ours(write_checkpoint, tmp_path, storage):
    from mlx_folders import as_mlx

    folder = write_checkpoint(
        {"divisor": DIVISOR, "mlx": EXACT}.get(storage, MULTIPLIER), "llama" if storage == "mlx" else "bitnet"
    )
    if storage == "mlx":
        folder = as_mlx(folder, tmp_path / "mlx")
    if storage == "t5":
        model = bitnet_jit.load(folder)
        bitnet_jit.save(model, tmp_path / "t5", "t5")
        folder = tmp_path / "t5"
    arrays = bjm.load_arrays(folder)
    assert arrays["embedding"].shape == (256, 64)
    name, group_size = "blocks.1.feed_forward.down", 32 if storage == "mlx" else 0
    x = np.random.default_rng(0).standard_normal((3, 96)).astype(np.float32)
    layer = bjm.PackedBitLinear(
        arrays[f"{name}.w_packed"], arrays[f"{name}.w_scale"], in_features=96, group_size=group_size, activation="a16"
    )
    w = bjm.dequantize_weight(layer.w_packed, layer.w_scale, 96, group_size)
    assert mx.allclose(layer(mx.array(x)), mx.array(x) @ w.T, atol=1e-4).item()
    dense = [module.dequantize().numpy() for module in bitnet_jit.load(folder).modules() if is_packed(module)]
    assert any(np.array_equal(np.array(w), rows) for rows in dense)


def is_packed(module):
    return isinstance(module, bitnet_jit.PackedBitLinear)


def test_a_damaged_file_is_told(write_checkpoint):
    folder = write_checkpoint(MULTIPLIER)
    (folder / "model.safetensors").write_bytes(b"12345678")
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        bjm.load_arrays(folder)
