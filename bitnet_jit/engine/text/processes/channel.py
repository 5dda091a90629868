"""`Channel`: messages between two processes, each a pickle with its length before it, through two pipes.

Both ends are of one installation and one user: nobody else can write into the pipes, so pickles are safe here.
"""

import pickle
import struct
from typing import IO, Any

LENGTH = struct.Struct("<Q")


class Channel:
    """One end of a connection, for one thread that sends and one that receives.

    Args:
        incoming, outgoing: binary files of pipes.

    >>> import io
    >>> pipe = io.BytesIO()
    >>> Channel(pipe, pipe).send(("a", 3))
    >>> _ = pipe.seek(0)
    >>> Channel(pipe, pipe).receive()
    ('a', 3)
    """

    def __init__(self, incoming: IO[bytes], outgoing: IO[bytes]) -> None:
        self._incoming, self._outgoing = incoming, outgoing

    def send(self, message: Any) -> None:
        """Send a message. Raises EOFError where the other end is gone."""
        content = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
        try:
            self._outgoing.write(LENGTH.pack(len(content)) + content)
            self._outgoing.flush()
        except (OSError, ValueError) as error:  # ValueError: the file is closed
            raise EOFError(f"the other process reads no more: {error}") from error

    def receive(self) -> Any:
        """Wait for the next message. Raises EOFError where there will be none, or only a part of one has come."""
        (length,) = LENGTH.unpack(self._read(LENGTH.size))
        return pickle.loads(self._read(length))

    def _read(self, length: int) -> bytes:
        """Return the next bytes."""
        try:
            content = self._incoming.read(length)
        except (OSError, ValueError) as error:
            raise EOFError(f"the other process cannot be read: {error}") from error
        if len(content) < length:
            raise EOFError("the other process has ended")
        return content
