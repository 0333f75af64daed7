"""Who is present in a session: leases that run out by themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec
from hiredis import ReplyError

from broker.errors import StoreRefused
from broker.store.connection import Connection
from broker.store.replies import store_error
from broker.store.scripts import script

SCRIPTS = ("presence",)
"""What a connection must have loaded before it is used here."""
PREFIX = b"broker:presence:"


class Change(msgspec.Struct, frozen=True):
    """What is published on the channel of a session.

    Attributes:
        event: What happened to them.
        users: Whom it happened to.
        count: How many are present now.
    """

    event: Literal["joined", "left"]
    users: list[str]
    count: int


class Lease(msgspec.Struct, frozen=True):
    """How long somebody is taken for present.

    Attributes:
        lease_ms: After the last word from a worker he is connected to.
        linger_ms: After a worker said that his last connection there has ended.
    """

    lease_ms: int
    linger_ms: int

    @property
    def keep_ms(self) -> int:
        """When the whole key goes away: long after everybody was pruned from it."""
        return max(self.lease_ms, self.linger_ms) + 3 * self.lease_ms


def channel(session: str) -> bytes:
    """The key of *session*, and the channel on which its changes are published."""
    return PREFIX + session.encode()


_decode = msgspec.json.Decoder(Change).decode


def decode(payload: bytes) -> Change | None:
    """Read a message of a channel; None if it is none of ours."""
    try:
        return _decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


async def renew(
    connection: Connection,
    users: Mapping[str, Sequence[str]],
    lease: Lease,
    *,
    prune: bool,
) -> None:
    """Say who is connected, by session, and publish who has joined by that.

    Args:
        connection: It has loaded `SCRIPTS`.
        users: Names by session.
        lease: For how long.
        prune: Remove others whose lease has run out, and publish that they have left.

    Raises:
        StoreUnavailable: No connection, or the server is not ready; some may have
            been renewed.
        StoreRefused: A key holds something else; all others were renewed. Or the
            server does not know the script: ``NOSCRIPT``.
    """
    first = ("renew", lease.lease_ms, lease.keep_ms, "prune" if prune else "-")
    await _say(connection, first, users)


async def leave(
    connection: Connection, users: Mapping[str, Sequence[str]], lease: Lease
) -> None:
    """Say whose last connection to this worker has ended, by session.

    They leave when `Lease.linger_ms` has passed without a renewal, by this worker or
    another one.

    Raises:
        StoreUnavailable: As `renew`.
        StoreRefused: As `renew`.
    """
    await _say(connection, ("leave", lease.linger_ms, lease.keep_ms), users)


async def _say(
    connection: Connection,
    first: tuple[str | int, ...],
    users: Mapping[str, Sequence[str]],
) -> None:
    if not users:
        return
    call = script("presence").call
    await connection.call_all(
        *(call((channel(session),), *first, *names) for session, names in users.items())
    )


async def prune(
    connection: Connection, sessions: Sequence[str]
) -> list[int | StoreRefused]:
    """Remove whose lease has run out, and publish that they have left.

    Returns:
        For each session the ms until the next lease runs out, -1 if there is none; or
        why its key was refused.

    Raises:
        StoreUnavailable: No connection, or the server is not ready.
        StoreRefused: The server does not know the script: ``NOSCRIPT``.
    """
    if not sessions:
        return []
    call = script("presence").call
    replies = await connection.send(
        *(call((channel(session),), "prune") for session in sessions)
    )
    return [_pruned(reply) for reply in replies]


def _pruned(reply: Any) -> int | StoreRefused:
    if isinstance(reply, ReplyError):
        error = store_error(reply)
        if isinstance(error, StoreRefused) and error.kind != "NOSCRIPT":
            return error
        raise error
    return int(reply)


async def who(
    connection: Connection, session: str, limit: int
) -> tuple[int, list[str]]:
    """How many are present in *session*, and the names of *limit* of them at most.

    Raises:
        StoreUnavailable: No connection, or the server is not ready.
        StoreRefused: The key holds something else.
    """
    command = script("presence").call((channel(session),), "who", limit)
    count, users = await connection.call(*command)
    return count, sorted(user.decode() for user in users)
