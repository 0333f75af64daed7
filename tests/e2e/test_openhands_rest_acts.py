"""What users of OpenHands V1 do by HTTP, who may, and from which pages."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import orjson
import pytest
from redis.asyncio import Redis

from broker.store.embedded import EmbeddedServer
from tests.conftest import StartBroker
from tests.harness import http
from tests.harness.client import Address, Refused, WebSocketClient
from tests.harness.conversations import Conversation
from tests.harness.http import Response
from tests.harness.servers import BrokerServer
from tests.harness.tokens import SECRET, bearer, token

GUARDED: dict[str, object] = {
    "auth": "jwt",
    "jwt_secret": SECRET,
    "origins": "https://app.example",
    "command_rate_per_s": 2,
    "max_sessions_per_user": 1,
    "max_frame_bytes": "16KiB",
    "handshake_s": 1,
    "workers": 1,
}
Json = dict[str, Any]
SAID = {"role": "user", "content": [{"type": "text", "text": "hi"}], "run": True}


@pytest.fixture
def conversation() -> str:
    """A conversation of the test's own."""
    return str(uuid.uuid4())


@pytest.fixture
def stream(redis: Redis, conversation: str) -> Conversation:
    """Its stream, and what was commanded."""
    return Conversation(redis, conversation)


def path_of(conversation: str, rest: str = "") -> str:
    return f"/api/conversations/{conversation}{rest}"


async def raw(address: Address, request: bytes) -> bytes:
    """The head of the answer to bytes that nobody has put in order."""
    reader, writer = await asyncio.open_connection(*address)
    writer.write(request)
    async with asyncio.timeout(10):
        head = await reader.readuntil(b"\r\n\r\n")
    writer.transport.abort()
    return head


def act(path: str, *headers: str) -> bytes:
    """The head of a request to do something; its body is to follow."""
    lines = [f"POST {path} HTTP/1.1", "Host: x", f"Authorization: Bearer {token()}"]
    return "\r\n".join([*lines, *headers, "", ""]).encode()


# Health.


@pytest.mark.parametrize("path", ["/alive", "/health"])
async def test_health_needs_no_key(guarded: BrokerServer, path: str):
    """Probes have none."""
    answer = await http.get(guarded.public, path)

    assert (answer.status, answer.json()) == (200, {"status": "ok"})


async def test_readiness_needs_no_key(guarded: BrokerServer):
    """Whatever it is just now."""
    answer = await http.get(guarded.public, "/ready")

    assert (answer.status, answer.json()["status"]) in (
        (200, "ready"),
        (503, "initializing"),
    )


async def test_the_server_names_itself_and_its_routes(guarded: BrokerServer):
    """Clients look at both before anything else."""
    info = (await http.get(guarded.public, "/server_info")).json()
    docs = await http.get(guarded.public, "/docs")

    assert info["title"] == "OpenHands Agent Server"
    assert info["uptime"] >= info["idle_time"] >= 0
    assert docs.headers["content-type"] == "text/html; charset=utf-8"
    assert b"OpenHands Agent Server" in docs.body


async def test_a_broker_may_serve_none_of_this(
    start_broker: StartBroker, shared_redis: EmbeddedServer
):
    """BROKER_PROTOCOLS says what is served."""
    server = start_broker(shared_redis.url, protocols="council", workers=1)

    assert (await http.get(server.public, "/alive")).status == 404


# Commands.


@pytest.mark.parametrize(
    ("rest", "cmd", "body"),
    [
        ("/events", "message", SAID),
        ("/run", "run", {}),
        ("/pause", "pause", {}),
        ("/interrupt", "interrupt", {"x": 1}),
        (
            "/events/respond_to_confirmation",
            "respond_to_confirmation",
            {"accept": False, "reason": "no"},
        ),
    ],
)
async def test_an_act_is_a_command_in_the_stream(
    broker: BrokerServer,
    stream: Conversation,
    conversation: str,
    rest: str,
    cmd: str,
    body: Json,
):
    """Success means that it is stored, with what was said."""
    answer = await http.post(broker.public, path_of(conversation, rest), body)
    (command,) = await stream.commands()

    assert (answer.status, answer.json()) == (200, {"success": True})
    assert command["cmd"] == cmd
    assert orjson.loads(command["data"]) == body
    assert command["connection"].startswith("http-")


async def test_an_act_needs_no_body(
    broker: BrokerServer, stream: Conversation, conversation: str
):
    """The Python client sends none with run."""
    answer = await http.request("POST", broker.public, path_of(conversation, "/run"))
    (command,) = await stream.commands()

    assert answer.json() == {"success": True}
    assert command["data"] == "{}"


