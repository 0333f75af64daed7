"""Who may connect: tokens in all their places, rights, expiry and revocation."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

import jwt
import orjson
import pytest

from broker.store.embedded import EmbeddedServer
from tests.conftest import StartBroker
from tests.harness import http, wire
from tests.harness.client import Refused, WebSocketClient, request_head
from tests.harness.publisher import Author
from tests.harness.servers import BrokerServer
from tests.harness.tokens import SECRET, bearer, now_s, token
from tests.harness.wire import TEXT, client_frame

GUARDED: dict[str, object] = {
    "auth": "jwt",
    "jwt_secret": SECRET,
    "auth_timeout_s": 1,
    "token_warn_s": 2,
    "admin_token": "operator",
    "max_sessions_per_user": 0,
}


async def enter(
    server: BrokerServer, path: str, text: str | None, **options: Any
) -> WebSocketClient:
    headers = [] if text is None else bearer(text)
    return await WebSocketClient.connect(
        server.public, path, headers=headers, **options
    )


async def closing(client: WebSocketClient) -> tuple[str, int | None]:
    """What the client is told at the end, and the close code."""
    frame = await client.until("closing")
    ended = await client.wait_ended()
    return frame["data"]["reason"], ended.code


async def test_a_token_in_the_header_opens_the_session(
    guarded: BrokerServer, author: Author, session: str
) -> None:
    """The user is the token's, whatever the query says."""
    client = await enter(guarded, f"/v1/ws/{session}?user=eve", token("ada"))
    welcome = await client.until("welcome")
    await client.until("subscribed")
    await author.publish(session, event="hello")

    assert welcome["data"]["user"] == "ada"
    assert (await client.until("hello"))["session"] == session
    client.cut()


async def test_a_token_as_a_subprotocol_opens_the_session(
    guarded: BrokerServer, session: str
) -> None:
    """Pages cannot set headers; the answer names the protocol and not the token."""
    client = await enter(
        guarded,
        f"/v1/ws/{session}",
        None,
        subprotocols=("broker.v1", f"bearer.{token()}"),
    )
    await client.until("subscribed")

    assert client.subprotocol == "broker.v1"
    client.cut()


async def test_a_token_in_the_first_frame_opens_the_session(
    guarded: BrokerServer, session: str
) -> None:
    """Nothing is said before it; then everything follows."""
    client = await enter(guarded, f"/v1/ws/{session}?last_event_id=0", None)
    client.send({"cmd": "auth", "data": {"token": token("bob")}})
    welcome = await client.frame()
    subscribed = await client.frame()

    assert (welcome["event"], welcome["data"]["user"]) == ("welcome", "bob")
    assert subscribed["data"]["resume"] == "complete"
    client.cut()


async def test_what_follows_the_token_at_once_waits_for_the_verdict(
    guarded: BrokerServer, session: str
) -> None:
    """A client may send its first frames as one; more than a few end it."""
    client = await enter(guarded, f"/v1/ws/{session}", None)
    client.send({"cmd": "auth", "data": {"token": token("bob")}})
    client.send({"cmd": "ping", "id": "p1"})
    pong = await client.until("pong")
    hasty = await enter(guarded, f"/v1/ws/{session}", None)
    auth = orjson.dumps({"cmd": "auth", "data": {"token": token("bob")}})
    frames = [auth, *[b'{"cmd":"ping"}'] * 50]
    hasty.send_raw(b"".join(client_frame(TEXT, frame) for frame in frames))

    assert pong["data"]["ref"] == "p1"
    assert (await hasty.wait_ended()).code == 4004
    client.cut()


@pytest.mark.parametrize(
    "frame",
    [
        {"cmd": "ping"},
        {"cmd": "auth"},
        {"cmd": "auth", "data": {"token": "nonsense"}},
        {"cmd": "auth", "data": {"token": 5}},
        ["auth"],
    ],
    ids=str,
)
async def test_a_first_frame_without_a_good_token_ends_the_connection(
    guarded: BrokerServer, session: str, frame: Any
) -> None:
    """One frame, one chance."""
    client = await enter(guarded, f"/v1/ws/{session}", None)
    client.send(frame)

    assert await closing(client) == ("unauthorized", 4501)


async def test_who_says_nothing_is_closed_in_time(
    guarded: BrokerServer, session: str
) -> None:
    """A socket without a token costs a place for a bounded time."""
    client = await enter(guarded, f"/v1/ws/{session}", None)

    assert await closing(client) == ("unauthorized", 4501)


async def test_a_large_first_frame_ends_the_connection(
    guarded: BrokerServer, session: str
) -> None:
    """Strangers have 16 KiB."""
    client = await enter(guarded, f"/v1/ws/{session}", None)
    client.send({"cmd": "auth", "data": {"token": "x" * 20_000}})
    ended = await client.wait_ended()

    assert ended.code == 1009


