"""Settings of all tests: how many examples hypothesis draws.

`pytest --hypothesis-profile=thorough` looks a hundred times longer. No torch here: the kernels' tests run without it.
"""

import os

from hypothesis import HealthCheck, settings

COMMON = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}

settings.register_profile("quick", max_examples=25, derandomize="CI" in os.environ, **COMMON)
settings.register_profile("thorough", max_examples=2500, **COMMON)
settings.load_profile("quick")
