"""mlx-lm's server on our kernels: `python -m bitnet_jit.mlx.server --model FOLDER` takes the options of mlx_lm.server.

One more, `--activation a8`, has layers quantize their inputs as BitNet's checkpoints were trained to; a16, floats as
mlx-lm computes them, is what runs without it. Models are patched when the server loads them.
"""

import importlib
import sys
from collections.abc import Callable, Sequence
from typing import Any

from bitnet_jit.errors import InvalidInput
from bitnet_jit.mlx.patching import patch
from bitnet_jit.problem import ACTIVATIONS

OPTION = "--activation"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run mlx_lm.server with models that are patched.

    Args:
        arguments: of the command line; None: those of this process.

    Raises:
        InvalidInput: `--activation` is neither a8 nor a16.
    """
    server: Any = importlib.import_module("mlx_lm.server")
    rest, activation = taken(list(sys.argv[1:] if arguments is None else arguments))
    server.load = patching(server.load, activation)
    sys.argv = ["mlx_lm.server", *rest]
    server.main()


def taken(arguments: list[str]) -> tuple[list[str], str]:
    """Return the arguments without our option, and what it says.

    >>> taken(["--model", "here", "--activation", "a8"]), taken(["--activation=a16"])
    ((['--model', 'here'], 'a8'), ([], 'a16'))
    """
    rest: list[str] = []
    activation = "a16"
    words = iter(arguments)
    for word in words:
        name, equals, value = word.partition("=")
        if name != OPTION:
            rest.append(word)
            continue
        activation = value if equals else next(words, "")
    if activation not in ACTIVATIONS[:2]:
        raise InvalidInput(f"{OPTION}: expected a8 or a16, got {activation!r}")
    return rest, activation


def patching(load: Callable[..., Any], activation: str) -> Callable[..., Any]:
    """Return what loads as mlx-lm does, and patches the model."""

    def load_patched(*arguments: Any, **options: Any) -> Any:
        model, *others = load(*arguments, **options)
        return patch(model, activation), *others

    return load_patched


if __name__ == "__main__":
    main()
