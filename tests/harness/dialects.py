"""What a client of each protocol reads of one session, as the numbers in its events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import Any, NamedTuple

import orjson
from websockets.asyncio.client import connect

from tests.harness.client import Address
from tests.harness.sse import SseClient

Find = Callable[[str], Any]


class Protocol(NamedTuple):
    """One way to read a session from its beginning.

    Attributes:
        name: As in test ids.
        path: With ``{session}``.
        hello: What the client says first; empty for nothing.
        data_of: The event's data in a frame, None where it is no event.
    """

    name: str
    path: str
    hello: str
    data_of: Find


def _native(text: str) -> Any:
    frame = orjson.loads(text)
    return frame["data"] if "id" in frame else None


def _socket_io(text: str) -> Any:
    if not text.startswith("42"):
        return None
    _name, data = orjson.loads(text[2:])
    return data


def _events(text: str) -> Any:
    event = orjson.loads(text)
    return None if event.get("kind") == "ConversationStateUpdateEvent" else event


def _session(text: str) -> Any:
    frame = orjson.loads(text)
    return frame["event"] if frame["type"] == "durable" else None


def _council(text: str) -> Any:
    frame = orjson.loads(text)
    return frame["data"] if frame["event"] == "oh_event" else None


PROTOCOLS = (
    Protocol("native", "/v1/ws/{session}?last_event_id=0", "", _native),
    Protocol(
        "socket.io",
        "/socket.io/?EIO=4&transport=websocket&conversation_id={session}"
        "&latest_event_id=-1&providers_set=&session_api_key=null",
        "40",
        _socket_io,
    ),
    Protocol("events", "/sockets/events/{session}?resend_mode=all", "", _events),
    Protocol("session", "/sockets/session/{session}?after_seq=-1", "", _session),
    Protocol("council", "/ws?session={session}&last_event_id=0", "", _council),
)


async def read(
    protocol: Protocol, address: Address, session: str
) -> AsyncGenerator[dict[str, Any], None]:
    """The data of each event that the session has and gets, in the order of arrival.

    The socket is open until the generator is closed.
    """
    url = f"ws://{address[0]}:{address[1]}{protocol.path.format(session=session)}"
    async with connect(url, max_size=None, ping_interval=None) as socket:
        if protocol.hello:
            await socket.send(protocol.hello)
        async for text in socket:
            data = protocol.data_of(str(text))
            if data is not None:
                yield data


async def read_sse(address: Address, session: str, count: int) -> list[dict[str, Any]]:
    """The data of the first *count* events of the session as an event stream."""
    found: list[dict[str, Any]] = []
    whole = asyncio.Event()

    def take(frame: dict[str, Any]) -> None:
        if "id" in frame:
            found.append(frame["data"])
        if len(found) >= count:
            whole.set()

    client = await SseClient.connect(
        address, f"/v1/sse/{session}", {"last_event_id": "0"}, on_frame=take
    )
    try:
        await whole.wait()
    finally:
        await client.close()
    return found
