"""Which sessions a client of the hub reads, and who may come in."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator

import pytest
from redis.asyncio import Redis

from broker.store.embedded import EmbeddedServer
from tests.conftest import StartBroker
from tests.harness import hub
from tests.harness.client import Frame, Refused, WebSocketClient
from tests.harness.servers import BrokerServer
from tests.harness.tokens import SECRET, bearer, token

LIMIT = 2
NewSession = Callable[[], str]


@pytest.fixture(scope="module")
def limited_broker(
    shared_redis: EmbeddedServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[BrokerServer]:
    """A broker that asks for tokens and lets a user have two sessions."""
    settings: dict[str, object] = {
        "auth": "jwt",
        "jwt_secret": SECRET,
        "max_sessions_per_user": LIMIT,
    }
    directory = tmp_path_factory.mktemp("broker")
    server = BrokerServer(shared_redis.url, directory, settings).start()
    yield server
    server.stop()


@pytest.fixture
def limited(limited_broker: BrokerServer) -> Iterator[BrokerServer]:
    """The same; the test fails if it makes the broker log an error."""
    yield limited_broker
    limited_broker.check_log()


async def open_native(server: BrokerServer, session: str, user: str) -> WebSocketClient:
    """Make *session* one of the open sessions of *user*."""
    client = await WebSocketClient.connect(
        server.public, f"/v1/ws/{session}", headers=bearer(token(user))
    )
    await client.until("subscribed")
    return client


async def refusal(server: BrokerServer, query: str, **options: object) -> Refused:
    """Come in, which must be refused before the upgrade."""
    with pytest.raises(Refused) as refused:
        await hub.enter(server, query, **options)
    return refused.value


def sessions_of(frames: list[Frame]) -> list[str]:
    """Sorted: between sessions no order is promised."""
    return sorted(hub.session_of(frame) for frame in frames)


async def publish_to(redis: Redis, *sessions: str) -> None:
    for session in sessions:
        await hub.publish(redis, session, "token_usage")


# Scope.


async def test_sessions_that_the_url_names_are_read_and_no_others(
    broker: BrokerServer, redis: Redis, new_session: NewSession
) -> None:
    """Its front end shows whatever comes as the session that is open."""
    first, other, second = (new_session() for _ in range(3))
    client = await hub.enter(broker, f"session={first}&session_uuid={second}")
    elsewhere = await hub.enter(broker, f"session={other}")
    await publish_to(redis, first, other, second)
    await elsewhere.frame()

    assert sessions_of(await hub.take(client, 2)) == sorted([first, second])
    await publish_to(redis, first)
    assert sessions_of(await hub.take(client, 1)) == [first]
    client.cut()
    elsewhere.cut()


async def test_the_configured_session_is_read_by_everybody_else(
    start_broker: StartBroker,
    shared_redis: EmbeddedServer,
    redis: Redis,
    new_session: NewSession,
) -> None:
    """A stock page names nothing; this makes a room of them all, as its own hub did."""
    room, other = new_session(), new_session()
    server = start_broker(shared_redis.url, council_session=room)
    clients = [await hub.enter(server) for _ in range(3)]
    named = await hub.enter(server, f"session={other}")
    await publish_to(redis, room, other)

    assert [sessions_of(await hub.take(one, 1)) for one in clients] == [[room]] * 3
    assert sessions_of(await hub.take(named, 1)) == [other]
    for client in [*clients, named]:
        client.cut()


async def test_a_user_reads_the_sessions_that_are_open(
    limited: BrokerServer, redis: Redis, new_session: NewSession, session: str
) -> None:
    """Those of other users are not told, whatever the token would allow."""
    own, others = [new_session(), new_session()], new_session()
    there = [await open_native(limited, name, session) for name in own]
    there.append(await open_native(limited, others, f"{session}-other"))
    client = await hub.enter(limited, headers=bearer(token(session)))
    await publish_to(redis, others, *own)

    assert sessions_of(await hub.take(client, 2)) == sorted(own)
    for one in [*there, client]:
        one.cut()


async def test_a_user_reads_the_sessions_that_the_token_names(
    limited: BrokerServer, redis: Redis, new_session: NewSession, session: str
) -> None:
    """As many as may be open; what only begins like that is not named."""
    named = sorted(new_session() for _ in range(LIMIT + 1))
    text = token(session, sessions=[*named, f"{named[0]}*"])
    client = await hub.enter(limited, headers=bearer(text))
    await publish_to(redis, f"{named[0]}x", *reversed(named))

    assert sessions_of(await hub.take(client, 2)) == named[:LIMIT]
    client.cut()


async def test_coming_in_evicts_no_session_of_the_user(
    limited: BrokerServer, redis: Redis, new_session: NewSession, session: str
) -> None:
    """The open ones come first, and then there is no room for those of the token."""
    own, named = [new_session() for _ in range(LIMIT)], new_session()
    there = [await open_native(limited, name, session) for name in own]
    text = token(session, sessions=[*own, named])
    client = await hub.enter(limited, headers=bearer(text))
    await publish_to(redis, named, *own)

    assert sessions_of(await hub.take(client, 2)) == sorted(own)
    for one in there:
        one.send({"cmd": "ping"})
        assert await one.until("pong")
        one.cut()
    client.cut()


async def test_nobody_reads_nothing_until_he_says_something(
    broker: BrokerServer, redis: Redis, session: str
) -> None:
    """What he says to a session opens it for him, from before it was said."""
    client = await hub.enter(broker)
    client.send({"cmd": "user_input", "data": {"session_id": session, "content": "hi"}})
    commands = await hub.until_said(redis, client, session)
    await publish_to(redis, session)

    assert sessions_of(await hub.take(client, 1)) == [session]
    assert [command["data"]["content"] for command in commands] == ["hi"]
    client.cut()


@pytest.mark.parametrize("cmd", ["user_input", "start_session"])
async def test_an_answer_to_the_first_command_arrives(
    start_broker: StartBroker,
    shared_redis: EmbeddedServer,
    redis: Redis,
    session: str,
    cmd: str,
) -> None:
    """However fast the service is that reads it, and however slow this pod."""
    server = start_broker(shared_redis.url)
    client = await hub.enter(server, f"user={session}")
    os.kill(server.reader, signal.SIGSTOP)
    client.send({"cmd": cmd, "data": {"session_uuid": session}})
    while not await hub.said(redis, session):
        await redis.xread({"broker:commands": "$"}, block=5)
    await publish_to(redis, session)
    os.kill(server.reader, signal.SIGCONT)

    assert sessions_of(await hub.take(client, 1)) == [session]
    client.cut()


# Who may come in.


async def test_without_a_token_there_is_no_upgrade(limited: BrokerServer) -> None:
    """It is never accepted only to be closed: the page would come back at once."""
    refused = await refusal(limited, "session=s1")

    assert (refused.status, refused.json()["error"]["code"]) == (401, "unauthorized")


@pytest.mark.parametrize("offered", [("broker.v1",), ()])
async def test_a_page_is_refused_over_http_as_well(
    limited: BrokerServer, offered: tuple[str, ...]
) -> None:
    """Whatever it offers: there is no close code that keeps it away."""
    refused = await refusal(limited, "session=s1", subprotocols=offered)

    assert refused.status == 401


async def test_a_token_comes_as_a_subprotocol(
    limited: BrokerServer, redis: Redis, session: str
) -> None:
    """Pages cannot set headers."""
    offered = ("broker.v1", f"bearer.{token(session)}")
    client = await hub.enter(limited, f"session={session}", subprotocols=offered)
    await publish_to(redis, session)

    assert client.subprotocol == "broker.v1"
    assert sessions_of(await hub.take(client, 1)) == [session]
    client.cut()


async def test_a_token_in_the_url_is_refused(limited: BrokerServer) -> None:
    """URLs end up in logs."""
    refused = await refusal(limited, f"token={token()}")

    assert refused.status == 400


async def test_a_token_in_the_url_is_taken_where_that_is_switched_on(
    start_broker: StartBroker, shared_redis: EmbeddedServer, redis: Redis, session: str
) -> None:
    """For those who can send it nowhere else."""
    server = start_broker(
        shared_redis.url, auth="jwt", jwt_secret=SECRET, token_in_query=True
    )
    client = await hub.enter(server, f"token={token(session)}&session={session}")
    await publish_to(redis, session)

    assert sessions_of(await hub.take(client, 1)) == [session]
    client.cut()


async def test_a_session_that_may_not_be_read_is_refused(
    limited: BrokerServer, redis: Redis, new_session: NewSession, session: str
) -> None:
    """All of what the URL names, or nothing; and nothing was opened for it."""
    own, theirs = new_session(), new_session()
    text = bearer(token(session, sessions=[own]))
    refused = await refusal(limited, f"session={own}&session={theirs}", headers=text)

    assert refused.status == 403
    assert await redis.zcard(f"broker:{{{session}}}:sessions") == 0


@pytest.mark.parametrize(
    "query",
    [
        "session=_probe",
        "session=a%20b",
        "session=a&session=b&last_event_id=1-1",
        "last_event_id=1-1",
        "last_event_id=x",
        "&".join(f"session=s{n}" for n in range(101)),
    ],
)
async def test_what_cannot_be_read_is_refused(broker: BrokerServer, query: str) -> None:
    """Among it a position of more than one session."""
    assert (await refusal(broker, query)).status == 400


@pytest.mark.parametrize("path", ["/ws/", "/ws/s1"])
async def test_the_hub_has_one_address(broker: BrokerServer, path: str) -> None:
    """Nothing is below it."""
    with pytest.raises(Refused) as refused:
        await WebSocketClient.connect(broker.public, path, subprotocols=())

    assert refused.value.status == 404


async def test_a_hub_that_is_switched_off_is_not_there(
    start_broker: StartBroker, shared_redis: EmbeddedServer
) -> None:
    """Whoever does not need it need not serve it."""
    server = start_broker(shared_redis.url, protocols="openhands")

    assert (await refusal(server, "session=s1")).status == 404
