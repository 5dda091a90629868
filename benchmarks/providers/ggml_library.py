"""ggml's CPU matmul from Python: ctypes over the shared libraries that `pip install llama-cpp-python` builds.

Only what a matmul needs is declared: a weight (N, K) of any ggml type, activations (M, K) and result (M, N) in float32.
A weight lies in the buffer type that ggml itself would choose, its re-laid form (CPU_REPACK) before the plain one; but
not in its form for AMX, whose kernels end the process at M > 1 (llama-cpp-python 0.3.36, SIGILL or SIGSEGV on a Xeon).
GGML_LIB_DIR names another folder with libggml-base.so and libggml-cpu.so.
"""

import ctypes
import importlib.util
import os
from collections.abc import Iterator
from ctypes import POINTER, c_bool, c_char_p, c_int, c_int64, c_size_t, c_void_p
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

TYPES = {"f32": 0, "q4_0": 2, "tq1_0": 34, "tq2_0": 35}
CONTEXT_BYTES = 16 << 20  # of descriptors; the tensors' data lie elsewhere
GRAPH_NODES = 16


class InitParameters(ctypes.Structure):
    """struct ggml_init_params."""

    _fields_ = (("mem_size", c_size_t), ("mem_buffer", c_void_p), ("no_alloc", c_bool))


BASE_FUNCTIONS = {  # name without the prefix ggml_: (result, arguments)
    "init": (c_void_p, [InitParameters]),
    "free": (None, [c_void_p]),
    "new_tensor_2d": (c_void_p, [c_void_p, c_int, c_int64, c_int64]),
    "mul_mat": (c_void_p, [c_void_p] * 3),
    "new_graph_custom": (c_void_p, [c_void_p, c_size_t, c_bool]),
    "build_forward_expand": (None, [c_void_p] * 2),
    "row_size": (c_size_t, [c_int, c_int64]),
    "blck_size": (c_int64, [c_int]),
    "quantize_chunk": (c_size_t, [c_int, c_void_p, c_void_p, c_int64, c_int64, c_int64, c_void_p]),
    "backend_alloc_ctx_tensors_from_buft": (c_void_p, [c_void_p] * 2),
    "backend_tensor_set": (None, [c_void_p, c_void_p, c_size_t, c_size_t]),
    "backend_tensor_get": (None, [c_void_p, c_void_p, c_size_t, c_size_t]),
    "backend_buffer_free": (None, [c_void_p]),
    "backend_cpu_buffer_type": (c_void_p, []),
    "backend_graph_compute": (c_int, [c_void_p] * 2),
    "backend_buft_name": (c_char_p, [c_void_p]),
    "backend_get_device": (c_void_p, [c_void_p]),
    "backend_reg_get_proc_address": (c_void_p, [c_void_p, c_char_p]),
    "backend_dev_supports_op": (c_bool, [c_void_p] * 2),
}
CPU_FUNCTIONS = {
    "backend_cpu_init": (c_void_p, []),
    "backend_cpu_reg": (c_void_p, []),
    "backend_cpu_set_n_threads": (None, [c_void_p, c_int]),
}


def library_folder() -> Path | None:
    """Return the folder of ggml's libraries, or None; llama_cpp itself is not imported."""
    if folder := os.environ.get("GGML_LIB_DIR"):
        return Path(folder)
    spec = importlib.util.find_spec("llama_cpp")
    return Path(spec.submodule_search_locations[0]) / "lib" if spec and spec.submodule_search_locations else None


class Ggml:
    """The library and its CPU backend."""

    def __init__(self, folder: Path) -> None:
        declared = {"libggml-base.so": BASE_FUNCTIONS, "libggml-cpu.so": CPU_FUNCTIONS}
        for file, functions in declared.items():
            library = ctypes.CDLL(str(folder / file), mode=ctypes.RTLD_GLOBAL)
            for name, (result, arguments) in functions.items():
                function = getattr(library, f"ggml_{name}")
                function.restype, function.argtypes = result, arguments
                setattr(self, name, function)
        self.cpu = self.backend_cpu_init()

    def set_threads(self, threads: int) -> None:
        self.backend_cpu_set_n_threads(self.cpu, threads)

    def buffer_types(self) -> Iterator[tuple[str, int]]:
        """Yield names and addresses of the CPU's buffer types: the ones that ggml prefers first, the plain one last."""
        address = self.backend_reg_get_proc_address(self.backend_cpu_reg(), b"ggml_backend_dev_get_extra_bufts")
        if address:
            extra = ctypes.CFUNCTYPE(POINTER(c_void_p), c_void_p)(address)(self.backend_get_device(self.cpu))
            position = 0
            while extra[position]:
                name = self.backend_buft_name(extra[position]).decode()
                if name != "AMX":
                    yield name, extra[position]
                position += 1
        yield "CPU", self.backend_cpu_buffer_type()

    def quantize(self, w: NDArray[np.float32], kind: str) -> NDArray[np.uint8]:
        """Quantize w (N, K) float32 to its bytes in a ggml type, row after row."""
        w = np.ascontiguousarray(w, np.float32)
        packed = np.empty(len(w) * self.row_size(TYPES[kind], w.shape[1]), np.uint8)
        self.quantize_chunk(TYPES[kind], w.ctypes.data, packed.ctypes.data, 0, *w.shape, None)
        return packed


