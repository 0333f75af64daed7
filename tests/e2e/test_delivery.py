"""What is added to a stream arrives at every client that reads it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from tests.conftest import NewWatcher
from tests.harness.client import WebSocketClient
from tests.harness.publisher import Author
from tests.harness.recorder import Recorder
from tests.harness.servers import BrokerServer
from tests.harness.watcher import Watcher

BOTH = pytest.mark.parametrize("protocol", ["websocket", "sse"])


async def test_every_client_receives_every_event(
    broker: BrokerServer,
    watch: NewWatcher,
    author: Author,
    recorder: Recorder,
    session: str,
) -> None:
    """Sixteen clients on two workers get the same fifty events."""
    watchers = [await watch(broker, session).open() for _ in range(16)]
    await author.publish(session, 25)
    await author.publish(session, 25)
    await recorder.complete()

    assert [len(watcher.events) for watcher in watchers] == [50] * 16
    assert all(watcher.events == watchers[0].events for watcher in watchers)


async def test_websocket_and_sse_carry_the_same_events(
    broker: BrokerServer,
    watch: NewWatcher,
    author: Author,
    recorder: Recorder,
    session: str,
) -> None:
    """The envelope does not depend on the protocol."""
    websocket = await watch(broker, session).open()
    sse = await watch(broker, session, "sse").open()
    await author.publish(session, 20, timestamp="2024-05-06T07:08:09Z", node_id="n")
    await recorder.complete()

    assert len(sse.events) == 20
    assert websocket.events == sse.events


@BOTH
async def test_envelope_has_the_given_fields(
    broker: BrokerServer,
    watch: NewWatcher,
    author: Author,
    session: str,
    protocol: str,
) -> None:
    """Every field of the contract arrives under its name, unknown ones do not."""
    watcher = await watch(broker, session, protocol).open()
    entry_id = await author.publish_raw(
        session,
        {
            "event": "greeting",
            "data": '{"hello": [1, "é", null]}',
            "timestamp": "2024-05-06T07:08:09.5+02:00",
            "node_id": "node-1",
            "color": "red",
        },
    )
    frame = await watcher.next("greeting")

    assert frame == {
        "id": f"{entry_id[0]}-{entry_id[1]}@1",
        "seq": 1,
        "session": session,
        "event": "greeting",
        "data": {"hello": [1, "é", None]},
        "timestamp": "2024-05-06T07:08:09.5+02:00",
        "node_id": "node-1",
    }


@BOTH
async def test_envelope_has_defaults_for_what_is_not_given(
    broker: BrokerServer,
    watch: NewWatcher,
    author: Author,
    session: str,
    protocol: str,
) -> None:
    """Data is null, the time is the id's with n as nanoseconds, node_id is left out."""
    watcher = await watch(broker, session, protocol).open()
    await author.publish_raw(session, {"event": "plain"}, "1763699200123-7")
    frame = await watcher.next("plain")

    assert frame == {
        "id": "1763699200123-7@1",
        "seq": 1,
        "session": session,
        "event": "plain",
        "data": None,
        "timestamp": "2025-11-21T04:26:40.123000007Z",
    }


async def test_default_timestamps_of_one_millisecond_rise(
    broker: BrokerServer,
    watch: NewWatcher,
    author: Author,
    recorder: Recorder,
    session: str,
) -> None:
    """A client that dedupes by event and time must not drop anything."""
    watcher = await watch(broker, session).open()
    await author.publish(session, 200)
    await recorder.complete()
    times = [frame["timestamp"] for frame in watcher.events]

    assert len(set(times)) == 200
    assert times == sorted(times)


async def test_odd_ids_pass_and_stop_nobody(
    broker: BrokerServer,
    watch: NewWatcher,
    author: Author,
    session: str,
    new_session: Callable[[], str],
) -> None:
    """The smallest id, ids beyond the calendar and the largest id are delivered."""
    watcher = await watch(broker, session).open()
    other = await watch(broker, new_session()).open()
    for entry_id in ("0-1", "99999999999999999-5", "18446744073709551615-0"):
        await author.publish_raw(session, {"event": "odd"}, entry_id)
    last = "18446744073709551615-18446744073709551615"
    await author.publish_raw(session, {"event": "last"}, last)
    frame = await watcher.next("last")
    await author.publish(other.account.session)
    await other.next("tick")

    assert frame["id"] == f"{last}@4"
    # Beyond year 9999 the time of day of the pod stands in.
    assert frame["timestamp"].startswith("20")


