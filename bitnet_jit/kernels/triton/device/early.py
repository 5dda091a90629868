"""What Triton does before it compiles or loads a first kernel, and can do while weights are read."""

from triton.compiler import compiler
from triton.runtime import cache


def hash_compiler() -> None:
    """Have Triton hash its own files, hundreds of MB: the hash is part of every name in its cache, and is kept."""
    for module in (cache, compiler):  # where it stands in Triton from 3.5 on, and before
        hash_files = getattr(module, "triton_key", None)
        if hash_files is not None:
            hash_files()
            return
