"""One connection and its pulse."""

from __future__ import annotations

import asyncio
import time

import pytest
from aiohttp import web

from broker.client import link as links
from broker.client.follow import broker_url, new_http
from broker.client.link import Ending, Link
from broker.client.tokens import Tokens
from broker.client.wire import Frame
from tests.unit.client.conftest import Play
from tests.unit.client.script import (
    Script,
    accept,
    event,
    hear,
    refuses,
    sends,
    welcome,
)

BEAT_S = 0.05


class Reader:
    """Takes frames when it may.

    Attributes:
        events: What it took.
        may: Whether more may be read behind the first event.
    """

    def __init__(self) -> None:
        self.events: list[str] = []
        self.may = asyncio.Event()
        self.may.set()

    def query(self) -> dict[str, str]:
        return {"some": "thing"}

    def handle_frame(self, link: Link, frame: Frame, text: str):
        self.events.append(frame.event)
        return None if frame.id is None or self.may.is_set() else self.may.wait()


async def run(script: Script, reader: Reader, link: Link | None = None) -> Ending:
    url = broker_url(script.url) / "v1" / "ws"
    async with asyncio.timeout(8), new_http() as http:
        return await (link or Link(Tokens(""), reader)).run(http, url)


async def test_asks_for_what_the_reader_wants(play: Play):
    """And offers the protocol that it speaks."""
    script = await play(sends(code=4000))
    ending = await run(script, Reader())

    assert script.queries == [{"some": "thing"}]
    assert ending.code == 4000


async def test_silent_server_is_left(play: Play):
    """Three heartbeats that do not come mean that the connection is dead."""
    ending = await run(await play(sends(welcome(BEAT_S))), Reader())

    assert ending.retry
    assert "silent" in ending.reason


async def test_server_without_a_welcome_is_left(
    play: Play, monkeypatch: pytest.MonkeyPatch
):
    """Something else may listen there."""
    monkeypatch.setattr(links, "CONNECT_TIMEOUT_S", 0.2)
    ending = await run(await play(sends()), Reader())

    assert ending.retry
    assert "silent" in ending.reason


async def test_server_that_does_not_answer_is_left(
    play: Play, monkeypatch: pytest.MonkeyPatch
):
    """Not even with a refusal."""
    monkeypatch.setattr(links, "CONNECT_TIMEOUT_S", 0.2)
    for_ever = asyncio.Event()

    async def hangs(script: Script, request: web.Request) -> web.StreamResponse:
        await for_ever.wait()
        return web.Response()

    ending = await run(await play(hangs), Reader())
    for_ever.set()

    assert ending.retry
    assert "did not answer" in ending.reason


async def test_reader_that_takes_nothing_is_heard_all_the_same(play: Play):
    """Pings lie unread behind events; the server must not take it for dead."""
    reader = Reader()
    reader.may.clear()
    script = await play(
        sends(
            welcome(BEAT_S),
            event("1-0"),
            event("2-0"),
            after=lambda script: script.pongs >= 10,
            code=4000,
        )
    )
    running = asyncio.create_task(run(script, reader))
    await script.until(lambda: script.pongs >= 10)
    meanwhile = list(reader.events)
    reader.may.set()
    ending = await running

    assert meanwhile == ["welcome", "e"]
    assert reader.events == ["welcome", "e", "e"]
    assert ending.code == 4000


async def test_reader_that_takes_everything_only_answers(
    play: Play, monkeypatch: pytest.MonkeyPatch
):
    """Whoever reads the pings has no need to say more, however long it lasts."""
    monkeypatch.setattr(links, "CONNECT_TIMEOUT_S", 1.0)

    async def beats(script: Script, request: web.Request) -> web.StreamResponse:
        socket = await accept(request)
        await socket.send_json(welcome(BEAT_S))
        hearing = asyncio.create_task(hear(script, socket))
        for _ in range(24):
            await asyncio.sleep(BEAT_S)
            await socket.ping()
            await socket.send_json({"event": "heartbeat"})
        await script.until(lambda: script.pongs >= 24)
        hearing.cancel()
        await asyncio.wait((hearing,))
        await socket.close(code=4000)
        return socket

    script = await play(beats)
    ending = await run(script, Reader())

    assert ending.code == 4000
    assert script.pongs == 24


async def test_loop_that_was_blocked_does_not_blame_the_server(play: Play):
    """What the server says meanwhile is read before it is judged."""
    awake = asyncio.Event()
    script = await play(
        sends(welcome(BEAT_S), after=lambda script: awake.is_set(), code=4000)
    )

    def block() -> None:
        time.sleep(BEAT_S * 5)
        awake.set()
        script.note()

    class Blocking(Reader):
        def handle_frame(self, link: Link, frame: Frame, text: str) -> None:
            asyncio.get_running_loop().call_soon(block)

    ending = await run(script, Blocking())

    assert ending.code == 4000


async def test_what_the_reader_raises_closes_the_connection(play: Play):
    """It is no fault of the server's, so it is not swallowed."""
    script = await play(sends(welcome()))

    class Broken(Reader):
        def handle_frame(self, link: Link, frame: Frame, text: str):
            raise LookupError

    with pytest.raises(LookupError):
        await run(script, Broken())
    await script.until(lambda: not script.open)


async def test_what_runs_beside_ends_with_the_connection(play: Play):
    """Nothing is left behind, and a fault in it is not swallowed."""
    script = await play(sends(welcome(), code=4000))
    ended = asyncio.Event()

    async def waits() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async def breaks() -> None:
        raise LookupError

    class Starting(Reader):
        def handle_frame(self, link: Link, frame: Frame, text: str):
            link.start(waits())
            link.start(breaks())

    with pytest.raises(LookupError):
        await run(script, Starting())

    assert ended.is_set()


async def test_what_ran_beside_is_forgotten(play: Play):
    """A connection may last for months and renew its token every hour."""
    count = 50
    frames = [event(f"{number}-0") for number in range(1, count + 1)]
    script = await play(sends(welcome(), *frames, code=4000))

    async def nothing() -> None:
        pass

    class Starting(Reader):
        def handle_frame(self, link: Link, frame: Frame, text: str):
            link.start(nothing())
            return asyncio.sleep(0)

    link = Link(Tokens(""), Starting())
    await run(script, Reader(), link)

    assert len(link._side) < 5


async def test_cancelled_connection_is_closed(play: Play):
    """Whoever has enough leaves no socket behind."""
    script = await play(sends(welcome()))
    reader = Reader()
    running = asyncio.create_task(run(script, reader))
    await script.until(lambda: script.open)
    running.cancel()
    await asyncio.wait((running,))
    await script.until(lambda: not script.open)

    assert running.cancelled()


@pytest.mark.parametrize(
    ("status", "asked", "least", "most"),
    [(503, "2", 2.0, 3.0), (429, "1", 1.0, 1.5)],
    ids=str,
)
async def test_retry_after_is_a_floor_with_jitter(
    play: Play, status: int, asked: str, least: float, most: float
):
    """Clients that were told the same number come back at different times."""
    ending = await run(await play(refuses(status, Retry_After=asked)), Reader())

    assert ending.retry
    assert ending.code == status
    assert ending.delay_s is not None
    assert least <= ending.delay_s <= most


@pytest.mark.parametrize("asked", ["", "Sat, 21 Nov 2026 21:00:00 GMT", "-1"])
async def test_retry_after_that_is_no_number_is_no_wish(play: Play, asked: str):
    """A date is for caches."""
    ending = await run(await play(refuses(503, Retry_After=asked)), Reader())

    assert ending.delay_s is None
