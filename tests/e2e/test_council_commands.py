"""What clients of the hub say, and what they are told when a session ends."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from redis.asyncio import Redis

from broker.store.embedded import EmbeddedServer
from tests.conftest import StartBroker
from tests.harness import hub, wire
from tests.harness.client import Refused, WebSocketClient
from tests.harness.servers import BrokerServer
from tests.harness.tokens import SECRET, bearer, token

LIMIT = 2
NewSession = Callable[[], str]


@pytest.fixture
def limited(start_broker: StartBroker, shared_redis: EmbeddedServer) -> BrokerServer:
    """A broker that asks for tokens and lets a user have two sessions."""
    return start_broker(
        shared_redis.url, auth="jwt", jwt_secret=SECRET, max_sessions_per_user=LIMIT
    )


async def open_native(server: BrokerServer, session: str, user: str) -> WebSocketClient:
    """Make *session* one of the open sessions of *user*."""
    client = await WebSocketClient.connect(
        server.public, f"/v1/ws/{session}", headers=bearer(token(user))
    )
    await client.until("subscribed")
    return client


async def test_a_command_goes_to_the_session_that_it_names(
    broker: BrokerServer, redis: Redis, new_session: NewSession
) -> None:
    """With what the client sent, and who it was."""
    first, second = new_session(), new_session()
    client = await hub.enter(broker, f"user=ada&session={first}&session={second}")
    data = {"session_id": second, "content": "häl\n"}
    client.send({"cmd": "user_input", "data": data})
    (command,) = await hub.until_said(redis, client, second)

    assert (command["cmd"], command["user"], command["data"]) == (
        "user_input",
        "ada",
        data,
    )
    assert await hub.said(redis, first) == []
    client.cut()


async def test_a_command_that_names_none_goes_to_the_only_one(
    broker: BrokerServer, redis: Redis, session: str
) -> None:
    """In the order in which they were said."""
    client = await hub.enter(broker, f"session={session}")
    for cmd in ("pause_session", "resume_session", "stop"):
        client.send({"cmd": cmd})
    commands = await hub.until_said(redis, client, session)

    assert [one["cmd"] for one in commands] == [
        "pause_session",
        "resume_session",
        "stop",
    ]
    assert [one["data"] for one in commands] == [None] * 3
    client.cut()


async def test_a_command_without_a_session_is_an_error(
    broker: BrokerServer, new_session: NewSession
) -> None:
    """Where there are two, nobody knows which."""
    client = await hub.enter(broker, f"session={new_session()}&session={new_session()}")
    client.send({"cmd": "pause_session"})
    error = await client.frame()

    assert list(error) == ["event", "timestamp", "data"]
    assert (error["event"], error["data"]["code"]) == ("error", "bad_session")
    client.cut()


async def test_ping_is_swallowed(
    broker: BrokerServer, redis: Redis, session: str
) -> None:
    """Neither an answer nor a command: the next frame is what was published."""
    client = await hub.enter(broker, f"session={session}")
    for _ in range(3):
        client.send({"cmd": "ping"})
    assert await hub.until_said(redis, client, session) == []
    await hub.publish(redis, session, "token_usage")

    assert hub.session_of(await client.frame()) == session
    client.cut()


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (b"nonsense", "bad_json"),
        (b'{"cmd":"x","data":{"session_id":"\\ud800"}}', "bad_json"),
        (b"[" * 10_000, "bad_json"),
        (b"[]", "bad_frame"),
        (b"{}", "bad_frame"),
        (b'{"cmd":5}', "bad_frame"),
        (b'{"cmd":"user_input","data":"text"}', "bad_frame"),
        (b'{"cmd":"user_input","data":{"session_id":5}}', "bad_session"),
        (b'{"cmd":"user_input","data":{"session_id":"a b"}}', "bad_session"),
    ],
)
async def test_bad_input_is_answered_and_the_connection_stays(
    broker: BrokerServer, redis: Redis, session: str, frame: bytes, code: str
) -> None:
    """The answer stands where the front end looks for errors."""
    client = await hub.enter(broker, f"session={session}")
    client.send_frame(wire.TEXT, frame)
    error = await client.frame()
    await hub.publish(redis, session, "token_usage")

    assert (error["event"], error["data"]["code"]) == ("error", code)
    assert isinstance(error["data"]["error"], str)
    assert hub.session_of(await client.frame()) == session
    client.cut()


async def test_a_binary_frame_is_answered_and_the_connection_stays(
    broker: BrokerServer, redis: Redis, session: str
) -> None:
    """A close would only bring the page back."""
    client = await hub.enter(broker, f"session={session}")
    client.send_frame(wire.BINARY, b"\0")
    error = await client.frame()
    await hub.publish(redis, session, "token_usage")

    assert error["data"]["code"] == "bad_frame"
    assert hub.session_of(await client.frame()) == session
    client.cut()


async def test_a_command_that_is_not_allowed_is_not_handed_on(
    limited: BrokerServer, redis: Redis, session: str
) -> None:
    """Nor does it open the session that it names."""
    text = token(session, rights=["subscribe"])
    client = await hub.enter(limited, f"session={session}", headers=bearer(text))
    other = f"{session}-2"
    client.send({"cmd": "user_input", "data": {"session_id": other}})
    error = await client.frame()
    for name in (other, session):
        await hub.publish(redis, name, "token_usage")

    assert error["data"]["code"] == "forbidden"
    assert hub.session_of(await client.frame()) == session
    assert await hub.said(redis, other) == []
    client.cut()


async def test_other_commands_than_input_open_nothing(
    broker: BrokerServer, redis: Redis, new_session: NewSession
) -> None:
    """Who pauses a session need not read it."""
    first, second = new_session(), new_session()
    client = await hub.enter(broker, f"session={first}")
    client.send({"cmd": "pause_session", "data": {"session_id": second}})
    commands = await hub.until_said(redis, client, second)
    for name in (second, first):
        await hub.publish(redis, name, "token_usage")

    assert [one["cmd"] for one in commands] == ["pause_session"]
    assert hub.session_of(await client.frame()) == first
    client.cut()


async def test_a_connection_reads_only_so_many_sessions(
    start_broker: StartBroker,
    shared_redis: EmbeddedServer,
    redis: Redis,
    new_session: NewSession,
) -> None:
    """What is said to one more is not handed on: its answer would not be seen."""
    server = start_broker(shared_redis.url, max_subscriptions_per_connection=1)
    first, second = new_session(), new_session()
    client = await hub.enter(server, f"session={first}")
    client.send({"cmd": "user_input", "data": {"session_id": second}})
    error = await client.frame()

    assert error["data"]["code"] == "too_many_subscriptions"
    assert await hub.said(redis, second) == []
    client.cut()


async def test_who_may_only_command_a_session_does_not_read_it(
    limited: BrokerServer, redis: Redis, session: str
) -> None:
    """The command is handed on all the same."""
    other = f"{session}-2"
    text = token(session, sessions=[session], command_sessions=["*"])
    client = await hub.enter(limited, f"session={session}", headers=bearer(text))
    client.send({"cmd": "user_input", "data": {"session_id": other}})
    commands = await hub.until_said(redis, client, other)
    for name in (other, session):
        await hub.publish(redis, name, "token_usage")

    assert [one["cmd"] for one in commands] == ["user_input"]
    assert hub.session_of(await client.frame()) == session
    client.cut()


# Sessions that end.


async def test_an_evicted_session_ends_and_the_connection_stays(
    limited: BrokerServer, redis: Redis, new_session: NewSession, session: str
) -> None:
    """A close would bring the page back at once, and again, without end."""
    own, newer = [new_session() for _ in range(LIMIT)], new_session()
    text = bearer(token(session))
    query = "&".join(f"session={name}" for name in own)
    client = await hub.enter(limited, query, headers=text)
    other = await open_native(limited, newer, session)
    error = await client.frame()
    for name in own:
        await hub.publish(redis, name, "token_usage")

    assert error["event"] == "error"
    assert "node_id" not in error
    assert error["data"] == {
        "error": "the user opened a newer session",
        "code": "session_evicted",
        "replaced_by": newer,
        "session_uuid": own[0],
    }
    assert hub.session_of(await client.frame()) == own[1]
    client.cut()
    other.cut()


async def test_an_evicted_session_is_opened_again_by_starting_it(
    limited: BrokerServer, redis: Redis, new_session: NewSession, session: str
) -> None:
    """Other commands to it are refused: nobody would see what comes of them."""
    own, newer = [new_session() for _ in range(LIMIT)], new_session()
    query = "&".join(f"session={name}" for name in own)
    client = await hub.enter(limited, query, headers=bearer(token(session)))
    other = await open_native(limited, newer, session)
    await client.frame()
    client.send({"cmd": "user_input", "data": {"session_id": own[0]}})
    refused = await client.frame()
    client.send({"cmd": "start_session", "data": {"session_id": own[0]}})
    second = await client.frame()
    commands = await hub.until_said(redis, client, own[0])
    await hub.publish(redis, own[0], "token_usage")

    assert refused["data"]["code"] == "session_evicted"
    assert second["data"]["session_uuid"] == own[1]
    assert [one["cmd"] for one in commands] == ["start_session"]
    assert hub.session_of(await client.frame()) == own[0]
    client.cut()
    other.cut()


async def test_coming_back_to_an_evicted_session_is_refused(
    limited: BrokerServer, new_session: NewSession, session: str
) -> None:
    """Unless the URL says that it is meant."""
    text = bearer(token(session))
    sessions = [new_session() for _ in range(LIMIT + 1)]
    there = [await open_native(limited, name, session) for name in sessions]
    with pytest.raises(Refused) as refused:
        await hub.enter(limited, f"session={sessions[0]}", headers=text)
    again = await hub.enter(limited, f"session={sessions[0]}&takeover=1", headers=text)

    assert refused.value.status == 409
    assert refused.value.json()["error"]["code"] == "session_evicted"
    for one in [*there, again]:
        one.cut()
