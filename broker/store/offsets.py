"""Committed positions: how far each consumer of a session has come."""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import StrEnum
from typing import Any, NamedTuple
from urllib.parse import quote

import msgspec
from hiredis import ReplyError

from broker.errors import StoreRefused
from broker.model import Position, parse_position
from broker.store.connection import Command, Connection
from broker.store.replies import store_error
from broker.store.scripts import script

SCRIPTS = ("commit",)
"""What a connection must have loaded before positions are written on it."""
PREFIX = "broker:offsets:"
CONSUMERS_MAX = 32
"""Consumers that one user may have in one session."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@-]{0,63}\Z")


def is_consumer_name(text: str) -> bool:
    """Whether clients may name a consumer so: as a session, in 1 to 64 characters."""
    return _NAME.match(text) is not None


class Consumer(NamedTuple):
    """Whose position it is.

    Attributes:
        session: The session that is read.
        user: Who reads; empty for a client without a name.
        name: The consumer's own name, see `is_consumer_name`.
    """

    session: str
    user: str
    name: str

    @property
    def key(self) -> str:
        """The hash of all consumers of this user in this session."""
        if not self.user:
            return f"{PREFIX}{self.session}"
        return f"{PREFIX}{self.session}/{quote(self.user, safe='')}"


class Mode(StrEnum):
    """When a position is stored."""

    FORWARD = "forward"
    """If it lies ahead of what is stored."""
    BEGIN = "begin"
    """If nothing is stored."""
    REPLACE = "replace"
    """Always: what is stored belongs to a history that is no more."""


class Write(msgspec.Struct, frozen=True, gc=False):
    """A position to be stored.

    Attributes:
        consumer: Whose.
        position: Everything up to and including it is done.
        mode: When it is stored.
    """

    consumer: Consumer
    position: Position
    mode: Mode = Mode.FORWARD


async def read(connection: Connection, consumer: Consumer) -> Position | None:
    """What is stored of *consumer*; None if there is nothing, or no position.

    Raises:
        StoreUnavailable: No connection, or the server is not ready.
        StoreRefused: The key holds something else, or may not be read.
    """
    raw = await connection.call(b"HGET", consumer.key, consumer.name)
    return None if raw is None else _position(raw)


async def commit_many(
    connection: Connection, writes: Sequence[Write], ttl_s: float
) -> list[Position | StoreRefused | None]:
    """Store positions, in one write.

    Each may be stored again without harm, so what failed can simply be repeated.

    Args:
        connection: It has loaded `SCRIPTS`.
        writes: What to store.
        ttl_s: How long a user's positions in a session are kept after the last write.

    Returns:
        For each what is stored now, which may lie further ahead; None if there are
        `CONSUMERS_MAX` others; or why this one key was refused.

    Raises:
        StoreUnavailable: No connection, or the server is not ready; some may have
            been stored.
        StoreRefused: The server does not know the script: ``NOSCRIPT``.
    """
    if not writes:
        return []
    replies = await connection.send(*(_command(write, ttl_s) for write in writes))
    return [_answer(reply) for reply in replies]


def _command(write: Write, ttl_s: float) -> Command:
    return script("commit").call(
        (write.consumer.key,),
        write.mode.value,
        write.consumer.name,
        str(write.position),
        max(1, int(ttl_s * 1000)),
        CONSUMERS_MAX,
    )


def _answer(reply: Any) -> Position | StoreRefused | None:
    if isinstance(reply, ReplyError):
        error = store_error(reply)
        if isinstance(error, StoreRefused) and error.kind != "NOSCRIPT":
            return error
        raise error
    return None if reply is None else _position(reply)


def _position(raw: bytes) -> Position | None:
    try:
        return parse_position(raw.decode("ascii"))
    except ValueError:
        return None
