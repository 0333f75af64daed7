"""Clients of the council hub, and what the hub is published."""

from __future__ import annotations

from typing import Any

import orjson
from redis.asyncio import Redis

from tests.harness.client import Frame, WebSocketClient
from tests.harness.publisher import key_of
from tests.harness.servers import BrokerServer


async def enter(
    server: BrokerServer, query: str = "", **options: Any
) -> WebSocketClient:
    """A client of ``/ws`` that offers no subprotocol, as a page does."""
    options.setdefault("subprotocols", ())
    path = f"/ws?{query}" if query else "/ws"
    return await WebSocketClient.connect(server.public, path, **options)


async def publish(redis: Redis, session: str, event: str, **data: Any) -> str:
    """Add one entry; its id."""
    (entry_id,) = await publish_all(redis, session, [(event, data)])
    return entry_id


async def publish_all(
    redis: Redis, session: str, entries: list[tuple[str, dict[str, Any]]]
) -> list[str]:
    """Add entries in one transaction; their ids."""
    pipeline: Any = redis.pipeline(transaction=True)
    for event, data in entries:
        fields = {"event": event, "data": orjson.dumps(data)}
        pipeline.xadd(key_of(session), fields)
    return [raw.decode() for raw in await pipeline.execute()]


async def take(client: WebSocketClient, count: int) -> list[Frame]:
    """The next frames, whatever they are."""
    return [await client.frame() for _ in range(count)]


def session_of(frame: Frame) -> str:
    """Which session a frame is of, or is about."""
    session: str = frame["data"]["session_uuid"]
    return session


async def said(redis: Redis, session: str) -> list[dict[str, Any]]:
    """The commands to *session* in the command stream, in their order."""
    entries: Any = await redis.xrange("broker:commands")
    texts = [
        {name.decode(): value.decode() for name, value in fields.items()}
        for _id, fields in entries
    ]
    return [
        text | {"data": orjson.loads(text["data"])}
        for text in texts
        if text["session"] == session
    ]


async def until_said(
    redis: Redis, client: WebSocketClient, session: str
) -> list[dict[str, Any]]:
    """The commands to *session*, once all that *client* has said is done.

    What cannot be done is answered behind everything that was said before.
    """
    client.send({"cmd": "pause_session", "data": {"session_id": "_nowhere"}})
    await client.until("error")
    return await said(redis, session)
