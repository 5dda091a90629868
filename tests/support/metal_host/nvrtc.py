"""NVRTC, by which MLX compiles CUDA: kernels' texts are compiled as it does; no GPU is needed.

What MLX puts around a kernel is written after its documentation: its header, a namespace, the signature.
"""

import ctypes
import importlib.util
from collections.abc import Mapping
from pathlib import Path

from bitnet_jit.kernels.metal.source import TYPES, Constants, Source

CUDA_TYPES = TYPES | {"float16": "__half", "bfloat16": "__nv_bfloat16"}
HEADER = """#include <cuda_fp16.h>
#include <cuda_bf16.h>
typedef signed char int8_t;
typedef unsigned char uint8_t;
typedef long int64_t;
"""


def find() -> tuple[Path, Path] | None:
    """Return the library of the package nvidia-cuda-nvrtc, and CUDA's headers as Triton brings them; None without."""
    if importlib.util.find_spec("triton") is None or importlib.util.find_spec("nvidia") is None:
        return None
    include = Path(importlib.util.find_spec("triton").origin).parent / "backends" / "nvidia" / "include"
    folders = map(Path, importlib.util.find_spec("nvidia").submodule_search_locations)
    libraries = [file for folder in folders for file in folder.glob("*/lib/libnvrtc.so.*")]
    return (libraries[0], include) if libraries and include.is_dir() else None


def program(source: Source, constants: Constants, dtypes: Mapping[str, str]) -> str:
    """Return the whole text of a kernel, by the dtypes of its inputs and outputs."""
    buffers = [f"const {CUDA_TYPES[dtypes[name]]}* {name}" for name in source.inputs]
    buffers += ["const int* sizes", *(f"{CUDA_TYPES[dtypes[name]]}* {name}" for name in source.outputs)]
    signature = f"__global__ void {source.entry(constants, 'cuda')}({', '.join(buffers)})"
    body = source.body(constants, "cuda")
    return f"{HEADER}{source.header('cuda')}\nnamespace mlx::core::cu {{\n{signature} {{\n{body}\n}}\n}}\n"


def compile(text: str, arch: str = "sm_90") -> bytes:
    """Return the machine code of a program. Raises RuntimeError with the compiler's words."""
    library, include = find()
    nvrtc = ctypes.CDLL(str(library))
    handle = ctypes.c_void_p()
    assert not nvrtc.nvrtcCreateProgram(ctypes.byref(handle), text.encode(), b"kernel.cu", 0, None, None)
    try:
        options = [f"--gpu-architecture={arch}", "--std=c++17", "--device-as-default-execution-space"]
        options += [f"--include-path={include}"]
        failed = nvrtc.nvrtcCompileProgram(
            handle, len(options), (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
        )
        size = ctypes.c_size_t()
        if failed:
            nvrtc.nvrtcGetProgramLogSize(handle, ctypes.byref(size))
            log = ctypes.create_string_buffer(size.value)
            nvrtc.nvrtcGetProgramLog(handle, log)
            raise RuntimeError(log.value.decode())
        nvrtc.nvrtcGetCUBINSize(handle, ctypes.byref(size))
        code = ctypes.create_string_buffer(size.value)
        nvrtc.nvrtcGetCUBIN(handle, code)
        return code.raw
    finally:
        nvrtc.nvrtcDestroyProgram(ctypes.byref(handle))
