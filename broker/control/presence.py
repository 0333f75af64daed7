"""Who is connected to a session: kept up in Redis, and told to those who ask.

A worker renews the leases of the users it serves. One that is killed renews nothing,
and its users disappear by themselves. When a user's last connection to a worker ends,
his lease is set to run out after the linger: a reconnect until then is silent, for
whatever worker it leads to begins with a renewal.

He may be connected to another worker still, which that one does not know. Its leases
may be set back by this, but it renews them every third of a lease, so the linger
counts for half a lease at least. Then he never seems to have left.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable
from itertools import islice
from typing import Any, Protocol

from broker.config import Settings
from broker.errors import StoreRefused, StoreUnavailable
from broker.store import presence
from broker.store.connection import Connection
from broker.store.presence import Lease
from broker.store.standing import StandingConnection

TICK_S = 0.25
LOOK_S = 2.0
"""How late it may be noticed that a lease has run out."""
LEASE_MIN_S = 4.0
RENEWALS_PER_LEASE = 3
CALL_MAX = 500
"""Users in one write: about 3 ms of Redis."""
LOOKS_MAX = 200
WHO_MAX = 1000
"""Names in a list of who is present; the count tells whether there are more."""

Stay = tuple[str, str]
"""A session, and a user who is connected to it."""

OnChange = Callable[[str, dict[str, Any]], None]
"""Called with a session and ``event``, ``users``, ``count``. Must not raise."""


class Channels(Protocol):
    """A connection that messages arrive on."""

    def subscribe(self, channel: bytes) -> None:
        """Listen, again after each reconnect."""

    def unsubscribe(self, channel: bytes) -> None:
        """Listen no longer."""


class _Watch:
    """A session whose changes somebody here wants to be told."""

    __slots__ = ("count", "due", "is_stale")

    def __init__(self, due: float) -> None:
        self.count = 0
        self.due = due
        self.is_stale = False


class Presence:
    """The users of one worker, and the sessions that it watches.

    Args:
        settings: How long a lease and the linger are, and whether there is any.
        standing: Its connections have loaded `presence.SCRIPTS`.
        channels: What arrives there is for `handle_message`.
        on_change: Called with what subscribers are to be told.
    """

    def __init__(
        self,
        settings: Settings,
        standing: StandingConnection,
        channels: Channels,
        on_change: OnChange,
    ) -> None:
        self._enabled = settings.presence
        self._lease = lease_of(settings)
        self._standing = standing
        self._channels = channels
        self._on_change = on_change
        self._connection: Connection | None = None
        self._quiet_until = 0.0
        self._connections: dict[Stay, int] = {}
        # Each stay is renewed in its slot; hashes of text differ in every process.
        slots = int(self._lease.lease_ms / 1000 / RENEWALS_PER_LEASE / TICK_S)
        self._slots: list[set[Stay]] = [set() for _ in range(slots)]
        self._slot = random.randrange(slots)  # noqa: S311 - spreading load
        # Came or went; a dictionary because it keeps the order.
        self._touched: dict[Stay, None] = {}
        self._watched: dict[str, _Watch] = {}

    # What connections do.

    def entered(self, session: str, user: str) -> None:
        """A connection of *user* reads *session*; nobody is present without a name."""
        if not user or not self._enabled:
            return
        stay = (session, user)
        self._connections[stay] = self._connections.get(stay, 0) + 1
        if self._connections[stay] == 1:
            self._slot_of(stay).add(stay)
            self._touched[stay] = None

    def left(self, session: str, user: str) -> None:
        """It does no longer; to be called once for each `entered`."""
        if not user or not self._enabled:
            return
        stay = (session, user)
        self._connections[stay] -= 1
        if self._connections[stay]:
            return
        del self._connections[stay]
        self._slot_of(stay).discard(stay)
        if self._standing.up:
            self._touched[stay] = None
        else:  # His lease runs out without a word, and nothing piles up here.
            self._touched.pop(stay, None)

    def _slot_of(self, stay: Stay) -> set[Stay]:
        return self._slots[hash(stay) % len(self._slots)]

    # What subscribers ask.

    def watch(self, session: str) -> None:
        """A subscriber wants to be told of changes; each calls it once."""
        if not self._enabled:
            return
        watch = self._watched.get(session)
        if watch is None:
            now = asyncio.get_running_loop().time()
            watch = self._watched[session] = _Watch(max(now, self._quiet_until))
            self._channels.subscribe(presence.channel(session))
        watch.count += 1

    def unwatch(self, session: str) -> None:
        """He does no longer."""
        watch = self._watched.get(session)
        if watch is None:
            return
        watch.count -= 1
        if not watch.count:
            del self._watched[session]
            self._channels.unsubscribe(presence.channel(session))

    def handle_message(self, session: str, payload: bytes) -> None:
        """A message arrived on the channel of *session*."""
        change = presence.decode(payload)
        if change is not None and session in self._watched:
            self._tell(session, change.event, change.users, change.count)

    def _tell(self, session: str, event: str, users: list[str], count: int) -> None:
        self._on_change(session, {"event": event, "users": users, "count": count})

    def resubscribed(self) -> None:
        """The channels were away for a while, so changes may have been missed.

        Who watches is told who is ``present``, once, in place of what was missed.
        """
        now = asyncio.get_running_loop().time()
        self._look_anew(max(now, self._quiet_until))

    def _look_anew(self, due: float) -> None:
        for watch in self._watched.values():
            watch.due = due
            watch.is_stale = True

    async def who(self, session: str, limit: int = WHO_MAX) -> tuple[int, list[str]]:
        """How many are present in *session*, and the names of *limit* at most.

        Raises:
            StoreUnavailable: Redis does not answer.
            StoreRefused: The key holds something else.
        """
        if not self._enabled:
            return 0, []
        return await presence.who(self._standing.use(), session, limit)

    async def say(self, session: str, user: str) -> None:
        """Say at once that *user* came or went, if that is still to be said.

        Raises:
            StoreUnavailable: There is no connection.
        """
        stay = (session, user)
        if stay in self._touched:
            connection = self._standing.use()
            del self._touched[stay]
            await self._say(connection, {stay: None})

    # What is done by the clock.

    async def run(self) -> None:
        """Keep up the leases of who is here; never returns."""
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            due += TICK_S  # Who was late catches up: a lease does not wait.
            await asyncio.sleep(max(0.0, due - loop.time()))
            await self.do_work()

    async def do_work(self) -> None:
        """Renew a part of the leases, say who came and went, and look for who left."""
        self._slot = (self._slot + 1) % len(self._slots)
        if not self._standing.up:
            return
        connection = self._standing.use()
        if connection is not self._connection:
            self._start_over(connection)
        stays = dict.fromkeys(self._slots[self._slot]) | self._touched
        self._touched = {}
        await self._say(connection, stays)
        await self._look(connection)

    def _start_over(self, connection: Connection) -> None:
        """Redis was away, perhaps for longer than a lease.

        Everybody may seem to have left, until all workers have renewed theirs. So
        nobody is pruned for the length of a lease.
        """
        self._connection = connection
        self._touched = dict.fromkeys(self._connections)
        now = asyncio.get_running_loop().time()
        self._quiet_until = now + self._lease.lease_ms / 1000
        self._look_anew(self._quiet_until)

    async def _say(self, connection: Connection, stays: dict[Stay, None]) -> None:
        lease, waiting = self._lease, iter(stays)
        may_prune = asyncio.get_running_loop().time() >= self._quiet_until
        while batch := list(islice(waiting, CALL_MAX)):
            here = _by_session(stay for stay in batch if stay in self._connections)
            gone = _by_session(stay for stay in batch if stay not in self._connections)
            renewal = presence.renew(connection, here, lease, prune=may_prune)
            if not (
                await self._is_done(renewal)
                and await self._is_done(presence.leave(connection, gone, lease))
            ):
                self._touched |= dict.fromkeys([*batch, *waiting])
                return

    async def _look(self, connection: Connection) -> None:
        """Prune the sessions that are watched and due."""
        now = asyncio.get_running_loop().time()
        due = (name for name, watch in self._watched.items() if watch.due <= now)
        sessions = list(islice(due, LOOKS_MAX))
        await self._is_done(self._prune(connection, sessions))

    async def _prune(self, connection: Connection, sessions: list[str]) -> None:
        answers = await presence.prune(connection, sessions)
        for session, answer in zip(sessions, answers, strict=True):
            watch = self._watched.get(session)
            if watch is not None:
                self._put_off(watch, answer)
                if watch.is_stale:
                    count, users = await presence.who(connection, session, WHO_MAX)
                    watch.is_stale = False
                    self._tell(session, "present", users, count)

    def _put_off(self, watch: _Watch, answer: int | StoreRefused) -> None:
        """Look again when the next lease runs out.

        Whatever is said from now on runs out later than the shorter of lease and
        linger, so there is nothing to find before that.
        """
        wait_ms = min(self._lease.lease_ms, self._lease.linger_ms)
        if isinstance(answer, int) and answer >= 0:
            wait_ms = min(wait_ms, answer)
        now = asyncio.get_running_loop().time()
        watch.due = now + max(wait_ms / 1000, LOOK_S - TICK_S)

    async def _is_done(self, work: Awaitable[None]) -> bool:
        """Whether Redis has done it, or never will."""
        try:
            await work
        except StoreUnavailable:
            return False
        except StoreRefused as error:
            if error.kind != "NOSCRIPT":
                return True  # A key that is not ours; the others are done.
            # Somebody made the server forget. A new connection loads them.
            self._standing.drop()
            return False
        return True


def lease_of(settings: Settings) -> Lease:
    """Lease and linger, each long enough for the way that they are kept up."""
    lease_s = max(settings.session_lease_s, LEASE_MIN_S)
    linger_s = max(settings.session_linger_s, lease_s / 2)
    return Lease(int(lease_s * 1000), int(linger_s * 1000))


def _by_session(stays: Iterable[Stay]) -> dict[str, list[str]]:
    users: dict[str, list[str]] = {}
    for session, user in stays:
        users.setdefault(session, []).append(user)
    return users
