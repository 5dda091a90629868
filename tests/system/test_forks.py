"""Other processes: forked before or after use, served by a pool, spawned, or a DataLoader's: same numbers, no hang.

Each case is a script of its own, because what it forks must not have been touched by other tests.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

COMMON = """
import multiprocessing, os, signal, sys, tempfile, threading, time
from pathlib import Path
import numpy as np, torch, bitnet_jit
from bitnet_jit.checkpoints.embedded import embedded_model

def use_layer():
    codes = torch.from_numpy(np.random.default_rng(0).integers(-1, 2, (1024, 640)).astype(np.int8))
    layer = bitnet_jit.PackedBitLinear.from_codes(codes, torch.tensor(0.5))
    x = torch.from_numpy(np.random.default_rng(1).standard_normal((64, 640)).astype(np.float32))
    return layer(x).numpy().tobytes(), layer(x[:1]).numpy().tobytes()

def use_decoder():
    return bitnet_jit.load(embedded_model()).generate(list(b"In the beginning was"), max_new_tokens=4).tolist()

def use_training():
    from bitnet_jit.training.run import train
    from bitnet_jit.training.settings import TrainSettings
    sizes = dict(layers=1, hidden_size=64, intermediate_size=64, heads=2, context_length=32, window=32, steps=2)
    text = torch.arange(2000).to(torch.uint8)
    with tempfile.TemporaryDirectory() as out:
        settings = TrainSettings(**sizes, batch_size=2)
        return np.round(train(settings, text, text[:200], Path(out), torch.device("cpu"))[1].losses.numpy(), 4).tolist()

use = {"layer": use_layer, "decoder": use_decoder, "training": use_training}[sys.argv[1]]

def forked(work):
    "The exit code of a child that does the work; -9 where it hangs."
    child = os.fork()
    if child == 0:
        code = 99
        try:
            code = int(not work())
        finally:
            os._exit(code)
    timer = threading.Timer(40, os.kill, (child, signal.SIGKILL))
    timer.start()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    timer.cancel()
    return status
"""
SCRIPTS = {
    "before use": """
torch.set_num_threads(2)
children = [forked(lambda: answers.write_text(repr(use())) or True) for answers in [Path(sys.argv[2])]]
print(children, eval(Path(sys.argv[2]).read_text()) == use())
""",
    "after use": """
torch.set_num_threads(2)
expected = use()
torch.randn(1000, 1000) @ torch.randn(1000, 1000)  # torch's threads are there
print([forked(lambda: use() == expected) for _ in range(3)], use() == expected)
""",
    "child of a child": """
torch.set_num_threads(2)
expected = use()
print([forked(lambda: forked(lambda: use() == expected) == 0 and use() == expected)], use() == expected)
""",
    "beside threads that use it": """
torch.set_num_threads(2)
expected = use()
stop = threading.Event()
def keep_using():
    while not stop.is_set():
        assert use() == expected
threads = [threading.Thread(target=keep_using) for _ in range(2)]
for thread in threads: thread.start()
children = [forked(lambda: use() == expected) for _ in range(4)]
stop.set()
for thread in threads: thread.join()
print(children, use() == expected)
""",
    "while another thread compiles": """
torch.set_num_threads(2)
os.environ["NUMBA_CACHE_DIR"] = str(Path(sys.argv[2]).parent)  # nothing is compiled yet
np.random, bitnet_jit.PackedBitLinear  # imported: a fork beside an import hangs in Python's own locks
thread = threading.Thread(target=use)
thread.start()
time.sleep(1)
children = [forked(lambda: use() is not None) for _ in range(2)]
thread.join()
print(children, True)
""",
    "by pools": """
expected = use()
if __name__ == "__main__":
    same = []
    for method in ("fork", "forkserver", "spawn"):
        with multiprocessing.get_context(method).Pool(2) as pool:
            same += [found == expected for found in pool.starmap(use, [()] * 3)]
    print([int(not equal) for equal in same], use() == expected)
""",
}
HERE = Path(__file__).parents[2]
SELECTED = [
    *(("layer", name) for name in SCRIPTS),
    *(("decoder", name) for name in ("before use", "after use")),
    ("training", "after use"),
]


def run_script(folder: Path, code: str, *arguments: str) -> str:
    """What a script prints; it is a file, as a spawned process imports it again."""
    script = folder / "script.py"
    script.write_text(code)
    environ = os.environ | {"PYTHONPATH": os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-W", "ignore::DeprecationWarning", str(script), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environ)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.parametrize(("use", "name"), SELECTED)
def test_children_compute_the_same(tmp_path, use, name):
    printed = run_script(tmp_path, COMMON + SCRIPTS[name], use, str(tmp_path / "answers"))
    children, parent = printed.rsplit("]", 1)
    assert set(children.strip("[").split(", ")) == {"0"}, printed
    assert parent.strip() == "True"


LOADER = """
import torch, bitnet_jit
from torch.utils.data import DataLoader, Dataset

class Rows(Dataset):
    "Items that a packed layer makes, in the worker."
    layer = bitnet_jit.PackedBitLinear.from_codes(torch.ones(1024, 640, dtype=torch.int8), torch.tensor(0.5))
    def __len__(self): return 12
    def __getitem__(self, index): return self.layer(torch.full((33, 640), float(index)))

if __name__ == "__main__":
    torch.set_num_threads(2)
    expected = torch.stack([Rows()[index] for index in range(12)])
    for context in ("fork", "spawn"):
        loader = DataLoader(Rows(), batch_size=2, num_workers=2, multiprocessing_context=context)
        print(torch.equal(torch.cat(list(loader)), expected))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_workers_of_a_data_loader_compute_the_same(tmp_path):
    assert run_script(tmp_path, LOADER).split() == ["True", "True"]
