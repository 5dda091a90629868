"""The page on benchmarks of the engine: programs take its commands, and its limits are those of the code."""

import re
import shlex
from pathlib import Path

import pytest
import typer

from benchmarks.suites import clients
from benchmarks.suites.engine_text import bare, options, prefix, stall
from benchmarks.suites.load import options as load_options
from benchmarks.suites.soak import run as soak
from bitnet_jit.cli.app import app
from bitnet_jit.engine.targets import added_memory, bandwidth, growth, latency, overhead, pool, throughput, weight_bytes

PAGE = (Path(__file__).parents[2] / "docs" / "benchmarking_the_engine.md").read_text()
PARSERS = {
    "bench_clients.py": lambda words: clients.parse("", words),
    "bench_engine_text.py": lambda words: options.parse("", words),
    "load_server.py": lambda words: load_options.parse("", words),
    "soak.py": soak.parse,
}
LINES = re.findall(r"^python benchmarks/(\S+)(.*)$", PAGE, re.M)


def test_every_script_has_an_example():
    assert {script for script, _ in LINES} == PARSERS.keys()


@pytest.mark.parametrize(("script", "words"), LINES)
def test_scripts_take_the_options_of_the_page(script, words):
    PARSERS[script](shlex.split(words))


@pytest.mark.parametrize("words", re.findall(r"^bitnet-jit bench-engine ?(.*)$", PAGE, re.M))
def test_the_command_takes_the_options_of_the_page(words):
    typer.main.get_command(app).commands["bench-engine"].make_context("bench-engine", shlex.split(words))


def test_limits_are_those_of_the_code():
    words = {
        "throughput": f"{throughput.LIMIT:,.0f} rows/s",
        "latency": f"{latency.LIMIT:g} ms",
        "memory": f"{added_memory.LIMIT:g} MB",
        "utilization": f"{bandwidth.LIMIT:g} %",
        "weights": f"{weight_bytes.LIMIT:g} %",
        "pool hit rate": f"{pool.HIT_LIMIT:g} %",
        "fragmentation": f"{pool.FRAGMENTATION_LIMIT:g} %",
        "allocation": f"{pool.ALLOCATION_LIMIT:g} ms",
        "added per call": f"{overhead.SINGLE_LIMIT:g} us",
        "added per batch": f"{overhead.BATCH_LIMIT:g} %",
        "growth": f"{growth.LIMIT:g} MB",
    }
    for name, limit in words.items():
        assert f"| {name} | {limit} |" in PAGE
    assert f"| {bare.LIMITS['cpu']:g}; on a GPU {bare.GPU_LIMIT:.2f} |" in PAGE
    assert f"usual step | {stall.LIMIT:g} |" in PAGE
    assert f"an uncached one | {prefix.LIMIT:.2f} |" in PAGE
