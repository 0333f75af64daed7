"""What stands between a browser and the broker in some places."""

from __future__ import annotations

import asyncio
from typing import Self

from tests.harness.client import Address

_CHUNK_BYTES = 65536


class Gateway:
    """Forwards HTTP on the loopback, request heads changed or refused.

    Attributes:
        address: Where it listens.
        refused: How many requests it has refused.
    """

    def __init__(
        self, upstream: Address, *, prefix: str = "", upgrades: bool = True
    ) -> None:
        """Prepare; it listens while it is entered.

        Args:
            upstream: The broker.
            prefix: Taken away from the beginning of paths; others are reset.
            upgrades: Whether WebSockets get through; else they are reset.
        """
        self.address: Address = ("127.0.0.1", 0)
        self.refused = 0
        self._upstream = upstream
        self._prefix = prefix.encode()
        self._upgrades = upgrades
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, *self.address)
        self.address = self._server.sockets[0].getsockname()[:2]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    def _accept(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        task = asyncio.create_task(self._forward(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _forward(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        up_reader, up = await asyncio.open_connection(*self._upstream)
        try:
            async with asyncio.TaskGroup() as pumps:
                pumps.create_task(self._send_up(reader, up))
                pumps.create_task(_pump(up_reader, writer))
        except* (OSError, EOFError):
            pass
        finally:
            writer.transport.abort()
            up.transport.abort()

    async def _send_up(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        while data := await reader.read(_CHUNK_BYTES):
            # A browser sends each head at once; frames are masked and look like none.
            head = data.partition(b"\r\n\r\n")[0]
            if b" HTTP/1.1\r\n" in head and not self._lets_through(head):
                self.refused += 1
                break
            writer.write(data.replace(b" " + self._prefix + b"/", b" /", 1))
            await writer.drain()
        raise EOFError

    def _lets_through(self, head: bytes) -> bool:
        path = head.split(b" ", 2)[1]
        is_upgrade = b"\r\nupgrade: websocket" in head.lower()
        return path.startswith(self._prefix) and (self._upgrades or not is_upgrade)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(_CHUNK_BYTES):
        writer.write(data)
        await writer.drain()
    raise EOFError
