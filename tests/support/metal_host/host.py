"""Runs Metal sources on the CPU: compiles them with clang against host.h, and has a server process run whole grids.

A fault in a kernel (an address, undefined behaviour, a barrier that some threads never reach) ends the server, and
raises HostFault with its report here.
"""

import atexit
import hashlib
import os
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from filelock import FileLock

from bitnet_jit.kernels.metal.source import TYPES, Constants, Source

HERE = Path(__file__).parent
COMPILERS = ("clang++", *(f"clang++-{version}" for version in range(22, 13, -1)))
SANITIZERS = ("-fsanitize=address,undefined,float-cast-overflow", "-fno-sanitize-recover=all")
FLAGS = ("-std=c++17", "-O1", "-g1", "-ffp-contract=off", "-fsanitize-address-use-after-return=never", *SANITIZERS)
LIBRARY = ("-shared", "-fPIC", "-Wall", "-Werror", "-Wno-unused", "-Wno-unknown-pragmas")
OPTIONS = {"ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0", "UBSAN_OPTIONS": "print_stacktrace=1"}
TEMPLATE = """
#include "host.h"
{header}
static void body({parameters}) {{
{body}
}}
extern "C" void set_services(const host::Services* given) {{ host::services = *given; }}
extern "C" void run(void** buffers) {{ body({arguments}); }}
"""


class HostFault(Exception):
    """A kernel did what it may not."""


def find_compiler() -> str | None:
    """Return clang, or None where it is not installed."""
    return next((path for name in COMPILERS if (path := shutil.which(name))), None)


def cache() -> Path:
    """Return the folder of what has been compiled."""
    place = Path(os.environ.get("BITNET_JIT_TEST_METAL", Path(tempfile.gettempdir()) / f"metal_host.{os.getuid()}"))
    place.mkdir(parents=True, exist_ok=True)
    return place


def compiled(text: str, suffix: str, flags: Sequence[str]) -> Path:
    """Return a program or library made of a text; kept by the text, the headers and the compiler."""
    compiler = find_compiler()
    content = "\0".join((text, (HERE / "host.h").read_text(), str(compiler), *FLAGS, *flags))
    target = cache() / (hashlib.sha256(content.encode()).hexdigest()[:24] + suffix)
    with FileLock(f"{target}.lock"):
        if not target.exists():
            source = target.with_suffix(".cpp")
            source.write_text(text)
            beside = target.with_suffix(".new")
            beside.touch()  # where nothing is made, as with -fsyntax-only
            include = () if "-isystem" in flags else ("-I", str(HERE))
            command = (str(compiler), *FLAGS, *flags, *include, "-o", str(beside), str(source))
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                raise HostFault(f"{source}: {done.stderr[:6000]}")
            beside.rename(target)
    return target


def library_of(source: Source, constants: Constants, dtypes: Sequence[str], body: str | None = None) -> Path:
    """Return the library of a kernel.

    Args:
        source, constants: the kernel.
        dtypes: of its inputs, `sizes` and outputs.
        body: another text in place of the source's: a mutant.
    """
    names = (*source.inputs, "sizes", *source.outputs)
    text = source.body(constants, "metal") if body is None else body
    return library_of_text(source.header("host"), text, names, dtypes, set(source.outputs))


def library_of_text(header: str, body: str, names: Sequence[str], dtypes: Sequence[str], written: set[str]) -> Path:
    """Return the library of a kernel's text, by the names and dtypes of its buffers and those that it writes."""
    types = [f"{TYPES[dtype]}*" for dtype in dtypes]
    parameters = [
        f"{'' if name in written else 'const '}{kind} {name}" for name, kind in zip(names, types, strict=True)
    ]
    text = TEMPLATE.format(
        header=header,
        body=body,
        parameters=", ".join(parameters),
        arguments=", ".join(f"({kind})buffers[{place}]" for place, kind in enumerate(types)),
    )
    return compiled(text, ".so", LIBRARY)


class Host:
    """The server process; it begins with the first call and is begun anew after a fault."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        atexit.register(self.close)

    def run(
        self,
        library: Path,
        buffers: Sequence[np.ndarray],
        threadgroups: tuple[int, int, int],
        threads: int,
        seed: int = 0,
    ) -> list[np.ndarray]:
        """Run a grid; return the buffers as it left them.

        Raises:
            HostFault: the kernel did what it may not.
        """
        arrays = [np.ascontiguousarray(buffer) for buffer in buffers]
        path = str(library).encode()
        request = [struct.pack("I", len(path)), path, struct.pack("3III", *threadgroups, threads, seed)]
        request.append(struct.pack("I", len(arrays)))
        for array in arrays:
            request += [struct.pack("Q", array.nbytes), array.tobytes()]
        process = self._started()
        try:
            process.stdin.write(b"".join(request))
            process.stdin.flush()
            answers = [process.stdout.read(array.nbytes) for array in arrays]
        except BrokenPipeError:
            answers = [b""]
        if any(len(answer) != array.nbytes for answer, array in zip(answers, arrays, strict=False)):
            raise self._fault()
        return [
            np.frombuffer(answer, array.dtype).reshape(array.shape).copy()
            for answer, array in zip(answers, arrays, strict=True)
        ]

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.stdin.close()
            self._process.stdout.close()
            self._process.wait()
            self._errors.close()
            self._process = None

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            server = compiled((HERE / "server.cpp").read_text(), ".exe", ("-rdynamic", "-ldl"))
            self._errors = tempfile.TemporaryFile()  # noqa: SIM115, as long as the process
            self._process = subprocess.Popen(
                [server], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, env=os.environ | OPTIONS
            )
        return self._process

    def _fault(self) -> HostFault:
        self._process.wait()
        self._errors.seek(0)
        report = self._errors.read().decode(errors="replace")
        self.close()
        return HostFault(report)


HOST = Host()  # of this process
