"""Which MLX this package needs: the one that the extra `mlx` asks for."""

from importlib.metadata import PackageNotFoundError, version

from bitnet_jit.errors import MissingPackage

MIN_VERSION = (0, 32)
WANTED = ".".join(map(str, MIN_VERSION))
ADVICE = "pip install 'bitnet-jit[mlx]' on a Mac, 'mlx[cpu]' or 'mlx[cuda13]' on Linux"


def check_mlx() -> None:
    """Raise MissingPackage unless MLX is installed, and is not older than what is needed."""
    try:
        installed = version("mlx")
    except PackageNotFoundError:
        raise MissingPackage(f"bitnet_jit.mlx: expected the package mlx >= {WANTED}, found none; {ADVICE}") from None
    if tuple(int(part) for part in installed.split(".")[:2]) < MIN_VERSION:
        raise MissingPackage(f"bitnet_jit.mlx: expected the package mlx >= {WANTED}, found {installed}; {ADVICE}")
