"""The child's end of the command line: JSON lines in on stdin, out on stdout."""

from __future__ import annotations

import os
from typing import Any

import orjson

Command = dict[str, Any]


class CommandPipe:
    """Reads whole commands without blocking past what has arrived."""

    def __init__(self, source_fd: int = 0, answer_fd: int = 1) -> None:
        self.fd = source_fd
        self._answer_fd = answer_fd
        self._received = bytearray()

    def read(self) -> list[Command]:
        """Read once, and return the commands that are complete.

        Raises:
            EOFError: The controller is gone.
        """
        part = os.read(self.fd, 1 << 20)
        if not part:
            raise EOFError("the controller is gone")
        self._received += part
        *lines, rest = self._received.split(b"\n")
        self._received = rest
        return [orjson.loads(line) for line in lines]

    def answer(self, **result: object) -> None:
        """Send one answer."""
        line = orjson.dumps(result, option=orjson.OPT_NON_STR_KEYS) + b"\n"
        while line:
            line = line[os.write(self._answer_fd, line) :]
