"""The small decoder that comes with the package, and engines of it."""

import pytest

import bitnet_jit
from bitnet_jit.engine import EngineConfig, InferenceEngine


@pytest.fixture(scope="session")
def tiny():
    return bitnet_jit.load()


@pytest.fixture
def make_engine(tiny):
    """Return a maker of engines with the small decoder as "tiny"; they are closed at the end."""
    engines = []

    def make(**options):
        engine = InferenceEngine(EngineConfig(**options))
        engines.append(engine)
        engine.add_model("tiny", tiny)
        return engine

    yield make
    for engine in engines:
        engine.close(abandon=True)
