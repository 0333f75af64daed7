"""Keeps the sessions of one worker open in Redis, and ends those that have ended there.

Redis decides. What the worker holds of a session is a copy, and each renewal sets it
right: a session that was evicted or closed is found out then at the latest, and one
that Redis has lost is registered again.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Callable, Sequence

import msgspec
import structlog

from broker.config import Settings
from broker.control.lifecycle import announce
from broker.control.notices import SessionEnded
from broker.control.stays import Stays
from broker.errors import StoreError, StoreRefused, StoreUnavailable
from broker.store import sessions as store
from broker.store.connection import Connection
from broker.store.session_outcomes import (
    Closed,
    Held,
    Renewal,
    Standing,
    Terms,
    Verdict,
)
from broker.store.standing import StandingConnection

log = structlog.get_logger(__name__)

SCRIPTS = store.SCRIPTS
"""What the keeper's connection must have loaded."""
SLICE_SESSIONS = 200
"""Sessions renewed in one write: others wait behind it in Redis and in this worker."""

OnEnded = Callable[[str, str, int, str, str], None]
Tell = Callable[[SessionEnded], None]


class Admission(msgspec.Struct, frozen=True):
    """Whether a connection may read a session.

    Attributes:
        verdict: ``open``: it may. ``evicted``, ``closed``: the session has ended, and
            only a deliberate opening brings it back.
        fence: Of the opening that is open or has ended.
        replaced_by: The session for which it was evicted, empty for none.
        new: Whether this has opened it.
    """

    verdict: Verdict
    fence: int
    replaced_by: str = ""
    new: bool = False


def terms_of(settings: Settings) -> Terms:
    """The settings that hold for all sessions, as the scripts want them."""
    return Terms(
        lease_ms=int(settings.session_lease_s * 1000),
        idle_ms=int(settings.session_idle_s * 1000),
        evict_by=settings.evict_by,
    )


def mend(standing: StandingConnection, error: StoreError) -> StoreError:
    """What an error of a script comes to; has scripts that were forgotten loaded."""
    if isinstance(error, StoreRefused) and error.kind == "NOSCRIPT":
        standing.drop()
        return StoreUnavailable(str(error))
    return error


