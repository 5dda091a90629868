"""`bitnet-jit serve`: models behind OpenAI's HTTP interface."""

import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bitnet_jit.cli.loading import load_model, tell_format, tell_sampling
from bitnet_jit.cli.options import CacheOption, HeadOption, I2SOption, SpeculateOption, TemplateOption
from bitnet_jit.cli.patience import Patience
from bitnet_jit.cli.streams import tell
from bitnet_jit.errors import InvalidInput
from bitnet_jit.system.garbage import freeze

if TYPE_CHECKING:
    from bitnet_jit.checkpoints.chat_template import ChatTemplate
    from bitnet_jit.engine.engine import InferenceEngine

WHICH_MODELS = (
    "Directories, or hub ids such as microsoft/bitnet-b1.58-2B-4T; clients name them by the folder's name or the id. "
    "[default: the embedded model, tiny-bitnet]"
)
KEYS = "The environment variable that holds API keys, with commas between several; requests must have one of them."
DEVICES = "Where models are; several, with commas between them, share requests. Such as cpu or cuda:0. [default: cpu]"
PROCESSES = (
    "Give each device a process of its own: one that ends, as where a GPU fails, is started anew, and no text is lost. "
    "[default: where several GPUs are named]"
)
PROMPT = "Tokens of a prompt. [default: the model's context]"
MEGABYTE = 2**20
WARM_PROMPT, WARM_TOKENS = 48, 8  # less than a page of prompt, so that it is not kept


def serve(
    models: Annotated[list[str] | None, typer.Argument(help=WHICH_MODELS, show_default=False)] = None,
    host: Annotated[str, typer.Option(help="The address to listen at; 0.0.0.0: all of this machine's.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port; 0: any that is free.")] = 8000,
    device: Annotated[str | None, typer.Option(help=DEVICES)] = None,
    head: HeadOption = "checkpoint",
    cache: CacheOption = "auto",
    i2_s: I2SOption = "x86",
    processes: Annotated[bool | None, typer.Option("--processes/--no-processes", help=PROCESSES)] = None,
    api_key_env: Annotated[str | None, typer.Option(help=KEYS)] = None,
    chat_template: TemplateOption = None,
    max_running: Annotated[int, typer.Option(min=1, help="Texts of a model that are written at a time.")] = 64,
    max_waiting: Annotated[int, typer.Option(min=1, help="Texts that may wait; more are refused with 429.")] = 1024,
    max_requests: Annotated[int, typer.Option(min=1, help="Requests that may be open at a time.")] = 1024,
    max_prompt_tokens: Annotated[int | None, typer.Option(min=1, help=PROMPT)] = None,
    max_body: Annotated[int, typer.Option(min=1, help="Size of a request, in MiB.")] = 4,
    timeout: Annotated[float | None, typer.Option(help="Seconds that a text may take. [default: no limit]")] = None,
    stuck_after: Annotated[
        float, typer.Option(min=0.1, help="Seconds without a step after which requests in work are given up.")
    ] = 120,
    speculate: SpeculateOption = None,
    access_log: Annotated[bool, typer.Option(help="Write a line for each request to stdout.")] = False,
) -> None:
    """Serve models by OpenAI's HTTP interface, until Ctrl-C."""
    check_packages()
    from bitnet_jit.engine import EngineConfig, InferenceEngine
    from bitnet_jit.server.app import make_app
    from bitnet_jit.server.limits import Limits

    keys = read_keys(api_key_env)
    limits = Limits(max_body * MEGABYTE, open_requests=max_requests, prompt_tokens=max_prompt_tokens, request_s=timeout)
    config = EngineConfig(max_running=max_running, max_waiting=max_waiting, processes=processes)
    with InferenceEngine(config) as engine:
        names: list[str | None] = [*models] if models else [None]
        added = [add(engine, name, device, head, cache, i2_s, chat_template) for name in names]
        known = {model_id: template for model_id, template in added if template is not None}
        freeze()
        tell(f"serving {', '.join(engine.models)} at http://{host}:{port}{'' if keys else '; no API key is asked for'}")
        guesses = None if speculate is None else speculate.value
        run(make_app(engine, known, limits, keys, stuck_after, guesses), host, port, access_log)