@cache
def load() -> Ggml | None:
    """Load the library, once; None where it is not installed."""
    folder = library_folder()
    return Ggml(folder) if folder else None


class MatMul:
    """x (M, K) float32 times copies of one weight (N, K), a graph for each copy.

    `buffer_type` tells where the weights lie. Raises MemoryError where ggml cannot get their memory.
    """

    def __init__(self, ggml: Ggml, kind: str, w: NDArray[np.float32], x: NDArray[np.float32], copies: int) -> None:
        self.ggml, self.shape = ggml, (len(x), len(w))
        packed, x = ggml.quantize(w, kind), np.ascontiguousarray(x, np.float32)
        self.num_bytes = packed.nbytes
        self.buffer_type, buffer = self._choose(kind, w.shape, len(x))
        self._contexts, self._buffers = [], []
        weights = self._tensors(buffer, copies, kind, w.shape)
        for weight in weights:
            ggml.backend_tensor_set(weight, packed.ctypes.data, 0, packed.nbytes)
        plain = ggml.backend_cpu_buffer_type()
        (self._x,) = self._tensors(plain, 1, "f32", x.shape)
        ggml.backend_tensor_set(self._x, x.ctypes.data, 0, x.nbytes)
        self._graphs, self._results = self._make_graphs(weights, plain)

    def _choose(self, kind: str, weight_shape: tuple[int, ...], rows: int) -> tuple[str, int]:
        """Return the first buffer type whose weights this matmul may read."""
        for name, buffer in self.ggml.buffer_types():
            self._contexts, self._buffers = [], []
            (weight,) = self._tensors(buffer, 1, kind, weight_shape)
            (x,) = self._tensors(self.ggml.backend_cpu_buffer_type(), 1, "f32", (rows, weight_shape[1]))
            y = self.ggml.mul_mat(self._contexts[-1], weight, x)
            supported = self.ggml.backend_dev_supports_op(self.ggml.backend_get_device(self.ggml.cpu), y)
            self.free()
            if supported:
                return name, buffer
        raise ValueError(f"ggml multiplies no {kind} weight of shape {weight_shape}")

    def _context(self) -> int:
        context = self.ggml.init(InitParameters(CONTEXT_BYTES, None, True))
        self._contexts.append(context)
        return context

    def _tensors(self, buffer: int, count: int, kind: str, shape: tuple[int, ...]) -> list[int]:
        """Make tensors of (rows, columns) with their data in a buffer type."""
        context = self._context()
        tensors = [self.ggml.new_tensor_2d(context, TYPES[kind], shape[1], shape[0]) for _ in range(count)]
        self._allocate(context, buffer)
        return tensors

    def _allocate(self, context: int, buffer: int) -> None:
        allocated = self.ggml.backend_alloc_ctx_tensors_from_buft(context, buffer)
        if not allocated:
            raise MemoryError("ggml could not allocate its tensors")
        self._buffers.append(allocated)

    def _make_graphs(self, weights: list[int], buffer: int) -> tuple[list[int], list[int]]:
        graphs, results = [], []
        context = self._context()
        for weight in weights:
            results.append(self.ggml.mul_mat(context, weight, self._x))
            graphs.append(self.ggml.new_graph_custom(context, GRAPH_NODES, False))
            self.ggml.build_forward_expand(graphs[-1], results[-1])
        self._allocate(context, buffer)
        return graphs, results

    def run(self, number: int) -> None:
        """Multiply by the weight copy of that number, any whole number."""
        status = self.ggml.backend_graph_compute(self.ggml.cpu, self._graphs[number % len(self._graphs)])
        if status != 0:
            raise RuntimeError(f"ggml's graph ended with status {status}")

    def result(self) -> NDArray[np.float32]:
        """Return the product (M, N) of the first weight copy."""
        y = np.empty(self.shape, np.float32)
        self.ggml.backend_tensor_get(self._results[0], y.ctypes.data, 0, y.nbytes)
        return y

    def free(self) -> None:
        """Give the memory back; nothing else may be called then."""
        while self._buffers:
            self.ggml.backend_buffer_free(self._buffers.pop())
        while self._contexts:
            self.ggml.free(self._contexts.pop())

    def __del__(self) -> None:
        self.free()
