"""The sessions of a user in Redis: one script per decision, and how to ask for it.

A session is *open* from its opening until it is evicted, closed, or idle too long. It
counts against the user's limit while it has a lease that runs; without one it is
*idle*. Its *fence* is when it was opened, in ms of Redis' clock, made to rise for
each user. What ends it before its time leaves a tombstone: only that is terminal.
Whoever finds a session missing altogether registers it again with the fence it had.

Every outcome has news for the lifecycle stream and a time at which the user is to be
looked at again. Both are for `broker.control.lifecycle.announce`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal
from urllib.parse import quote, unquote

import msgspec
from hiredis import ReplyError

from broker.errors import StoreError
from broker.model import is_session_name
from broker.store.connection import Command, Connection
from broker.store.replies import first_error, store_error
from broker.store.scripts import script
from broker.store.session_outcomes import (
    Closed,
    Due,
    Held,
    Lease,
    News,
    Outcome,
    Record,
    Renewal,
    Standing,
    State,
    Terms,
    Victim,
)

SCRIPTS = ("session_hold", "session_close", "session_sweep")
"""What `broker.store.scripts.load_scripts` must have loaded for this module."""
EXPIRING = "broker:expiring"
"""Sorted set of users, each with the time when something of theirs runs out."""
FENCE_MAX = 10**14
"""Lua's JSON writes whole numbers up to this; as a time it is the year 5138."""
TOMB_MS = 86_400_000

_PARTS = ("sessions", "leases", "active", "idle", "evicted", "tombs", "news")


class _Tomb(msgspec.Struct):
    fence: int
    reason: Literal["evicted", "closed"] = "evicted"
    replaced_by: str = ""


def user_tag(user: str) -> str:
    """A user's name as it stands in keys: a ``}`` would break the hash tag.

    Raises:
        ValueError: There is no name, or it is not Unicode text.
    """
    if not user:
        raise ValueError("a user has a name")
    return quote(user, safe="")


async def open_session(
    connection: Connection,
    user: str,
    session: str,
    terms: Terms,
    *,
    limit: int,
    deliberate: bool = False,
    as_of_ms: int = FENCE_MAX,
    known_fence: int = 0,
) -> Held:
    """Open a session of *user*, or go on with it, and evict those over the limit.

    It is never the session being opened that is evicted. One that was evicted or closed
    is refused: the verdict says so.

    Args:
        connection: One that has loaded `SCRIPTS`.
        user: Whose; not empty.
        session: Which.
        terms: Of the fleet.
        limit: Sessions of the user that may count; 0 for any number.
        deliberate: Whether the user wants it although it was evicted or closed.
        as_of_ms: When the user said so, by Redis' clock: what has ended it since then
            is newer and counts.
        known_fence: Of the opening that the caller still serves, 0 for none.

    Returns:
        One standing, of *session*.

    Raises:
        ValueError: An argument cannot be.
        StoreUnavailable: Redis is away; the session may or may not be open.
        StoreRefused: Redis cannot do it.
    """
    lease = Lease(session, known_fence, terms.lease_ms)
    renewal = Renewal(user, limit, (lease,))
    index = (b"ZADD", EXPIRING, "NX", 0, user_tag(user))
    # Into the index first: if we die in between, a janitor finds what we have opened.
    command = _hold(renewal, terms, session, as_of_ms if deliberate else 0)
    _, reply = await connection.call_in_turn(index, command)
    return _held(renewal, reply)


async def renew_sessions(
    connection: Connection, renewals: Sequence[Renewal], terms: Terms
) -> list[Held | StoreError]:
    """Extend leases in one write, and register again what Redis has lost.

    Returns:
        For each renewal what came of it, or why Redis could not do it.

    Raises:
        ValueError: An argument cannot be.
        StoreUnavailable: Redis is away; some may have been renewed.
    """
    commands = [_hold(one, terms, "", 0) for one in renewals]
    replies = await connection.send(*commands)
    return [
        store_error(reply) if isinstance(reply, ReplyError) else _held(renewal, reply)
        for renewal, reply in zip(renewals, replies, strict=True)
    ]


async def close_session(
    connection: Connection, user: str, session: str, terms: Terms
) -> Closed:
    """End a session on purpose; its connections are for the caller to tell.

    Raises:
        ValueError: An argument cannot be.
        StoreUnavailable: Redis is away; the session may or may not be closed.
        StoreRefused: Redis cannot do it.
    """
    _check_session(session)
    due_ms, told, fence = await connection.call(
        *script("session_close").call(_keys(user), terms.idle_ms, session)
    )
    return Closed(
        user=user, due_ms=due_ms, news=_news(told), session=session, fence=fence
    )


async def sweep_sessions(
    connection: Connection, users: Sequence[str], terms: Terms
) -> list[Outcome | StoreError]:
    """Let happen to the sessions of *users* what time brings, in one write.

    Returns:
        For each user what came of it, or why Redis could not do it.

    Raises:
        ValueError: A user has no name.
        StoreUnavailable: Redis is away; some may have been swept.
    """
    sweep = script("session_sweep")
    replies = await connection.send(
        *(sweep.call(_keys(user), terms.idle_ms) for user in users)
    )
    return [
        store_error(reply)
        if isinstance(reply, ReplyError)
        else Outcome(user=user, due_ms=reply[0], news=_news(reply[1]))
        for user, reply in zip(users, replies, strict=True)
    ]


