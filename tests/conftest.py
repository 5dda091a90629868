"""Settings of all tests: how many examples hypothesis draws, and a folder of their own for what tuning finds.

`pytest --hypothesis-profile=thorough` looks a hundred times longer. No torch here: the kernels' tests run without it.
"""

import atexit
import os
import shutil
import signal
import tempfile

from hypothesis import HealthCheck, settings

COMMON = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}

settings.register_profile("quick", max_examples=25, derandomize="CI" in os.environ, **COMMON)
settings.register_profile("thorough", max_examples=2500, **COMMON)
settings.load_profile("quick")

# what the user's tuning found is not for tests, and neither is what they tune for the user
os.environ["BITNET_JIT_CACHE"] = tempfile.mkdtemp(prefix="bitnet_jit-tests-")
atexit.register(shutil.rmtree, os.environ["BITNET_JIT_CACHE"], ignore_errors=True)

# threads of OpenMP that wait leave the core to others: beside other tests their spinning makes steps thrice as long
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

# in a background job of a shell Ctrl-C is ignored, and tests send it to themselves
signal.signal(signal.SIGINT, signal.default_int_handler)
