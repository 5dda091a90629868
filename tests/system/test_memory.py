"""The memory that there is: the least of the limits of the machine, the control group and the process."""

import subprocess
import sys

import pytest

from bitnet_jit.system import memory
from bitnet_jit.system.memory import cgroup_limit, in_words, total_memory


def test_the_lowest_limit_counts(monkeypatch):
    for name, value in (("physical_memory", 7), ("address_space", 5), ("cgroup_limit", 6)):
        monkeypatch.setattr(memory, name, lambda *_, value=value: value)
    assert total_memory() == 5
    monkeypatch.setattr(memory, "address_space", lambda: sys.maxsize)
    assert total_memory() == 6


def test_a_control_group_without_a_limit_has_none(tmp_path):
    for text, limit in (("max\n", sys.maxsize), ("4096\n", 4096), ("", sys.maxsize)):
        file = tmp_path / f"limit{len(text)}"
        file.write_text(text)
        assert cgroup_limit(file) == limit
    assert cgroup_limit(tmp_path / "absent") == sys.maxsize


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such limit")
def test_a_limit_on_addresses_is_seen():
    code = "import resource as r; r.setrlimit(r.RLIMIT_AS, (2**31, 2**31))\n"
    code += "from bitnet_jit.system.memory import total_memory; print(total_memory() <= 2**31)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "True\n"


def test_sizes_in_words():
    sizes = {0: "0 bytes", 1023: "1023 bytes", 1024: "1.0 KiB", 3 * 2**29: "1.5 GiB", 2**75: "32768.0 EiB"}
    assert {size: in_words(size) for size in sizes} == sizes


FREED = """
from pathlib import Path
from bitnet_jit.system.memory import give_back

def resident():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS"))

blocks = [(bytearray(b"x" * 60_000), bytearray(b"y" * 600)) for _ in range(1000)]
live = [small for _, small in blocks]
del blocks
before = resident()
give_back()
print(before - resident() > 40_000_000, all(small == b"y" * 600 for small in live))
"""


@pytest.mark.skipif(not hasattr(memory.this_process(), "malloc_trim"), reason="the C library is not glibc")
def test_freed_memory_between_live_blocks_is_given_back():
    """In a process of its own, whose heap has no other holes."""
    child = subprocess.run([sys.executable, "-c", FREED], capture_output=True, text=True)
    assert child.stdout == "True True\n", child.stderr


def test_a_c_library_that_keeps_nothing_is_left_alone(monkeypatch):
    monkeypatch.setattr(memory, "this_process", lambda: None)
    memory.give_back()
