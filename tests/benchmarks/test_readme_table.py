"""The README's table of figures, and the folders that results lie in."""

from pathlib import Path

import pytest

from benchmarks import readme_table, run_all
from benchmarks.harness.report import Report, Row

README = Path(readme_table.__file__).parents[1] / "README.md"


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


def test_the_table_takes_the_better_peer_and_the_most_threads():
    rows = (
        row("bitnet_jit", 10.0),
        row("torch_int8_x86", 30.0),
        row("torch_int8_onednn", 20.0),
        row("bitnet_jit", 17.0, threads=1),
        row("torch_bf16", 99.0, threads=1),
        row("ggml_q4_0", 8.0),
    )
    header = {"cpu": "A CPU", "cores": 2, "date": "2026-01-02T03", "versions": {"torch": "2", "numba": "0"}}
    text = readme_table.table(Report(header, rows, ()))
    assert text.startswith("A CPU, 2 cores, 2026-01-02, torch 2, numba 0;")
    assert text.splitlines()[-1] == "| 8x8 | 1 | 2 | cache | 10 | 50% (read) |  | 20 (2.0x) |  | 8 (0.8x) |"
    assert len(text.splitlines()) == 5


def test_the_readme_has_a_place_for_the_table():
    changed = readme_table.replace_between(README.read_text(), r"a \table")
    assert f"{readme_table.BEGIN}\na \\table\n{readme_table.END}" in changed
    with pytest.raises(ValueError, match="expected the comments"):
        readme_table.replace_between("nothing", "table")


def test_the_readme_has_the_table_of_the_results(capsys):
    readme_table.main(["--print"])
    assert capsys.readouterr().out.strip() in README.read_text()


def test_folders_are_named_by_the_cpu():
    assert run_all.folder_name("Intel(R) Xeon(R) 8481C CPU @ 2.70GHz") == "intel-xeon-8481c-cpu-2-70ghz"
