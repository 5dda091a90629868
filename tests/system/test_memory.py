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
