"""Many sessions on one connection, by command."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from broker.store.embedded import EmbeddedServer
from tests.conftest import NewMulti, NewWatcher, StartBroker
from tests.harness import wire
from tests.harness.publisher import Author
from tests.harness.recorder import Recorder
from tests.harness.servers import BrokerServer


async def test_many_sessions_arrive_on_one_connection(
    broker: BrokerServer,
    multi: NewMulti,
    author: Author,
    recorder: Recorder,
    new_session: Callable[[], str],
) -> None:
    """Each subscription has its own place and its own order."""
    client = await multi(broker).open()
    sessions = [new_session() for _ in range(8)]
    for i, name in enumerate(sessions):
        answer = await client.subscribe(name, f"c{i}")

        assert answer["event"] == "subscribed"
        assert answer["session"] == name
    for name in sessions:
        await author.publish(name, 10)
    await recorder.complete()

    assert [len(client.events(name)) for name in sessions] == [10] * 8


async def test_nothing_arrives_without_a_subscription(
    broker: BrokerServer, multi: NewMulti, author: Author, session: str
) -> None:
    """A fresh connection to /v1/ws reads nothing."""
    client = await multi(broker).open()
    await author.publish(session, 3)
    await client.command("ping", "p1")

    assert [frame["event"] for frame in client.seen] == ["welcome", "pong"]


async def test_subscribe_takes_a_position_and_a_policy(
    broker: BrokerServer,
    multi: NewMulti,
    author: Author,
    session: str,
    new_session: Callable[[], str],
) -> None:
    """Whatever the query can say a command can say too."""
    other = new_session()
    await author.publish(session, 10)
    await author.publish(other, 10)
    client = await multi(broker).open()
    await client.subscribe(session, "a", last_event_id="-3", overflow="drop")
    await client.next("caught_up")
    await client.subscribe(other, "b", since="2020-01-01T00:00:00Z")
    await client.next("caught_up")

    assert [frame["seq"] for frame in client.events(session)] == [8, 9, 10]
    assert len(client.events(other)) == 10


async def test_unsubscribe_stops_the_events(
    broker: BrokerServer,
    multi: NewMulti,
    watch: NewWatcher,
    author: Author,
    recorder: Recorder,
    session: str,
) -> None:
    """After the answer nothing of the session arrives any more."""
    client = await multi(broker).open()
    await client.subscribe(session)
    await author.publish(session, 5)
    await recorder.complete()
    answer = await client.command("unsubscribe", "u1", session=session)
    for account in recorder.accounts:
        account.leave()
    other = await watch(broker, session).open()
    await author.publish(session, event="later")
    await other.next("later")
    await client.command("ping", "p1")

    assert answer["event"] == "unsubscribed"
    assert answer["session"] == session
    assert len(client.events(session)) == 5


async def test_subscribing_again_after_unsubscribe_has_no_leftovers(
    broker: BrokerServer,
    multi: NewMulti,
    author: Author,
    recorder: Recorder,
    session: str,
) -> None:
    """Frames of an old subscription never mix into the new one."""
    ids = await author.publish(session, 2000, pad_bytes=200)
    client = await multi(broker).open()
    for i in range(5):
        client.websocket.send(
            {
                "cmd": "subscribe",
                "id": f"old{i}",
                "data": {"session": session, "last_event_id": "0"},
            }
        )
        await client.command("unsubscribe", f"u{i}", session=session)
        mark = len(client.seen)
        await client.command("ping", f"p{i}")

        assert [f for f in client.seen[mark:] if "id" in f] == []
    recorder.forget("multi-0", session)
    mark = len(client.seen)
    client.websocket.send(
        {
            "cmd": "subscribe",
            "id": "new",
            "data": {
                "session": session,
                "last_event_id": f"{ids[1899][0]}-{ids[1899][1]}@1900",
            },
        }
    )
    await client.next("caught_up")
    seqs = [frame["seq"] for frame in client.seen[mark:] if "id" in frame]

    assert seqs == list(range(1901, 2001))


async def test_ping_is_answered_with_its_ref(
    broker: BrokerServer, multi: NewMulti
) -> None:
    """Pong carries the id of the ping."""
    client = await multi(broker).open()
    answer = await client.command("ping", "p-17")

    assert answer == {"event": "pong", "data": {"ref": "p-17"}}


async def test_websocket_ping_is_answered_with_its_payload(
    broker: BrokerServer, multi: NewMulti
) -> None:
    """RFC 6455 section 5.5.3."""
    client = await multi(broker).open()
    client.websocket.send_frame(wire.PING, b"are you there")
    await client.command("ping", "p1")

    assert client.websocket.pongs == [b"are you there"]


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ({"cmd": "subscribe", "data": {"session": "_probe"}}, "bad_session"),
        ({"cmd": "subscribe", "data": {"session": "a b"}}, "bad_session"),
        ({"cmd": "subscribe", "data": {"session": "x" * 129}}, "bad_session"),
        (
            {"cmd": "subscribe", "data": {"session": "s", "last_event_id": "x"}},
            "bad_position",
        ),
        ({"cmd": "unsubscribe", "data": {"session": "never"}}, "not_subscribed"),
        ({"cmd": "dance", "data": {}}, "bad_session"),
        ({"cmd": 7}, "bad_frame"),
        ({"data": {}}, "bad_frame"),
        ({"cmd": "subscribe", "data": []}, "bad_frame"),
    ],
    ids=str,
)
async def test_bad_commands_are_answered_and_the_connection_stays(
    broker: BrokerServer, multi: NewMulti, command: dict[str, object], code: str
) -> None:
    """An error names its code and the ref of the command."""
    client = await multi(broker).open()
    client.websocket.send(command | {"id": "c9"})
    error = await client.next("error")
    await client.command("ping", "p1")

    assert error["data"]["code"] == code
    assert error["data"]["message"]
    assert error["data"].get("ref", "c9") == "c9"


@pytest.mark.parametrize("payload", [b"{", b"hello", b"", b"[1,2", b'{"cmd":"ping"'])
async def test_text_that_is_not_json_is_answered(
    broker: BrokerServer, multi: NewMulti, payload: bytes
) -> None:
    """bad_json costs nothing but an answer."""
    client = await multi(broker).open()
    client.websocket.send_frame(wire.TEXT, payload)
    error = await client.next("error")
    await client.command("ping", "p1")

    assert error["data"]["code"] == "bad_json"


@pytest.mark.parametrize("payload", [b"[]", b"1", b'"ping"', b"null"])
async def test_json_that_is_no_object_is_answered(
    broker: BrokerServer, multi: NewMulti, payload: bytes
) -> None:
    """A frame is an object."""
    client = await multi(broker).open()
    client.websocket.send_frame(wire.TEXT, payload)
    error = await client.next("error")

    assert error["data"]["code"] == "bad_frame"


async def test_second_subscription_to_a_session_is_refused(
    broker: BrokerServer,
    multi: NewMulti,
    author: Author,
    recorder: Recorder,
    session: str,
) -> None:
    """Being subscribed already is an error and not a second replay."""
    await author.publish(session, 5)
    client = await multi(broker).open()
    await client.subscribe(session, "c1", last_event_id="0")
    answer = await client.command("subscribe", "c2", session=session, last_event_id="0")
    await author.publish(session, 5)
    await recorder.complete()

    assert answer["event"] == "error"
    assert answer["data"]["code"] == "already_subscribed"
    assert len(client.events(session)) == 10


async def test_subscriptions_of_a_connection_are_limited(
    start_broker: StartBroker,
    shared_redis: EmbeddedServer,
    multi: NewMulti,
    new_session: Callable[[], str],
) -> None:
    """One more than the limit is refused; leaving one makes room."""
    broker = start_broker(
        shared_redis.url, max_subscriptions_per_connection=3, subscribe_rate_per_s=1000
    )
    client = await multi(broker).open()
    names = [new_session() for _ in range(4)]
    answers = [await client.subscribe(name, name) for name in names[:3]]
    refused = await client.command("subscribe", "too-many", session=names[3])
    await client.command("unsubscribe", "u", session=names[0])
    again = await client.subscribe(names[3], "again")

    assert {answer["event"] for answer in answers} == {"subscribed"}
    assert refused["data"]["code"] == "too_many_subscriptions"
    assert again["event"] == "subscribed"


async def test_subscribe_rate_is_limited(
    start_broker: StartBroker,
    shared_redis: EmbeddedServer,
    multi: NewMulti,
    session: str,
) -> None:
    """After a burst of the size of the limit a command per second is allowed."""
    broker = start_broker(
        shared_redis.url, max_subscriptions_per_connection=4, subscribe_rate_per_s=1
    )
    client = await multi(broker).open()
    codes = []
    for i in range(8):
        answer = await client.subscribe(session, f"s{i}")
        codes.append(answer["data"].get("code"))
        await client.command("unsubscribe", f"u{i}", session=session)

    assert codes[:4] == [None] * 4
    assert codes[7] == "rate_limited"


async def test_subscriptions_of_a_user_are_limited(
    start_broker: StartBroker,
    shared_redis: EmbeddedServer,
    multi: NewMulti,
    new_session: Callable[[], str],
) -> None:
    """Two connections of one user share a limit, another user is not concerned."""
    broker = start_broker(shared_redis.url, workers=1, max_subscriptions_per_user=3)
    first = await multi(broker).open({"user": "alice"})
    second = await multi(broker).open({"user": "alice"})
    other = await multi(broker).open({"user": "bob"})
    for _ in range(2):
        await first.subscribe(new_session(), "c")
    kept = await second.subscribe(new_session(), "d")
    refused = await second.command("subscribe", "e", session=new_session())
    allowed = await other.subscribe(new_session(), "f")

    assert kept["event"] == "subscribed"
    assert refused["data"]["code"] == "too_many_subscriptions"
    assert allowed["event"] == "subscribed"


async def test_too_many_bad_frames_close_for_good(
    broker: BrokerServer, multi: NewMulti
) -> None:
    """A client that never makes sense is told not to come back so."""
    client = await multi(broker).open()
    for _ in range(1000):
        client.websocket.send_frame(wire.TEXT, b"nonsense")
    ended = await client.websocket.wait_ended()

    assert ended.code == 4508


async def test_binary_frames_are_refused(broker: BrokerServer, multi: NewMulti) -> None:
    """Only text is spoken here."""
    client = await multi(broker).open()
    client.websocket.send_frame(wire.BINARY, b"{}")
    ended = await client.websocket.wait_ended()

    assert ended.code == 1003


async def test_close_is_answered_and_the_connection_ends(
    broker: BrokerServer, multi: NewMulti
) -> None:
    """A closing handshake in order (RFC 6455 section 7.1.1)."""
    client = await multi(broker).open()
    ended = await client.websocket.close(1000)

    assert ended.code == 1000
