"""OpenHands conversations: what services publish, and what clients of V1 receive."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from typing import Any

import pytest
from redis.asyncio import Redis

from broker.model import StreamId, parse_stream_id
from tests.harness.client import (
    ConnectionEnded,
    Ended,
    Frame,
    Refused,
    WebSocketClient,
)
from tests.harness.publisher import key_of
from tests.harness.servers import BrokerServer
from tests.harness.tokens import SECRET

STATE = "ConversationStateUpdateEvent"
GUARDED: dict[str, object] = {
    "auth": "jwt",
    "jwt_secret": SECRET,
    "auth_timeout_s": 1,
    "jwt_leeway_s": 0,
    "max_sessions_per_user": 1,
    "max_connections_per_session": 2,
    "command_rate_per_s": 2,
    "origins": "https://app.example",
    "admin_token": "operator",
}
"""Settings of a broker that asks for keys and lets each user have one session."""
BEGIN = datetime.fromisoformat("2026-01-01T10:00:00")


class Conversation:
    """The event stream of one session; messages are numbered from 1 on.

    Attributes:
        said: How many messages were published.
    """

    def __init__(self, redis: Redis, session: str) -> None:
        self.redis: Any = redis
        self.session = session
        self.key = key_of(session)
        self.said = 0

    async def publish(self, event: dict[str, Any], **fields: Any) -> StreamId:
        entry = {"event": "oh_event", "data": json.dumps(event), **fields}
        return parse_stream_id(await self.redis.xadd(self.key, entry))

    async def say(self, count: int = 1, *, pad: int = 0) -> list[StreamId]:
        """Add messages, at once; number N happened N seconds after `BEGIN`."""
        pipeline: Any = self.redis.pipeline(transaction=False)
        for _ in range(count):
            self.said += 1
            event = {
                "id": f"m{self.said}",
                "timestamp": time_of(self.said),
                "source": "agent",
                "pad": "x" * pad,
                "kind": "MessageEvent",
            }
            entry = {"event": "oh_event", "data": json.dumps(event)}
            pipeline.xadd(self.key, entry)
        return [parse_stream_id(raw) for raw in await pipeline.execute()]

    async def stream(self, count: int, *, pause_s: float = 0.001) -> None:
        """Add messages one by one."""
        for _ in range(count):
            await self.say()
            await asyncio.sleep(pause_s)

    async def stammer(self, count: int) -> None:
        """Add deltas, at once."""
        delta = {"kind": "StreamingDeltaEvent", "content": "Hel"}
        pipeline: Any = self.redis.pipeline(transaction=False)
        for _ in range(count):
            entry = {"event": "oh_event", "data": json.dumps(delta), "transient": 1}
            pipeline.xadd(self.key, entry)
        await pipeline.execute()

    async def happen(self, *seconds: float) -> list[StreamId]:
        """Add events that happened so many seconds after `BEGIN`."""
        return [
            await self.publish({"kind": "MessageEvent", "timestamp": time_of(at)})
            for at in seconds
        ]

    async def show(self, **value: Any) -> StreamId:
        """Add a snapshot."""
        return await self.publish(snapshot(**value), transient=1)

    async def turn(self, status: str, **fields: Any) -> StreamId:
        """Add a change of the status."""
        event = {"kind": STATE, "key": "execution_status", "value": status}
        return await self.publish(event, **fields)

    async def commands(
        self, least: int = 0, timeout_s: float = 10
    ) -> list[dict[str, str]]:
        """What users have said to it, as soon as that is at least so much."""
        async with asyncio.timeout(timeout_s):
            while len(said := await self._commands()) < least:
                await self.redis.xread({"broker:commands": "$"}, block=50)
        return said

    async def _commands(self) -> list[dict[str, str]]:
        found = await self.redis.xrange("broker:commands")
        said = [
            {k.decode(): v.decode() for k, v in entry.items()} for _, entry in found
        ]
        return [one for one in said if one["session"] == self.session]


def snapshot(**value: Any) -> dict[str, Any]:
    return {"id": "snapshot", "kind": STATE, "key": "full_state", "value": value}


def time_of(seconds: float) -> str:
    moment = BEGIN + timedelta(seconds=seconds)
    return moment.isoformat(timespec="microseconds")


# What clients receive.


async def listen(
    at: BrokerServer, path: str, query: str = "", **options: Any
) -> WebSocketClient:
    """Open a socket of V1, such as ``events/<conversation>``."""
    where = f"/sockets/{path}" + (f"?{query}" if query else "")
    return await WebSocketClient.connect(at.public, where, subprotocols=(), **options)


async def refused(
    at: BrokerServer, path: str, query: str = "", **options: Any
) -> Refused:
    """Try to open a socket of V1, in vain."""
    with pytest.raises(Refused) as caught:
        await listen(at, path, query, **options)
    return caught.value


def auth(text: object, **more: object) -> dict[str, object]:
    """The frame that shows a key."""
    return {"type": "auth", "session_api_key": text, **more}


async def read_until(
    client: WebSocketClient, wanted: Callable[[Frame], bool], timeout_s: float = 10
) -> list[Frame]:
    """All frames up to one that is *wanted*, which is the last of them."""
    frames: list[Frame] = []
    async with asyncio.timeout(timeout_s):
        while not frames or not wanted(frames[-1]):
            frames.append(await client.frame(timeout_s))
    return frames


async def rest(client: WebSocketClient) -> tuple[list[Frame], Ended]:
    """What a client was still sent, and how it ended."""
    end = await client.wait_ended()
    frames: list[Frame] = []
    while True:
        try:
            frames.append(await client.frame())
        except ConnectionEnded:
            return frames, end


def is_message(number: int) -> Callable[[Frame], bool]:
    """Whether a frame is the message of that number, on either socket."""
    return lambda frame: frame.get("event", frame).get("id") == f"m{number}"


def says(**fields: Any) -> Callable[[Frame], bool]:
    """Whether a frame has all these fields."""
    return lambda frame: fields.items() <= frame.items()


def messages(frames: Iterable[Frame]) -> list[int]:
    """The numbers of the messages among some frames, on either socket."""
    events = [frame.get("event", frame) for frame in frames]
    return [int(e["id"][1:]) for e in events if e.get("kind") == "MessageEvent"]


def states(frames: Iterable[Frame]) -> list[object]:
    """The values of the states among some frames, on either socket."""
    events = [frame.get("event", frame) for frame in frames]
    return [e["value"] for e in events if e.get("kind") == STATE]
