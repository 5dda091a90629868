"""A process of `test_distributed.py`: it goes through checks together with the others.

    python worker.py cpu|cuda RANK FOLDER

reads checks from its standard input, one per line, [name, options] as JSON, and writes the outcome of the nth into
FOLDER/n.RANK: nothing where all is well, else the traceback, and then it ends, so that the others do not wait for it.
"""

import faulthandler
import json
import os
import sys
import traceback
import warnings
from datetime import timedelta
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
from adapters import lora_on_the_same_rows, packed_layers_that_are_not_ignored
from common import WORLD
from other_rows import gradients_of_halves, layers_that_a_process_does_not_use
from refusals import a_sharded_layer_without_its_hooks, tensor_parallel, tensors_in_parts
from same_rows import ddp_on_the_same_rows, decoder_on_the_same_rows, fsdp_on_the_same_rows

SECONDS = 60  # that a process waits for the other one
CHECKS = {
    check.__name__: check
    for check in (
        a_sharded_layer_without_its_hooks,
        ddp_on_the_same_rows,
        decoder_on_the_same_rows,
        fsdp_on_the_same_rows,
        gradients_of_halves,
        layers_that_a_process_does_not_use,
        lora_on_the_same_rows,
        packed_layers_that_are_not_ignored,
        tensor_parallel,
        tensors_in_parts,
    )
}


def main(device_type, rank, folder):
    """Go through the checks that are asked for, until there are no more."""
    torch.set_num_threads(1)
    device = torch.device(device_type, rank) if device_type == "cuda" else torch.device(device_type)
    if device.type == "cuda":
        torch.cuda.set_device(device)
        # sums of bfloat16 numbers are float32 until they are complete
        torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    store = dist.FileStore(str(folder / "store"), WORLD)
    dist.init_process_group(backend, store=store, rank=rank, world_size=WORLD, timeout=timedelta(seconds=SECONDS))
    for number, line in enumerate(sys.stdin):
        name, options = json.loads(line)
        faulthandler.dump_traceback_later(SECONDS)  # of a check that hangs
        error = failure(partial(CHECKS[name], device, **options))
        faulthandler.cancel_dump_traceback_later()
        unfinished = folder / f"{number}.{rank}.unfinished"
        unfinished.write_text(error, encoding="utf-8")
        unfinished.rename(folder / f"{number}.{rank}")
        if error:
            os._exit(1)
    dist.destroy_process_group()


def failure(check):
    """Return the traceback of a check that fails, or of a warning; else nothing."""
    torch._dynamo.reset()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            # torch.compile looks whether inputs have a gradient, and where it breaks a graph they are results
            warnings.filterwarnings("ignore", message="The .grad attribute of a Tensor that is not a leaf Tensor")
            check()
    except Exception:
        return traceback.format_exc()
    return ""


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
