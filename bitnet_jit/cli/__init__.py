"""The command `bitnet-jit`. Subcommands import heavy packages when they run: `bitnet-jit --help` answers at once."""

import sys
import warnings
from typing import Any

from bitnet_jit.cli.streams import describe, discard, open_streams, say
from bitnet_jit.errors import BitNetError


def main() -> None:
    """Run the command line.

    Exit code 0; 1 after an error of ours or of the system (a line on stderr) or a closed pipe (no word); 2 wrong usage;
    130 Ctrl-C.
    """
    open_streams()
    with warnings.catch_warnings():
        warnings.showwarning = show_warning  # type: ignore[assignment]
        code = run()
        discard()
    sys.exit(code)


def run() -> int:
    """Run the command line, and return its exit code."""
    from bitnet_jit.cli.app import app

    try:
        try:
            app()
        except SystemExit as ended:  # every command ends so
            code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        sys.stdout.flush()  # the output may be in a buffer still
    except BitNetError as error:
        say(f"error: {error}")
        return 1
    except BrokenPipeError:
        return 1
    except OSError as error:  # a full disk, a folder that cannot be written to: a line is of more use than a traceback
        say(f"error: {describe(error)}")
        return 1
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        say("error: there is not enough memory for this")
        return 1
    return code


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error is about memory: torch's are RuntimeErrors, on the CPU without a class to tell."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or "can't allocate memory" in str(error)
    )


def show_warning(message: Warning | str, *_: Any) -> None:
    """Show a warning on stderr as one line, in the place of `warnings.showwarning`."""
    say(f"warning: {message}")
