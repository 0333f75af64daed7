"""The client that follows a session, against a server that plays a script."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from aiohttp import web

from broker.client import follow as following
from broker.client.tail import Ending, Frame, NotTaken, Tail, backoff_s
from tests.unit.client.conftest import Play
from tests.unit.client.script import THE_END, Script, about, event, refuses, sends


class Seen:
    """What a tail handed on."""

    def __init__(self) -> None:
        self.ids: list[str] = []
        self.events: list[str] = []
        self.pauses: list[tuple[Ending, float]] = []

    def frame(self, frame: Frame, text: str) -> None:
        self.events.append(frame.event)
        if frame.id is not None:
            self.ids.append(frame.id)

    def pause(self, ending: Ending, delay_s: float) -> None:
        self.pauses.append((ending, delay_s))


async def follow(script: Script, start: str | None = None) -> tuple[Ending, Seen]:
    seen = Seen()
    tail = Tail(script.url, "s1", start=start, on_frame=seen.frame, on_pause=seen.pause)
    async with asyncio.timeout(8):
        return await tail.run(), seen


async def test_cut_connection_resumes_after_the_last_event(play: Play):
    """The next connection asks for what follows the last event handed on."""
    script = await play(sends(event("5-0@1"), event("6-0@2"), cut=True), THE_END)
    _, seen = await follow(script)

    assert seen.ids == ["5-0@1", "6-0@2"]
    assert script.asked == [None, "6-0@2"]


async def test_live_start_that_saw_nothing_resumes_at_the_tip(play: Play):
    """What is published while a live-only client reconnects is not missed."""
    live = about("subscribed", resume="live", tip="9-0@4", **{"from": "9-0@4"})
    script = await play(sends(live, code=4000), THE_END)
    await follow(script)

    assert script.asked == [None, "9-0@4"]


async def test_start_is_kept_until_there_is_a_better_position(play: Play):
    """A refused first connection must not turn -5 into live only."""
    script = await play(refuses(503), THE_END)
    await follow(script, start="-5")

    assert script.asked == ["-5", "-5"]


async def test_caught_up_moves_the_position(play: Play):
    """After an empty replay the place is known all the same."""
    done = about("caught_up", position="7-0@3", replayed=0)
    script = await play(sends(done, code=4000), THE_END)
    await follow(script, start="0")

    assert script.asked == ["0", "7-0@3"]


@pytest.mark.parametrize(
    "frame",
    [
        about("reset", tip="2-0@2", **{"from": "0-0@0"}),
        about("subscribed", resume="reset", tip="2-0@2", **{"from": "0-0@0"}),
    ],
    ids=["live", "resume"],
)
async def test_reset_starts_the_new_history_from_its_beginning(
    play: Play, frame: dict[str, Any]
):
    """A position of the old history must not be used in the new one."""
    script = await play(sends(event("5-0@1"), frame, code=4000), THE_END)
    await follow(script)

    assert script.asked == [None, "0-0@0"]


async def test_gap_does_not_move_the_position(play: Play):
    """Only what has an id does; a gap is told again to whoever resumes before it."""
    gap = about("gap", after="5-0@1", next="9-0@5", lost=3, exact=True)
    script = await play(sends(event("5-0@1"), gap, cut=True), THE_END)
    await follow(script)

    assert script.asked == [None, "5-0@1"]


@pytest.mark.parametrize("code", [4500, 4504, 4509, 1000])
async def test_terminal_close_codes_end_it(play: Play, code: int):
    """4500 and above mean: do not come back."""
    ending, seen = await follow(await play(sends(code=code)))

    assert (ending.code, ending.retry) == (code, False)
    assert "because" in ending.reason
    assert seen.pauses == []


@pytest.mark.parametrize("code", [1001, 1011, 4000, 4001, 4499])
async def test_other_close_codes_reconnect(play: Play, code: int):
    """Everything below 4500 means: come back and resume."""
    _, seen = await follow(await play(sends(code=code), THE_END))

    assert [ending.code for ending, _ in seen.pauses] == [code]


@pytest.mark.parametrize("status", [400, 401, 403, 404, 426])
async def test_terminal_refusals_end_it(play: Play, status: int):
    """A request that is wrong stays wrong."""
    ending, _ = await follow(await play(refuses(status)))

    assert (ending.code, ending.retry) == (status, False)


async def test_retry_after_is_a_floor_with_jitter(play: Play):
    """Clients that were told the same number come back at different times."""
    script = await play(refuses(429, Retry_After="1"), THE_END)
    _, seen = await follow(script)

    assert 1.0 <= seen.pauses[0][1] <= 1.5


async def test_delay_of_the_closing_frame_is_obeyed(play: Play):
    """While it drains, the server gives each client a time of its own."""
    closing = about("closing", code=4000, reason="draining", retry=True, delay_ms=70)
    script = await play(sends(closing, code=4000), sends(code=4001), THE_END)
    _, seen = await follow(script)

    assert seen.pauses[0][1] == 0.07
    assert seen.pauses[1][1] != 0.07


async def test_silent_server_is_left(play: Play):
    """Three heartbeats that do not come mean that the connection is dead."""
    welcome = about("welcome", heartbeat_s=0.05)
    script = await play(sends(welcome), THE_END)
    _, seen = await follow(script)

    assert "silent" in seen.pauses[0][0].reason


async def test_heartbeats_keep_a_quiet_connection(play: Play):
    """A session without events is not taken for a dead connection."""

    async def beats(script: Script, request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.send_json(about("welcome", heartbeat_s=0.1))
        for _ in range(8):
            await asyncio.sleep(0.1)
            await socket.send_json({"event": "heartbeat"})
        await socket.close(code=4504)
        return socket

    ending, seen = await follow(await play(beats))

    assert ending.code == 4504
    assert seen.events.count("heartbeat") == 8


async def test_nobody_listening_is_tried_again():
    """A broker that restarts is found when it is back."""
    endings: list[Ending] = []
    third = asyncio.Event()

    def count(ending: Ending, delay_s: float) -> None:
        endings.append(ending)
        if len(endings) == 3:
            third.set()

    tail = Tail("http://127.0.0.1:1", "s1", on_frame=Seen().frame, on_pause=count)
    task = asyncio.create_task(tail.run())
    async with asyncio.timeout(10):
        await third.wait()
    task.cancel()
    await asyncio.wait([task])

    assert all(ending.retry for ending in endings)


async def test_subprotocol_is_offered(play: Play):
    """With broker.v1 the server says terminal refusals by close code."""
    script = await play(THE_END)
    await follow(script)

    assert script.offered == ["broker.v1"]


async def test_output_that_is_gone_is_not_taken_for_the_connection(play: Play):
    """It would be opened again for ever, for nobody."""

    def write(frame: Frame, text: str) -> None:
        raise BrokenPipeError

    script = await play(sends(event("5-0@1")))
    with pytest.raises(NotTaken):
        await Tail(script.url, "s1", on_frame=write).run()


def test_backoff_has_full_jitter_and_a_bound(monkeypatch: pytest.MonkeyPatch):
    """Waits grow, stay bounded, and spread over the whole range."""
    monkeypatch.setattr(following, "FIRST_BACKOFF_S", 0.5)
    waits = [backoff_s(100) for _ in range(400)]

    assert all(0 <= backoff_s(0) <= 0.5 for _ in range(100))
    assert max(waits) <= following.MAX_BACKOFF_S
    assert min(waits) < 3
    assert max(waits) > 27


@pytest.mark.parametrize("url", ["127.0.0.1:8080", "ftp://h", "", "http://"])
def test_what_is_no_url_is_refused(url: str):
    """A wrong URL is told at once, not tried for ever."""
    with pytest.raises(ValueError, match="must look like"):
        Tail(url, "s1", on_frame=Seen().frame)


def test_what_is_no_session_is_refused():
    """A name that the broker refuses is not sent."""
    with pytest.raises(ValueError, match="cannot be the name"):
        Tail("http://h", "../x", on_frame=Seen().frame)