@pytest.mark.parametrize(
    ("rest", "body"),
    [
        ("/events", {"role": "user", "content": "text"}),
        ("/events/respond_to_confirmation", {}),
        ("/run", [1]),
    ],
)
async def test_an_act_that_makes_no_sense_is_422(
    broker: BrokerServer, stream: Conversation, conversation: str, rest: str, body: Any
):
    """And no service ever sees it."""
    answer = await http.post(broker.public, path_of(conversation, rest), body)

    assert answer.status == 422
    assert answer.json()["detail"][0]["loc"][0] == "body"
    assert await stream.commands() == []


async def test_acts_have_a_rate(
    guarded: BrokerServer, stream: Conversation, conversation: str
):
    """For all requests of a user together; the answer says when to come back."""
    headers = dict(bearer(token(f"user-{conversation}")))
    path = path_of(conversation, "/pause")
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(http.post(guarded.public, path, {}, headers))
            for _ in range(40)
        ]
    answers = [task.result() for task in tasks]
    refused = [answer for answer in answers if answer.status == 429]

    assert 4 <= len(await stream.commands()) == 40 - len(refused)
    assert int(refused[0].headers["retry-after"]) >= 1
    assert "too many commands" in refused[0].json()["detail"]


async def test_a_body_has_a_size(
    guarded: BrokerServer, stream: Conversation, conversation: str
):
    """That of a frame; whether it says so before or not, and before it has come."""
    path = path_of(conversation, "/events")
    chunk = b"4000\r\n" + b" " * 0x4000 + b"\r\n"
    unsaid = await raw(
        guarded.public, act(path, "Transfer-Encoding: chunked") + chunk * 2
    )
    announced = await raw(guarded.public, act(path, "Content-Length: 20000"))

    for head in (unsaid, announced):
        assert head.split()[1] == b"413"
        assert b"connection: close" in head.lower()
    assert await stream.commands() == []


async def test_a_body_that_does_not_come_is_given_up(
    guarded: BrokerServer, stream: Conversation, conversation: str
):
    """Within the time that a request may take."""
    path = path_of(conversation, "/run")
    head = await raw(guarded.public, act(path, "Content-Length: 5") + b"{")

    assert head.split()[1] == b"408"
    assert await stream.commands() == []


async def test_a_client_that_leaves_in_the_middle_of_a_body_is_no_error(
    guarded: BrokerServer, stream: Conversation, conversation: str
):
    """Nothing is stored, and nothing is in the log."""
    path = path_of(conversation, "/run")
    reader, writer = await asyncio.open_connection(*guarded.public)
    writer.write(act(path, "Content-Length: 2") + b"{")
    writer.write_eof()
    async with asyncio.timeout(10):
        await reader.read()
    writer.close()

    assert (await http.get(guarded.public, "/alive")).status == 200
    assert await stream.commands() == []


async def test_a_deliberate_act_opens_an_evicted_session_again(
    guarded: BrokerServer, conversation: str
):
    """To go on is deliberate, to stop is not: it drives nobody else out."""
    text = token(f"user-{conversation}")
    other = str(uuid.uuid4())
    clients = []
    for session in (conversation, other):
        clients.append(
            await WebSocketClient.connect(
                guarded.public, f"/v1/ws/{session}", headers=bearer(text)
            )
        )
        await clients[-1].until("subscribed")
    evicted = await clients[0].until("closing")
    await http.post(
        guarded.public, path_of(conversation, "/pause"), {}, dict(bearer(text))
    )
    with pytest.raises(Refused) as refused:
        await WebSocketClient.connect(
            guarded.public,
            f"/v1/ws/{conversation}",
            headers=bearer(text),
            subprotocols=(),
        )
    await http.post(
        guarded.public, path_of(conversation, "/run"), {}, dict(bearer(text))
    )
    driven_out = await clients[1].until("closing")
    again = await WebSocketClient.connect(
        guarded.public, f"/v1/ws/{conversation}", headers=bearer(text)
    )
    await again.until("subscribed")

    assert evicted["data"]["reason"] == "session_evicted"
    assert refused.value.json()["error"]["code"] == "session_evicted"
    assert driven_out["data"]["replaced_by"] == conversation
    for client in (*clients, again):
        client.cut()


async def test_a_conversation_begins_when_its_session_is_opened(
    guarded: BrokerServer, stream: Conversation, conversation: str
):
    """Its user sees it before anything is published, and nobody else."""
    key, other = dict(bearer(token(f"user-{conversation}"))), dict(bearer(token("eve")))
    path = path_of(conversation)
    client = await WebSocketClient.connect(
        guarded.public, f"/v1/ws/{conversation}", headers=[*key.items()]
    )
    await client.until("subscribed")
    opened = await http.get(guarded.public, path, headers=key)
    foreign = await http.get(guarded.public, path, headers=other)
    await stream.say()
    said = await http.get(guarded.public, path, headers=key)
    client.cut()

    assert (opened.status, foreign.status, said.status) == (200, 404, 200)
    assert opened.json()["execution_status"] == "idle"
    assert said.json()["created_at"] == opened.json()["created_at"]
    assert said.json()["updated_at"] > opened.json()["updated_at"]


# Who may.


