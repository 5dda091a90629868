"""A kernel's source: the body of a function in Metal's words, and what is put around it in each dialect.

Bodies name their buffers, `sizes` (whole numbers of a call) and their constants, which are written in front of them: so
each set of constants is a kernel of its own. The same text runs as Metal, as CUDA, and in the tests' host harness.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from bitnet_jit.errors import InvalidInput

HERE = Path(__file__).parent
DIALECTS = ("metal", "cuda")
TYPES = {  # by names of dtypes
    "float32": "float",
    "float16": "half",
    "bfloat16": "bfloat",
    "int8": "int8_t",
    "uint8": "uint8_t",
    "int32": "int",
    "int64": "int64_t",
}
ATTRIBUTES = {  # what a thread may ask of its place, as `mx.fast.metal_kernel` declares it where a body names it
    "simdgroup_index_in_threadgroup": "uint",
    "thread_index_in_simdgroup": "uint",
    "thread_index_in_threadgroup": "uint",
    "threadgroup_position_in_grid": "uint3",
}
ADDRESS_SPACES = re.compile(r"\b(device|constant|threadgroup|thread) (?=[A-Za-z])")
COMMENT = re.compile("//.*")
Constants = Mapping[str, "int | bool | str"]


@cache
def text_of(name: str) -> str:
    """Return a file of this folder."""
    return (HERE / name).read_text("ascii")


@dataclass(frozen=True)
class Source:
    """A kernel.

    Attributes:
        name: of its file under sources/, without the ending.
        inputs: names of the buffers that it reads, in order; `sizes` comes behind them.
        outputs: names of the buffers that it writes.
        headers: files under sources/ that its body needs, in order.
        constants: the names of what is fixed when it is compiled: numbers, and types in capital letters.
    """

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    headers: tuple[str, ...] = ()
    constants: tuple[str, ...] = ()

    def header(self, dialect: str) -> str:
        """Return what stands before the kernel: the vocabulary of a dialect, and the headers."""
        vocabulary = compact(text_of(f"vocabulary/{dialect}.h")) if dialect in DIALECTS else ""
        return "\n".join((vocabulary, *(in_dialect(text_of(f"sources/{name}"), dialect) for name in self.headers)))

    def body(self, constants: Constants, dialect: str) -> str:
        """Return the kernel's body behind its constants.

        Raises:
            InvalidInput: one is missing, unknown or not a number or type.
        """
        if set(constants) != set(self.constants):
            raise InvalidInput(f"constants of {self.name}: expected {self.constants}, got {tuple(constants)}")
        lines = [declaration(self.name, name, constants[name]) for name in self.constants]
        return "\n".join((*lines, in_dialect(text_of(f"sources/{self.name}.metal"), dialect)))

    def program(self, constants: Constants, dtypes: Mapping[str, str]) -> str:
        """Return the whole text of a kernel in Metal, with the signature that `mx.fast.metal_kernel` writes itself.

        Args:
            constants: its constants.
            dtypes: of its inputs and outputs by name.
        """
        buffers = [f"const device {TYPES[dtypes[name]]}* {name}" for name in self.inputs]
        buffers += ["constant int* sizes", *(f"device {TYPES[dtypes[name]]}* {name}" for name in self.outputs)]
        parameters = [f"{buffer} [[buffer({place})]]" for place, buffer in enumerate(buffers)]
        parameters += [f"{type} {name} [[{name}]]" for name, type in self.attributes().items()]
        signature = f"kernel void {self.entry(constants, 'metal')}(\n  " + ",\n  ".join(parameters) + ")"
        return f"{self.header('metal')}\n{signature} {{\n{self.body(constants, 'metal')}\n}}\n"

    def attributes(self) -> dict[str, str]:
        """Return what the body asks of a thread's place, and the types."""
        body = text_of(f"sources/{self.name}.metal")
        return {name: type for name, type in ATTRIBUTES.items() if name in body}

    def entry(self, constants: Constants, dialect: str) -> str:
        """Return a name of the kernel that no other text has: compilers keep kernels by their names."""
        content = (self.header(dialect) + self.body(constants, dialect)).encode()
        return f"bitnet_{self.name}_{hashlib.sha256(content).hexdigest()[:12]}"


def in_dialect(text: str, dialect: str) -> str:
    """Return a source in a dialect: CUDA does not name the memory that a pointer leads to.

    >>> in_dialect("const device uint* words", "cuda")
    'const uint* words'
    """
    text = compact(text)
    return ADDRESS_SPACES.sub("", text) if dialect == "cuda" else text


def compact(text: str) -> str:
    """Return a source without comments and indents: MLX copies and hashes the text of a kernel in every call.

    >>> compact("int a;  // a number\\n\\n  int b;\\n")
    'int a;\\nint b;'
    """
    lines = (COMMENT.sub("", line).strip() for line in text.splitlines())
    return "\n".join(line for line in lines if line)


def declaration(kernel: str, name: str, value: "int | bool | str") -> str:
    """Return a constant as source text.

    >>> declaration("few", "ROWS", 4), declaration("few", "Y", "float16")
    ('constexpr int ROWS = 4;', 'typedef half Y;')
    """
    if isinstance(value, bool):
        return f"constexpr bool {name} = {str(value).lower()};"
    if isinstance(value, int) and abs(value) < 2**31:
        return f"constexpr int {name} = {value};"
    if isinstance(value, str) and value in TYPES:
        return f"typedef {TYPES[value]} {name};"
    raise InvalidInput(f"constants of {kernel}: {name} has to be a whole number of 32 bits or a dtype, got {value!r}")
