"""Every benchmark from its command line, on shapes so small that only the fields count."""

import argparse
import json
import runpy
import sys
from pathlib import Path

import pytest
import torch

import bench_bit_linear
import bench_model
import bench_rms_norm
import bench_ternary_matmul
import bench_training
import bench_tuning
import ggml
import limits
import peaks
import picture
import readme_table
import report
import run_all
import training_layers
from report import Row, read

BENCHMARKS = Path(report.__file__).parent
FIELDS = {"shape", "rows", "provider", "threads", "median_us", "min_us", "gb_per_s", "gop_per_s", "share_of_limit"}
TINY = ["--shapes", "64x256", "--threads", "1", "--seconds", "0.001"]


@pytest.fixture(autouse=True)
def small_limits(monkeypatch):
    """Limits that take no time; what they say is not looked at here."""
    monkeypatch.setattr(peaks, "DOT4_STEPS", 100)
    monkeypatch.setattr(peaks, "AMX_STEPS", 100)
    monkeypatch.setattr(limits, "CALL_BYTES", 1 << 16)
    monkeypatch.setattr(limits, "cold_bytes", lambda contenders, cache_bytes: (1 << 17, True))


def run(script, arguments, folder):
    """The rows that a script wrote, and its whole report."""
    files = folder / "figures.json", folder / "figures.png"
    returned = script.run([*arguments, "--json", str(files[0]), "--picture", str(files[1])])
    assert returned == read(files[0])
    assert files[1].read_bytes().startswith(b"\x89PNG")
    rows = json.loads(files[0].read_text())["rows"]
    for row in rows:
        assert set(row) >= FIELDS
        assert 0 < row["min_us"] <= row["median_us"]
        assert row["gb_per_s"] >= 0 <= row["gop_per_s"]
        assert row["share_of_limit"] > 0
    return rows, returned


def case(found, provider, /, **fields):
    """The one row of a provider with those fields."""
    wanted = fields | {"provider": provider}
    (one,) = [row for row in found if wanted.items() <= row.items()]
    return one


def test_bit_linear(tmp_path, capsys):
    rows, found = run(bench_bit_linear, [*TINY, "--rows", "1", "3", "20"], tmp_path)
    for provider in ("bitnet_jit", "bitnet_jit_t5", "kernel", "torch_float32", "torch_bf16"):
        hot = case(rows, provider, rows=3, cache="hot")
        assert (hot["shape"], hot["threads"], hot["op"]) == ("64x256", 1, "bit_linear")
        assert case(rows, provider, rows=1, cache="cold")
    assert not any(row["cache"] == "cold" and row["rows"] == 20 for row in rows)
    ours = case(rows, "bitnet_jit", rows=20, cache="hot")
    assert ours["gop_per_s"] == pytest.approx(2 * 20 * 64 * 256 / ours["median_us"] / 1e3, rel=0.01)
    assert ours["gb_per_s"] == pytest.approx(64 * 256 / 4 / ours["median_us"] / 1e3, abs=0.02)
    assert {"cpu", "cores", "date", "versions", "command", "cold_bytes"} <= set(found.header)
    assert "bit_linear 64x256, 20 rows, 1 threads, hot" in capsys.readouterr().out


def test_ternary_matmul_on_ragged_shapes(tmp_path):
    rows, found = run(bench_ternary_matmul, [*TINY[2:], "--shapes", "33x77", "--rows", "5", "--cache", "hot"], tmp_path)
    assert {row["provider"] for row in rows if not row["provider"].startswith("limit:")} == {
        "kernel",
        "kernel_t5",
        "torch_int_mm",
    }
    assert found.refusals == ()


def test_rms_norm_runs_every_row_wise_op(tmp_path):
    rows, found = run(bench_rms_norm, [*TINY, "--rows", "2", "--cache", "hot"], tmp_path)
    assert {row["op"] for row in rows} == {
        "quantize_activation",
        "rms_norm",
        "rms_norm_gradients",
        "rms_norm_quantize",
        "relu2_mul_norm_quantize",
        "silu_mul_norm_quantize",
    }
    assert found.refusals == ()


