"""Instruction sets: each multiplies four codes by four int8 and adds the products to an int32 lane, in its own way.

One spelling for all, `Isa.dot4`: acc (lanes,) int32 += sum over the 4 bytes of each lane of codes (unsigned, at most
128) times x (signed). Codes are w + 1, or a code left in place in its byte: 4^j times itself. A set is chosen from
the features that Numba will compile for, never from the machine alone: LLVM ends the process on an instruction that
they do not name.
"""

import platform
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import llvmlite.binding as llvm
import numba
from llvmlite import ir

from bitnet_jit.kernels.numba.intrinsics.emit import I8, I16, I32, call, splat_constant


@dataclass(frozen=True)
class Isa:
    """An instruction set.

    Attributes:
        name: for people, and in the names of configs.
        lanes: int32 lanes of a register.
        registers: registers for a tile's accumulators, so that operands find room beside them.
        signed_codes: dot4 reads codes as signed bytes, so that 128 cannot be one.
        features: CPU features, all of them, in LLVM's names.
        dot4: (builder, acc, codes, x) -> acc; all of them vectors of int32 lanes.
        whole_bytes: dot4 takes unsigned codes up to 255, too.
    """

    name: str
    lanes: int
    registers: int
    signed_codes: bool
    features: frozenset[str]
    dot4: Callable[..., ir.Value]
    whole_bytes: bool = False

    @property
    def vector(self) -> ir.VectorType:
        """Return the type of a register."""
        return ir.VectorType(I32, self.lanes)


def vpdpbusd_512(builder, acc, codes, x):
    return call(builder, "llvm.x86.avx512.vpdpbusd.512", acc.type, acc, codes, x)


def vpdpbusd_256(builder, acc, codes, x):
    return call(builder, "llvm.x86.avx512.vpdpbusd.256", acc.type, acc, codes, x)


def maddubs_madd(builder, acc, codes, x):
    """Add two products in int16, from -128 * 128 * 2 = -32768 to 128 * 127 * 2 = 32512, so that nothing is lost."""
    bytes_, words = ir.VectorType(I8, 32), ir.VectorType(I16, 16)
    codes, x = builder.bitcast(codes, bytes_), builder.bitcast(x, bytes_)
    pairs = call(builder, "llvm.x86.avx2.pmadd.ub.sw", words, codes, x)
    return builder.add(acc, call(builder, "llvm.x86.avx2.pmadd.wd", acc.type, pairs, splat_constant(words, 1)))


def neon_sdot(builder, acc, codes, x):
    bytes_ = ir.VectorType(I8, 16)
    codes, x = builder.bitcast(codes, bytes_), builder.bitcast(x, bytes_)
    return call(builder, "llvm.aarch64.neon.sdot.v4i32.v16i8", acc.type, acc, codes, x)


def plain_vectors(builder, acc, codes, x):
    """Multiply even and odd bytes apart, in int16, where sums of two products fit (see maddubs_madd); add up lanes."""
    words = ir.VectorType(I16, 2 * acc.type.count)
    eight, sixteen = splat_constant(words, 8), splat_constant(acc.type, 16)
    codes, x = builder.bitcast(codes, words), builder.bitcast(x, words)
    even = builder.mul(builder.and_(codes, splat_constant(words, 0xFF)), builder.ashr(builder.shl(x, eight), eight))
    odd = builder.mul(builder.lshr(codes, eight), builder.ashr(x, eight))
    pairs = builder.bitcast(builder.add(even, odd), acc.type)
    low = builder.ashr(builder.shl(pairs, sixteen), sixteen)
    return builder.add(acc, builder.add(low, builder.ashr(pairs, sixteen)))


AVX512_VNNI = Isa("avx512_vnni", 16, 24, False, frozenset({"avx512f", "avx512bw", "avx512vnni"}), vpdpbusd_512, True)
AVX_VNNI = Isa("avx_vnni", 8, 12, False, frozenset({"avx2", "avxvnni"}), vpdpbusd_256, True)
AVX2 = Isa("avx2", 8, 8, False, frozenset({"avx2"}), maddubs_madd)
NEON_DOT = Isa("neon_dot", 4, 24, True, frozenset({"neon", "dotprod"}), neon_sdot)
GENERIC = Isa("generic", 4, 8, False, frozenset(), plain_vectors)

ISAS = {isa.name: isa for isa in (AVX512_VNNI, AVX_VNNI, AVX2, NEON_DOT, GENERIC)}  # the fastest first


@cache
def target_features() -> frozenset[str]:
    """Return the features that Numba compiles for: NUMBA_CPU_FEATURES, else NUMBA_CPU_NAME's, else the host's."""
    if numba.config.CPU_FEATURES is not None:
        words = numba.config.CPU_FEATURES.split(",")
        return frozenset(word[1:] for word in words if word.startswith("+"))
    return frozenset(name for name, present in llvm.get_host_cpu_features().items() if present)


def usable_isas() -> list[str]:
    """Return the names of the sets that this process may use, the fastest first."""
    return [isa.name for isa in ISAS.values() if isa.features <= target_features()]


@cache
def chosen_isa() -> Isa:
    """Return the set in use: the fastest."""
    return ISAS[usable_isas()[0]]


def machine() -> str:
    """Return the architecture in the system's words, such as "x86_64"."""
    return platform.machine()