@pytest.mark.parametrize("way", ["key", "bearer", "query"])
async def test_a_key_comes_in_three_ways(
    guarded: BrokerServer, stream: Conversation, conversation: str, way: str
):
    """The agent-server's own header, the usual one, and the URL."""
    await stream.say()
    text = token()
    headers = {
        "key": {"X-Session-API-Key": text},
        "bearer": {"Authorization": f"Bearer {text}"},
        "query": {},
    }[way]
    query: dict[str, str | int] = {"session_api_key": text} if way == "query" else {}
    answer = await http.get(guarded.public, path_of(conversation), query, headers)

    assert answer.status == 200
    assert text not in guarded.log.text


@pytest.mark.parametrize("headers", [{}, {"X-Session-API-Key": "wrong"}])
@pytest.mark.parametrize("id_text", [str(uuid.UUID(int=1)), "no-uuid"])
async def test_without_a_key_nothing_is_told(
    guarded: BrokerServer, headers: dict[str, str], id_text: str
):
    """Not even whether the request could have been used."""
    answer = await http.get(guarded.public, path_of(id_text), headers=headers)
    act = await http.post(guarded.public, path_of(id_text, "/run"), {}, headers)

    assert (answer.status, answer.json()) == (401, {"detail": "Unauthorized"})
    assert (act.status, act.json()) == (401, {"detail": "Unauthorized"})


async def test_a_key_opens_what_it_names(
    guarded: BrokerServer, stream: Conversation, conversation: str
):
    """Reading and commanding are separate rights."""
    await stream.say()
    reader = dict(bearer(token(sessions=[conversation], rights=["subscribe"])))
    stranger = dict(bearer(token(sessions=["other"])))
    path = path_of(conversation)
    may = await http.get(guarded.public, path, headers=reader)
    may_not = await http.get(guarded.public, path, headers=stranger)
    acts = [
        await http.post(guarded.public, f"{path}/run", {}, headers)
        for headers in (reader, stranger)
    ]

    assert (may.status, may_not.status) == (200, 403)
    assert [act.status for act in acts] == [403, 403]
    assert await stream.commands() == []


@pytest.mark.parametrize(
    ("method", "path", "status", "detail"),
    [
        ("GET", "/api", 404, "Not Found"),
        ("GET", "/api/settings", 404, "Not Found"),
        ("GET", "/api/conversations/x/y", 404, "Not Found"),
        ("GET", "/alive/now", 404, "Not Found"),
        ("POST", "/alive", 405, "Method Not Allowed"),
        ("DELETE", "/api/conversations/x", 405, "Method Not Allowed"),
        ("GET", "/api/conversations/x/run", 405, "Method Not Allowed"),
    ],
)
async def test_what_is_not_served_is_said_so(
    broker: BrokerServer, method: str, path: str, status: int, detail: str
):
    """In the words of the agent-server."""
    answer = await http.request(method, broker.public, path)

    assert (answer.status, answer.json()) == (status, {"detail": detail})


# Pages of other origins.


async def preflight(server: BrokerServer, origin: str) -> Response:
    headers = {
        "Origin": origin,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "x-session-api-key",
    }
    path = path_of(str(uuid.uuid4()), "/events")
    return await http.request("OPTIONS", server.public, path, headers=headers)


async def test_a_page_of_an_allowed_origin_may_ask(guarded: BrokerServer):
    """First whether it may, then with its key; it also may read what was refused."""
    origin = "https://app.example"
    allowed = await preflight(guarded, origin)
    answer = await http.get(guarded.public, "/alive", headers={"Origin": origin})
    refused = await http.get(
        guarded.public, path_of(str(uuid.uuid4())), headers={"Origin": origin}
    )

    assert allowed.status == 204
    assert "X-Session-API-Key" in allowed.headers["access-control-allow-headers"]
    assert "POST" in allowed.headers["access-control-allow-methods"]
    assert refused.status == 401
    for one in (allowed, answer, refused):
        assert one.headers["access-control-allow-origin"] == origin
        assert one.headers["access-control-allow-credentials"] == "true"
        assert one.headers["vary"] == "Origin"


async def test_a_page_of_another_origin_may_not(guarded: BrokerServer):
    """Neither ask nor read the answer."""
    for answer in (
        await preflight(guarded, "https://evil.example"),
        await http.get(
            guarded.public, "/alive", headers={"Origin": "https://evil.example"}
        ),
    ):
        assert answer.status == 403
        assert "access-control-allow-origin" not in answer.headers


async def test_any_page_may_ask_without_cookies_where_all_origins_are_allowed(
    start_broker: StartBroker, shared_redis: EmbeddedServer
):
    """A proxy in front may know its users by them."""
    server = start_broker(shared_redis.url, origins="*", workers=1)
    allowed = await preflight(server, "https://any.example")

    assert allowed.headers["access-control-allow-origin"] == "https://any.example"
    assert "access-control-allow-credentials" not in allowed.headers
