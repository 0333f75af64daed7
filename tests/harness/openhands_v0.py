"""V0 conversations: events as OpenHands writes them, and a client without a library."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any, Self
from urllib.parse import urlencode

import orjson
from redis.asyncio import Redis
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from tests.harness.client import Address
from tests.harness.publisher import key_of

Json = dict[str, Any]


def message(number: int, text: str = "hi") -> Json:
    """Somebody says something."""
    return {
        "id": number,
        "timestamp": "2025-11-21T08:57:20.166524",
        "source": "agent",
        "message": text,
        "action": "message",
        "args": {"content": text, "wait_for_response": False},
    }


def state(number: int, name: str) -> Json:
    """The agent stands differently."""
    return {
        "id": number,
        "timestamp": "2025-11-21T08:57:20.166524",
        "source": "environment",
        "message": "",
        "observation": "agent_state_changed",
        "content": "",
        "extras": {"agent_state": name, "reason": ""},
    }


async def publish(
    redis: Redis, session: str, events: Iterable[Json], **fields: str | int
) -> None:
    """Add events to a conversation, each for itself."""
    for event in events:
        entry: dict[Any, Any] = {
            "event": "oh_event",
            "data": orjson.dumps(event),
            **fields,
        }
        await redis.xadd(key_of(session), entry)


def path(query: dict[str, Any]) -> str:
    """Where V0 clients connect."""
    return "/socket.io/?" + urlencode({"EIO": "4", "transport": "websocket", **query})


class Raw:
    """A socket that speaks packets as they stand on the wire; it answers pings.

    Attributes:
        opened: What the server said first.
        pings: How many pings came.
        answers_pings: Whether it does so.
    """

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.opened: Json = {}
        self.pings = 0
        self.answers_pings = True

    @classmethod
    async def open(
        cls,
        address: Address,
        query: dict[str, Any],
        *,
        headers: Sequence[tuple[str, str]] = (),
        **options: Any,
    ) -> Self:
        """Open a socket up to Engine.IO's handshake."""
        url = f"ws://{address[0]}:{address[1]}{path(query)}"
        socket = await connect(url, additional_headers=list(headers), **options)
        raw = cls(socket)
        packet = await raw.next()
        assert packet.startswith("0")
        raw.opened = orjson.loads(packet[1:])
        return raw

    @classmethod
    async def join(
        cls, address: Address, session: str, latest: int = -1, **options: Any
    ) -> tuple[Self, list[Json]]:
        """Connect as a page does; returns the events that came before it was told so.

        Args:
            address: Of the broker.
            session: The conversation.
            latest: Number of the last event that it has.
            options: ``user`` goes into the URL, the rest is for the socket.
        """
        query = {"conversation_id": session, "latest_event_id": latest}
        if "user" in options:
            query["user"] = options.pop("user")
        raw = await cls.open(address, query, **options)
        await raw.send("40")
        return raw, await raw.replay()

    async def send(self, packet: str | bytes) -> None:
        await self.socket.send(packet)

    async def next(self, timeout_s: float = 10) -> str:
        """The next packet that is no ping."""
        async with asyncio.timeout(timeout_s):
            while True:
                packet = await self.socket.recv()
                assert isinstance(packet, str)
                if packet != "2":
                    return packet
                self.pings += 1
                if self.answers_pings:
                    await self.socket.send("3")

    async def event(self) -> Json:
        """The next packet, which is an ``oh_event``."""
        return event_of(await self.next())

    async def events(self, count: int) -> list[Json]:
        return [await self.event() for _ in range(count)]

    async def replay(self) -> list[Json]:
        """All events before the packet that says it is connected."""
        events = []
        while not (packet := await self.next()).startswith("40"):
            events.append(event_of(packet))
        return events

    async def until_end(self) -> tuple[list[str], int | None]:
        """What comes before the end, and the close code, None if it was cut."""
        packets: list[str] = []
        try:
            while True:
                packets.append(await self.next())
        except ConnectionClosed as closed:
            return packets, closed.rcvd.code if closed.rcvd else None

    async def close(self) -> None:
        await self.socket.close()


def event_of(packet: str) -> Json:
    """The payload of an ``oh_event`` packet."""
    assert packet.startswith('42["oh_event",'), packet
    payload: Json = orjson.loads(packet[2:])[1]
    return payload


def ids(events: Iterable[Json]) -> list[Any]:
    """Their numbers."""
    return [event.get("id") for event in events]
