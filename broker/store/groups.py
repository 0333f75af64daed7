"""One consumer of a consumer group, on connections of its own.

Not redis-py's: a pool may hand out a connection that another read blocks, and a library
that sends a read again on a new connection loses what was delivered to the old one.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any, Literal

import msgspec

from broker.errors import StoreError, StoreRefused
from broker.model import StreamId, parse_stream_id
from broker.store.cluster import open_connection
from broker.store.connection import Connection
from broker.store.scripts import script

Origin = Literal["0", "$"]
"""Where a group begins: at the first entry there is, or behind the last one."""

DEAD_STREAM = "broker:dead"
DEAD_MAX_LEN = 100_000
ANSWER_S = 5.0
"""How long a read may take beyond what it blocks, and everything else at all."""
LEAVE_S = 1.0
"""How long leaving may take: whoever leaves wants to end."""


class Delivered(msgspec.Struct, frozen=True, gc=False):
    """An entry that the group has given to this consumer.

    Attributes:
        id: The id of the entry.
        fields: Name, value, name, value, ...; None if it was deleted meanwhile.
    """

    id: StreamId
    fields: list[bytes] | None

    @property
    def id_text(self) -> str:
        """The id as Redis writes it."""
        return _text(self.id)


class GroupConsumer:
    """Reads one stream as one consumer of one group; ends when a connection is lost.

    Entries are read one at a time, so what is delivered is what is handed on, and the
    number of deliveries that Redis counts is right also for those behind an entry that
    kills its consumer.
    """

    def __init__(
        self,
        reading: Connection,
        acting: Connection,
        stream: str,
        group: str,
        consumer: str,
    ) -> None:
        """Use `open`.

        Args:
            reading: For reads, which block.
            acting: For all else, which must not wait for them.
            stream: The key.
            group: The group; it exists.
            consumer: The name of this consumer.
        """
        self._reading = reading
        self._acting = acting
        self._key = stream
        self._group = group
        self._consumer = consumer

    @classmethod
    async def open(
        cls,
        url: str,
        stream: str,
        group: str,
        consumer: str,
        *,
        origin: Origin,
        block_s: float,
    ) -> GroupConsumer:
        """Connect, and make stream and group where there are none.

        Args:
            url: As `broker.store.address.parse_url` reads it.
            stream: The key.
            group: The name of the group.
            consumer: The name of the consumer.
            origin: Where a group that is made now begins.
            block_s: How long the longest read blocks.

        Raises:
            ConfigError: The URL cannot be used.
            StoreUnavailable: Nobody answers there, or not in time, or not yet.
            StoreRefused: Log-in or stream are refused.
            ServerUnsuitable: The server does not speak RESP3.
        """
        name = "broker-client-commands"
        reading = await open_connection(
            url, client_name=name, command_timeout_s=block_s + ANSWER_S
        )
        try:
            acting = await open_connection(
                url, client_name=name, command_timeout_s=ANSWER_S
            )
        except BaseException:
            reading.close()
            raise
        opened = cls(reading, acting, stream, group, consumer)
        try:
            await opened._make_group(origin)
        except BaseException:
            opened.close()
            raise
        return opened

    async def _make_group(self, origin: Origin) -> None:
        try:
            await self._acting.call(
                *("XGROUP", "CREATE", self._key, self._group, origin, "MKSTREAM")
            )
        except StoreRefused as error:
            if error.kind != "BUSYGROUP":
                raise

    @property
    def closed(self) -> bool:
        """Whether a connection was lost, so that another consumer must be opened."""
        return self._reading.closed or self._acting.closed

    def close(self) -> None:
        """End the connections; what was delivered stays with this consumer's name."""
        self._reading.close()
        self._acting.close()

    async def read_own(self, after: StreamId) -> Delivered | None:
        """What was delivered under this name and not acknowledged: the first *after*.

        Raises:
            StoreUnavailable: No connection, or the server is not ready.
            StoreRefused: The group is gone (``NOGROUP``), or may not be read.
        """
        # Behind a read that somebody no longer waits for, so its entry is found.
        return self._first(await self._reading.call(*self._read(), _text(after)))

    async def read_new(self, block_s: float) -> Delivered | None:
        """The next entry that nobody was given; None if none came within *block_s*.

        Raises:
            StoreUnavailable: No connection, or the server is not ready.
            StoreRefused: The group is gone (``NOGROUP``, ``UNBLOCKED``), or may not be
                read.
        """
        block = ("BLOCK", int(block_s * 1000))
        return self._first(await self._reading.call(*self._read(*block), ">"))

    def _read(self, *options: str | int) -> tuple[str | int, ...]:
        who = ("XREADGROUP", "GROUP", self._group, self._consumer)
        return (*who, "COUNT", 1, *options, "STREAMS", self._key)

    def _first(self, reply: dict[bytes, list[Any]] | None) -> Delivered | None:
        entries = (reply or {}).get(self._key.encode())
        return _delivered(entries[0]) if entries else None

    async def claim(
        self, idle_s: float, start: StreamId
    ) -> tuple[StreamId, Delivered | None]:
        """Take over one entry that was delivered *idle_s* ago and not acknowledged.

        Args:
            idle_s: For how long nobody has done anything with it.
            start: Where to begin; only some entries from there are looked at.

        Returns:
            Where to go on, ``(0, 0)`` at the end, and the entry if there was one.

        Raises:
            StoreUnavailable: No connection, or the server is not ready.
            StoreRefused: The group is gone (``NOGROUP``), or may not be read.
        """
        following, entries, *_ = await self._reading.call(
            *("XAUTOCLAIM", self._key, self._group, self._consumer),
            *(int(idle_s * 1000), _text(start), "COUNT", 1),
        )
        found = _delivered(entries[0]) if entries else None
        return parse_stream_id(following), found

    async def deliveries(self, entry: Delivered) -> int:
        """How often *entry* was delivered to anybody, this time included.

        Raises:
            StoreUnavailable: No connection, or the server is not ready.
            StoreRefused: The group is gone (``NOGROUP``), or may not be read.
        """
        name = entry.id_text
        found = await self._acting.call(
            "XPENDING", self._key, self._group, name, name, 1
        )
        return int(found[0][3]) if found else 1

    async def acknowledge(self, entry_id: str) -> None:
        """Have it delivered to nobody again.

        Raises:
            StoreUnavailable: No connection, or the server is not ready.
            StoreRefused: The key holds no stream, or may not be changed.
        """
        await self._acting.call("XACK", self._key, self._group, entry_id)

    async def bury(self, entry: Delivered, reason: str, deliveries: int) -> None:
        """Put *entry* with its fields into the stream of dead ones, and acknowledge it.

        In two steps, since they are two slots: it may be buried twice, never not.

        Raises:
            StoreUnavailable: No connection, or the server is not ready.
            StoreRefused: One of the streams may not be changed.
        """
        about = (
            *("reason", reason, "from_stream", self._key, "from_id", entry.id_text),
            *("from_group", self._group, "from_consumer", self._consumer),
            *("deliveries", deliveries),
        )
        await self._acting.call(
            *("XADD", DEAD_STREAM, "MAXLEN", "~", DEAD_MAX_LEN, "*"),
            *about,
            *(entry.fields or ()),
        )
        await self.acknowledge(entry.id_text)

    async def leave(self) -> None:
        """Take this consumer's name out of the group, unless it still holds entries.

        Never fails, and takes a second at most: a name that stays does no harm.
        """
        text = script("leave_group").text
        with contextlib.suppress(StoreError, TimeoutError):
            async with asyncio.timeout(LEAVE_S):
                await self._acting.call(
                    "EVAL", text, 1, self._key, self._group, self._consumer
                )


def _delivered(raw: Any) -> Delivered:
    return Delivered(parse_stream_id(raw[0]), raw[1])


def _text(stream_id: StreamId) -> str:
    return f"{stream_id[0]}-{stream_id[1]}"
