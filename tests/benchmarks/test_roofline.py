"""The roofline: a picture of what stands under both limits, and words where one is missing."""

import pytest

from benchmarks.harness.options import parse
from benchmarks.harness.report import Report, Row
from benchmarks.harness.roofline import draw_roofline, intensity
from benchmarks.providers.linear import MATMUL


def row(provider, gb_per_s, gop_per_s):
    return Row("matmul", "64x64", 1, provider, 1, "cold", 2.0, 1.0, gb_per_s, gop_per_s, 1, None, None)


LIMITS = (row("limit:read", 4000.0, 0.0), row("limit:peak", 0.0, 1.5e6))


def test_it_draws(tmp_path):
    ours = row("ours", 2000.0, 16000.0)
    assert intensity(ours) == 8
    draw_roofline(Report({"cpu": "a", "gpu": "b"}, (ours, *LIMITS), ()), tmp_path / "new" / "roofline.png")
    assert (tmp_path / "new" / "roofline.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("rows", [LIMITS, (row("ours", 1.0, 1.0), LIMITS[0]), (row("ours", 1.0, 1.0), LIMITS[1])])
def test_a_missing_limit_is_said(rows, tmp_path):
    with pytest.raises(ValueError, match="needs contenders that multiply and both limits"):
        draw_roofline(Report({"cpu": "a"}, rows, ()), tmp_path / "roofline.png")


def test_a_gpu_has_defaults_of_its_own():
    known = [name for defaults in MATMUL.values() for name in defaults.providers]
    on_gpu = parse("", known, MATMUL, ["--device", "cuda:0"])
    assert on_gpu.providers[0] == "product"
    assert (on_gpu.cache, on_gpu.threads, len(on_gpu.shapes), on_gpu.cold_rows) == (("cold",), (1,), 10, 2048)
    given = parse("", known, MATMUL, ["--device", "cuda", "--rows", "3", "--shapes", "64x32", "small"])
    assert (given.rows, [str(shape) for shape in given.shapes]) == ((3,), ["64x32", "768x768"])
