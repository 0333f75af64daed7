"""Does for all users what time brings: leases run out, idle sessions are closed.

Nobody else would notice: who held those sessions is gone. One worker of each pod runs
a janitor. Several at once do no harm, since each sweep is one script.
"""

from __future__ import annotations

import asyncio
import time

import structlog

from broker.config import Settings
from broker.control.lifecycle import announce
from broker.control.sessions import mend, terms_of
from broker.errors import StoreError, StoreRefused, StoreUnavailable
from broker.store.connection import Connection
from broker.store.session_outcomes import Outcome
from broker.store.sessions import due_users, index_due, sweep_sessions
from broker.store.standing import StandingConnection

log = structlog.get_logger(__name__)

TICK_S = 1.0
REFUSED_S = 10.0
"""Pause after Redis has refused a sweep altogether."""
USERS_AT_ONCE = 100
LATER_MS = 60_000
"""How long a user is left alone whose sessions cannot be swept."""


class Janitor:
    """Sweeps the users who are due.

    Args:
        standing: To the primary; each new connection must load
            `broker.store.sessions.SCRIPTS`.
        settings: Lease and idle times.
    """

    def __init__(self, standing: StandingConnection, settings: Settings) -> None:
        self._standing = standing
        self._terms = terms_of(settings)
        self._grace_s = settings.session_lease_s / 2
        self._connection: Connection | None = None
        self._begins_at = 0.0

    async def run(self) -> None:
        """Sweep each second; never returns."""
        while True:
            try:
                swept = await self.step()
                pause_s = TICK_S if swept < USERS_AT_ONCE else 0
            except StoreUnavailable:
                pause_s = TICK_S
            except StoreRefused as error:
                log.error("sweep_refused", error=str(error))  # noqa: TRY400
                pause_s = REFUSED_S
            await asyncio.sleep(pause_s)

    async def step(self) -> int:
        """Sweep some of those who are due; returns how many.

        Raises:
            StoreUnavailable: Redis is away.
            StoreRefused: Redis cannot do it.
        """
        connection = self._standing.use()
        if self._must_wait(connection):
            return 0
        due = await due_users(connection, USERS_AT_ONCE)
        if not due.users:
            return 0
        outcomes = await sweep_sessions(connection, due.users, self._terms)
        swept = [one for one in outcomes if isinstance(one, Outcome)]
        await announce(connection, *swept)
        bad = [
            (user, mend(self._standing, one))
            for user, one in zip(due.users, outcomes, strict=True)
            if isinstance(one, StoreError)
        ]
        await self._postpone(connection, due.now_ms + LATER_MS, bad)
        return len(due.users)

    async def _postpone(
        self, connection: Connection, until_ms: int, bad: list[tuple[str, StoreError]]
    ) -> None:
        """Leave alone for a while what cannot be swept: it would be first each time."""
        if not bad:
            return
        for _, error in bad:
            if isinstance(error, StoreUnavailable):
                raise error
        log.error("sweep_refused", users=len(bad), error=str(bad[0][1]))
        await connection.call_all(*(index_due(user, until_ms) for user, _ in bad))

    def _must_wait(self, connection: Connection) -> bool:
        """Whether those who hold sessions must have time to renew them first.

        While Redis was away, leases ran out of sessions that are as alive as ever.
        """
        if connection is not self._connection:
            self._connection = connection
            self._begins_at = time.monotonic() + self._grace_s
        return time.monotonic() < self._begins_at
