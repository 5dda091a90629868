"""The parallel body of kernels whose rows know nothing of one another: threads draw chunks of rows."""

from bitnet_jit.kernels.numba.compiler.jit import jit, one_of
from bitnet_jit.kernels.numba.intrinsics.scalars import least, most
from bitnet_jit.kernels.numba.rowwise.launch import CHUNK_ELEMENTS
from bitnet_jit.kernels.numba.threads.parallel import draw

run_row = one_of(lambda spec: spec.run_row)  # jitted: spec, job, row


@jit
def team(spec, job):
    """Run the parallel body: draw chunks of rows."""
    chunk = most(1, CHUNK_ELEMENTS // job.features)
    pieces = (job.rows + chunk - 1) // chunk
    piece = draw(job.counters)
    while piece < pieces:
        for row in range(piece * chunk, least((piece + 1) * chunk, job.rows)):
            run_row(spec, job, row)
        piece = draw(job.counters)
