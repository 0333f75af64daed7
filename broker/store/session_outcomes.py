"""What is asked of the session scripts, and what they answer; see `sessions`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

Verdict = Literal["open", "evicted", "closed"]
EvictBy = Literal["start", "activity"]
State = Literal["open", "idle", "evicted", "closed"]


class Terms(msgspec.Struct, frozen=True):
    """What holds for all sessions of the fleet.

    Attributes:
        lease_ms: How long a session counts without a renewal.
        idle_ms: How long it stays idle before it is closed.
        evict_by: Which session is the oldest: by its start or by its last activity.
    """

    lease_ms: int
    idle_ms: int
    evict_by: EvictBy = "start"


class News(msgspec.Struct, frozen=True):
    """Something that happened to a session and is to be announced.

    Attributes:
        field: Where it stands in the outbox.
        event: ``session_opened``, ``_resumed``, ``_idle``, ``_evicted``, ``_closed``.
        session: Which.
        fence: Of the opening it is about.
        at: When, in ms of Redis' clock. Tells one idleness of an opening from the next.
        replaced_by: The session for which it was evicted.
        reason: Why it was closed (``idle``, ``requested``) or resumed
            (``registered_again``: Redis had lost it).
    """

    field: str
    event: str
    session: str
    fence: int
    at: int
    replaced_by: str = ""
    reason: str = ""


class Victim(msgspec.Struct, frozen=True):
    """A session that had to go.

    Attributes:
        session: Which.
        fence: Of the opening that has ended.
        replaced_by: The session for which.
    """

    session: str
    fence: int
    replaced_by: str


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What every script answers.

    Attributes:
        user: Whose sessions.
        due_ms: When to sweep them next, in ms of Redis' clock; 0 for never.
        news: To be announced by the caller, who may die over it: then others find it.
    """

    user: str
    due_ms: int
    news: list[News]


class Standing(msgspec.Struct, frozen=True):
    """How a session stands that was to be opened or renewed.

    Attributes:
        session: Which.
        verdict: ``open``, or how it has ended.
        fence: Of the opening that is open or has ended; it may be newer than asked for.
        new: Whether this call has opened it.
        replaced_by: The session for which it was evicted, empty for none.
    """

    session: str
    verdict: Verdict
    fence: int
    new: bool
    replaced_by: str


class Held(Outcome, frozen=True, kw_only=True):
    """The sessions of one call, and whom they drove out.

    Attributes:
        standings: Of each session asked for, in that order.
        victims: The sessions that were evicted, also some of those asked for.
    """

    standings: list[Standing]
    victims: list[Victim]


class Closed(Outcome, frozen=True, kw_only=True):
    """A session was closed on purpose.

    Attributes:
        session: Which.
        fence: Of the opening that has ended; 0 if the session was not open.
    """

    session: str
    fence: int


class Lease(msgspec.Struct, frozen=True):
    """One session to renew.

    Attributes:
        session: Which.
        fence: As the caller knows it, 0 if not. Redis may have lost the session: then
            it is registered again with this.
        lease_ms: From now; the lease that there is never becomes shorter.
        quiet_ms: How long ago its last activity was.
    """

    session: str
    fence: int
    lease_ms: int
    quiet_ms: int = 0


class Renewal(msgspec.Struct, frozen=True):
    """Sessions of one user to renew.

    Attributes:
        user: Whose.
        limit: How many may count after Redis has lost some; 0 for any number.
        leases: Which.
    """

    user: str
    limit: int
    leases: Sequence[Lease]


class Record(msgspec.Struct, frozen=True):
    """A session of a user as it is listed.

    Attributes:
        session: Which.
        fence: Of its opening.
        started_ms: When that was, in ms of Redis' clock.
        state: ``open``, ``idle``, or how it ended within the last day.
        lease_left_ms: How long it counts without renewal; 0 unless it is open.
        active_ms: When its last activity was; of an ended session, when it ended.
        replaced_by: The session for which it was evicted.
    """

    session: str
    fence: int
    started_ms: int
    state: State
    lease_left_ms: int
    active_ms: int
    replaced_by: str = ""


class Due(msgspec.Struct, frozen=True):
    """Users who are to be swept.

    Attributes:
        now_ms: Redis' clock.
        users: The longest overdue first.
    """

    now_ms: int
    users: list[str]
