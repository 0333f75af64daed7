"""Publishers that know which of their entries the stream has."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import orjson
from redis.asyncio import Connection, ConnectionPool, Redis
from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from broker.model import FIRST_ID, StreamId, parse_stream_id
from broker.store.address import Address, parse_url
from tests.harness.ledger import Ledger

CLIENT_NAME = "tests"
"""Tells the tests' own connections from the broker's."""
_SLICE_S = 0.01
_WAIT_MS = 4000
Fields = dict[Any, Any]


def connect(url: str) -> Redis:
    """A client that never sends a command twice."""
    options: dict[str, Any] = {
        "client_name": CLIENT_NAME,
        "protocol": 3,
        "socket_timeout": 5,
        "socket_connect_timeout": 5,
        "retry": Retry(NoBackoff(), 0),
    }
    address = parse_url(url)
    if address.kind == "sentinel":
        options |= {"password": address.password or None, "address": address}
        pool = ConnectionPool(connection_class=ToPrimary, **options)
        return Redis.from_pool(pool)
    if address.kind == "cluster":
        nodes = [ClusterNode(host, port) for host, port in address.nodes]
        cluster: Any = RedisCluster(startup_nodes=nodes, **options)
        return cluster  # type: ignore[no-any-return]
    return Redis.from_url(url, **options)


class ToPrimary(Connection):
    """A connection that asks a Sentinel where to go, each time anew."""

    def __init__(self, *, address: Address, **options: Any) -> None:
        super().__init__(**options)
        self._address = address

    async def _connect(self) -> None:
        host, port = self._address.nodes[0]
        reader, writer = await asyncio.open_connection(host, port)
        try:
            service = self._address.service
            writer.write(f"SENTINEL GET-MASTER-ADDR-BY-NAME {service}\r\n".encode())
            answer = [await reader.readline() for _ in range(5)]
        finally:
            writer.close()
            await writer.wait_closed()
        self.host, self.port = answer[2].decode().strip(), int(answer[4])
        await super()._connect()  # type: ignore[no-untyped-call]


def key_of(session: str) -> str:
    return f"broker:events:{session}"


class Author:
    """Publishes single entries and writes each into the ledger."""

    def __init__(self, redis: Redis, ledger: Ledger) -> None:
        self.redis = redis
        self.ledger = ledger
        self._numbers: defaultdict[str, int] = defaultdict(int)

    async def publish(
        self,
        session: str,
        count: int = 1,
        event: str = "tick",
        *,
        pad_bytes: int = 0,
        maxlen: int | None = None,
        **fields: Any,
    ) -> list[StreamId]:
        """Add *count* numbered entries at once; *fields* go into each of them."""
        # One transaction: with maxlen nobody can read what it trims at once.
        pipeline: Any = self.redis.pipeline(transaction=True)
        numbers = []
        for _ in range(count):
            self._numbers[session] += 1
            numbers.append(self._numbers[session])
            data = orjson.dumps({"i": numbers[-1], "pad": "x" * pad_bytes})
            entry: Fields = {"event": event, "data": data, **fields}
            pipeline.xadd(key_of(session), entry, maxlen=maxlen, approximate=False)
        ids = [parse_stream_id(raw) for raw in await pipeline.execute()]
        for entry_id, number in zip(ids, numbers, strict=True):
            self.ledger.published(session, entry_id, number)
        return ids

    async def publish_raw(
        self, session: str, fields: Mapping[str, str | bytes], entry_id: str = "*"
    ) -> StreamId:
        """Add an entry exactly as given; its data is not compared."""
        pairs = [part for pair in fields.items() for part in pair]
        redis: Any = self.redis
        raw = await redis.execute_command("XADD", key_of(session), entry_id, *pairs)
        stream_id = parse_stream_id(raw)
        self.ledger.published(session, stream_id, None)
        return stream_id

    async def delete(self, session: str) -> None:
        """DEL the stream, and let the millisecond of its last id pass.

        Where the new stream repeats ids of the old one nobody can tell them apart.
        """
        await self.redis.delete(key_of(session))
        last_ms, _n = self.ledger.current(session).last
        self.ledger.deleted(session)
        while await self._now_ms() <= last_ms:
            pass

    async def _now_ms(self) -> int:
        seconds, micros = await self.redis.time()
        return int(seconds) * 1000 + int(micros) // 1000


class RatePublisher:
    """Publishes at an exact rate over many sessions, through Redis outages.

    After a failure nobody knows which unanswered entries were stored, so before it
    goes on it reads them back by their numbers. That is exact as long as nothing
    trims the streams while the connection is down.

    With *copies* an entry counts once so many replicas have it; after the first failure
    the server is alone.

    Attributes:
        ledger: Gets every entry that the stream has.
        published: How many that were.
    """

    def __init__(
        self,
        url: str,
        ledger: Ledger,
        sessions: Sequence[str],
        rate_per_s: float,
        *,
        payload_bytes: int = 200,
        maxlen: int | None = None,
        burst: int = 1,
        first: int = 0,
        copies: int = 0,
    ) -> None:
        self.ledger = ledger
        self.published = 0
        self._redis = connect(url)
        self._sessions = sessions
        self._rate_per_s = rate_per_s
        self._pad = "x" * payload_bytes
        self._maxlen = maxlen
        self._burst = burst
        self._next = first
        self._copies = copies

    async def run(self, seconds: float) -> None:
        """Publish for *seconds*; returns when every entry is accounted for."""
        loop = asyncio.get_running_loop()
        start, sent = loop.time(), 0
        try:
            while (elapsed := loop.time() - start) < seconds:
                due = int(elapsed * self._rate_per_s) - sent
                if due >= self._burst:
                    sent += due
                    await self._publish(due)
                await asyncio.sleep(_SLICE_S)
        finally:
            await self._redis.aclose()

    async def _publish(self, count: int) -> None:
        batch = [self._entry() for _ in range(count)]
        pipeline: Any = self._redis.pipeline(transaction=False)
        for session, _, fields in batch:
            pipeline.xadd(
                key_of(session), fields, maxlen=self._maxlen, approximate=False
            )
        if self._copies:
            # Nobody reads an entry before it was sent to the replicas, which happens
            # together with this answer.
            pipeline.wait(self._copies, _WAIT_MS)
        try:
            replies = await pipeline.execute(raise_on_error=False)
        except (RedisError, OSError):
            replies = None
        if replies is None or (self._copies and replies.pop() < self._copies):
            self._copies = 0
            await self._resolve(batch)
            return
        lost = []
        for entry, reply in zip(batch, replies, strict=True):
            if isinstance(reply, bytes):
                self._took(entry[0], parse_stream_id(reply), entry[1])
            else:
                lost.append(entry)
        if lost:
            await self._resolve(lost)

    def _entry(self) -> tuple[str, int, Fields]:
        session = self._sessions[self._next % len(self._sessions)]
        self._next += 1
        data = orjson.dumps({"i": self._next, "pad": self._pad})
        return session, self._next, {"event": "tick", "data": data}

    def _took(self, session: str, entry_id: StreamId, number: int) -> None:
        self.ledger.published(session, entry_id, number)
        self.published += 1

    async def _resolve(self, batch: list[tuple[str, int, Fields]]) -> None:
        """Find out which entries of *batch* were stored although no answer came."""
        for session in {entry[0] for entry in batch}:
            for entry_id, number in await self._stored_after(session):
                self._took(session, entry_id, number)

    async def _stored_after(self, session: str) -> list[tuple[StreamId, int]]:
        life = self.ledger.current(session)
        after = f"({life.last[0]}-{life.last[1]}" if life.last != FIRST_ID else "-"
        while True:
            try:
                stored: Any = await self._redis.xrange(key_of(session), min=after)
            except (RedisError, OSError):
                await asyncio.sleep(0.05)
                continue
            return [
                (parse_stream_id(raw), orjson.loads(fields[b"data"])["i"])
                for raw, fields in stored
            ]
