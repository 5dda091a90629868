"""A server of the small decoder on a free port, and the official client for it."""

from contextlib import ExitStack, contextmanager

import openai
import pytest
from served import running

import bitnet_jit
from bitnet_jit.checkpoints.chat_template import ChatTemplate
from bitnet_jit.engine import EngineConfig, InferenceEngine
from bitnet_jit.server.app import make_app

WAIT = 30  # seconds for what takes milliseconds
TEMPLATE = (
    "{% for message in messages %}{% if message.role == 'developer' %}{{ raise_exception('no developers here') }}"
    "{% endif %}{{ message.role }}: {{ message.content }}\n{% endfor %}{% if add_generation_prompt %}assistant: "
    "{% endif %}"
)


@contextmanager
def served(app, **options):
    """Run a server in a thread; yield its address."""
    with running(app, **options) as (address, _):
        yield address


@pytest.fixture(scope="session")
def tiny():
    return bitnet_jit.load()


@pytest.fixture
def serve(tiny):
    """Return a maker of servers: options of the engine, and those of `make_app`."""
    with ExitStack() as stack:

        def make(config=None, connections=None, **options):
            engine = InferenceEngine(EngineConfig(**(config or {})))
            stack.callback(engine.close, abandon=True)
            engine.add_model("tiny", tiny)
            address = stack.enter_context(served(make_app(engine, **options), **(connections or {})))
            return address, engine

        yield make


@pytest.fixture(scope="session")
def shared(tiny):
    """Return the address and the engine of a server that tests share."""
    with InferenceEngine() as engine:
        engine.add_model("tiny", tiny)
        with served(make_app(engine, {"tiny": ChatTemplate(TEMPLATE)})) as address:
            yield address, engine


@pytest.fixture(scope="session")
def serve_names(tiny):
    """Return a context of a server that has the decoder by several names, with chats; it gives the address."""

    @contextmanager
    def serving(*names):
        with InferenceEngine() as engine:
            for name in names:
                engine.add_model(name, tiny)
            with served(make_app(engine, dict.fromkeys(names, ChatTemplate(TEMPLATE)))) as address:
                yield address

    return serving


@pytest.fixture(scope="session")
def address(shared):
    return shared[0]


@pytest.fixture(scope="session")
def client(address):
    with openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0, timeout=WAIT) as client:
        yield client
