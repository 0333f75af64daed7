"""Clients that ask for far too much: answered, bounded, and nobody else's trouble."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from broker.control.commits import WAITERS_MAX
from broker.store.embedded import EmbeddedServer
from tests.conftest import StartBroker
from tests.harness import processes
from tests.harness.client import ConnectionEnded, Frame, WebSocketClient
from tests.harness.publisher import Author
from tests.harness.servers import BrokerServer

ASKED = 10_000
MIB = 1024 * 1024


@pytest.fixture
def alone(start_broker: StartBroker, shared_redis: EmbeddedServer) -> BrokerServer:
    """A broker with one worker, so that the flood meets everybody else."""
    return start_broker(shared_redis.url, workers=1)


async def flood(
    client: WebSocketClient, frames: list[dict[str, object]]
) -> Counter[str]:
    """Say all frames at once; how often each answer came until the connection ended."""
    for frame in frames:
        client.send(frame)
    answers: Counter[str] = Counter()
    try:
        while True:
            answer = await client.frame()
            answers[answer["data"].get("code") or answer["event"]] += 1
    except ConnectionEnded:
        return answers


async def answer_of(client: WebSocketClient) -> Frame:
    """What the next ``ack`` has brought, whichever way it went."""
    while (frame := await client.frame())["event"] not in {"ack", "error"}:
        pass
    return frame


@pytest.mark.parametrize("user", ["", "ada"])
async def test_a_flood_of_subscribes_ends_in_a_close(
    alone: BrokerServer, author: Author, session: str, user: str
) -> None:
    """What is over the limit is refused, the connection closed, and others are well."""
    other = await WebSocketClient.connect(alone.public, f"/v1/ws/{session}")
    await other.until("subscribed")
    before = processes.rss_bytes(alone.workers[0])
    query = {"user": user} if user else {}
    client = await WebSocketClient.connect(alone.public, "/v1/ws", query)
    flooding = asyncio.create_task(
        flood(
            client,
            [
                {"cmd": "subscribe", "data": {"session": f"{session}.{number}"}}
                for number in range(ASKED)
            ],
        )
    )
    await author.publish(session, event="meanwhile")
    async with asyncio.timeout(10):
        await other.until("meanwhile")
    answers = await flooding
    ended = await client.wait_ended()
    grown = processes.rss_bytes(alone.workers[0]) - before

    assert ended.code == 4508
    assert answers["rate_limited"] + answers["too_many_subscriptions"] >= 100
    assert answers["subscribed"] <= 101
    assert grown < 32 * MIB
    other.cut()


async def test_a_flood_of_commands_is_bounded_and_answered(
    alone: BrokerServer, author: Author, session: str
) -> None:
    """Who talks too much is told for each command; others talk on."""
    other = await WebSocketClient.connect(alone.public, f"/v1/ws/{session}")
    await other.until("subscribed")
    client = await WebSocketClient.connect(alone.public, f"/v1/ws/{session}")
    await client.until("subscribed")
    for number in range(ASKED):
        client.send({"cmd": "say", "id": f"{number}", "data": {"text": "x" * 100}})
    other.send({"cmd": "say", "id": "other-0001"})
    async with asyncio.timeout(5):
        ack = await other.until("ack")
    answers: Counter[str] = Counter()
    while answers.total() < ASKED:
        answers[(await client.frame())["event"]] += 1

    assert ack["data"]["ref"] == "other-0001"
    assert answers["ack"] < 200
    assert answers["error"] == ASKED - answers["ack"]
    client.cut()
    other.cut()


async def test_a_flood_of_acks_costs_a_write_now_and_then(
    alone: BrokerServer, author: Author, session: str
) -> None:
    """Commits of one consumer are one position, however many there are."""
    client = await WebSocketClient.connect(
        alone.public, f"/v1/ws/{session}", {"consumer": "c"}
    )
    await client.until("subscribed")
    await author.publish(session, event="e")
    frame = await client.until("e")
    # One place is for the broker itself, which stores again what Redis may have lost.
    asked = WAITERS_MAX - 1
    for number in range(asked):
        client.send(
            {"cmd": "ack", "id": f"{number}", "data": {"position": frame["id"]}}
        )
    answers = [await answer_of(client) for _ in range(asked)]

    assert [it for it in answers if it["event"] != "ack"] == []
    assert [it["data"]["ref"] for it in answers] == [str(n) for n in range(asked)]
    client.cut()
