"""The help of every command, as a user reads it."""

import inspect
import os
import re
import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

from bitnet_jit.cli.app import app

COMMANDS = typer.main.get_command(app).commands


def shown(name):
    """Return the help of a command on a terminal of usual width, without its frame and its line breaks."""
    result = CliRunner().invoke(app, [name, "--help"], env={"COLUMNS": "100", "TERMINAL_WIDTH": "100"})
    assert result.exit_code == 0
    assert max(map(len, result.output.splitlines())) <= 100
    return plain(re.sub("[│╭╮╰╯─]", " ", result.output))


def plain(text):
    return " ".join(text.split())


@pytest.mark.parametrize(
    ("name", "parameter"),
    [pytest.param(name, each, id=f"{name}-{each.name}") for name, one in COMMANDS.items() for each in one.params],
)
def test_every_option_shows_its_help_and_its_default(name, parameter):
    text = shown(name)
    words = plain(parameter.help.replace(r"\[", "["))
    assert words in text
    default = parameter.default
    if default is None or default is False or default == "" or "[default: " in words:
        return
    value = ", ".join(map(str, default)) if isinstance(default, list | tuple) else str(default)
    assert f"{words} [default: {value}]" in text


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_says_what_it_does(name):
    words = inspect.cleandoc(COMMANDS[name].callback.__doc__)
    assert plain(words) in shown(name)


def test_what_is_not_given_is_told_in_words():
    text = shown("serve")
    assert "Tokens of a prompt. [default: the model's context]" in text
    assert "Such as cpu or cuda:0. [default: cpu]" in text
    assert "[default: the embedded model, tiny-bitnet]" in text


@pytest.mark.parametrize("rich", ["0", "1"])
def test_help_is_the_same_without_rich(rich):
    command = [sys.executable, "-c", "from bitnet_jit.cli import main; main()", "bench", "--help"]
    environment = {**os.environ, "TYPER_USE_RICH": rich}
    text = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
    assert "[default: as many as torch uses]" in plain(re.sub("[│─]", " ", text))
    assert "\\" not in text