def add(
    engine: "InferenceEngine",
    model: str | None,
    device: str | None,
    head: str,
    cache: str,
    i2_s: str,
    chat_template: Path | None,
) -> "tuple[str, ChatTemplate | None]":
    """Load a model into the engine; return its id and its chat template."""
    from bitnet_jit.checkpoints.chat_template import template_of
    from bitnet_jit.checkpoints.embedded import EMBEDDED, embedded_model
    from bitnet_jit.checkpoints.formats.registry import make_reader
    from bitnet_jit.checkpoints.hub import find_model
    from bitnet_jit.engine.models.model import text_parts

    path = embedded_model() if model is None else find_model(model)
    template = template_of(path, chat_template)
    model_id = EMBEDDED if model is None else Path(model).resolve().name if os.path.exists(model) else model
    places = ["cpu"] if device is None else device.split(",")
    if engine.config.processes or len(places) > 1:
        tell_format(make_reader(path, i2_s))
        with Patience("loading"):
            work = engine.load_model(path, model_id, head=head, cache=cache, devices=places, i2_s=i2_s, pinned=True)
            work.result()
    else:
        engine.add_model(model_id, load_model(model, device, head, cache, i2_s))
    decoder, _ = text_parts(engine.model(model_id))
    tell_sampling(decoder, decoder.defaults.sampling())
    warm_up(engine, model_id, len(places))
    return model_id, template


def warm_up(engine: "InferenceEngine", model_id: str, workers: int) -> None:
    """Write a short text on each worker, so that kernels are compiled before the first request comes."""
    from bitnet_jit.engine.models.model import text_parts
    from bitnet_jit.generation.sampling import Sampling

    config = text_parts(engine.model(model_id))[0].config
    length = max(1, min(WARM_PROMPT, config.context_length - WARM_TOKENS))
    options = Sampling(temperature=1.0, seed=0, banned_token_ids=config.eos_ids)
    with Patience("preparing kernels, which takes a while the first time"):
        limit = min(WARM_TOKENS, config.context_length - length)
        for text in [engine.submit(model_id, [0] * length, limit, options) for _ in range(workers)]:
            text.result()


def run(app: Any, host: str, port: int, access_log: bool) -> None:
    """Serve an app until a signal ends it; what was accepted is written to its end, a second Ctrl-C breaks it off."""
    from bitnet_jit.server.connections import make_server

    signal.signal(signal.SIGTERM, leave)  # uvicorn sends its signal once more at the end, to whoever listened before
    server = make_server(app, host, port, "info", access_log)
    try:
        server.run()
    except SystemExit as ended:  # uvicorn has said why
        raise typer.Exit(1 if ended.code else 0) from None


def leave(*_: object) -> None:
    """End this process as a signal to terminate asks for, without a word."""
    raise SystemExit(0)


def read_keys(variable: str | None) -> list[str]:
    """Return the API keys that an environment variable holds; InvalidInput where it holds none."""
    if variable is None:
        return []
    keys = [key.strip() for key in os.environ.get(variable, "").split(",") if key.strip()]
    if not keys:
        raise InvalidInput(f"api_key_env: expected keys in the environment variable {variable}, which holds none")
    return keys


def check_packages() -> None:
    """Raise InvalidInput where a package of the server is missing."""
    import importlib.util

    needed = {"fastapi": "fastapi", "uvicorn": "uvicorn", "jinja2": "jinja2", "prometheus_client": "prometheus-client"}
    if missing := [name for module, name in needed.items() if importlib.util.find_spec(module) is None]:
        raise InvalidInput(f"serve: {', '.join(missing)} missing; install by: pip install 'bitnet-jit[serve]'")
