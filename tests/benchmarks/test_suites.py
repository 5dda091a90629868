"""Every suite of kernels and models from its command line, on shapes so small that only the fields count."""

import json

import pytest

from benchmarks.harness.report import read
from benchmarks.providers import ggml_library
from benchmarks.suites import bit_linear, model, rms_norm, ternary_matmul

FIELDS = {"shape", "rows", "provider", "threads", "median_us", "min_us", "gb_per_s", "gop_per_s", "share_of_limit"}
TINY = ["--shapes", "64x256", "--threads", "1", "--seconds", "0.001"]
pytestmark = pytest.mark.usefixtures("small_limits")


def run(suite, arguments, folder):
    """Run a suite; return the rows that it wrote, and its whole report."""
    files = folder / "figures.json", folder / "figures.png"
    returned = suite.run([*arguments, "--json", str(files[0]), "--picture", str(files[1])])
    assert returned == read(files[0])
    assert files[1].read_bytes().startswith(b"\x89PNG")
    rows = json.loads(files[0].read_text())["rows"]
    for row in rows:
        assert set(row) >= FIELDS
        assert 0 < row["min_us"] <= row["median_us"]
        assert row["gb_per_s"] >= 0 <= row["gop_per_s"]
        assert row["share_of_limit"] > 0
    return rows, returned


def case(rows, provider, /, **fields):
    """Return the one row of a provider with those fields."""
    wanted = fields | {"provider": provider}
    (one,) = [row for row in rows if wanted.items() <= row.items()]
    return one


def test_bit_linear(tmp_path, capsys):
    rows, report = run(bit_linear, [*TINY, "--rows", "1", "3", "20"], tmp_path)
    for provider in ("bitnet_jit", "bitnet_jit_t5", "kernel", "torch_float32", "torch_bf16"):
        hot = case(rows, provider, rows=3, cache="hot")
        assert (hot["shape"], hot["threads"], hot["op"]) == ("64x256", 1, "bit_linear")
        assert case(rows, provider, rows=1, cache="cold")
    assert not any(row["cache"] == "cold" and row["rows"] == 20 for row in rows)
    ours = case(rows, "bitnet_jit", rows=20, cache="hot")
    assert ours["gop_per_s"] == pytest.approx(2 * 20 * 64 * 256 / ours["median_us"] / 1e3, rel=0.01)
    assert ours["gb_per_s"] == pytest.approx(64 * 256 / 4 / ours["median_us"] / 1e3, abs=0.02)
    assert {"cpu", "cores", "date", "versions", "command", "cold_bytes"} <= set(report.header)
    printed = capsys.readouterr().out
    assert "bit_linear 64x256, 20 rows, 1 threads, hot" in printed
    assert "x slower" in printed or "x faster" in printed


def test_ternary_matmul_on_ragged_shapes(tmp_path):
    rows, report = run(ternary_matmul, [*TINY[2:], "--shapes", "33x77", "--rows", "5", "--cache", "hot"], tmp_path)
    assert {row["provider"] for row in rows if not row["provider"].startswith("limit:")} == {
        "kernel",
        "kernel_t5",
        "torch_int_mm",
    }
    assert report.refusals == ()


def test_rms_norm_runs_every_row_wise_op(tmp_path):
    rows, report = run(rms_norm, [*TINY, "--rows", "2", "--cache", "hot"], tmp_path)
    assert {row["op"] for row in rows} == {
        "quantize_activation",
        "rms_norm",
        "rms_norm_gradients",
        "rms_norm_quantize",
        "relu2_mul_norm_quantize",
        "silu_mul_norm_quantize",
    }
    assert report.refusals == ()


def test_a_model_reads_and_writes(tmp_path):
    small = ["--prompt-tokens", "3", "--new-tokens", "2", "--threads", "1", "--seconds", "0.001"]
    rows, _ = run(model, [*small, "--providers", "bitnet_jit"], tmp_path)
    written = case(rows, "bitnet_jit", op="decode")
    assert written["rows_per_s"] == pytest.approx(2e6 / written["median_us"], abs=1)
    assert case(rows, "bitnet_jit", op="prefill")["rows"] == 3


def test_a_provider_that_cannot_run_is_refused_in_words(tmp_path):
    arguments = [*TINY[2:], "--shapes", "8x100", "--rows", "1", "--cache", "hot"]
    _, report = run(bit_linear, [*arguments, "--providers", "bitnet_jit", "ggml_tq2_0"], tmp_path)
    (refusal,) = report.refusals
    assert (refusal.provider, refusal.case) == ("ggml_tq2_0", "8x100, 1 rows")
    assert ("multiple of 256, got 100" if ggml_library.load() else "pip install llama-cpp-python") in refusal.reason


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--shapes", "64by256"], "OUTxIN such as 2560x6912"),
        (["--rows", "0"], "positive whole number, got '0'"),
        (["--providers", "nobody"], "invalid choice: 'nobody'"),
        (["--seconds", "nan"], "positive number, got 'nan'"),
    ],
)
def test_arguments_that_cannot_be_meant_are_named(arguments, words, capsys):
    with pytest.raises(SystemExit):
        bit_linear.run(arguments)
    assert words in capsys.readouterr().err
