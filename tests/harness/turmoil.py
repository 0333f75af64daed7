"""Everything that a dashboard can show, done to two brokers in half a minute.

It asserts nothing about the broker: each step waits until its effect is there.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

from redis.asyncio import Redis

from tests.harness.client import Refused, WebSocketClient
from tests.harness.ledger import Ledger
from tests.harness.load import replaced, until
from tests.harness.processes import stopped
from tests.harness.publisher import Author, RatePublisher, connect, key_of
from tests.harness.servers import BrokerServer
from tests.harness.sse import SseClient
from tests.harness.tokens import SECRET, bearer, token

Trouble = Callable[[], Awaitable[None]]

OPEN: dict[str, object] = {"max_connections_per_session": 15, "session_lease_s": 6}
"""Settings of the first broker: it believes everybody."""
GUARDED: dict[str, object] = {
    "admin_host": "127.0.0.2",
    "auth": "jwt",
    "jwt_secret": SECRET,
}
"""Settings of the second: it asks for tokens. By its address it is another pod."""
EXPECTED = "child_ended|probe|redis_unavailable|stream_unreadable"
"""What stands in the logs because of what is done here."""

_LIVE = [f"live-{number}" for number in range(4)]
_READERS = 24
_RATE_PER_S = 200.0
_PATIENCE_S = 30.0
_STALLED_COUNT, _STALLED_BYTES = 300, 8_000


class Turmoil:
    """Clients and publishers of two brokers, and the trouble they make."""

    def __init__(
        self, redis_url: str, first: BrokerServer, second: BrokerServer
    ) -> None:
        self._url = redis_url
        self._first = first
        self._second = second
        self._redis: Redis = connect(redis_url)
        self._author = Author(self._redis, Ledger())
        self._sockets: list[WebSocketClient] = []
        self._streams: list[SseClient] = []

    async def prepare(self) -> None:
        """Publish what is there before the brokers are."""
        await self._author.publish("old", 500, pad_bytes=500)

    @asynccontextmanager
    async def load(self) -> AsyncIterator[None]:
        """Publish and read as on any day, for as long as the block lasts."""
        for number in range(_READERS):
            await self._read_live(number)
        publisher = RatePublisher(self._url, Ledger(), _LIVE, _RATE_PER_S, maxlen=5000)
        publishing = asyncio.create_task(publisher.run(3600))
        try:
            yield
        finally:
            # redis-py swallows a cancellation that comes at a bad moment.
            while not publishing.done():
                publishing.cancel()
                await asyncio.wait([publishing], timeout=1)

    @property
    def troubles(self) -> tuple[Trouble, ...]:
        """Everything that can happen, to be done one after the other."""
        return (
            *(self._restart_worker, self._replay, self._resume_after_trimming),
            *(self._trim_unread, self._publish_nonsense, self._begin_anew),
            *(self._evict, self._command, self._talk_nonsense, self._be_refused),
            *(self._show_bad_tokens, self._lose_redis, self._spoil, self._leave),
            self._stall,
        )

    async def close(self) -> None:
        """Let everybody go."""
        for socket in self._sockets:
            socket.cut()
        for stream in self._streams:
            await stream.close()
        await self._redis.aclose()

    async def _join(
        self,
        session: str,
        query: dict[str, str | int] | None = None,
        **options: Any,
    ) -> WebSocketClient:
        client = await self._connect(f"/v1/ws/{session}", query, **options)
        self._sockets.append(client)
        await client.until("subscribed")
        return client

    async def _connect(
        self, path: str, query: dict[str, str | int] | None, **options: Any
    ) -> WebSocketClient:
        """As often as it is refused because the reader is away after other trouble."""
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            try:
                return await WebSocketClient.connect(
                    self._first.public, path, query, **options
                )
            except Refused as refused:
                if refused.status != 503 or time.monotonic() > deadline:
                    raise
            await asyncio.sleep(0.2)

    async def _read_live(self, number: int) -> None:
        """Readers of each kind, on both brokers; what they get is thrown away."""
        session, user = _LIVE[number % len(_LIVE)], f"user-{number}"
        match number % 5:
            case 0:
                await self._read_stream(session, user)
            case 1:
                headers = bearer(token(user))
                await self._read(self._second, f"/v1/ws/{session}", headers=headers)
            case 2:
                await self._read(self._first, "/ws", {"session": session})
            case _:
                await self._read(
                    self._first,
                    f"/v1/ws/{session}",
                    {"user": user, "consumer": "c", "ack": "auto"},
                )

    async def _read(
        self,
        broker: BrokerServer,
        path: str,
        query: dict[str, str | int] | None = None,
        **options: Any,
    ) -> None:
        options.setdefault("subprotocols", ())
        client = await WebSocketClient.connect(
            broker.public, path, query, on_frame=_ignore, **options
        )
        self._sockets.append(client)

    async def _read_stream(self, session: str, user: str) -> None:
        stream = await SseClient.connect(
            self._first.public, f"/v1/sse/{session}", {"user": user}, on_frame=_ignore
        )
        self._streams.append(stream)

    async def _replay(self) -> None:
        """From Redis what is older than the pod, from the ring what is not."""
        client = await self._join("old", {"last_event_id": "0"})
        await client.until("caught_up")
        await self._author.publish("old", 50)
        again = await self._join("old", {"last_event_id": "-20"})
        await again.until("caught_up")

    async def _resume_after_trimming(self) -> None:
        ids = await self._author.publish("trimmed", 100)
        await self._redis.xtrim(key_of("trimmed"), maxlen=20, approximate=False)
        known, unknown = f"{ids[9][0]}-{ids[9][1]}@10", f"{ids[9][0]}-{ids[9][1]}"
        for position in (known, unknown):
            client = await self._join("trimmed", {"last_event_id": position})
            await client.until("gap")

    async def _trim_unread(self) -> None:
        client = await self._join("fast")
        with stopped(self._first.reader):
            await self._author.publish("fast", 200, maxlen=20)
        await client.until("gap")

    async def _publish_nonsense(self) -> None:
        client = await self._join("nonsense")
        await self._author.publish_raw("nonsense", {"data": "1"})
        await self._author.publish_raw("nonsense", {"event": "e", "data": "{"})
        await client.until("skipped")

    async def _begin_anew(self) -> None:
        await self._author.publish("anew", 10)
        client = await self._join("anew")
        await self._author.delete("anew")
        await self._author.publish("anew", 3)
        await client.until("reset")

    async def _evict(self) -> None:
        clients = [await self._join(f"seat-{n}", {"user": "eve"}) for n in range(5)]
        await clients[0].wait_ended()
        await clients[1].wait_ended()

    async def _command(self) -> None:
        client = await self._join("asking", {"user": "bob"})
        for number in range(60):
            client.send({"cmd": "start", "id": f"c{number}", "data": {"n": number}})
        await client.until("error")

    async def _talk_nonsense(self) -> None:
        client = await self._join("asking", {"user": "bob"})
        client.send_frame(1, b"{")
        await client.until("error")

    async def _be_refused(self) -> None:
        for _ in range(45):
            with suppress(Refused):
                await self._join("popular")
        with suppress(Refused):
            await self._join("n" * 200, subprotocols=())

    async def _show_bad_tokens(self) -> None:
        for text in ("nonsense", token(key="x" * 32), token(lives_s=-60)):
            with suppress(Refused):
                await WebSocketClient.connect(
                    self._second.public,
                    "/v1/ws/live-0",
                    headers=bearer(text),
                    subprotocols=(),
                )

    async def _restart_worker(self) -> None:
        dead = self._first.workers[0]
        os.kill(dead, signal.SIGKILL)
        await replaced(self._first, "worker", dead)
        await until(self._is_let_in, 30, "worker in the place of another")
        for number in range(_READERS, 2 * _READERS):
            await self._read_live(number)

    async def _lose_redis(self) -> None:
        """The readers' connections are cut; they connect again."""
        redis: Any = self._redis
        clients = await redis.client_list()
        for one in clients:
            if "reader" in one["name"]:
                await redis.client_kill(one["addr"])
        await until(self._is_let_in, 30, "connection after the loss of Redis")

    async def _is_let_in(self) -> bool:
        try:
            await self._join("back")
        except Refused:
            return False
        return True

    async def _spoil(self) -> None:
        """The key of a session that is read comes to hold something else."""
        client = await self._join("odd")
        await self._redis.set(key_of("odd"), "no stream")
        await client.until("error")

    async def _leave(self) -> None:
        for _ in range(5):
            client = await self._join("left")
            await client.close()

    async def _stall(self) -> None:
        """Sockets that take nothing, under each policy; they stay behind."""
        healthy = await self._join("loud")
        for overflow in ("lag", "lag", "latest", "drop", "close"):
            client = await self._join(
                "loud", {"overflow": overflow}, receive_buffer_bytes=4096
            )
            client.pause()
        await self._publish_loud("last")
        await healthy.until("last", 30)
        for client in self._sockets[-3:-1]:  # latest and drop go on, and meet a gap
            client.resume()
            await client.until("gap", 30)

    async def _publish_loud(self, last: str) -> None:
        for _ in range(_STALLED_COUNT // 10):
            await self._author.publish("loud", 10, pad_bytes=_STALLED_BYTES, key="k")
        await self._author.publish("loud", event=last)


def _ignore(frame: Any) -> None:
    del frame