BAD_TOKENS: dict[str, Callable[[], str]] = {
    "truncated": lambda: token()[:-4],
    "expired": lambda: token(lives_s=-60),
    "other key": lambda: token(key="another secret that nobody has configured here"),
    "unsigned": lambda: jwt.encode(
        {"sub": "ada", "exp": now_s() + 60}, "", algorithm="none"
    ),
    "no expiry": lambda: jwt.encode({"sub": "ada"}, SECRET, algorithm="HS256"),
    "nonsense": lambda: "utter-nonsense",
}


@pytest.mark.parametrize("kind", BAD_TOKENS)
async def test_a_bad_token_is_refused_with_401(
    guarded: BrokerServer, session: str, kind: str
) -> None:
    """Before the upgrade, in JSON, and without a word of the token."""
    text = BAD_TOKENS[kind]()
    with pytest.raises(Refused) as refused:
        await enter(guarded, f"/v1/ws/{session}", text, subprotocols=())

    code = "token_expired" if kind == "expired" else "unauthorized"
    assert refused.value.status == 401
    assert refused.value.json()["error"]["code"] == code
    assert text not in str(refused.value.body)
    assert text not in guarded.log.text


async def test_a_page_with_a_bad_token_is_told_by_a_close_code(
    guarded: BrokerServer, session: str
) -> None:
    """A browser cannot read 401; 4510 says that a new token will do."""
    client = await enter(guarded, f"/v1/ws/{session}", token(lives_s=-60))

    assert await closing(client) == ("token_expired", 4510)


async def test_a_token_in_the_url_is_refused_unless_allowed(
    guarded: BrokerServer, session: str
) -> None:
    """URLs are logged by everybody."""
    with pytest.raises(Refused) as refused:
        await enter(guarded, f"/v1/ws/{session}?token={token()}", None)

    assert refused.value.status == 400


async def test_a_session_that_the_token_does_not_name_is_refused(
    guarded: BrokerServer, session: str
) -> None:
    """On the path, by command and as history."""
    text = token(sessions=["mine-*"])
    with pytest.raises(Refused) as refused:
        await enter(guarded, f"/v1/ws/{session}", text, subprotocols=())
    history = await http.get(
        guarded.public, f"/v1/sessions/{session}/events", headers=dict(bearer(text))
    )
    client = await enter(guarded, "/v1/ws", text)
    client.send({"cmd": "subscribe", "id": "c1", "data": {"session": session}})
    answer = await client.until("error")
    client.send({"cmd": "subscribe", "id": "c2", "data": {"session": "mine-1"}})
    subscribed = await client.until("subscribed")

    assert refused.value.status == history.status == 403
    assert answer["data"]["code"] == "forbidden"
    assert subscribed["session"] == "mine-1"
    client.cut()


async def test_reading_needs_a_right_of_its_own(
    guarded: BrokerServer, session: str
) -> None:
    """Who may only command may not read, and the other way round."""
    with pytest.raises(Refused) as refused:
        await enter(
            guarded, f"/v1/ws/{session}", token(rights=["command"]), subprotocols=()
        )
    client = await enter(guarded, f"/v1/ws/{session}", token(rights=["subscribe"]))
    client.send({"cmd": "user_input", "id": "c1", "data": {}})
    answer = await client.until("error")

    assert refused.value.status == 403
    assert answer["data"] == answer["data"] | {"code": "forbidden", "ref": "c1"}
    client.cut()


async def test_history_and_event_streams_ask_for_a_token_too(
    guarded: BrokerServer, session: str
) -> None:
    """401 for history, 204 for an EventSource, which would come back for ever."""
    history = await http.get(guarded.public, f"/v1/sessions/{session}/events")
    stream = await http.get(guarded.public, f"/v1/sse/{session}")

    assert (history.status, stream.status) == (401, 204)


async def test_an_expiring_token_is_announced_and_then_ends_the_connection(
    guarded: BrokerServer, session: str
) -> None:
    """The warning leaves time for a refresh; the code says to get a new token."""
    client = await enter(guarded, f"/v1/ws/{session}", token(lives_s=3))
    warning = await client.until("token_expiring")

    assert 0 < warning["data"]["expires_in_s"] <= 2
    assert await closing(client) == ("token_expired", 4510)


async def test_a_refreshed_token_keeps_the_connection(
    guarded: BrokerServer, author: Author, session: str
) -> None:
    """The connection lives on after the first token has ended."""
    client = await enter(guarded, f"/v1/ws/{session}", token(lives_s=3))
    await client.until("token_expiring")
    client.send({"cmd": "refresh", "id": "r1", "data": {"token": token(lives_s=60)}})
    refreshed = await client.until("refreshed")
    with pytest.raises(TimeoutError):
        await client.until("closing", timeout_s=3)
    await author.publish(session, event="later")

    assert refreshed["data"]["ref"] == "r1"
    assert (await client.until("later"))["session"] == session
    client.cut()


async def test_a_refresh_may_not_change_the_user(
    guarded: BrokerServer, session: str
) -> None:
    """And with a bad token the old one stays in force."""
    client = await enter(guarded, f"/v1/ws/{session}", token("ada"))
    codes = []
    for text in (token("eve"), "nonsense"):
        client.send({"cmd": "refresh", "data": {"token": text}})
        codes.append((await client.until("error"))["data"]["code"])
    client.send({"cmd": "ping"})
    await client.until("pong")

    assert codes == ["forbidden", "unauthorized"]
    client.cut()