def test_a_model_reads_and_writes(tmp_path):
    small = ["--prompt-tokens", "3", "--new-tokens", "2", "--threads", "1", "--seconds", "0.001"]
    rows, _ = run(bench_model, [*small, "--providers", "bitnet_jit"], tmp_path)
    written = case(rows, "bitnet_jit", op="decode")
    assert written["rows_per_s"] == pytest.approx(2e6 / written["median_us"], abs=1)
    assert case(rows, "bitnet_jit", op="prefill")["rows"] == 3


def test_what_cannot_run_is_refused_in_words(tmp_path):
    arguments = [*TINY[2:], "--shapes", "8x100", "--rows", "1", "--cache", "hot"]
    _, found = run(bench_bit_linear, [*arguments, "--providers", "bitnet_jit", "ggml_tq2_0"], tmp_path)
    (refusal,) = found.refusals
    assert (refusal.provider, refusal.shape) == ("ggml_tq2_0", "8x100")
    assert ("multiple of 256, got 100" if ggml.load() else "pip install llama-cpp-python") in refusal.reason


@pytest.mark.parametrize("script", sorted(path.name for path in BENCHMARKS.glob("bench_*.py")))
def test_help_says_what_a_script_measures(script, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [script, "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(BENCHMARKS / script), run_name="__main__")
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert "--json" in shown
    assert "--threads" in shown


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--shapes", "64by256"], "OUTxIN such as 2560x6912"),
        (["--rows", "0"], "positive whole number, got '0'"),
        (["--providers", "nobody"], "invalid choice: 'nobody'"),
        (["--seconds", "nan"], "positive number, got 'nan'"),
    ],
)
def test_arguments_that_cannot_be_meant_are_named(arguments, said, capsys):
    with pytest.raises(SystemExit):
        bench_bit_linear.run(arguments)
    assert said in capsys.readouterr().err


def row(provider, median, **fields):
    given = {"op": "bit_linear", "shape": "8x8", "rows": 1, "threads": 2, "cache": "hot"} | fields
    return Row(
        provider=provider,
        median_us=median,
        min_us=median,
        gb_per_s=1,
        gop_per_s=1,
        rows_per_s=1,
        limit="read",
        share_of_limit=0.5,
        **given,
    )


def test_the_readme_table_takes_the_better_peer_and_the_most_threads():
    rows = (
        row("bitnet_jit", 10.0),
        row("torch_int8_x86", 30.0),
        row("torch_int8_onednn", 20.0),
        row("bitnet_jit", 17.0, threads=1),
        row("torch_bf16", 99.0, threads=1),
    )
    header = {"cpu": "A CPU", "cores": 2, "date": "2026-01-02T03", "versions": {"torch": "2", "numba": "0"}}
    shown = readme_table.table(report.Report(header, rows, ()))
    assert shown.startswith("A CPU, 2 cores, 2026-01-02, torch 2, numba 0;")
    assert shown.splitlines()[-1] == "| 8x8 | 1 | 2 | cache | 10 | 50% (read) |  | 20 (2.0 x) |  |  |"
    assert len(shown.splitlines()) == 5


def test_the_readme_has_a_place_for_the_table(tmp_path):
    readme = BENCHMARKS.parent / "README.md"
    changed = readme_table.replace_between(readme.read_text(), r"a \table")
    assert f"{readme_table.BEGIN}\na \\table\n{readme_table.END}" in changed
    with pytest.raises(ValueError, match="expected the comments"):
        readme_table.replace_between("nothing", "table")


def test_nothing_to_draw_is_said(tmp_path):
    with pytest.raises(ValueError, match="every provider was refused"):
        picture.draw(report.Report({"cpu": ""}, (), ()), tmp_path / "empty.png")


def test_folders_are_named_by_the_cpu():
    assert run_all.folder_name("Intel(R) Xeon(R) 8481C CPU @ 2.70GHz") == "intel-xeon-8481c-cpu-2-70ghz"


