"""A loop of ``send_str`` on plain aiohttp with uvloop, compression off."""

from __future__ import annotations

import asyncio
import time

import uvloop
from aiohttp import web

from loadtest.baselines.events import EventMaker
from loadtest.command import Command, CommandPipe
from loadtest.pacing import Pace


class SendStrServer:
    """Every WebSocket gets every event."""

    def __init__(self, pipe: CommandPipe) -> None:
        self._pipe = pipe
        self._sockets: set[web.WebSocketResponse] = set()
        self._maker = EventMaker()
        self._commands: asyncio.Queue[Command | None] = asyncio.Queue()

    async def handle(self, request: web.Request) -> web.WebSocketResponse:
        """Serve one WebSocket until it closes."""
        socket = web.WebSocketResponse(compress=False)
        await socket.prepare(request)
        self._sockets.add(socket)
        try:
            async for _ in socket:
                pass
        finally:
            self._sockets.discard(socket)
        return socket

    def _read_commands(self) -> None:
        try:
            for command in self._pipe.read():
                self._commands.put_nowait(command)
        except EOFError:
            self._commands.put_nowait(None)

    async def _publish(self, pace: Pace) -> None:
        while not pace.finished and self._commands.empty():
            wait_s = (pace.deadline_ns - time.monotonic_ns()) / 1e9
            await asyncio.sleep(max(0, wait_s))
            for _ in range(pace.take(time.monotonic_ns(), 100)):
                text = self._maker.make().decode()
                for socket in list(self._sockets):
                    if not socket.closed:
                        await socket.send_str(text)

    async def run(self, port: int) -> None:
        """Listen, and publish on command until the controller is gone."""
        app = web.Application()
        app.router.add_get("/", self.handle)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port, backlog=4096).start()
        asyncio.get_running_loop().add_reader(self._pipe.fd, self._read_commands)
        self._pipe.answer(ready=True)
        while (command := await self._commands.get()) is not None:
            if command["do"] == "run":
                start_ns = time.monotonic_ns()
                pace = Pace(command["rate"], command["seconds"], start_ns)
                await self._publish(pace)
                self._pipe.answer(**pace.summary())


def main(port: int) -> None:
    """Serve on *port* of 127.0.0.1."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(SendStrServer(CommandPipe()).run(port))
