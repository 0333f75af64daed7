"""A small TCP proxy that can pause, cut, delay and throttle what goes through it."""

from __future__ import annotations

import asyncio
from typing import Self

from tests.harness.client import Address

_CHUNK_BYTES = 65536


class FaultProxy:
    """Listens on a free port of the loopback and forwards to *upstream*.

    Attributes:
        address: Where it listens.
        delay_s: Added to every chunk, in both directions.
        bytes_per_s: Limit per direction and connection; 0 is none.
        refuses: New connections are dropped at once.
        accepted: How many connections came so far.
    """

    def __init__(self, upstream: Address) -> None:
        self.upstream = upstream
        self.delay_s = 0.0
        self.bytes_per_s = 0
        self.refuses = False
        self.accepted = 0
        self.address: Address = ("127.0.0.1", 0)
        self._flows = asyncio.Event()
        self._flows.set()
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.address = self._server.sockets[0].getsockname()[:2]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self._flows.set()
        self.cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    def pause(self) -> None:
        """Hold everything back, new connections as well; nothing is cut."""
        self._flows.clear()

    def resume(self) -> None:
        self._flows.set()

    def cut(self) -> None:
        """Reset every connection."""
        for writer in self._writers:
            writer.transport.abort()

    def _accept(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.accepted += 1
        task = asyncio.create_task(self._forward(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _forward(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._writers.add(writer)
        try:
            await self._flows.wait()
            if not self.refuses:
                await self._connect_and_pump(reader, writer)
        except OSError:
            pass
        finally:
            writer.transport.abort()
            self._writers.discard(writer)

    async def _connect_and_pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        up_reader, up_writer = await asyncio.open_connection(*self.upstream)
        self._writers.add(up_writer)
        try:
            async with asyncio.TaskGroup() as pumps:
                pumps.create_task(self._pump(reader, up_writer))
                pumps.create_task(self._pump(up_reader, writer))
        except* OSError:
            pass
        finally:
            up_writer.transport.abort()
            self._writers.discard(up_writer)

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        while data := await reader.read(_CHUNK_BYTES):
            await self._flows.wait()
            if self.delay_s:
                await asyncio.sleep(self.delay_s)
            if self.bytes_per_s:
                await asyncio.sleep(len(data) / self.bytes_per_s)
            writer.write(data)
            await writer.drain()
        if not writer.is_closing():
            writer.write_eof()
