"""OpenHands V0: who is let in, and how a connection ends."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from typing import Any

import orjson
import pytest
from redis.asyncio import Redis
from websockets.exceptions import InvalidStatus

from broker.control.api_keys import new_key
from broker.store.embedded import EmbeddedServer
from tests.conftest import StartBroker
from tests.harness.openhands_v0 import Raw, event_of, ids, message, publish
from tests.harness.servers import BrokerServer
from tests.harness.tokens import SECRET, bearer, token

GUARDED: dict[str, object] = {
    "auth": "jwt",
    "jwt_secret": SECRET,
    "auth_timeout_s": 1,
    "max_sessions_per_user": 1,
}
TOO_MANY = {
    "status_update": True,
    "type": "error",
    "id": "AGENT_ERROR$TOO_MANY_CONVERSATIONS",
    "message": "Too many conversations at once. If you are still using this one, try "
    "reactivating it by prompting the agent to continue",
}


async def refused(client: Raw, packet: str = "40") -> dict[str, Any]:
    """The payload of the packet that answers *packet* with a refusal."""
    await client.send(packet)
    answer = await client.next()
    assert answer.startswith("44{")
    payload: dict[str, Any] = orjson.loads(answer[2:])
    return payload


# Tokens.


async def test_a_key_in_the_query_lets_a_client_in(
    guarded: BrokerServer, session: str, redis: Redis
) -> None:
    """There upstream's clients have it."""
    await publish(redis, session, [message(0)])
    query = {"conversation_id": session, "session_api_key": token()}
    client = await Raw.open(guarded.public, query)
    await client.send("40")

    assert ids(await client.replay()) == [0]
    await client.close()


@pytest.mark.parametrize("name", ["token", "session_api_key"])
async def test_a_token_in_the_connect_packet_wins(
    guarded: BrokerServer, session: str, name: str
) -> None:
    """Upstream never answers a client that sends one."""
    query = {"conversation_id": session, "session_api_key": "wrong"}
    client = await Raw.open(guarded.public, query, headers=bearer("wrong"))
    await client.send("40" + orjson.dumps({name: token()}).decode())

    assert await client.replay() == []
    await client.close()


@pytest.mark.parametrize("key", ["", "null", "undefined"])
async def test_a_bearer_token_counts_where_the_query_has_no_key(
    guarded: BrokerServer, session: str, key: str
) -> None:
    """What JavaScript makes of a key that is not there is none."""
    query = {"conversation_id": session, "session_api_key": key}
    client = await Raw.open(guarded.public, query, headers=bearer(token()))
    await client.send("40{}")

    assert await client.replay() == []
    await client.close()


@pytest.mark.parametrize(
    ("make_key", "message", "code"),
    [
        (str, "invalid_session_api_key", 4501),
        (lambda: "canary-5a10ca2b", "invalid_session_api_key", 4501),
        (lambda: token(lives_s=-60), "SESSION$TIMEOUT_MESSAGE", 4510),
        (
            lambda: token(sessions=["other"]),
            "User is not allowed to join conversation ",
            4503,
        ),
    ],
    ids=["none", "wrong", "expired", "of-another-session"],
)
async def test_who_may_not_come_in_is_told_and_does_not_come_back(
    guarded: BrokerServer,
    session: str,
    make_key: Callable[[], str],
    message: str,
    code: int,
) -> None:
    """As a connect error; the key stands in no log."""
    query = {"conversation_id": session, "session_api_key": make_key()}
    client = await Raw.open(guarded.public, query)
    refusal = await refused(client)

    assert refusal["message"].replace(session, "") == message
    assert refusal["data"]["code"] == code
    assert "canary" not in guarded.log.text
    await client.close()


async def test_who_is_refused_and_stays_is_cut_soon(
    guarded: BrokerServer, session: str
) -> None:
    """Libraries close the socket themselves; nobody may keep it."""
    client = await enter(guarded, session, "wrong")
    await refused(client)

    assert await client.until_end() == ([], None)


