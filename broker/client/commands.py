"""Commands of clients, as a service reads them.

::

    async with CommandConsumer("redis://127.0.0.1:6379/0", group="agents") as commands:
        async for command in commands:
            print(command.session, command.cmd, command.data)
            await command.done()

Every command comes at least once. It comes again if ``done()`` was not called within
``claim_after_s``, or if its consumer is gone: so keep ``command.id`` with what you did.

Commands of a session come in order to a consumer that is the only one of its group, or
that comes back under its ``name``: it first gets what it had not finished. Several
consumers share the commands, not the sessions. What is taken over from another one, and
what comes again because it failed, may come after later commands.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import random
import socket
import time
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Self, TypeVar

import orjson

from broker.client.follow import backoff_s
from broker.errors import StoreRefused, StoreUnavailable
from broker.model import FIRST_ID, StreamId
from broker.store.groups import Delivered, GroupConsumer, Origin
from broker.store.server import WRITES_REFUSED

# This runs in other programs, whose own logging decides what becomes of it.
log = logging.getLogger(__name__)

BLOCK_S = 0.5
STOP_S = 10.0
LAST_STEP_S = 1.0
"""How long a read may take that is under way at the stop: more than `BLOCK_S`."""
SLOWEST_RETRY = 3
"""After so many failures the wait until the next try no longer doubles: 4 s at most."""
_GONE = frozenset(("NOGROUP", "UNBLOCKED"))
_numbers = itertools.count(1)
_Found = TypeVar("_Found")


class Command:
    """What a client said.

    Attributes:
        id: Of the entry; the same each time the command comes.
        session: To which session it was said; the broker has checked the right to.
        user: Who said it; empty for nobody in particular.
        connection: Over which connection.
        cmd: Its name.
        data: Its arguments, from JSON.
        ref: The client's id for it; None if it had none.
        received_at: When the broker got it, RFC 3339.
        deliveries: How often it has come, this time included, to any consumer.
    """

    __slots__ = (
        *("_done", "cmd", "connection", "data", "deliveries", "id", "received_at"),
        *("ref", "session", "user"),
    )

    def __init__(
        self,
        entry_id: str,
        fields: dict[str, str],
        deliveries: int,
        done: Callable[[str], Awaitable[None]],
    ) -> None:
        """Read the fields of an entry.

        Raises:
            KeyError: There is no ``session`` or no ``cmd``.
            ValueError: ``data`` is not JSON text.
        """
        self._done = done
        self.id = entry_id
        self.session = fields["session"]
        self.cmd = fields["cmd"]
        self.user = fields.get("user", "")
        self.connection = fields.get("connection", "")
        self.data: Any = orjson.loads(fields.get("data", "null"))
        self.ref = fields.get("id")
        self.received_at = fields.get("received_at", "")
        self.deliveries = deliveries

    async def done(self) -> None:
        """Say that it is done: it does not come again to this group.

        Waits for Redis if that is away.

        Raises:
            StoreUnavailable: The consumer was closed before Redis came back.
        """
        await self._done(self.id)


class CommandConsumer:
    """One consumer of a group; iterate over it in one task."""

    def __init__(
        self,
        url: str,
        *,
        group: str,
        name: str = "",
        stream: str = "broker:commands",
        start: Origin = "0",
        claim_after_s: float = 30.0,
        max_deliveries: int = 5,
    ) -> None:
        """Prepare without connecting.

        Args:
            url: Of the Redis primary.
            group: Each group gets every command, each of its consumers a share.
            name: Of this consumer. Nobody else in the group may have it at the time.
                Give the same one after a restart to go on with what was not finished;
                else that waits for *claim_after_s*. Default: host, process id and a
                number, so that each consumer of a process has its own.
            stream: ``BROKER_COMMAND_STREAM``.
            start: Where a group that does not exist yet begins: ``0`` with all that
                is there, ``$`` with what is new.
            claim_after_s: How long a command may take. After that it comes again, to
                this consumer or another one.
            max_deliveries: How often a command comes before it is taken for poison:
                it goes to the stream ``broker:dead`` and is done.
        """
        self._url = url
        self._stream = stream
        self._group_name = group
        self._name = name or _new_name()
        self._origin: Origin = start
        self._claim_after_s = claim_after_s
        self._max_deliveries = max_deliveries
        self._group: GroupConsumer | None = None
        self._connecting = asyncio.Lock()
        self._after: StreamId = FIRST_ID
        self._unsure = True
        self._claim_from: StreamId = FIRST_ID
        self._claim_due_at = 0.0
        self._open: set[str] = set()
        self._all_done = asyncio.Event()
        self._all_done.set()
        self._stopping = asyncio.Event()
        self._limit: asyncio.Timeout | None = None
        self._closed = asyncio.Event()

    async def __aenter__(self) -> Self:
        """Connect, and make the group if it does not exist; waits for Redis.

        Raises:
            ConfigError: The URL cannot be used.
            StoreUnavailable: It was stopped before Redis came.
            StoreRefused: Redis refuses the log-in, or the stream.
        """
        await self._until_stopped(_look)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Disconnect; after `stop` wait up to 10 s for commands that are under way.

        If Redis hangs, disconnecting takes a second.
        """
        if kind is None and self._stopping.is_set():
            try:
                async with asyncio.timeout(STOP_S):
                    await self._all_done.wait()
            except TimeoutError:
                log.warning("%d commands were not done in time", len(self._open))
        self._stopping.set()
        self._closed.set()
        if self._group is not None:
            await self._group.leave()
            self._group.close()

    def stop(self) -> None:
        """Get no more commands: the iteration ends within half a second.

        If Redis hangs, within a second. What it delivers after that stays with the name
        of this consumer.

        For a signal handler. Commands that are under way can still be finished.
        """
        if self._stopping.is_set():
            return
        self._stopping.set()
        if self._limit is not None:
            self._limit.reschedule(asyncio.get_running_loop().time() + LAST_STEP_S)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Command:
        """The next command; waits for it, and for Redis.

        Raises:
            StoreRefused: Redis does not allow to read the stream.
        """
        while not self._stopping.is_set():
            try:
                command = await self._until_stopped(self._step)
            except StoreUnavailable:
                break  # It was stopped while Redis was away.
            if command is not None:
                self._open.add(command.id)
                self._all_done.clear()
                return command
        raise StopAsyncIteration

    async def _until_stopped(
        self, action: Callable[[GroupConsumer], Awaitable[_Found]]
    ) -> _Found:
        """Do *action*, but give it up `LAST_STEP_S` after the stop.

        Raises:
            StoreUnavailable: It was stopped while Redis was away.
            StoreRefused: It is not allowed.
        """
        limit = asyncio.timeout(LAST_STEP_S if self._stopping.is_set() else None)
        try:
            async with limit:
                self._limit = limit
                return await self._persist(action, self._stopping)
        except TimeoutError as error:
            # Leaving need not wait for the server that has not answered this.
            if self._group is not None:
                self._group.close()
            raise StoreUnavailable("stopped while Redis did not answer") from error
        finally:
            # A wait that was cancelled may end after the next one has begun.
            if self._limit is limit:
                self._limit = None

    async def _step(self, group: GroupConsumer) -> Command | None:
        """Read one entry at most: what was delivered before comes first."""
        if self._unsure:
            entry = await group.read_own(self._after)
            if entry is None:
                self._unsure = False
                return None
            command = await self._read_again(group, entry)
            self._after = entry.id
            return command
        entry = await self._claim(group)
        if entry is not None:
            command = await self._read_again(group, entry)
            self._after = max(self._after, entry.id)
            return command
        # Until the end of this step nobody knows what was delivered: if it does not
        # come that far, the next step asks.
        self._unsure = True
        entry = await group.read_new(BLOCK_S)
        command = None
        if entry is not None:
            command = await self._read_entry(group, entry, 1)
            self._after = entry.id
        self._unsure = False
        return command

    async def _claim(self, group: GroupConsumer) -> Delivered | None:
        """An entry that nobody has finished in time, if it is time to look for one."""
        while time.monotonic() >= self._claim_due_at:
            self._claim_from, entry = await group.claim(
                self._claim_after_s, self._claim_from
            )
            if self._claim_from == FIRST_ID:
                pause_s = self._claim_after_s * random.uniform(0.2, 0.4)  # noqa: S311
                self._claim_due_at = time.monotonic() + pause_s
            if entry is not None:
                return entry
        return None

    async def _read_again(
        self, group: GroupConsumer, entry: Delivered
    ) -> Command | None:
        deliveries = await group.deliveries(entry)
        if deliveries > self._max_deliveries:
            await self._bury(group, entry, "too_many_deliveries", deliveries)
            return None
        return await self._read_entry(group, entry, deliveries)

    async def _read_entry(
        self, group: GroupConsumer, entry: Delivered, deliveries: int
    ) -> Command | None:
        if entry.fields is None:  # Somebody deleted it.
            await group.acknowledge(entry.id_text)
            return None
        try:
            texts = iter([field.decode() for field in entry.fields])
            fields = dict(zip(texts, texts, strict=True))
            return Command(entry.id_text, fields, deliveries, self._acknowledge)
        except (KeyError, ValueError):
            await self._bury(group, entry, "bad_entry", deliveries)
            return None

    async def _bury(
        self, group: GroupConsumer, entry: Delivered, reason: str, deliveries: int
    ) -> None:
        try:
            await group.bury(entry, reason, deliveries)
        except StoreRefused:
            # It stays with the group and is tried again with what is taken over.
            log.exception("command %s (%s) cannot be buried", entry.id_text, reason)
        else:
            log.error("command %s is buried: %s", entry.id_text, reason)

    async def _acknowledge(self, entry_id: str) -> None:
        await self._persist(lambda group: group.acknowledge(entry_id), self._closed)
        self._open.discard(entry_id)
        if not self._open:
            self._all_done.set()

    async def _persist(
        self,
        action: Callable[[GroupConsumer], Awaitable[_Found]],
        until: asyncio.Event,
    ) -> _Found:
        """Do what may be repeated, over as many connections as it takes.

        Raises:
            StoreUnavailable: *until* was set while Redis was away.
            StoreRefused: It is not allowed.
        """
        failures = 0
        while True:
            group: GroupConsumer | None = None
            try:
                group = await self._connected()
                return await action(group)
            except StoreUnavailable as error:
                if until.is_set():
                    raise
                if not failures:
                    log.warning("Redis is away: %s", error)
            except StoreRefused as error:
                self._mend(error, failures)
                if until.is_set():
                    raise StoreUnavailable(str(error)) from error
            if group is not None:
                group.close()
            await _pause(backoff_s(min(failures, SLOWEST_RETRY)), until)
            failures += 1

    def _mend(self, error: StoreRefused, failures: int) -> None:
        """Prepare the next try; raises *error* if that would not help."""
        if error.kind in WRITES_REFUSED:
            # It passes, or after a failover the address leads to another server.
            if not failures:
                log.warning("Redis takes no writes: %s", error)
        elif error.kind in _GONE:
            # Stream or group were deleted, perhaps with all of Redis: whatever is in
            # the new one has been read by nobody.
            self._origin = "0"
            log.warning("the group is made anew: %s", error)
        else:
            raise error

    async def _connected(self) -> GroupConsumer:
        async with self._connecting:
            if self._closed.is_set():
                raise StoreUnavailable("the consumer is closed")
            if self._group is None or self._group.closed:
                if self._group is not None:
                    self._group.close()
                self._group = await GroupConsumer.open(
                    *(self._url, self._stream, self._group_name, self._name),
                    origin=self._origin,
                    block_s=BLOCK_S,
                )
            return self._group


def _new_name() -> str:
    return f"{socket.gethostname()}-{os.getpid()}-{next(_numbers)}"


async def _look(_: GroupConsumer) -> None:
    """Nothing is left to do once there is a connection."""


async def _pause(delay_s: float, until: asyncio.Event) -> None:
    try:
        async with asyncio.timeout(delay_s):
            await until.wait()
    except TimeoutError:
        pass
