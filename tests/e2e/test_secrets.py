"""A token appears in no log line, no answer and no metric."""

from __future__ import annotations

import secrets
import signal

import pytest

from broker.store.embedded import EmbeddedServer
from tests.conftest import NewWatcher, StartBroker, StartRedis
from tests.e2e.test_bad_clients import raw_answer
from tests.harness import http, wire
from tests.harness.client import Refused, WebSocketClient, request_head
from tests.harness.servers import BrokerServer


@pytest.fixture
def canary() -> str:
    """A token that can be recognised anywhere."""
    return f"canary{secrets.token_hex(12)}"


@pytest.fixture
def talkative(start_broker: StartBroker, shared_redis: EmbeddedServer) -> BrokerServer:
    """A broker that logs as much as it can."""
    broker = start_broker(shared_redis.url, log_level="debug")
    broker.allowed.append("bad_request|handling request")
    return broker


def assert_unseen(broker: BrokerServer, canary: str, *answers: bytes) -> None:
    """The canary is in no answer and, after the end, nowhere in the output."""
    for answer in answers:
        assert canary.encode() not in answer
    broker.signal(signal.SIGTERM)
    broker.wait()
    assert canary not in broker.log.text


async def test_accepted_tokens_are_not_printed(
    talkative: BrokerServer, watch: NewWatcher, session: str, canary: str
) -> None:
    """In a header, a subprotocol or the query of a good request."""
    where = f"/v1/ws/{session}"
    one = await WebSocketClient.connect(
        talkative.public, where, headers=[("Authorization", f"Bearer {canary}")]
    )
    two = await WebSocketClient.connect(
        talkative.public, where, subprotocols=("broker.v1", f"bearer.{canary}")
    )
    frames = [await client.until("subscribed") for client in (one, two)]
    three = await http.get(talkative.public, where, {"token": canary})
    one.cut()
    await two.close()
    metrics = await http.get(talkative.admin, "/metrics")

    assert_unseen(talkative, canary, repr(frames).encode(), three.body, metrics.body)


async def test_subprotocol_without_an_overlap_is_not_printed(
    talkative: BrokerServer, session: str, canary: str
) -> None:
    """An offer of the token alone is answered without repeating it."""
    answer = b""
    try:
        client = await WebSocketClient.connect(
            talkative.public,
            f"/v1/ws/{session}",
            subprotocols=(f"bearer.{canary}", "unknown"),
        )
        client.cut()
    except Refused as refused:
        answer = refused.body

    assert_unseen(talkative, canary, answer)


async def test_refused_requests_do_not_print_the_token(
    talkative: BrokerServer, session: str, canary: str
) -> None:
    """Whatever is wrong with a request, its answer does not quote it."""
    answers = []
    for path, query in (
        (f"/v1/ws/{session}", {"last_event_id": canary}),
        (f"/v1/ws/{session}", {"since": canary, "token": canary}),
        (f"/v1/sse/{session}", {"overflow": canary}),
        (f"/v1/nothing/{canary}", {}),
        (f"/v1/ws/_{canary}", {"token": canary}),
    ):
        headers = {"Authorization": f"Bearer {canary}"}
        response = await http.get(talkative.public, path, {**query}, headers)
        answers.append(response.body)

        assert response.status >= 400

    assert_unseen(talkative, canary, *answers)


@pytest.mark.parametrize("where", ["header", "long-header", "url", "name", "line"])
async def test_malformed_requests_do_not_print_the_token(
    talkative: BrokerServer, session: str, canary: str, where: str
) -> None:
    """The parser's own complaints quote the request: nobody may see them."""
    head = request_head(talkative.public, f"/v1/ws/{session}", wire.new_key())
    token = f"Authorization: Bearer {canary}".encode()
    requests = {
        "header": head.replace(b"\r\n\r\n", b"\r\n" + token + b"\x00\x01\r\n\r\n"),
        "long-header": head.replace(
            b"\r\n\r\n", b"\r\n" + token + b"x" * 9000 + b"\r\n\r\n"
        ),
        "url": head.replace(
            b" HTTP/1.1", b"?token=" + canary.encode() + b"x" * 9000 + b" HTTP/1.1"
        ),
        "name": head.replace(b"\r\n\r\n", b"\r\n" + canary.encode() + b"\r\n\r\n"),
        "line": token + b" " + head,
    }
    answer = await raw_answer(talkative.public, requests[where])

    assert not answer.startswith(b"HTTP/1.1 101")
    assert_unseen(talkative, canary, answer)


async def test_command_content_is_not_printed(
    talkative: BrokerServer, session: str, canary: str
) -> None:
    """Neither good nor bad frames of a client reach the log."""
    client = await WebSocketClient.connect(talkative.public, f"/v1/ws/{session}")
    client.send({"cmd": "auth", "id": "a", "data": {"token": canary}})
    client.send({"cmd": "ack", "id": "b", "data": {"position": canary}})
    client.send_frame(wire.TEXT, f'{{"token": "{canary}'.encode())
    client.send({"cmd": "say", "id": "c", "data": {"text": canary}})
    errors = [await client.until("error") for _ in range(3)]
    await client.until("ack")
    client.cut()

    assert canary not in repr(errors)
    assert_unseen(talkative, canary)


async def test_redis_password_is_not_printed(
    start_redis: StartRedis,
    start_broker: StartBroker,
    session: str,
    canary: str,
) -> None:
    """Neither while all is well nor while Redis is away."""
    server = start_redis("--requirepass", canary)
    url = server.url.replace("redis://", f"redis://:{canary}@")
    broker = start_broker(url, log_level="debug")
    broker.allowed.append(".")
    server.kill()
    response = await http.get(broker.public, f"/v1/sessions/{session}/events")
    ready = await http.get(broker.admin, "/readyz")

    assert_unseen(broker, canary, response.body, ready.body)
