"""What one worker remembers of the sessions that it serves."""

from __future__ import annotations

import time
from collections.abc import Sequence

from broker.config import Settings
from broker.store.session_outcomes import Held, Lease, Renewal


class Stay:
    """A session as this worker holds it.

    It outlives the end of its session while connections are on their way out: they
    still have to leave, and a deliberate opening may come before they have.

    Attributes:
        connections: How many of this worker read it.
        fence: Of its opening as far as is known, 0 for not at all.
        ended: Whether that opening is known to have ended.
        active_at: Monotonic seconds of the last activity.
        left_at: Monotonic seconds since which there is no connection, if there is none.
        owes_linger: Whether there is no connection any more, and the last lease, for
            the time of lingering, is still to be sent.
        pays_linger: Whether the renewal that was sent last is that one.
    """

    __slots__ = (
        "active_at",
        "connections",
        "ended",
        "fence",
        "left_at",
        "owes_linger",
        "pays_linger",
    )

    def __init__(self) -> None:
        self.connections = 0
        self.fence = 0
        self.ended = False
        self.active_at = self.left_at = time.monotonic()
        self.owes_linger = self.pays_linger = False


class _User:
    __slots__ = ("limit", "stays")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.stays: dict[str, Stay] = {}


class Stays:
    """The stays of all users, and which leases they need."""

    def __init__(self, settings: Settings) -> None:
        self._lease_s = settings.session_lease_s
        self._linger_s = settings.session_linger_s
        self._limit = settings.max_sessions_per_user
        self._users: dict[str, _User] = {}

    def find(self, user: str, session: str) -> Stay | None:
        """The stay, if there is one."""
        kept = self._users.get(user)
        return kept.stays.get(session) if kept is not None else None

    def hold(self, user: str, session: str, limit: int | None = None) -> Stay:
        """The stay, a new one if need be.

        Args:
            user: Whose.
            session: Which.
            limit: How many sessions the user may have from now on; None: as before.
        """
        kept = self._users.get(user)
        if kept is None:
            kept = self._users[user] = _User(self._limit)
        if limit is not None:
            kept.limit = limit
        stay = kept.stays.get(session)
        if stay is None:
            stay = kept.stays[session] = Stay()
        return stay

    def forget(self, user: str, session: str) -> None:
        """Remember a stay no longer; there must be one."""
        kept = self._users[user]
        del kept.stays[session]
        if not kept.stays:
            del self._users[user]

    def all(self) -> list[tuple[str, str]]:
        """User and session of every stay; those of one user follow each other."""
        return [(user, one) for user, kept in self._users.items() for one in kept.stays]

    def renewals(self, wanted: Sequence[tuple[str, str]]) -> list[Renewal]:
        """What to ask of Redis for those of *wanted* that need a lease."""
        leases: dict[str, list[Lease]] = {}
        now = time.monotonic()
        for user, session in wanted:
            stay = self.find(user, session)
            if stay is not None and (lease_s := self._lease_of(stay, now)) >= 0.001:
                quiet_ms = int((now - stay.active_at) * 1000)
                lease = Lease(session, stay.fence, int(lease_s * 1000), quiet_ms)
                stay.pays_linger = stay.owes_linger
                leases.setdefault(user, []).append(lease)
        return [
            Renewal(user, self._users[user].limit, of_user)
            for user, of_user in leases.items()
        ]

    def _lease_of(self, stay: Stay, now: float) -> float:
        if stay.ended:
            return 0
        if stay.connections:
            return self._lease_s
        return self._linger_s - (now - stay.left_at) if stay.owes_linger else 0

    def forget_settled(self, held: Held) -> None:
        """Forget those that have left and whose last lease has been sent."""
        for standing in held.standings:
            stay = self.find(held.user, standing.session)
            # Who has left only after the renewal was sent still owes it.
            if stay is not None and stay.owes_linger and stay.pays_linger:
                self.forget(held.user, standing.session)

    def forget_gone(self) -> None:
        """Forget those who were admitted and never came, or left while Redis was away.

        For the time of a lease who was admitted may still be on the way in.
        """
        oldest = time.monotonic() - max(self._lease_s, self._linger_s)
        for user, session in self._all_left_before(oldest):
            self.forget(user, session)

    def _all_left_before(self, oldest: float) -> list[tuple[str, str]]:
        return [
            (user, session)
            for user, kept in self._users.items()
            for session, stay in kept.stays.items()
            if not stay.connections and stay.left_at < oldest
        ]
