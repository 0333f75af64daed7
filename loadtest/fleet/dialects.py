"""What a client says to each kind of server, and how it knows that it has joined."""

from __future__ import annotations

from enum import Enum

import msgspec
import orjson

from loadtest.fleet import wire


class Dialect(Enum):
    """Who is at the other end.

    The value is the name in commands; ``joined`` are the bytes of which one says
    that the client has joined (none: the upgrade says it).
    """

    BROKER = ("broker", (b'"resume":"live"', b'"event":"caught_up"'))
    NATS = ("nats", (b"PONG\r\n",))
    PLAIN = ("plain", ())

    def __init__(self, label: str, joined: tuple[bytes, ...]) -> None:
        self.label = label
        self.joined = joined


DIALECTS = {dialect.label: dialect for dialect in Dialect}

SUBSCRIBED = b'"event":"subscribed"'


class Spec(msgspec.Struct, frozen=True, omit_defaults=True):
    """One client of a ``connect`` command.

    Attributes:
        session: The session it reads; empty when it subscribes to ``sessions``.
        after: Position to resume from; empty for live only.
        ordinal: The publisher's ordinal at ``after``; -1 if unknown.
        sessions: What to subscribe to by command.
        user: Whose it is; empty for nobody's.
    """

    session: str = ""
    after: str = ""
    ordinal: int = -1
    sessions: list[str] = []
    user: str = ""


def path(dialect: Dialect, spec: Spec) -> str:
    """The path and query of the upgrade request."""
    if dialect is not Dialect.BROKER:
        return "/"
    if not spec.session:
        return "/v1/ws"
    query = [f"last_event_id={spec.after}"] if spec.after else []
    query += [f"user={spec.user}"] if spec.user else []
    return f"/v1/ws/{spec.session}" + ("?" + "&".join(query) if query else "")


def greeting(dialect: Dialect, spec: Spec) -> bytes:
    """What the client sends right after the upgrade."""
    if dialect is not Dialect.NATS:
        return b""
    text = f'CONNECT {{"verbose":false,"pedantic":false}}\r\nSUB {spec.session} 1\r\n'
    return wire.masked_frame(wire.BINARY, text.encode() + b"PING\r\n")


def subscribe_frames(sessions: list[str]) -> bytes:
    """One ``subscribe`` command for each session."""
    return b"".join(
        wire.masked_frame(
            wire.TEXT,
            orjson.dumps({"cmd": "subscribe", "id": name, "data": {"session": name}}),
        )
        for name in sessions
    )
