"""The package as a whole: imports that cost nothing, names that resolve, examples that run, errors of one root."""

import doctest
import importlib
import importlib.util
import pkgutil
import subprocess
import sys

import pytest

import bitnet_jit
from bitnet_jit.errors import BitNetError, CheckpointError, InvalidInput, MissingPackage, UnsupportedProblem

HEAVY = ("torch", "numba", "llvmlite", "triton", "mlx", "transformers", "numpy", "tokenizers", "safetensors")
SIDE_EFFECTS = "bitnet_jit.__main__"


def absent(package: str) -> bool:
    """Return whether a package is not installed."""
    return importlib.util.find_spec(package) is None


MODULES = sorted(
    name
    for _, name, _ in pkgutil.walk_packages(bitnet_jit.__path__, "bitnet_jit.")
    if name != SIDE_EFFECTS and not any(language in name and absent(language) for language in ("triton", "mlx"))
)


def in_a_new_process(code: str) -> str:
    """Return the output of a fresh interpreter."""
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout


def test_importing_the_package_imports_nothing_heavy():
    heavy = in_a_new_process(f"import sys, bitnet_jit; print([name for name in {HEAVY} if name in sys.modules])")
    assert heavy.strip() == "[]"


def test_listing_the_names_imports_nothing_heavy():
    heavy = in_a_new_process(
        f"import sys, bitnet_jit; dir(bitnet_jit); print([name for name in {HEAVY} if name in sys.modules])"
    )
    assert heavy.strip() == "[]"


def test_the_registry_imports_no_torch():
    has_torch = in_a_new_process("import sys, bitnet_jit.kernels.registry; print('torch' in sys.modules)")
    assert has_torch.strip() == "False"


def test_a_layer_on_the_cpu_imports_no_triton():
    code = """
import sys, torch
from bitnet_jit import PackedBitLinear
layer = PackedBitLinear(64, 64)
layer(torch.randn(1, 64))
layer.to("meta")
print([name for name in sys.modules if name.startswith(("triton", "bitnet_jit.kernels.triton."))])
"""
    assert in_a_new_process(code).strip() == "[]"


def test_without_torch_the_numba_kernels_are_there_and_torch_is_refused_in_words():
    code = """
import sys
sys.modules["torch"] = None  # as if it were not installed
from bitnet_jit.kernels import registry
from bitnet_jit.problem import Problem
layout = registry.preferred_layout("i2", "cpu").name
problem = Problem("ternary_matmul", "cpu", 1, 32, 32, layout, "a8", "int8", "int32")
fitting, refusals = registry.candidates(problem)
print(fitting[0].name.partition(".")[0], "|", refusals["torch"])
"""
    assert in_a_new_process(code).strip() == "numba | the package torch is not installed (pip install torch)"


def test_without_triton_the_layout_of_a_gpu_can_be_read():
    code = """
import sys
import numpy as np
sys.modules["triton"] = None  # as if it were not installed
from bitnet_jit.kernels import registry
from bitnet_jit.packing import FORMATS
packed = FORMATS["t5"].pack(np.array([[-1, 0, 1, 1, 1, -1]], np.int8))
layout = registry.get_layout("t5/planes")
print((layout.to_canonical(layout.from_canonical(packed, 1, 6), 1, 6) == packed).all())
"""
    assert in_a_new_process(code).strip() == "True"


def test_where_numba_must_not_compile_plain_torch_kernels_run(monkeypatch):
    """Set NUMBA_DISABLE_JIT=1, as people do to debug their code: numbers are right, and `info` says why it is slow."""
    code = """
import tempfile, torch, bitnet_jit
from bitnet_jit.cli.info import sections
torch.manual_seed(0)
layer, x = bitnet_jit.BitLinear(64, 32), torch.randn(3, 64)
layer(x).sum().backward()
print(torch.equal(layer.pack()(x), layer(x)), torch.isfinite(layer.weight.grad).all().item())
decoder = bitnet_jit.load(bitnet_jit.embedded_model())
print(decoder.generate(list(b"In the "), max_new_tokens=3).shape)
print("torch.bit_linear" in str(bitnet_jit.explain(layer.pack(), rows=1)))
bitnet_jit.autotune(layer.pack(), rows=(1,))
print(any("NUMBA_DISABLE_JIT is set" in value for _, lines in sections() for _, value in lines))
"""
    monkeypatch.setenv("NUMBA_DISABLE_JIT", "1")
    assert in_a_new_process(code).split("\n")[:4] == ["True True", "torch.Size([10])", "True", "True"]


@pytest.mark.parametrize("name", bitnet_jit.__all__)
def test_every_public_name_resolves(name):
    assert getattr(bitnet_jit, name) is not None
    assert name in dir(bitnet_jit)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no_such_name"):
        bitnet_jit.no_such_name  # noqa: B018


def test_the_version_is_that_of_the_installed_package():
    from importlib.metadata import version

    assert bitnet_jit.__version__ == version("bitnet-jit")


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings_run(name):
    result = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert result.failed == 0


def test_the_package_has_examples():
    finder = doctest.DocTestFinder()
    examples = [test for name in MODULES for test in finder.find(importlib.import_module(name)) if test.examples]
    assert len(examples) >= 5


@pytest.mark.parametrize(
    ("error", "builtin"),
    [
        (InvalidInput, ValueError),
        (MissingPackage, ImportError),
        (CheckpointError, ValueError),
        (UnsupportedProblem, NotImplementedError),
    ],
)
def test_errors_are_ours_and_also_the_expected_builtin(error, builtin):
    assert issubclass(error, BitNetError)
    assert issubclass(error, builtin)
