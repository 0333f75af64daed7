"""A server that plays a script to each connection of a client."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import orjson
from aiohttp import WSMsgType, web

from broker.model import parse_position

Frame = dict[str, Any]
Act = Callable[["Script", web.Request], Awaitable[web.StreamResponse]]
Answer = Callable[[Frame], Sequence[Frame]]


class Script:
    """A server on loopback that meets each connection with the next act.

    Attributes:
        url: Where it listens.
        queries: What each connection asked for.
        tokens: What each connection said it is, None where it said nothing.
        offered: The subprotocols of each connection.
        said: What clients said, on all connections.
        pongs: How many came.
        open: How many connections are.
        more: What `feeds` sends, as soon as it is put here.
    """

    def __init__(self, acts: Sequence[Act]) -> None:
        self._acts = list(acts)
        self.url = ""
        self.queries: list[dict[str, str]] = []
        self.tokens: list[str | None] = []
        self.offered: list[str | None] = []
        self.said: list[Frame] = []
        self.pongs = 0
        self.open = 0
        self.more: asyncio.Queue[Frame] = asyncio.Queue()
        self._changed = asyncio.Event()

    @property
    def asked(self) -> list[str | None]:
        """The ``last_event_id`` of each connection, None where it had none."""
        return [query.get("last_event_id") for query in self.queries]

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.queries.append(dict(request.query))
        self.tokens.append(request.headers.get("Authorization"))
        self.offered.append(request.headers.get("Sec-WebSocket-Protocol"))
        self.open += 1
        self.note()
        try:
            return await self._acts.pop(0)(self, request)
        finally:
            self.open -= 1
            self.note()

    def note(self) -> None:
        self._changed.set()

    async def until(self, holds: Callable[[], object]) -> None:
        """Wait until something holds; looks after each thing that happens here."""
        async with asyncio.timeout(8):
            while not holds():
                self._changed.clear()
                await self._changed.wait()


async def accept(request: web.Request) -> web.WebSocketResponse:
    socket = web.WebSocketResponse(protocols=("broker.v1",), autoping=False)
    await socket.prepare(request)
    return socket


async def hear(
    script: Script, socket: web.WebSocketResponse, answer: Answer = lambda frame: ()
) -> None:
    """Take what the client says until it leaves."""
    async for message in socket:
        if message.type is WSMsgType.PONG:
            script.pongs += 1
        elif message.type is WSMsgType.TEXT:
            frame = orjson.loads(message.data)
            script.said.append(frame)
            for reply in answer(frame):
                await socket.send_str(orjson.dumps(reply).decode())
        script.note()


def sends(
    *frames: Frame,
    code: int | None = None,
    cut: bool = False,
    answer: Answer = lambda frame: (),
    after: Callable[[Script], bool] = lambda script: True,
) -> Act:
    """Accept, send frames, then close with *code*, cut the connection, or listen.

    Args:
        frames: What is sent.
        code: Close with it.
        cut: Reset the connection instead.
        answer: What is said to what the client says; else nobody hears it.
        after: Wait for it before the end.
    """

    async def act(script: Script, request: web.Request) -> web.StreamResponse:
        socket = await accept(request)
        for frame in frames:
            await socket.send_str(orjson.dumps(frame).decode())
        hearing = asyncio.create_task(hear(script, socket, answer))
        if cut or code is not None:
            await script.until(lambda: after(script))
            hearing.cancel()
            await asyncio.wait((hearing,))
        if cut:
            assert request.transport is not None
            request.transport.abort()
        elif code is not None:
            await socket.close(code=code, message=b"because")
        await asyncio.wait((hearing,))
        return socket

    return act


def feeds(*frames: Frame, answer: Answer = lambda frame: ()) -> Act:
    """Accept, send frames, then whatever the test wants to be sent."""

    async def act(script: Script, request: web.Request) -> web.StreamResponse:
        socket = await accept(request)
        hearing = asyncio.create_task(hear(script, socket, answer))
        sending = asyncio.create_task(feed(script, socket, frames))
        await asyncio.wait((hearing, sending), return_when=asyncio.FIRST_COMPLETED)
        sending.cancel()
        await asyncio.wait((hearing, sending))
        return socket

    return act


async def feed(
    script: Script, socket: web.WebSocketResponse, frames: Sequence[Frame]
) -> None:
    for frame in frames:
        await socket.send_json(frame)
        script.note()
    while True:
        await socket.send_json(await script.more.get())


async def deaf(script: Script, request: web.Request) -> web.StreamResponse:
    """Accept, send an event, and read nothing: not even that the client leaves."""
    socket = await accept(request)
    await socket.send_json(event("1-0"))
    assert request.transport is not None
    await script.until(request.transport.is_closing)
    return socket


def refuses(status: int, **headers: str) -> Act:
    """Answer with plain HTTP."""

    async def act(script: Script, request: web.Request) -> web.StreamResponse:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return web.json_response({"error": "no"}, status=status, headers=named)

    return act


def event(position: str, data: object = None, name: str = "e") -> Frame:
    """A published event."""
    seq = parse_position(position).seq
    return {
        "id": position,
        **({} if seq is None else {"seq": seq}),
        "session": "s1",
        "event": name,
        "data": data,
        "timestamp": "2026-11-21T12:31:13Z",
    }


def about(name: str, **data: Any) -> Frame:
    """Something that the broker says of itself."""
    return {"event": name, "session": "s1", "data": data}


def welcome(heartbeat_s: float = 25, user: str | None = "ada", **data: Any) -> Frame:
    """The first frame of a connection."""
    said = {"heartbeat_s": heartbeat_s, "user": user, **data}
    return {"event": "welcome", "data": said}


def subscribed(
    resume: str = "complete", start: str = "0-0@0", tip: str = "9-0@9"
) -> Frame:
    """A subscription begins."""
    return about("subscribed", resume=resume, tip=tip, **{"from": start})


def gap(after: str, following: str, lost: int, reason: str = "trimmed") -> Frame:
    """Entries are lost."""
    data = {"after": after, "next": following, "lost": lost}
    return about("gap", exact=True, reason=reason, **data)


THE_END = sends(code=4504)
