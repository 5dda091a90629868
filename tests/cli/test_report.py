"""`bitnet-jit report`, and layers on MLX's arrays in `bitnet-jit bench`."""

import importlib.util

import pytest
from typer.testing import CliRunner

from bitnet_jit.cli import report
from bitnet_jit.cli.app import app
from bitnet_jit.kernels import registry

needs_mlx = pytest.mark.skipif(importlib.util.find_spec("mlx") is None, reason="the package mlx is not installed")


def run(*arguments):
    """Return the result of a command."""
    return CliRunner().invoke(app, arguments)


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    monkeypatch.setattr(report, "FEW", 1)
    monkeypatch.setattr(report, "SHAPES", ((64, 128),))
    monkeypatch.setattr(report, "TOKENS", 2)
    monkeypatch.setattr("bitnet_jit.cli.bench.SECONDS", 0.0)
    few = [pair for name in ("numba", "mlx") for pair in pairs_of(name)]
    monkeypatch.setattr(
        "bitnet_jit.tuning.conformance.kernels_with_problems",
        lambda device: [pair for pair in few if device in registry.BACKENDS[pair[0].backend].device_types],
    )


def pairs_of(backend):
    """Return a kernel of a backend with a problem, none where its package is absent."""
    if registry.absent_reason(backend) is not None:
        return []
    from bitnet_jit.ops.op import OPS
    from bitnet_jit.tuning.conformance import problems_of

    kernel = next(kernel for kernel in registry.kernels_of(backend) if kernel.op == "rms_norm")
    device = registry.BACKENDS[backend].device_types[0]
    problems = [p for p in problems_of(OPS["rms_norm"].spec, device) if kernel.unsupported_reason(p) is None]
    return [(kernel, problems)]


def test_a_report_has_versions_kernels_and_speeds(tmp_path):
    file = tmp_path / "report.md"
    result = run("report", "--output", str(file), "--device", "cpu")
    assert result.exit_code == 0, result.output
    text = file.read_text()
    assert "- cpu: numba.rms_norm: 1 of 1 problems agree" in text or "of 6 problems agree" in text
    assert "| cpu | 64 x 128 | 16 |" in text
    assert "tokens per second" in text
    assert "bitnet-jit" in text


def test_a_wrong_kernel_is_told_of(tmp_path, monkeypatch):
    def check(kernel, problem, device):
        raise AssertionError("otherwise")

    monkeypatch.setattr("bitnet_jit.tuning.conformance.check", check)
    file = tmp_path / "report.md"
    assert run("report", "--output", str(file), "--device", "cpu").exit_code == 0
    assert "0 of" in file.read_text()
    assert "AssertionError: otherwise" in file.read_text()


def test_a_device_that_is_not_here_is_wrong_usage(tmp_path):
    result = run("report", "--device", "tpu")
    assert result.exit_code == 2
    assert "got 'tpu'" in " ".join(result.output.split())


@needs_mlx
def test_layers_on_arrays_of_mlx(tmp_path):
    result = run("bench", "--device", "mlx", "--shape", "64x128", "--rows", "1")
    assert result.exit_code == 0, result.output
    assert "64 x 128" in result.output
    file = tmp_path / "report.md"
    assert run("report", "--output", str(file), "--device", "mlx").exit_code == 0
    assert "| mlx | 64 x 128 | 1 |" in file.read_text()


@needs_mlx
def test_t5_is_refused_on_mlx():
    result = run("bench", "--device", "mlx", "--packing", "t5", "--shape", "64x128", "--rows", "1")
    assert result.exit_code == 2
    assert "expected i2 on mlx" in " ".join(result.output.split())
