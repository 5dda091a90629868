"""Programmatic dependent launch (PDL): a kernel may begin while the kernels ahead of it in the stream still run.

A kernel may read packed weights, their scales and the bias at once: no kernel that writes them lets others begin early.
It reads everything else, and writes anything at all, only behind `gdc_wait`. A program of every kernel comes to that
wait, and all that read or write do: so when a launch has ended, all kernels further back in the stream have, too.

Triton has functions of the same names in `triton.language.extra.cuda`, with the same instructions. They are not used
here: in Triton 3.4, the oldest version supported, they pass an argument that its compiler no longer takes.
"""

import triton
import triton.language as tl


@triton.jit
def gdc_wait(PDL: tl.constexpr):
    """Wait until the kernels ahead have ended and their results can be read."""
    if PDL:
        tl.inline_asm_elementwise("griddepcontrol.wait; // $0", "=r", [], dtype=tl.int32, is_pure=False, pack=1)


@triton.jit
def gdc_launch_dependents(PDL: tl.constexpr):
    """Let the kernel behind this one begin, once all programs have come here."""
    if PDL:
        tl.inline_asm_elementwise(
            "griddepcontrol.launch_dependents; // $0", "=r", [], dtype=tl.int32, is_pure=False, pack=1
        )