class SessionKeeper:
    """The sessions that have connections to one worker.

    A connection without a user has no session of anybody: it is always admitted and
    nothing is kept of it.

    Args:
        standing: To the primary; each new connection must load `SCRIPTS`.
        settings: Lease, linger and idle times, and who is evicted.
        on_ended: Called with user, session, fence, reason and replaced_by when
            connections of this worker to that session must be closed. Neither this nor
            *tell* may block or raise; both may be called twice for the same end.
        tell: Publishes to all workers that a session has ended.

    Attributes:
        renewals: Leases of sessions that were to be renewed so far, by what came of it:
            ``renewed``, ``lost`` for sessions that have ended elsewhere, ``failed``.
    """

    def __init__(
        self,
        standing: StandingConnection,
        settings: Settings,
        on_ended: OnEnded,
        tell: Tell,
    ) -> None:
        self._standing = standing
        self._terms = terms_of(settings)
        self._lease_s = settings.session_lease_s
        self._on_ended = on_ended
        self._tell = tell
        self.renewals = {"renewed": 0, "lost": 0, "failed": 0}
        self._stays = Stays(settings)
        self._soon: dict[tuple[str, str], None] = {}
        self._wake = asyncio.Event()

    async def admit(
        self,
        user: str,
        session: str,
        *,
        limit: int,
        deliberate: bool = False,
        as_of_ms: int = store.FENCE_MAX,
    ) -> Admission:
        """Open *session* for a connection of *user* that wants to read it.

        The oldest over *limit* are evicted, on whichever pod they live.

        Args:
            user: Whose.
            session: Which.
            limit: Sessions of the user that may be open; 0 for any number.
            deliberate: Whether the user wants it although it was evicted or closed.
            as_of_ms: When the user said so, by Redis' clock.

        Raises:
            StoreUnavailable: Redis is away; the session may or may not be open.
            StoreRefused: Redis cannot do it.
        """
        if not user:
            return Admission("open", 0)
        connection = self._standing.use()
        try:
            held = await store.open_session(
                connection,
                user,
                session,
                self._terms,
                limit=limit,
                deliberate=deliberate,
                as_of_ms=as_of_ms,
                known_fence=self._known_fence(user, session),
            )
        except StoreRefused as error:
            raise mend(self._standing, error) from error
        standing = held.standings[0]
        if standing.verdict == "open":
            self._stays.hold(user, session, limit)
        self._learn(held)
        with contextlib.suppress(StoreError):  # The outbox keeps it for others.
            await announce(connection, held)
        return Admission(
            standing.verdict, standing.fence, standing.replaced_by, standing.new
        )

    async def close(self, user: str, session: str) -> Closed:
        """End *session* on purpose, on whichever pod it lives.

        Raises:
            StoreUnavailable: Redis is away; the session may or may not be closed.
            StoreRefused: Redis cannot do it.
        """
        connection = self._standing.use()
        try:
            closed = await store.close_session(connection, user, session, self._terms)
        except StoreRefused as error:
            raise mend(self._standing, error) from error
        if closed.fence:
            self._spread(SessionEnded(user, session, closed.fence, "closed"))
        with contextlib.suppress(StoreError):  # The outbox keeps it for others.
            await announce(connection, closed)
        return closed

    def entered(self, user: str, session: str) -> None:
        """A connection that was admitted reads the session from now on."""
        if not user:
            return
        stay = self._stays.hold(user, session)
        stay.connections += 1
        stay.owes_linger = False
        stay.active_at = time.monotonic()
        if stay.ended or not stay.fence:
            # It ended while this connection was on its way in. Redis knows for certain.
            stay.ended = False
            self._ask_soon(user, session)

    def left(self, user: str, session: str) -> None:
        """A connection reads it no longer; with the last one the session lingers."""
        stay = self._stays.find(user, session)
        if stay is None or not stay.connections:
            return
        stay.connections -= 1
        if stay.connections:
            return
        stay.left_at = time.monotonic()
        stay.owes_linger, stay.pays_linger = True, False
        self._ask_soon(user, session)

    def active(self, user: str, session: str) -> None:
        """The user has done something there."""
        stay = self._stays.find(user, session)
        if stay is not None:
            stay.active_at = time.monotonic()

    def handle_ended(self, notice: SessionEnded) -> None:
        """Close what has ended elsewhere, unless it was opened again since."""
        stay = self._stays.find(notice.user, notice.session)
        if stay is not None and not stay.fence:
            self._ask_soon(notice.user, notice.session)
        else:
            self._end(notice)

    async def run(self) -> None:
        """Renew leases; never returns.

        While Redis is away nothing happens: connections stay, and are renewed as soon
        as it is back.
        """
        due = time.monotonic() + self._interval_s()
        while True:
            await self._rest_until(due)
            is_round = time.monotonic() >= due
            try:
                await (self.renew_all() if is_round else self.flush())
            except StoreUnavailable:
                await self._standing.wait_up()
                # Not every worker of the fleet in the same moment.
                pause_s = random.uniform(0, min(1.0, self._lease_s / 10))  # noqa: S311
                await asyncio.sleep(pause_s)
                due = time.monotonic()
                continue
            if is_round:
                due = time.monotonic() + self._interval_s()

    async def renew_all(self) -> int:
        """Renew every session that has connections here; returns how many.

        Raises:
            StoreUnavailable: Redis is away; some may have been renewed.
        """
        self._stays.forget_gone()
        self._wake.clear()
        self._soon.clear()
        return await self._renew(self._stays.all())

    async def flush(self) -> int:
        """Send what must not wait for a round; returns for how many sessions.

        That is above all the last lease of sessions whose last connection has left:
        a worker that stops calls this when all have.

        Raises:
            StoreUnavailable: Redis is away.
        """
        self._wake.clear()
        soon, self._soon = self._soon, {}
        return await self._renew(list(soon))

    async def _rest_until(self, due: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, due - time.monotonic())):
                await self._wake.wait()

    def _interval_s(self) -> float:
        return self._lease_s / 3 * random.uniform(0.8, 1)  # noqa: S311 - jitter

    async def _renew(self, wanted: list[tuple[str, str]]) -> int:
        count = 0
        refused: list[StoreError] = []
        away: StoreUnavailable | None = None
        for start in range(0, len(wanted), SLICE_SESSIONS):
            # Made only now: while the slice before was under way some may have left.
            renewals = self._stays.renewals(wanted[start : start + SLICE_SESSIONS])
            if not renewals:
                continue
            connection = self._standing.use()
            outcomes = await self._ask(connection, renewals)
            try:
                refused += await self._follow_up(connection, outcomes)
            except StoreUnavailable as error:
                # Of a cluster one node may be away: the others' sessions must not end.
                if not any(isinstance(one, Held) for one in outcomes):
                    raise
                away = error
            count += sum(len(one.leases) for one in renewals)
        if away is not None:
            raise away
        if refused:
            log.error("sessions_refused", users=len(refused), error=str(refused[0]))
        return count

    async def _ask(
        self, connection: Connection, renewals: Sequence[Renewal]
    ) -> list[Held | StoreError]:
        count = self.renewals
        try:
            outcomes = await store.renew_sessions(connection, renewals, self._terms)
        except StoreUnavailable:
            count["failed"] += sum(len(one.leases) for one in renewals)
            raise
        for renewal, outcome in zip(renewals, outcomes, strict=True):
            if isinstance(outcome, Held):
                for standing in outcome.standings:
                    count["renewed" if standing.verdict == "open" else "lost"] += 1
            else:
                count["failed"] += len(renewal.leases)
        return outcomes

    async def _follow_up(
        self, connection: Connection, outcomes: Sequence[Held | StoreError]
    ) -> list[StoreError]:
        held = [one for one in outcomes if isinstance(one, Held)]
        for one in held:
            self._learn(one)
            self._stays.forget_settled(one)
        failed = [
            mend(self._standing, one) for one in outcomes if isinstance(one, StoreError)
        ]
        try:
            await announce(connection, *held)
        except StoreRefused as error:
            failed.append(error)
        for failure in failed:
            if isinstance(failure, StoreUnavailable):
                raise failure
        return failed

    # What Redis has decided.

    def _learn(self, held: Held) -> None:
        for victim in held.victims:
            self._spread(
                SessionEnded(
                    held.user,
                    victim.session,
                    victim.fence,
                    "evicted",
                    victim.replaced_by,
                )
            )
        for standing in held.standings:
            self._learn_standing(held.user, standing)

    def _learn_standing(self, user: str, standing: Standing) -> None:
        if standing.verdict != "open":
            ended = standing.verdict, standing.replaced_by
            self._end(SessionEnded(user, standing.session, standing.fence, *ended))
            return
        stay = self._stays.find(user, standing.session)
        if stay is not None and standing.fence > stay.fence:
            stay.fence = standing.fence
            stay.ended = False

    def _spread(self, notice: SessionEnded) -> None:
        self._tell(notice)
        self._end(notice)

    def _end(self, notice: SessionEnded) -> None:
        stay = self._stays.find(notice.user, notice.session)
        if stay is None or stay.ended or notice.fence < stay.fence:
            return
        stay.ended = True
        self._on_ended(
            notice.user,
            notice.session,
            notice.fence,
            notice.reason,
            notice.replaced_by,
        )

    def _known_fence(self, user: str, session: str) -> int:
        stay = self._stays.find(user, session)
        return 0 if stay is None or stay.ended else stay.fence

    def _ask_soon(self, user: str, session: str) -> None:
        self._soon[user, session] = None
        self._wake.set()
