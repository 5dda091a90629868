"""The process of a worker in which requests do harm, by the first token of their prompts; tests name it as CHILD."""

import os
import signal
import sys
import time

import torch

from bitnet_jit.engine.text.processes import child
from bitnet_jit.engine.text.replica import Replica

KILLS, ASSERTS, RAISES, HANGS, PRINTS = range(250, 255)
run = Replica._run


def harmful_run(self, plan):
    """Run a step, or do what a request in it is for."""
    for request in plan:
        harm = request.ids[0]
        if harm == KILLS:
            os.kill(os.getpid(), signal.SIGKILL)
        if harm == PRINTS:
            os.write(1, b"a library prints\n")
            sys.stdout.write("and Python does\n")
        if request.left > 1 or request.new_tokens != 5:  # once: it goes on elsewhere with all of its tokens to compute
            continue
        if harm == ASSERTS:
            x = torch.zeros(4, device=self.device)
            x[torch.tensor([10**6], device=self.device)].sum().item()
        if harm == RAISES:
            raise torch.AcceleratorError("CUDA error: device-side assert triggered")
        if harm == HANGS:
            time.sleep(600)
    return run(self, plan)


if __name__ == "__main__":
    Replica._run = harmful_run
    child.main()
