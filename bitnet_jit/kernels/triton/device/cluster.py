"""Clusters: programs that follow one another, run at the same time on neighbouring multiprocessors, and wait for each other.

What a program has written before `cluster_barrier`, all programs of its cluster can read behind it. Programs
n SIZE to n SIZE + SIZE - 1 are a cluster. No counter in memory is needed, which would have to be zero beforehand.
"""

import triton
import triton.language as tl


@triton.jit
def cluster_barrier():
    """Wait until all programs of the cluster have come here; every thread of each comes here once."""
    tl.inline_asm_elementwise(
        "barrier.cluster.arrive.release.aligned; barrier.cluster.wait.acquire.aligned; // $0",
        "=r",
        [],
        dtype=tl.int32,
        is_pure=False,
        pack=1,
    )