async def list_sessions(connection: Connection, user: str) -> list[Record]:
    """The sessions of *user* as they are: the open ones by start, then the ended ones.

    Raises:
        ValueError: The user has no name.
        StoreUnavailable: Redis is away.
        StoreRefused: A key is not what it should be.
    """
    sessions, leases, active, _, evicted, tombs, _ = _keys(user)
    *_, replies = await connection.call_all(
        (b"MULTI",),
        (b"TIME",),
        *(
            (b"ZRANGE", key, 0, -1, b"WITHSCORES")
            for key in (sessions, leases, active, evicted)
        ),
        (b"HGETALL", tombs),
        (b"EXEC",),
    )
    error = first_error(replies)
    if error is not None:
        raise store_error(error)
    return _records(*replies)


async def due_users(connection: Connection, count: int) -> Due:
    """Users with sessions whose lease or idle time has run out.

    Args:
        connection: To the primary.
        count: How many at most; at least 1.

    Raises:
        ValueError: *count* is too small.
        StoreUnavailable: Redis is away.
        StoreRefused: The index is not what it should be.
    """
    if count < 1:
        raise ValueError("count is at least 1")
    time, first = await connection.call_all(
        (b"TIME",), (b"ZRANGE", EXPIRING, 0, count - 1, b"WITHSCORES")
    )
    now = _ms(time)
    due = [unquote(tag.decode(errors="replace")) for tag, at in first if at <= now]
    return Due(now, [user for user in due if user])  # Nobody's is not from us.


def index_due(user: str, due_ms: int) -> Command:
    """The command that notes when *user* is due; 0 for never."""
    if due_ms:
        return (b"ZADD", EXPIRING, due_ms, user_tag(user))
    return (b"ZREM", EXPIRING, user_tag(user))


def forget_news(user: str, news: Iterable[News]) -> Command:
    """The command that takes what was announced out of the outbox of *user*."""
    return (b"HDEL", _keys(user)[6], *(one.field for one in news))


def _keys(user: str) -> tuple[str, ...]:
    tag = user_tag(user)
    return tuple(f"broker:{{{tag}}}:{part}" for part in _PARTS)


def _check_session(session: str) -> None:
    if not is_session_name(session):
        raise ValueError("not the name of a session")


def _hold(renewal: Renewal, terms: Terms, opening: str, until_ms: int) -> Command:
    if renewal.limit < 0:
        raise ValueError("a limit is not negative")
    arguments: list[str | int] = []
    for lease in renewal.leases:
        _check_session(lease.session)
        if not 0 <= lease.fence < FENCE_MAX:
            raise ValueError("a fence is a time in ms, or 0")
        if lease.lease_ms < 1 or lease.quiet_ms < 0:
            raise ValueError("a lease is at least 1 ms long, and nobody acts later")
        arguments += (lease.session, lease.fence, lease.lease_ms, lease.quiet_ms)
    return script("session_hold").call(
        _keys(renewal.user),
        *(terms.idle_ms, renewal.limit, terms.evict_by, opening, until_ms),
        *arguments,
    )


def _held(renewal: Renewal, reply: list[Any]) -> Held:
    due_ms, told, victims, standings = reply
    return Held(
        user=renewal.user,
        due_ms=due_ms,
        news=_news(told),
        victims=[Victim(one.decode(), at, by.decode()) for one, at, by in victims],
        standings=[
            Standing(lease.session, verdict.decode(), fence, bool(new), by.decode())
            for lease, (verdict, fence, new, by) in zip(
                renewal.leases, standings, strict=True
            )
        ],
    )


def _news(told: Sequence[tuple[bytes, bytes]]) -> list[News]:
    return [
        msgspec.convert({**msgspec.json.decode(entry), "field": field.decode()}, News)
        for field, entry in told
    ]


def _ms(time: tuple[bytes, bytes]) -> int:
    return int(time[0]) * 1000 + int(time[1]) // 1000


def _scores(members: Iterable[tuple[bytes, float]]) -> dict[str, int]:
    return {member.decode(): int(score) for member, score in members}


def _records(
    time: tuple[bytes, bytes],
    sessions: list[tuple[bytes, float]],
    leases: list[tuple[bytes, float]],
    active: list[tuple[bytes, float]],
    evicted: list[tuple[bytes, float]],
    tombs: dict[bytes, bytes],
) -> list[Record]:
    now, until, acted = _ms(time), _scores(leases), _scores(active)
    records = [
        _record(session, fence, until.get(session, 0) - now, acted.get(session, 0))
        for session, fence in _scores(sessions).items()
    ]
    return records + [
        _ended(session, at, tombs.get(session.encode()))
        for session, at in _scores(evicted).items()
        if at > now - TOMB_MS
    ]


def _record(session: str, fence: int, left_ms: int, active_ms: int) -> Record:
    state: State = "open" if left_ms > 0 else "idle"
    return Record(session, fence, fence, state, max(left_ms, 0), active_ms)


def _ended(session: str, at: int, text: bytes | None) -> Record:
    tomb = msgspec.json.decode(text, type=_Tomb) if text else _Tomb(at)
    return Record(session, tomb.fence, tomb.fence, tomb.reason, 0, at, tomb.replaced_by)
