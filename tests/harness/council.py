"""The front end of "The Council" as its server sees it: how it comes back.

Its store tries again only after an unclean end: five times, each time later. A close
in order it takes for final, whatever the code; but the page above it connects whenever
it finds the store disconnected, without a pause and without end.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any, Self

import orjson
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from tests.harness.client import Address, Frame

ATTEMPTS_MAX = 5


class MeetingRoom:
    """One open page. What takes it seconds takes *delay_s* times as many here.

    Attributes:
        frames: What it was told.
        upgrades: How often it asked for a socket.
        opened: How often it got one.
        closes: Code of each end in order, None for those that were none.
        waits: How many delays it waited before each try of the store.
    """

    def __init__(self, address: Address, query: str = "", delay_s: float = 0.05):
        self.url = f"ws://{address[0]}:{address[1]}/ws{query}"
        self.frames: list[Frame] = []
        self.upgrades = self.opened = 0
        self.closes: list[int | None] = []
        self.waits: list[int] = []
        self._delay_s = delay_s
        self._attempts = 0
        self._socket: ClientConnection | None = None
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    async def until_opened(self, times: int, timeout_s: float = 10) -> None:
        """Wait until it has got a socket for the nth time."""
        await self._until(lambda: self.opened >= times, timeout_s)

    async def until_upgrades(self, times: int, timeout_s: float = 10) -> None:
        await self._until(lambda: self.upgrades >= times, timeout_s)

    async def until_frames(self, count: int, timeout_s: float = 10) -> list[Frame]:
        """Wait for so many frames in all; returns them."""
        await self._until(lambda: len(self.frames) >= count, timeout_s)
        return self.frames

    async def say(self, cmd: str, **data: Any) -> None:
        assert self._socket is not None
        frame = {"cmd": cmd, "data": data} if data else {"cmd": cmd}
        await self._socket.send(orjson.dumps(frame).decode())

    async def _until(self, holds: Any, timeout_s: float) -> None:
        async with asyncio.timeout(timeout_s):
            while not holds():
                self._changed.clear()
                await self._changed.wait()

    async def _run(self) -> None:
        while True:
            clean = await self._visit()
            if clean or self._attempts >= ATTEMPTS_MAX:
                continue  # The store has given up; the page has not.
            self._attempts += 1
            self.waits.append(self._attempts)
            await asyncio.sleep(self._delay_s * self._attempts)

    async def _visit(self) -> bool:
        """Connect and listen to the end; returns whether that was in order."""
        self.upgrades += 1
        self._changed.set()
        try:
            async with connect(self.url, proxy=None) as self._socket:
                self.opened += 1
                self._attempts = 0
                self._changed.set()
                await self._listen(self._socket)
        except (OSError, InvalidHandshake, TimeoutError, EOFError):
            return False
        except ConnectionClosed as end:
            clean = end.rcvd is not None and end.sent is not None
            self.closes.append(end.rcvd.code if clean and end.rcvd else None)
            self._changed.set()
            return clean
        raise AssertionError("nobody else ends it")

    async def _listen(self, socket: ClientConnection) -> None:
        while True:
            self.frames.append(orjson.loads(await socket.recv()))
            self._changed.set()
