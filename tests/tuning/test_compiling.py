"""Compiling in other processes: what is compiled is found on disk, what cannot be is told, nothing stays behind."""

import os

import pytest

from bitnet_jit.kernels import registry
from bitnet_jit.problem import Gpu, Problem
from bitnet_jit.tuning import compiling
from bitnet_jit.tuning.compiling import Compilers, Process
from bitnet_jit.tuning.contenders import contenders

LAYOUT = registry.preferred_layout("i2", "cpu").name
LINEAR = Problem("bit_linear", "cpu", 4, 64, 96, LAYOUT, "a8", scale="tensor")
H200 = Gpu("H200", "9.0", 132, 232448)
ON_H200 = Problem("quantized_linear", "cuda", 16, 512, 512, "i2/planes", "a8", "int8", "bfloat16", "tensor", gpu=H200)


def test_configs_are_compiled_and_the_same_one_once():
    with Compilers(processes=2) as compilers:
        result = [compilers.submit((LINEAR, one.kernel.name, one.config)) for one in contenders(LINEAR)]
        assert [one.result(timeout=300) for one in result] == [None] * len(result)
        first = contenders(LINEAR)[0]
        assert compilers.submit((LINEAR, first.kernel.name, first.config)) is result[0]
        assert 1 <= len(compilers._all) <= 2
    assert not any(process.alive for process in compilers._all)


def test_what_cannot_be_compiled_is_told_in_words():
    with Compilers(processes=1) as compilers:
        assert "AttributeError" in compilers.submit((LINEAR, "numba.bit_linear", "no config")).result(timeout=300)
        one = contenders(LINEAR)[0]
        assert compilers.submit((LINEAR, one.kernel.name, one.config)).result(timeout=300) is None


def test_a_process_that_ends_is_a_reason_and_another_one_takes_over(monkeypatch):
    one = contenders(LINEAR)[0]
    compile_job = Process.compile
    monkeypatch.setattr(Process, "compile", lambda self, job: (self.end(), compile_job(self, job))[1])
    with Compilers(processes=1) as compilers:
        assert compilers.submit((LINEAR, one.kernel.name, one.config)).result(timeout=300) is not None
        monkeypatch.setattr(Process, "compile", compile_job)
        second = contenders(LINEAR)[1]
        assert compilers.submit((LINEAR, second.kernel.name, second.config)).result(timeout=300) is None


def test_closing_ends_what_is_under_way():
    compilers = Compilers(processes=1)
    waiting = [compilers.submit((LINEAR, one.kernel.name, one.config)) for one in contenders(LINEAR)]
    compilers.close()
    assert all(one.done() for one in waiting)
    assert not any(process.alive for process in compilers._all)


@pytest.mark.slow
def test_a_gpu_that_is_not_touched_is_compiled_for(monkeypatch, tmp_path):
    pytest.importorskip("triton", reason="the package triton is not installed")
    monkeypatch.setitem(os.environ, "TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.delitem(os.environ, "TRITON_INTERPRET", raising=False)
    one = contenders(ON_H200)[0]
    with Compilers({"triton": ("cuda", 90, 32)}, processes=1) as compilers:
        assert compilers.submit((ON_H200, one.kernel.name, one.config)).result(timeout=300) is None
    assert list(tmp_path.rglob("*.cubin"))


@pytest.mark.parametrize("worker", ["bitnet_jit.no_such_module", None])
def test_where_no_process_starts_kernels_are_compiled_where_they_are_bound(monkeypatch, caplog, worker):
    monkeypatch.setattr(compiling, "WORKER", worker or compiling.WORKER)
    if worker is None:
        monkeypatch.setattr(compiling.sys, "executable", "/no/such/python")
    one = contenders(LINEAR)[0]
    with caplog.at_level("INFO", "bitnet_jit"), Compilers(processes=1) as compilers:
        assert compilers.submit((LINEAR, one.kernel.name, one.config)).result(timeout=300) is None
    assert "compiled without other processes" in caplog.text


def test_modules_of_the_working_directory_are_not_run(monkeypatch, tmp_path):
    """In a shared folder they may be another user's, in a project a queue.py would end the compilers."""
    for name in ("numba", "torch", "queue", "types", "bitnet_jit"):
        (tmp_path / f"{name}.py").write_text("import pathlib; pathlib.Path(__file__).with_name('RAN').touch()")
    monkeypatch.chdir(tmp_path)
    one = contenders(LINEAR)[0]
    with Compilers(processes=1) as compilers:
        assert compilers.submit((LINEAR, one.kernel.name, one.config)).result(timeout=300) is None
        assert len(compilers._all) == 1
        assert compilers._all[0].starts
    assert not (tmp_path / "RAN").exists()
