"""Vector registers as a Numba type: one LLVM array of vectors, which LLVM keeps in registers."""

from llvmlite import ir
from numba import types
from numba.extending import models, register_model

from bitnet_jit.kernels.numba.intrinsics.isa import ISAS, Isa


class RegistersType(types.Type):
    """`count` vector registers."""

    def __init__(self, isa: str, count: int) -> None:
        self.isa, self.count = isa, count
        super().__init__(name=f"Registers({isa}, {count})")

    @property
    def llvm(self) -> ir.ArrayType:
        return ir.ArrayType(ISAS[self.isa].vector, self.count)


@register_model(RegistersType)
class RegistersModel(models.PrimitiveModel):
    def __init__(self, dmm, fe_type):
        super().__init__(dmm, fe_type, fe_type.llvm)


def vectors_per_group(isa: Isa) -> int:
    """Return how many registers hold the accumulators of 16 outputs."""
    return 16 // isa.lanes