def test_training_is_tuned_for_codes_and_i2_only(capsys):
    with pytest.raises(SystemExit):
        bench_tuning.run(["--op", "quantized_linear", "--packing", "t5"])
    assert "--op quantized_linear is of i2 weights and int8 codes" in capsys.readouterr().err


@pytest.mark.parametrize("more", [[], ["--op", "quantized_linear"], ["--layout", "i2"]])
def test_tuning_is_compared_with_all_configs(more, tmp_path, capsys, monkeypatch):
    for name in ("EACH", "BEST", "LAST"):
        monkeypatch.setattr(bench_tuning, name, 0.0)
    file = tmp_path / "figures.json"
    (line,) = bench_tuning.run(["--shapes", "64x96", "--rows", "1", "--json", str(file), *more])
    assert line.competed >= (1 if "--layout" in more else 4)
    assert line.best["microseconds"] <= line.usual["microseconds"]
    assert all(ratio is None or ratio >= 1 for ratio in line.ratios())
    assert json.loads(file.read_text())[0]["shape"] == "64x96"
    text = capsys.readouterr().out
    assert "within 5 %" in text
    assert "full tuning against the default" in text


def test_searches_that_find_nothing_are_told(capsys, monkeypatch):
    """As on a machine that is too busy to tell."""
    for name in ("EACH", "BEST", "LAST"):
        monkeypatch.setattr(bench_tuning, name, 0.0)
    monkeypatch.setattr(bench_tuning, "choose", lambda among, measure, effort: None)
    (line,) = bench_tuning.run(["--shapes", "64x96", "--rows", "1", "--layout", "i2"])
    assert line.ratios() == [None] * 3
    text = capsys.readouterr().out
    assert text.count("found nothing") == 3
    assert "at no problem did both full searches find something" in text
    assert "full tuning against the default: nothing was found" in text


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # from what transformers compiles its quantizers by
def test_training_is_checked_and_timed(tmp_path, monkeypatch):
    monkeypatch.setattr(bench_training, "TURNS", 1)
    files = tmp_path / "figures.json", tmp_path / "figures.png"
    arguments = ["--device", "cpu", "--shapes", "32x48+8x48,48x32", "--rows", "20", "--ways", "eager"]
    rows = bench_training.run([*arguments, "--json", str(files[0]), "--picture", str(files[1])])
    assert {row.layer for row in rows} >= {"nn.Linear", "BitLinear"}
    for row in rows:
        assert row.failed == ""
        assert 0 < row.min_us <= row.median_us
        assert row.error < 0.02
    assert json.loads(files[0].read_text())["layers"][0]["layer"] == "nn.Linear"
    assert files[1].stat().st_size > 1000


def test_a_turn_on_a_gpu_counts_what_follows_once_the_clock_has_settled(monkeypatch):
    asked, steps = [], []

    def timed(call, times):
        asked.append(times)
        return [10_000.0 + len(asked)] * times

    monkeypatch.setattr(bench_training.graphs, "timed", timed)
    monkeypatch.setattr(bench_training.gpu, "clock_mhz", lambda: 1500)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    found = bench_training.in_turns({"a": lambda: steps.append(1)}, "cuda", 0.5)
    assert asked == [4, 30, 50] * bench_training.GPU_TURNS
    assert len(steps) == 4 * bench_training.GPU_TURNS  # while the clock is asked for
    assert found == {"a": {"median_us": 10_009.0, "min_us": 10_003.0, "clock_mhz": 1500}}


def test_a_layer_that_computes_something_else_is_not_timed(monkeypatch):
    work = training_layers.Work(training_layers.parse_block("32x48"), 20, torch.float32, "cpu")
    step = work.step(training_layers.peers("cpu")["nn.Linear"], torch.float32)
    with pytest.raises(AssertionError, match="a result is off by 0"):
        work.check(step(), ternary=True, weight_dtype=torch.float32)


def test_layers_of_other_widths_share_no_input():
    with pytest.raises(argparse.ArgumentTypeError, match=r"have one width, got 8x16\+8x32"):
        training_layers.parse_block("8x16+8x32")
