"""The benchmark of loading, from its command line to its file, on a model so small that only the fields count."""

import json

import pytest

from benchmarks.suites.loading import Load, run
from bitnet_jit.checkpoints.embedded import embedded_model


def test_a_run_from_its_command_line_to_its_file(tmp_path, capsys):
    file = tmp_path / "load.json"
    arguments = f"--shape small --formats i2_s tq2_0 --turns 2 --models {embedded_model()} --json {file}"
    report = run(arguments.split())
    assert [row.model for row in report.rows] == ["i2_s", "tq2_0", str(embedded_model())]
    written = json.loads(file.read_text())["rows"]
    for row, fields in zip(report.rows, written, strict=True):
        assert fields["num_bytes"] == row.num_bytes > 0
        assert 0 < row.read_seconds < row.load_seconds
        assert row.peak_bytes is None or row.peak_bytes >= 0
    assert len(capsys.readouterr().out.splitlines()) == 4


def test_the_ratio_is_of_a_load_to_a_read():
    assert Load("a", 1, 0.5, 0.75, None).ratio == pytest.approx(1.5)
