"""Apple's chips: which one this is, and what is published of each, for rooflines and for people.

Bandwidths are those of Apple's technical specifications (support.apple.com/specs) and announcements of the Macs with
each chip (apple.com/newsroom). float32 peaks are Apple's for M1 and M2 (announcements of M1, M1 Ultra, M2, M2 Ultra);
Apple has published none since, and the rest are nominal ones of huggingface.js (packages/tasks/src/hardware.ts).
"""

import ctypes
import sys
from dataclasses import dataclass
from functools import cache


@dataclass(frozen=True)
class Chip:
    """What is published of a chip.

    Attributes:
        bandwidth: bytes per second that its memory gives.
        operations: of float32 per second of all its GPU cores, a multiply-add counted as two.
        cores: of its GPU, where all are there.
    """

    bandwidth: float
    operations: float
    cores: int


CHIPS = {  # by name: GB/s, TFLOP/s, GPU cores
    name: Chip(bandwidth * 1e9, teraflops * 1e12, cores)
    for name, bandwidth, teraflops, cores in (
        ("Apple M1", 68.25, 2.6, 8),
        ("Apple M1 Pro", 200, 5.2, 16),
        ("Apple M1 Max", 400, 10.4, 32),
        ("Apple M1 Ultra", 800, 21, 64),
        ("Apple M2", 100, 3.6, 10),
        ("Apple M2 Pro", 200, 6.8, 19),
        ("Apple M2 Max", 400, 13.6, 38),
        ("Apple M2 Ultra", 800, 27.2, 76),
        ("Apple M3", 100, 4.1, 10),
        ("Apple M3 Pro", 150, 7.4, 18),
        ("Apple M3 Max", 400, 14.2, 40),
        ("Apple M3 Ultra", 819, 28.4, 80),
        ("Apple M4", 120, 4.6, 10),
        ("Apple M4 Pro", 273, 9.2, 20),
        ("Apple M4 Max", 546, 18.4, 40),
        ("Apple M5", 153, 5.7, 10),
        ("Apple M5 Pro", 307, 11.4, 20),
        ("Apple M5 Max", 614, 22.8, 40),
    )
}
NARROWER = {("Apple M3 Max", 30): 300e9, ("Apple M4 Max", 32): 410e9, ("Apple M5 Max", 32): 460e9}  # with fewer cores


def chip_of(name: str, cores: int = 0) -> Chip | None:
    """Return what is published of a chip by its name and the GPU cores that are there (0: all); None of others.

    >>> chip_of("Apple M4 Max", 32)
    Chip(bandwidth=410000000000.0, operations=14720000000000.0, cores=32)
    >>> chip_of("Apple M99") is None
    True
    """
    whole = CHIPS.get(name)
    if whole is None or cores in (0, whole.cores):
        return whole
    return Chip(NARROWER.get((name, cores), whole.bandwidth), whole.operations * cores / whole.cores, cores)


@cache
def chip_name() -> str:
    """Return the name of this machine's chip, such as "Apple M2 Pro"; "" where it is not Apple's."""
    return sysctl("machdep.cpu.brand_string") if sys.platform == "darwin" else ""


def sysctl(name: str) -> str:
    """Return a text that the kernel of macOS tells under a name; "" where it has none."""
    library = ctypes.CDLL(None)
    content, size = ctypes.create_string_buffer(256), ctypes.c_size_t(256)
    if not hasattr(library, "sysctlbyname"):
        return ""
    failed = library.sysctlbyname(name.encode(), content, ctypes.byref(size), None, ctypes.c_size_t(0))
    return "" if failed else content.value.decode(errors="replace")


def describe_chip(name: str, cores: int) -> dict[str, str]:
    """Return what people want to know of a chip.

    >>> describe_chip("Apple M1", 8)
    {'memory': '68 GB/s (published)', 'float32': '2.6 TFLOP/s (published)'}
    """
    chip = chip_of(name, cores)
    if chip is None:
        return {}
    return {
        "memory": f"{chip.bandwidth / 1e9:.0f} GB/s (published)",
        "float32": f"{chip.operations / 1e12:.1f} TFLOP/s (published)",
    }