async def test_api_keys_are_taken_too(
    start_broker: StartBroker, shared_redis: EmbeddedServer, session: str
) -> None:
    """Upstream's name for what the URL carries."""
    key, record = new_key("ada", ["subscribe"], ["*"])
    keys = orjson.dumps([record]).decode()
    broker = start_broker(shared_redis.url, auth="api_key", api_keys=keys)
    query = {"conversation_id": session, "session_api_key": key}
    client = await Raw.open(broker.public, query)
    await client.send("40")
    await client.replay()
    await client.send('42["oh_user_action",{}]')

    assert (await client.event())["message"] == (
        "the token allows no commands to this session"
    )
    await client.close()


@pytest.mark.parametrize("query", [{}, {"conversation_id": "undefined"}], ids=str)
async def test_without_a_conversation_there_is_nothing_to_connect_to(
    broker: BrokerServer, query: dict[str, str]
) -> None:
    """In upstream's words."""
    client = await Raw.open(broker.public, query)

    assert await refused(client) == {"message": "No conversation_id in query params"}
    await client.close()


async def test_a_conversation_that_cannot_exist_is_refused(
    broker: BrokerServer,
) -> None:
    """Its name can name no stream."""
    client = await Raw.open(broker.public, {"conversation_id": "a/b"})
    refusal = await refused(client)

    assert refusal == {"message": "The conversation_id is no name of a conversation"}
    await client.close()


async def test_a_conversation_that_cannot_be_read_is_refused(
    broker: BrokerServer, redis: Redis, session: str
) -> None:
    """Its key holds something else."""
    await redis.set(f"broker:events:{session}", "text")
    client = await Raw.open(broker.public, {"conversation_id": session})
    refusal = await refused(client)
    await redis.delete(f"broker:events:{session}")

    assert refusal["message"].startswith("Failed to access conversation events: ")
    await client.close()


async def test_another_namespace_is_refused_first_thing(
    broker: BrokerServer, session: str
) -> None:
    """There is only the default one."""
    client = await Raw.open(broker.public, {"conversation_id": session})
    await client.send("40/foo,")

    assert await client.next() == '44/foo,{"message":"Invalid namespace"}'
    await client.close()


@pytest.mark.parametrize("packet", ['42["oh_action",{}]', "1", "x", "2probe"])
async def test_what_comes_instead_of_a_connect_packet_ends_the_connection(
    broker: BrokerServer, session: str, packet: str
) -> None:
    """Nobody has asked for anything that could be refused."""
    client = await Raw.open(broker.public, {"conversation_id": session})
    await client.send(packet)

    assert await client.until_end() == ([], 4501)


async def test_who_never_connects_is_not_kept(
    guarded: BrokerServer, session: str
) -> None:
    """The socket alone lets nobody in."""
    client = await Raw.open(guarded.public, {"conversation_id": session})

    assert await client.until_end() == ([], 4501)


async def test_who_comes_while_redis_is_away_comes_again(
    start_broker: StartBroker, start_redis: Callable[..., EmbeddedServer], session: str
) -> None:
    """The transport closes; there is no packet that would keep the library away."""
    server = start_redis()
    broker = start_broker(server.url)
    broker.allowed.append("redis_unavailable|probe")
    client = await Raw.open(broker.public, {"conversation_id": session})
    server.stop()
    assert broker.log.wait_for(lambda line: "redis_unavailable" in line, 10)
    await client.send("40")
    packets, code = await client.until_end()

    assert packets == []
    assert code == 4004


# Sessions of a user.


