"""The events of a session as a loop sees them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from broker.client import (
    Client,
    ClosedByServer,
    Event,
    Gap,
    Item,
    Notice,
    Reset,
    Skipped,
    Stream,
)
from broker.client.inbox import BYTES_MAX
from tests.harness.load import until
from tests.unit.client.conftest import Play
from tests.unit.client.script import (
    THE_END,
    about,
    event,
    feeds,
    gap,
    refuses,
    sends,
    subscribed,
    welcome,
)

CAUGHT_UP = about("caught_up", position="9-0@9", replayed=0)
HEARTBEAT = {"event": "heartbeat"}
RESET = about("reset", tip="2-0@2", **{"from": "0-0@0"})


async def taken(stream: Stream) -> list[Item]:
    """Everything until the server ends it for good."""
    items: list[Item] = []
    try:
        async with asyncio.timeout(8):
            while True:
                items.append(await anext(stream))
    except ClosedByServer:
        return items


def names(items: list[Item]) -> list[str]:
    return [item.id or item.event for item in items]


async def test_cut_connection_is_not_noticed_by_the_loop(play: Play):
    """The next one goes on behind the last event that came."""
    script = await play(
        sends(subscribed(), event("1-0@1"), event("2-0@2"), cut=True),
        sends(subscribed(), event("3-0@3"), code=4000),
        THE_END,
    )
    async with Client(script.url) as client:
        items = await taken(client.events("s1", last_event_id="0"))

    assert names(items) == ["1-0@1", "2-0@2", "3-0@3"]
    assert script.asked == ["0", "2-0@2", "3-0@3"]


async def test_event_that_is_sent_twice_comes_once(play: Play):
    """Whoever sends it again."""
    script = await play(
        sends(event("1-0@1"), event("2-0@2"), code=4000),
        sends(event("1-0@1"), event("2-0"), event("3-0@3"), code=4504),
    )
    async with Client(script.url) as client:
        items = await taken(client.events("s1"))

    assert names(items) == ["1-0@1", "2-0@2", "3-0@3"]


async def test_loss_and_reset_come_in_their_place(play: Play):
    """Between the events before and after; nothing else is in between."""
    bad = about("skipped", reason="not_json", message="no") | {"id": "4-0@4"}
    script = await play(
        sends(
            *(welcome(), subscribed(), event("1-0@1"), gap("1-0@1", "3-0@3", 1)),
            *(event("3-0@3"), bad, CAUGHT_UP, HEARTBEAT, RESET, event("1-1@1")),
            code=4504,
        )
    )
    async with Client(script.url) as client:
        items = await taken(client.events("s1"))

    assert [type(item) for item in items] == [Event, Gap, Event, Skipped, Reset, Event]
    assert items[1].data["lost"] == 1


async def test_gap_is_told_once_over_a_cut(play: Play):
    """By the connection that also delivers what is behind it."""
    script = await play(
        sends(event("1-0@1"), gap("1-0@1", "3-0@3", 1), cut=True),
        sends(gap("1-0@1", "5-0@5", 3), event("5-0@5"), code=4504),
    )
    async with Client(script.url) as client:
        items = await taken(client.events("s1"))

    assert [item.data["lost"] for item in items if isinstance(item, Gap)] == [3]
    assert names(items) == ["1-0@1", "gap", "5-0@5"]


async def test_whoever_looks_at_names_only_can_read_of_losses_in_the_log(
    play: Play, caplog: pytest.LogCaptureFixture
):
    """What was agreed on, like conflation, is no news."""
    unknown = about(
        "gap", after="3-0", next="4-0", lost=None, exact=False, reason="trimmed"
    )
    script = await play(
        sends(
            *(gap("0-0", "3-0", 2), event("3-0"), unknown, event("4-0"), RESET),
            *(gap("4-0", "6-0", 77, "conflated"), event("6-0")),
            code=4504,
        )
    )
    async with Client(script.url) as client:
        await taken(client.events("s1"))
    logged = [record.getMessage() for record in caplog.records]

    assert logged == [
        "s1: events are lost: 2",
        "s1: events are lost: nobody knows how many",
        "s1: the stream is another one",
    ]


async def test_everything_comes_if_asked_for(play: Play):
    """For whoever wants to see the protocol."""
    script = await play(
        sends(welcome(), subscribed(), event("1-0@1"), CAUGHT_UP, HEARTBEAT, code=4504)
    )
    async with Client(script.url) as client:
        items = await taken(client.events("s1", everything=True))

    assert names(items) == [
        *("welcome", "subscribed", "1-0@1", "caught_up", "heartbeat")
    ]


async def test_presence_comes_if_asked_for(play: Play):
    """And nothing else with it."""
    joined = about("joined", users=["bob"], count=2)
    script = await play(sends(welcome(), subscribed(), joined, CAUGHT_UP, code=4504))
    async with Client(script.url) as client:
        items = await taken(client.events("s1", presence=True))

    assert items == [Notice("joined", {"users": ["bob"], "count": 2}, "s1")]
    assert script.queries[0]["presence"] == "1"


async def test_server_that_ends_it_is_heard_after_the_events(play: Play):
    """With its code; coming back is of no use."""
    script = await play(sends(event("1-0@1"), code=4509))
    async with Client(script.url) as client:
        stream = client.events("s1")
        first = await anext(stream)
        with pytest.raises(ClosedByServer) as ended:
            await anext(stream)
        with pytest.raises(StopAsyncIteration):
            await anext(stream)

    assert first.id == "1-0@1"
    assert (ended.value.code, ended.value.retry) == (4509, False)
    assert "because" in ended.value.reason


async def test_refusal_for_good_has_its_status(play: Play):
    """Where there is no close code."""
    script = await play(refuses(404))
    async with Client(script.url) as client:
        with pytest.raises(ClosedByServer) as ended:
            await anext(client.events("s1"))

    assert ended.value.code == 404


async def test_position_is_behind_what_the_loop_has_finished(play: Play):
    """The event in hand is not: whoever goes on there gets it again."""
    script = await play(sends(subscribed("live"), event("10-0@1"), event("11-0@2")))
    positions: list[str | None] = []
    async with Client(script.url) as client, client.events("s1") as stream:
        positions.append(stream.position)
        async for item in stream:
            positions.append(stream.position)
            if item.id == "11-0@2":
                break
        positions.append(stream.position)

    assert positions == [None, "9-0@9", "10-0@1", "10-0@1"]


async def test_position_follows_a_reset_and_the_end_of_a_replay(play: Play):
    """Also where no event comes."""
    script = await play(
        sends(event("5-0@1"), RESET, CAUGHT_UP, about("joined", users=[], count=0))
    )
    positions = []
    async with Client(script.url) as client:
        stream = client.events("s1", last_event_id="4-0", presence=True)
        async with stream:
            for _ in range(3):
                await anext(stream)
                positions.append(stream.position)

    assert positions == ["4-0", "5-0@1", "9-0@9"]


async def test_wait_that_is_cancelled_loses_nothing(play: Play):
    """A time limit on one event is no end of the stream."""
    script = await play(feeds(event("1-0@1")))
    async with Client(script.url) as client:
        stream = client.events("s1")
        first = await anext(stream)
        waiting = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait((waiting,))
        script.more.put_nowait(event("2-0@2"))
        second = await anext(stream)

    assert waiting.cancelled()
    assert (first.id, second.id) == ("1-0@1", "2-0@2")
    assert len(script.queries) == 1


async def test_slow_loop_is_not_filled_up(play: Play):
    """What it has not taken waits in the socket and in the server."""
    size, count = BYTES_MAX // 4, 200
    frames = [event(f"{number}-0", "x" * size) for number in range(1, count + 1)]
    script = await play(feeds(*frames))
    async with Client(script.url) as client:
        stream = client.events("s1")
        inbox = stream._flow.inbox
        await anext(stream)
        await until(lambda: len(inbox) >= 4, 8, "full inbox")
        lengths = [len(inbox)]
        for _ in range(count - 1):
            await anext(stream)
            lengths.append(len(inbox))

    assert max(lengths) <= 5


async def test_session_is_taken_over_once(play: Play):
    """After a cut it may belong to somebody who took it over himself."""
    script = await play(
        refuses(503), sends(subscribed(), event("1-0"), code=4000), THE_END
    )
    async with Client(script.url) as client:
        await taken(client.events("s1", takeover=True))

    assert [query.get("takeover") for query in script.queries] == ["1", "1", None]


async def test_time_to_begin_at_is_said_until_there_is_a_position(play: Play):
    """A refused first connection must not turn it into live only."""
    since = "2026-11-21T12:00:00Z"
    script = await play(refuses(503), sends(event("1-0"), code=4000), THE_END)
    async with Client(script.url) as client:
        await taken(client.events("s1", since=since))

    assert [query.get("since") for query in script.queries] == [since, since, None]
    assert script.asked == [None, None, "1-0"]


async def test_options_are_said_on_each_connection(play: Play):
    """Who we are, as whom we read, and what happens if we are slow."""
    script = await play(sends(code=4000), THE_END)
    async with Client(script.url, user="ada") as client:
        await taken(client.events("s1", consumer="c", overflow="latest"))

    assert (
        script.queries == [{"user": "ada", "consumer": "c", "overflow": "latest"}] * 2
    )


@pytest.mark.parametrize(
    "options",
    [
        {"session": "../x"},
        {"session": "s", "last_event_id": "soon"},
        {"session": "s", "last_event_id": "-"},
        {"session": "s", "last_event_id": "1-2@99999999999999999999"},
        {"session": "s", "ack": "auto"},
        {"session": "s", "ack": "never", "consumer": "c"},
        {"session": "s", "overflow": "explode"},
    ],
    ids=str,
)
async def test_what_the_broker_would_refuse_is_refused_at_once(options: dict[str, Any]):
    """Before anything is connected."""
    async with Client("http://127.0.0.1:1") as client:
        with pytest.raises(ValueError, match=r"."):
            client.events(**options)


async def test_client_is_to_be_opened(play: Play):
    """Who would close its connections else?"""
    script = await play()
    client = Client(script.url)
    with pytest.raises(RuntimeError, match="async with"):
        client.events("s1")
    async with client:
        stream = client.events("s1")
    with pytest.raises(RuntimeError, match="async with"):
        await anext(stream)


async def test_hundreds_of_streams_have_a_connection_each(play: Play):
    """None waits for another one to end."""
    count = 150
    script = await play(*[feeds(event("1-0")) for _ in range(count)])
    async with Client(script.url) as client:
        streams = [client.events(f"s{number}") for number in range(count)]
        async with asyncio.timeout(20):
            items = await asyncio.gather(*(anext(stream) for stream in streams))

    assert [item.id for item in items] == ["1-0"] * count
