"""quantization_config of config.json -> how the ternary layers of a folder are stored."""

from collections.abc import Callable

from bitnet_jit.checkpoints.formats import hf_bitnet, mlx_affine, own_format
from bitnet_jit.checkpoints.formats.fields import Fields
from bitnet_jit.checkpoints.formats.hf_exact import ExactFloats
from bitnet_jit.checkpoints.formats.hf_storage import Storage

# by quant_method; each takes the fields of quantization_config
STORAGES: dict[str, Callable[[Fields], Storage]] = {
    hf_bitnet.METHOD: hf_bitnet.read_bitnet,
    own_format.METHOD: own_format.read_own,
}


def read_storage(fields: Fields) -> Storage:
    """Return the storage that a config.json describes."""
    if (mlx := fields.inner(mlx_affine.KEY)) is not None:
        return mlx_affine.read_mlx(mlx)
    inner = fields.inner("quantization_config")
    if inner is None:
        return ExactFloats()
    return STORAGES[inner.word("quant_method", tuple(STORAGES))](inner)
