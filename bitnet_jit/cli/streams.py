"""Standard streams that may be closed, full, or unable to show a character, without a traceback."""

import contextlib
import io
import os
import sys
from typing import TextIO

# a stdout that is closed becomes one that refuses to be written to, as a closed one does: the text would be lost
CLOSED = (("stdin", os.O_RDONLY, "r"), ("stdout", os.O_RDONLY, "w"), ("stderr", os.O_WRONLY, "w"))


def open_streams() -> None:
    """Fill the places of closed streams, so that no other file gets their numbers.

    A terminal that cannot show a character shows "?"; bytes of stdin that are no character become U+FFFD.
    """
    for name, flags, mode in CLOSED:
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.open(os.devnull, flags), mode, encoding="utf-8"))  # noqa: SIM115
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def write(text: str) -> None:
    """Write a part of the result to stdout at once, in stdout's encoding: typer.echo takes ASCII for a mistake."""
    sys.stdout.write(text)
    sys.stdout.flush()


def without_break(text: str) -> str:
    """Return a text without the line break at its end, which stdin gives as it is on most systems."""
    return text.removesuffix("\n").removesuffix("\r") if text.endswith("\n") else text


def tell(text: str) -> None:
    """Write one line to stderr; a failure is no error, for then nobody could read it."""
    with contextlib.suppress(OSError):
        print(text, file=sys.stderr, flush=True)


def say(text: str) -> None:
    """Write a text to stderr as one line."""
    tell(" ".join(text.split()))


def describe(error: OSError) -> str:
    """Describe a refusal of the system in words; an error that names no file is of a stream."""
    words = error.strerror or str(error)
    return f"cannot write: {words}" if error.filename is None else f"{error.filename}: {words}"


def is_writable(stream: TextIO) -> bool:
    """Return whether the buffer of a stream can still be written."""
    try:
        stream.flush()
    except (OSError, ValueError):  # ValueError: it has been closed
        return False
    return True


def discard() -> None:
    """Drop buffers that cannot be written, which the interpreter would try again, and complain, when it ends."""
    for stream in (sys.stdout, sys.stderr):
        if not is_writable(stream):
            with contextlib.suppress(OSError, ValueError):
                sink = os.open(os.devnull, os.O_WRONLY)
                os.dup2(sink, stream.fileno())
                os.close(sink)