async def test_a_newer_conversation_ends_the_oldest_in_upstreams_words(
    broker: BrokerServer,
    guarded: BrokerServer,
    redis: Redis,
    new_session: Callable[[], str],
) -> None:
    """Notice, disconnect packet, end; it opens again when its user opens it again."""
    first, second = new_session(), new_session()
    await publish(redis, first, [message(0)])
    user = token(f"user of {first}")
    old, _ = await join(guarded, first, user)
    new, _ = await join(guarded, second, user)
    packets, code = await old.until_end()
    back = await enter(guarded, first, user, latest_event_id=0)
    refusal = await refused(back)
    again, replayed = await join(guarded, first, user)
    others, _ = await new.until_end()

    assert [event_of(packets[0]), *packets[1:]] == [TOO_MANY, "41"]
    assert code == 4509
    assert refusal["message"] == TOO_MANY["message"]
    assert refusal["data"] == {
        "code": 4509,
        "reason": "session_evicted",
        "replaced_by": second,
        "msg_id": "AGENT_ERROR$TOO_MANY_CONVERSATIONS",
    }
    assert replayed == [message(0)]
    assert others[-1] == "41"
    await back.close()
    await again.close()


async def enter(
    server: BrokerServer, session: str, key: str, **query: int | str
) -> Raw:
    """A socket that has not asked to connect."""
    named = {"conversation_id": session, "session_api_key": key, **query}
    return await Raw.open(server.public, named)


async def join(server: BrokerServer, session: str, key: str) -> tuple[Raw, list[Any]]:
    """A page that was opened just now."""
    client = await enter(server, session, key, latest_event_id=-1)
    await client.send("40")
    return client, await client.replay()


# Ends.


async def test_a_client_whose_token_ends_is_disconnected(
    guarded: BrokerServer, session: str
) -> None:
    """Its library must not come back with the same one; its page is told why."""
    key = token(f"user of {session}", lives_s=1 - 5)  # five seconds are leeway
    client, _ = await join(guarded, session, key)
    packets, code = await client.until_end()

    assert event_of(packets[0])["error"] is True
    assert packets[1:] == ["41"]
    assert code == 4510


async def test_a_server_that_leaves_lets_its_clients_come_back(
    start_broker: StartBroker,
    shared_redis: EmbeddedServer,
    redis: Redis,
    session: str,
) -> None:
    """No disconnect packet; elsewhere they go on where they were."""
    old, new = start_broker(shared_redis.url), start_broker(shared_redis.url)
    await publish(redis, session, map(message, range(5)))
    client, events = await Raw.join(old.public, session)
    old.signal(signal.SIGTERM)
    ended = await client.until_end()
    await publish(redis, session, [message(5)])
    client, missed = await Raw.join(new.public, session, events[-1]["id"])

    assert ended == ([], 4000)
    assert ids(events + missed) == list(range(6))
    assert old.wait() == 0
    await client.close()


async def test_pings_come_and_who_does_not_answer_is_cut(
    start_broker: StartBroker, shared_redis: EmbeddedServer, session: str
) -> None:
    """So is a socket behind which nobody is left."""
    broker = start_broker(shared_redis.url, heartbeat_s=1)
    living, _ = await Raw.join(broker.public, session)
    dead, _ = await Raw.join(broker.public, session)
    dead.answers_pings = False
    waiting = asyncio.create_task(living.next(timeout_s=4))
    ended = await dead.until_end()
    with pytest.raises(TimeoutError):
        await waiting

    assert living.opened["pingInterval"] == 1000
    assert ended == ([], None)
    assert dead.pings == 1
    assert living.pings > 1
    await living.close()


async def test_overload_is_refused_before_there_is_a_socket(
    start_broker: StartBroker, shared_redis: EmbeddedServer, session: str
) -> None:
    """Libraries come back later and later then."""
    broker = start_broker(shared_redis.url, max_connections=1, workers=1)
    waiting = await Raw.open(broker.public, {"conversation_id": session})
    with pytest.raises(InvalidStatus) as refused:
        await Raw.open(broker.public, {"conversation_id": session})

    answer = refused.value.response
    assert answer.status_code == 503
    assert "retry-after" in answer.headers
    assert orjson.loads(answer.body or b"")["code"] == 3
    await waiting.close()
