"""OpenHands V0: what its clients say, and requests that do not become a socket."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from redis.asyncio import Redis
from websockets.exceptions import InvalidStatus

from broker.store.embedded import EmbeddedServer
from tests.conftest import StartBroker
from tests.harness import http
from tests.harness.openhands_v0 import Raw, event_of, message, publish
from tests.harness.servers import BrokerServer

WRONG_TRANSPORT = "Transport unknown: this server speaks websocket only"
WRONG_VERSION = (
    "The client is using an unsupported version of the Socket.IO or Engine.IO protocols"
)


async def commands(redis: Redis, session: str) -> list[tuple[bytes, bytes, bytes]]:
    """What services read of *session*: name, data and user of each command."""
    found: Any = await redis.xrange("broker:commands")
    return [
        (fields[b"cmd"], fields[b"data"], fields[b"user"])
        for _id, fields in found
        if fields[b"session"].decode() == session
    ]


async def test_actions_reach_the_services_and_are_acknowledged_when_stored(
    broker: BrokerServer, redis: Redis, session: str
) -> None:
    """Under the name that the client used, with what it sent, byte for byte."""
    client, _ = await Raw.join(broker.public, session, user=f"user of {session}")
    await client.send('42["oh_user_action",{"action": "message"}]')
    await client.send('427["oh_action",{"action":"x","args":{}}]')
    acknowledged = await client.next()

    assert acknowledged == "437[]"
    user = f"user of {session}".encode()
    assert await commands(redis, session) == [
        (b"oh_user_action", b'{"action": "message"}', user),
        (b"oh_action", b'{"action":"x","args":{}}', user),
    ]
    await client.close()


async def test_unknown_events_are_acknowledged_and_do_nothing(
    broker: BrokerServer, redis: Redis, session: str
) -> None:
    """As upstream has it."""
    client, _ = await Raw.join(broker.public, session)
    await client.send('42["other",{}]')
    await client.send('428["other"]')

    assert await client.next() == "438[]"
    assert await commands(redis, session) == []
    await client.close()


async def test_an_action_that_is_not_stored_is_answered_with_an_error(
    start_broker: StartBroker, shared_redis: EmbeddedServer, session: str
) -> None:
    """Upstream says nothing; here there is an error and no acknowledgement."""
    broker = start_broker(shared_redis.url, command_rate_per_s=1)
    client, _ = await Raw.join(broker.public, session)
    for number in range(3):
        await client.send(f'42{number}["oh_user_action",{{}}]')
    answers = [await client.next() for _ in range(3)]
    error = next(answer for answer in answers if answer.startswith("42"))

    assert sorted(answers, key=len)[:2] == ["430[]", "431[]"]
    assert event_of(error) == {
        "error": True,
        "message": "too many commands; say it again later",
    }
    await client.close()


@pytest.mark.parametrize(
    "packet",
    [
        *("", "9", "47", "42", '42["oh_action"', '42["oh_action",5]', "42[]", "41{}"),
        *("40", "0{}", '451-["oh_action",{"_placeholder":true,"num":0}]', b"\x00"),
    ],
    ids=repr,
)
async def test_bad_packets_are_answered_and_the_connection_stays(
    broker: BrokerServer, session: str, packet: str | bytes
) -> None:
    """Upstream cuts the socket or fails in silence."""
    client, _ = await Raw.join(broker.public, session)
    await client.send(packet)
    answer = await client.event()
    await client.send('421["other"]')

    assert answer["error"] is True
    assert await client.next() == "431[]"
    await client.close()


async def test_attachments_of_a_refused_event_are_no_errors_of_their_own(
    broker: BrokerServer, session: str
) -> None:
    """One answer for one event."""
    client, _ = await Raw.join(broker.public, session)
    await client.send('452-["oh_action",{"_placeholder":true,"num":0}]')
    await client.send(b"one")
    await client.send(b"two")
    await client.send('421["other"]')
    await client.send(b"three")

    assert (await client.event())["error"] is True
    assert await client.next() == "431[]"
    assert (await client.event())["error"] is True
    await client.close()


async def test_who_speaks_before_it_is_connected_is_not_heard(
    broker: BrokerServer, redis: Redis, session: str
) -> None:
    """Libraries wait; whoever does not is told so within the replay."""
    await publish(redis, session, (message(n, "x" * 8000) for n in range(2000)))
    client = await Raw.open(broker.public, {"conversation_id": session}, max_queue=1)
    await client.send("40")
    first = await client.event()
    await client.send('42["oh_action",{}]')
    events = [first, *(await client.replay())]

    assert [event["message"] for event in events if "error" in event] == [
        "this connection is not connected yet"
    ]
    assert len(events) == 2001
    assert await commands(redis, session) == []
    await client.close()


async def test_packets_that_mean_nothing_here_do_no_harm(
    broker: BrokerServer, session: str
) -> None:
    """Probes are answered, other namespaces refused, the rest is ignored."""
    client, _ = await Raw.join(broker.public, session)
    for packet in ("5", "6", "3", "431[]", '42/foo,["oh_action",{}]', "41/foo,"):
        await client.send(packet)
    await client.send("2probe")
    await client.send("40/foo,{}")

    assert await client.next() == "3probe"
    assert await client.next() == '44/foo,{"message":"Invalid namespace"}'
    await client.close()


async def test_too_many_bad_packets_end_the_connection_for_good(
    broker: BrokerServer, session: str
) -> None:
    """After the disconnect packet no library comes back by itself."""
    client, _ = await Raw.join(broker.public, session)
    for _ in range(100):
        await client.send("x")
    packets, code = await client.until_end()

    assert len(packets) == 102
    assert event_of(packets[-2])["message"] == "too many bad frames on this connection"
    assert packets[-1] == "41"
    assert code == 4508


async def test_a_packet_that_is_too_large_is_named_before_the_end(
    broker: BrokerServer, session: str
) -> None:
    """Its library comes back and resumes; upstream only cuts the socket."""
    client, _ = await Raw.join(broker.public, session)
    await client.send("x" * 70_000)
    packets, code = await client.until_end()

    (error,) = map(event_of, packets)
    assert error["message"] == "a frame was larger than max_frame_bytes"
    assert code == 1009


@pytest.mark.parametrize("packet", ["41", "1"], ids=["disconnect", "close"])
async def test_a_client_leaves_by_either_packet(
    broker: BrokerServer, session: str, packet: str
) -> None:
    """Socket.IO's or Engine.IO's."""
    client, _ = await Raw.join(broker.public, session)
    await client.send(packet)

    assert await client.until_end() == ([], 1000)


# Before there is a socket.


@pytest.mark.parametrize(
    ("query", "body"),
    [
        ("EIO=4&transport=polling", {"code": 0, "message": WRONG_TRANSPORT}),
        ("EIO=4", {"code": 0, "message": WRONG_TRANSPORT}),
        (
            "EIO=4&transport=websocket&sid=x",
            {"code": 1, "message": "Session ID unknown"},
        ),
        (
            "EIO=4&transport=websocket&user=%00",
            {"code": 3, "message": "user is text of at most 256 bytes"},
        ),
        ("EIO=3&transport=websocket", WRONG_VERSION),
        ("transport=polling", WRONG_VERSION),
    ],
    ids=["polling", "none", "sid", "user", "old", "no-version"],
)
async def test_what_is_not_spoken_here_is_refused_in_engine_ios_form(
    broker: BrokerServer, query: str, body: object
) -> None:
    """With the status and the words that its libraries show."""
    answer = await http.get(broker.public, f"/socket.io/?{query}")

    assert answer.status == 400
    assert answer.json() == body


async def test_there_is_nothing_else_below_the_path(broker: BrokerServer) -> None:
    """The client's own script is not served here."""
    answer = await http.get(broker.public, "/socket.io/socket.io.js?EIO=4")

    assert answer.status == 404


async def test_pages_of_other_sites_are_refused(
    broker: BrokerServer, session: str
) -> None:
    """Whoever visits such a page must not read with it."""
    with pytest.raises(InvalidStatus) as refused:
        await Raw.open(
            broker.public,
            {"conversation_id": session},
            headers=[("Origin", "https://evil.example")],
        )

    assert refused.value.response.status_code == 403
    assert orjson.loads(refused.value.response.body)["code"] == 4
