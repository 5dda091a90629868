"""Operations for the loops of kernels: instruction sets, registers, elements of every dtype."""