async def test_first_frames_introduce_the_connection(
    broker: BrokerServer, watch: NewWatcher, author: Author, session: str
) -> None:
    """First welcome with the limits, then subscribed with the place it starts from."""
    first, second = await author.publish(session, 2)
    watcher = await watch(broker, session).open()
    welcome, subscribed = watcher.seen[:2]
    tip = f"{second[0]}-{second[1]}@2"

    assert first < second
    assert welcome["event"] == "welcome"
    assert welcome["data"]["connection_id"]
    assert welcome["data"]["heartbeat_s"] == 25
    assert welcome["data"]["max_frame_bytes"] == 65536
    assert subscribed == {
        "event": "subscribed",
        "session": session,
        "data": {"resume": "live", "from": tip, "tip": tip},
    }


async def test_connection_ids_are_unique(
    broker: BrokerServer, watch: NewWatcher, session: str
) -> None:
    """Two connections never share an id, on whichever worker they are."""
    watchers = [await watch(broker, session).open() for _ in range(12)]
    ids = {watcher.told("welcome")[0]["connection_id"] for watcher in watchers}

    assert len(ids) == 12


async def test_user_of_the_query_is_named(
    broker: BrokerServer, watch: NewWatcher, session: str
) -> None:
    """Without authentication the query says who the user is."""
    watcher = await watch(broker, session).open({"user": "alice"})

    assert watcher.told("welcome")[0]["user"] == "alice"


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [
        ((), None),
        (("broker.v1",), "broker.v1"),
        (("other", "broker.v1"), "broker.v1"),
        (("broker.v1", "bearer.abc"), "broker.v1"),
    ],
)
async def test_subprotocol_is_chosen_from_the_offer(
    broker: BrokerServer, session: str, offered: tuple[str, ...], chosen: str | None
) -> None:
    """broker.v1 is taken if it is offered and never claimed otherwise."""
    client = await WebSocketClient.connect(
        broker.public, f"/v1/ws/{session}", subprotocols=offered
    )
    await client.until("subscribed")
    client.cut()

    assert client.subprotocol == chosen


async def test_sessions_do_not_mix(
    broker: BrokerServer,
    watch: NewWatcher,
    author: Author,
    recorder: Recorder,
    new_session: Callable[[], str],
) -> None:
    """A client gets the events of its own session only."""
    sessions = [new_session() for _ in range(10)]
    watchers = [await watch(broker, name).open() for name in sessions]
    await asyncio.gather(*(author.publish(name, 10) for name in sessions))
    await recorder.complete()

    for watcher, name in zip(watchers, sessions, strict=True):
        assert {frame["session"] for frame in watcher.events} == {name}


@BOTH
async def test_published_events_may_have_the_names_of_notices(
    broker: BrokerServer,
    watch: NewWatcher,
    author: Author,
    recorder: Recorder,
    session: str,
    protocol: str,
) -> None:
    """The id tells a published event from a notice of the broker."""
    watcher: Watcher = await watch(broker, session, protocol).open()
    names = ["gap", "reset", "closing", "subscribed", "heartbeat"]
    for name in names:
        await author.publish(session, event=name)
    await recorder.complete()

    assert [frame["event"] for frame in watcher.events] == names


@BOTH
async def test_line_breaks_in_data_survive(
    broker: BrokerServer,
    watch: NewWatcher,
    author: Author,
    session: str,
    protocol: str,
) -> None:
    """Pretty-printed JSON is one event in both protocols."""
    watcher = await watch(broker, session, protocol).open()
    data = '{\r\n  "a": "x\\ny",\n  "b": [1,\r 2]\n}'
    await author.publish_raw(session, {"event": "pretty", "data": data})
    frame = await watcher.next("pretty")

    assert frame["data"] == {"a": "x\ny", "b": [1, 2]}


async def test_an_entry_of_almost_the_limit_is_delivered(
    broker: BrokerServer, watch: NewWatcher, author: Author, session: str
) -> None:
    """Large entries take another way through the broker and arrive like others."""
    watcher = await watch(broker, session).open()
    await author.publish(session)
    await author.publish(session, pad_bytes=1_000_000)
    await author.publish(session, 3, pad_bytes=100_000)
    await author.publish(session, event="after")
    frame = await watcher.next("after")

    # Among large entries the ordinals may come late (they are costly to read).
    assert frame.get("seq", 6) == 6
    assert len(watcher.events[1]["data"]["pad"]) == 1_000_000
