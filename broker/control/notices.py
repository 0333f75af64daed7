"""What the broker's processes tell one another over the whole fleet, by pub/sub.

A notice makes things quick and is never what makes them right: it may be lost, and then
the next renewal of a lease or the next look at the list of revocations finds the same.
"""

from __future__ import annotations

import msgspec

CHANNEL = b"broker:notices"
ANSWERS = "broker:answers:"
"""Prefix of the lists that take the answers to a `Question`."""
ANSWER_TTL_S = 10


class SessionEnded(msgspec.Struct, frozen=True, tag="session_ended"):
    """A session of a user was evicted or closed: its connections end.

    Attributes:
        user: Whose.
        session: Which.
        fence: Of the opening that has ended; a newer one goes on.
        reason: ``evicted`` or ``closed``.
        replaced_by: The session that took its place, empty for none.
    """

    user: str
    session: str
    fence: int
    reason: str
    replaced_by: str = ""


class Revoked(msgspec.Struct, frozen=True, tag="revoked"):
    """Access was taken away.

    Attributes:
        key: ``user:<user>`` or ``token:<id>``.
        at: Unix seconds: tokens issued until then are void.
        until: Unix seconds until which that holds.
    """

    key: str
    at: float
    until: float


class Pardoned(msgspec.Struct, frozen=True, tag="pardoned"):
    """A revocation was taken back.

    Attributes:
        key: ``user:<user>`` or ``token:<id>``.
    """

    key: str


class DisconnectUser(msgspec.Struct, frozen=True, tag="disconnect_user"):
    """All connections of a user end; they may come back.

    Attributes:
        user: Whose.
    """

    user: str


class Question(msgspec.Struct, frozen=True, tag="question"):
    """Every worker adds its connections that are furthest behind to a list.

    Attributes:
        number: Names the list, ``ANSWERS`` and this.
        limit: How many connections each worker names at most.
    """

    number: str
    limit: int


Notice = SessionEnded | Revoked | Pardoned | DisconnectUser | Question

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Notice)


def encode(notice: Notice) -> bytes:
    """What is published on ``CHANNEL``."""
    return _encoder.encode(notice)


def decode(payload: bytes) -> Notice | None:
    """Read a notice; None if it is of a newer broker, or of nobody we know."""
    try:
        notice: Notice = _decoder.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    return notice
