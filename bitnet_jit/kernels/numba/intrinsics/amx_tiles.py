"""The tile registers of AMX, Intel's matrix unit, which multiplies 16 x 64 by 64 x 16 int8 in 16 cycles.

A tile register is 16 rows of 64 bytes. Registers are named by number: sums 0..3, x 4 and 5, codes 6 and 7.
"""

import ctypes
import sys
from functools import cache

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from bitnet_jit.kernels.numba.intrinsics.emit import I8, at
from bitnet_jit.kernels.numba.intrinsics.isa import AVX512_VNNI, target_features

ARCH_PRCTL, REQUEST_PERMISSION, TILE_DATA = 158, 0x1023, 18
FEATURES = frozenset({"amx-tile", "amx-int8"}) | AVX512_VNNI.features
SUMS, X, CODES = 0, 4, 6


@cache
def amx_unsupported_reason() -> str | None:
    """Return why AMX cannot be used in this process, or None: the operating system must grant the registers first."""
    if missing := FEATURES - target_features():
        return f"the CPU (as Numba compiles for it) lacks {', '.join(sorted(missing))}"
    if not sys.platform.startswith("linux"):
        return "AMX is used on Linux only"
    if ctypes.CDLL(None, use_errno=True).syscall(ARCH_PRCTL, REQUEST_PERMISSION, TILE_DATA):
        return "the operating system does not grant AMX registers"
    return None


def tile_call(builder, name: str, *arguments: ir.Value) -> None:
    """Emit a call of an AMX intrinsic; register numbers are constants of 8 bits."""
    kind = ir.FunctionType(ir.VoidType(), [argument.type for argument in arguments])
    builder.call(cgutils.get_or_insert_function(builder.module, kind, f"llvm.x86.{name}"), arguments)


def number(register: int) -> ir.Constant:
    """Return the number of a register as AMX intrinsics take it."""
    return ir.Constant(I8, register)


@intrinsic
def configure(typingctx, address):
    """Load the tile configuration at an address: this thread's registers get their shapes, all zero."""

    def codegen(context, builder, signature, args):
        tile_call(builder, "ldtilecfg", at(builder, args[0], 0, I8))
        return context.get_dummy_value()

    return types.void(types.int64), codegen


@intrinsic
def release(typingctx):
    """Give this thread's tile registers back."""

    def codegen(context, builder, signature, args):
        tile_call(builder, "tilerelease")
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic
def zero_sums(typingctx):
    """Set the sums to zero."""

    def codegen(context, builder, signature, args):
        for i in range(4):
            tile_call(builder, "tilezero", number(SUMS + i))
        return context.get_dummy_value()

    return types.void(), codegen