async def test_a_refresh_with_fewer_rights_ends_what_they_covered(
    guarded: BrokerServer, session: str
) -> None:
    """The session of the path is closed, others are unsubscribed."""
    client = await enter(guarded, "/v1/ws", token())
    client.send({"cmd": "subscribe", "data": {"session": session}})
    await client.until("subscribed")
    narrow = token(sessions=["other"])
    client.send({"cmd": "refresh", "data": {"token": narrow}})
    unsubscribed = await client.until("unsubscribed")

    assert unsubscribed["data"] == {"reason": "forbidden"}
    client.cut()


async def revoke(server: BrokerServer, **what: str) -> None:
    answer = await http.post(
        server.admin, "/v1/revocations", what, headers=dict(bearer("operator"))
    )
    assert answer.status in (200, 201, 204), answer.body


async def test_a_revoked_user_is_out_on_all_pods_within_a_second(
    guarded: BrokerServer,
    shared_redis: EmbeddedServer,
    start_broker: StartBroker,
    session: str,
) -> None:
    """Open connections end, and the same token is refused from then on."""
    other = start_broker(shared_redis.url, auth="jwt", jwt_secret=SECRET)
    text = token(session)
    clients = [
        await enter(server, f"/v1/ws/{session}", text) for server in (guarded, other)
    ]
    for client in clients:
        await client.until("subscribed")
    started = asyncio.get_running_loop().time()
    await revoke(guarded, user=session)
    ends = [await closing(client) for client in clients]
    took_s = asyncio.get_running_loop().time() - started
    with pytest.raises(Refused) as refused:
        await enter(other, f"/v1/ws/{session}", text, subprotocols=())

    assert ends == [("revoked", 4511)] * 2
    assert refused.value.json()["error"]["code"] == "revoked"
    assert took_s < 5  # Not by the list that is read again after ten


async def test_one_token_can_be_revoked_and_others_of_the_user_stay(
    guarded: BrokerServer, session: str
) -> None:
    """By its jti."""
    user = f"user-{session}"
    lost = await enter(guarded, f"/v1/ws/{session}", token(user, jti=session))
    kept = await enter(guarded, f"/v1/ws/{session}", token(user, jti="another"))
    await revoke(guarded, token_id=session)
    reason = await closing(lost)
    kept.send({"cmd": "ping"})
    await kept.until("pong")

    assert reason == ("revoked", 4511)
    kept.cut()


async def answer_to(server: BrokerServer, session: str, options: Any) -> str:
    """The body of the refusal; empty if there is none."""
    path = f"/v1/ws/{session}"
    try:
        client = await WebSocketClient.connect(server.public, path, **options)
    except Refused as refused:
        return str(refused.body)
    client.cut()
    return ""


async def test_no_token_appears_in_any_output(
    guarded: BrokerServer, session: str
) -> None:
    """Neither in a log line nor in an answer, whatever was wrong with it."""
    canary = token("canary")
    signature = canary.rpartition(".")[2]
    for options in (
        {"headers": bearer(canary)},
        {"subprotocols": (f"bearer.{canary}",)},
        {"headers": [("Authorization", f"Basic {canary}")]},
        {"headers": [*bearer(canary), ("X-Bad", "a\0b")]},
        {"headers": bearer(canary + "x" * 9000)},
    ):
        said = await answer_to(guarded, session, options)

        assert signature not in said

    assert signature not in guarded.log.text


async def test_strangers_are_few_also_while_they_are_judged(
    shared_redis: EmbeddedServer, start_broker: StartBroker, session: str
) -> None:
    """An issuer that hangs does not fill the worker with sockets of nobody."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        server = start_broker(
            shared_redis.url,
            workers=1,
            auth="jwt",
            jwt_jwks_url=f"http://127.0.0.1:{port}/keys",
            max_connections=50,
        )
        clients = []
        refused = 0
        for _ in range(10):
            try:
                client = await WebSocketClient.connect(
                    server.public, f"/v1/ws/{session}"
                )
            except Refused:
                refused += 1
                continue
            client.send({"cmd": "auth", "data": {"token": token()}})
            clients.append(client)
        for client in clients:
            client.cut()

    assert len(clients) == 5
    assert refused == 5


async def test_a_page_of_another_name_is_no_page_of_this_host(
    broker: BrokerServer, session: str
) -> None:
    """A name that was made to lead to loopback does not pass where nobody is asked."""
    name = f"evil.example:{broker.public[1]}"
    head = request_head(
        broker.public,
        f"/v1/ws/{session}",
        wire.new_key(),
        headers=[("Origin", f"http://{name}")],
    ).replace(b"Host: 127.0.0.1", b"Host: evil.example")
    reader, writer = await asyncio.open_connection(*broker.public)
    writer.write(head)
    answer = await reader.readline()
    writer.close()

    assert answer.split()[1] == b"403"
