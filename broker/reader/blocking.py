"""The doorbell for servers without usable ``CLIENT TRACKING``: ``XREAD BLOCK``.

Groups of at most ``GROUP_MAX`` keys block on a connection each. What they find only
marks keys dirty; the pump reads them as it does after a ring, so positions, gaps and
resets have one owner. Limits: one connection per 256 sessions (give it up to 10 000
sessions), and a session that joins a blocked group is heard after at most
``BLOCK_MS``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from broker.errors import StoreRefused, StoreUnavailable
from broker.reader.together import worst
from broker.reader.watched import Watched
from broker.reader.watches import Watches
from broker.store.connection import Connection

GROUP_MAX = 256
BLOCK_MS = 1000

Connect = Callable[[], Awaitable[Connection]]


class BlockingDoorbell:
    """Marks watched streams dirty when they have grown."""

    def __init__(
        self, watches: Watches, connect: Connect, wake: Callable[[], None]
    ) -> None:
        self._watches = watches
        self._connect = connect
        self._wake = wake
        self._read = asyncio.Event()

    def note_read(self) -> None:
        """Say that the pump has read a batch, so cursors have moved."""
        self._read.set()

    async def run(self) -> None:
        """Keep as many groups as there are keys for.

        Raises:
            StoreError: A connection was lost, or could not be opened.
        """
        try:
            async with asyncio.TaskGroup() as groups:
                started = 0
                while True:
                    needed = (len(self._watches) + GROUP_MAX - 1) // GROUP_MAX
                    while started < max(needed, 1):
                        groups.create_task(self._run_group(started))
                        started += 1
                    await asyncio.sleep(BLOCK_MS / 1000)
        except ExceptionGroup as failed:
            raise worst(failed.exceptions) from None

    async def _run_group(self, number: int) -> None:
        connection = await self._connect()
        try:
            while True:
                await self._wait_once(connection, number)
        finally:
            connection.close()

    async def _wait_once(self, connection: Connection, number: int) -> None:
        every = [watched for watched in self._watches if watched.channel]
        mine = every[number * GROUP_MAX : (number + 1) * GROUP_MAX]
        readable = {watched.key: watched for watched in mine if not watched.quarantined}
        if not readable:
            await asyncio.sleep(BLOCK_MS / 1000)
            return
        cursors = [b"%d-%d" % w.anchor.cursor for w in readable.values()]
        try:
            reply = await connection.call(
                *("XREAD", "COUNT", 1, "BLOCK", BLOCK_MS, "STREAMS"),
                *(*readable, *cursors),
            )
        except StoreRefused:
            # One of them is no stream: the pump finds out which and quarantines it.
            reply = readable
        except StoreUnavailable:
            if connection.closed:
                raise
            await asyncio.sleep(BLOCK_MS / 1000)
            return
        grown = [readable[key] for key in reply or {}]
        for watched in grown:
            self._watches.mark_dirty(watched)
        if grown:
            self._wake()
            await self._until_read(grown)

    async def _until_read(self, grown: list[Watched]) -> None:
        # Blocking again with the old cursors would return at once. It is the read that
        # counts: the cursor stays if the entry is gone or was read before we heard.
        before = {watched: watched.reads for watched in grown}
        while any(
            watched.reads == reads
            and self._watches.is_current(watched)
            and not watched.quarantined
            for watched, reads in before.items()
        ):
            self._read.clear()
            await self._read.wait()
