"""`python -m bitnet_jit`: the command `bitnet-jit`, by the entry point that pyproject.toml names for it."""

import pkgutil

if __name__ == "__main__":
    pkgutil.resolve_name("bitnet_jit.cli:main")()
