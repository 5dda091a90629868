"""The command `bitnet-jit`. A command imports what is heavy when it runs: `bitnet-jit --help` answers at once."""

import io
import sys
import warnings
from typing import Any

from bitnet_jit.errors import BitNetError


def main() -> None:
    """Run the command line: exit code 0, 1 after an error of ours (a line on stderr), 2 wrong usage, 130 Ctrl-C."""
    from bitnet_jit.cli.app import app

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that cannot show a character shows "?"
    with warnings.catch_warnings():
        warnings.showwarning = show_warning  # type: ignore[assignment]
        try:
            app()
        except BitNetError as error:
            say(f"error: {error}")
            sys.exit(1)


def show_warning(message: Warning | str, *_: Any) -> None:
    """A warning as `warnings` hands it out."""
    say(f"warning: {message}")


def say(text: str) -> None:
    """One line on stderr."""
    print(" ".join(text.split()), file=sys.stderr)
