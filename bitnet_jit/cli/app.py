"""The commands of `bitnet-jit`, and the options before them."""

from typing import Annotated

import typer

import bitnet_jit
from bitnet_jit.cli.autotune import autotune
from bitnet_jit.cli.bench import bench
from bitnet_jit.cli.bench_engine import bench_engine
from bitnet_jit.cli.chat import chat
from bitnet_jit.cli.convert import convert
from bitnet_jit.cli.explain import explain
from bitnet_jit.cli.generate import generate
from bitnet_jit.cli.info import info
from bitnet_jit.cli.inspect import inspect
from bitnet_jit.cli.plain_help import PlainHelp
from bitnet_jit.cli.report import report
from bitnet_jit.cli.serve import serve
from bitnet_jit.cli.train import train

app = typer.Typer(
    help="Ternary neural networks (BitNet b1.58) on this machine: write text, chat, train, tune, measure.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def show_version(wanted: bool) -> None:
    """Print the version and end."""
    if wanted:
        typer.echo(f"bitnet-jit {bitnet_jit.__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Accept options before the command."""


for command in (generate, chat, serve, convert, inspect, train, autotune, explain, info, bench, bench_engine, report):
    app.command(cls=PlainHelp)(command)
