"""The stream of commands: what a client says, on its way to the services."""

from __future__ import annotations

import msgspec

from broker.store.connection import Command, Connection
from broker.store.once import SCRIPT, OnceStream, digest
from broker.store.scripts import script

TRIM = "trim_read"
SCRIPTS = (SCRIPT, TRIM)
"""What `broker.store.scripts.load_scripts` must have loaded on the connection."""

OWN_ID_CHARS = 8
"""Shorter ids are mere counters: they name something within one connection."""


class NewCommand(msgspec.Struct, frozen=True, gc=False):
    """A command to be stored.

    Attributes:
        session: To which session it was said.
        user: Who said it; empty for nobody in particular.
        connection: Over which connection.
        cmd: Its name.
        data: JSON text.
        id: The client's name for it; None: it is stored each time it is said.
        received_at: RFC 3339.
    """

    session: str
    user: str
    connection: str
    cmd: str
    data: bytes
    id: str | None
    received_at: str


class CommandStream:
    """Builds what adds commands to one stream.

    Attributes:
        key: The stream.
    """

    def __init__(self, key: str, remember_s: float) -> None:
        """Prepare for one stream.

        Args:
            key: The stream.
            remember_s: For how long a client's id stands for the command it was given.

        Raises:
            ConfigError: As `OnceStream`.
        """
        self.key = key.encode()
        self._once = OnceStream(self.key)
        self._remember_ms = max(1, int(remember_s * 1000))

    def add(self, command: NewCommand) -> Command:
        """What stores it; `broker.store.once.read_added` reads the answer."""
        entry = (
            *(b"*", b"session", command.session, b"user", command.user),
            *(b"connection", command.connection, b"cmd", command.cmd),
            *(b"data", command.data, b"received_at", command.received_at),
        )
        if not command.id:
            return (b"XADD", self.key, *entry)
        content = digest(command.session, command.cmd, command.data)
        sender_id = digest(*_owner(command), command.id)
        return self._once.add(
            sender_id, content, self._remember_ms, *entry, b"id", command.id
        )


def _owner(command: NewCommand) -> tuple[str, str]:
    """Within whose ids the command's id says which command it is.

    A user may say a command again on another connection. But many clients count from
    c1 on each page, so short ids belong to the connection. And without a user nobody
    knows who is who: a stranger's id must not hide what somebody else says, nor tell
    what they said.
    """
    if command.user and len(command.id or "") >= OWN_ID_CHARS:
        return "user", command.user
    return "connection", command.connection


async def backlog(connection: Connection, key: bytes) -> int:
    """How many entries the stream *key* has.

    Raises:
        StoreUnavailable: No connection, or the server is not ready.
        StoreRefused: The key holds no stream, or may not be read.
    """
    length: int = await connection.call(b"XLEN", key)
    return length


async def trim_read(connection: Connection, key: bytes) -> int:
    """Remove what every consumer group of *key* has read and acknowledged.

    Without a group nothing is removed. Exactly up to the first entry that is needed,
    not about (``~``): that leaves up to a node of 100 entries, and a backlog with a
    limit below would be full for ever. 100 000 entries take 2 ms either way.

    Returns:
        How many entries were removed.

    Raises:
        StoreUnavailable: No connection, or the server is not ready.
        StoreRefused: The key holds no stream, or may not be changed.
    """
    removed: int = await connection.call(*script(TRIM).call((key,)))
    return removed
