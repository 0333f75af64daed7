"""Who somebody is and what that allows.

Rights and sessions are only ever granted: what a token or key does not mention is
forbidden.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from functools import lru_cache

import msgspec

from broker.errors import BrokerError
from broker.model import is_session_name

USER_BYTES_MAX = 256
LIMIT_MAX = 1_000_000
"""Largest ``max_sessions`` and ``max_connections``."""


class BadClaims(BrokerError):
    """What a token or key says about its owner cannot be used.

    The text is a sentence that repeats nothing of what was said.
    """


class Unauthorized(BrokerError):
    """A token or key does not prove who its owner is.

    Attributes:
        code: ``token_expired`` if a new token will do, else ``unauthorized``.
        message: For the client; equal for all tokens with that code.
        reason: For metrics and logs only, one of ``REASONS``.
    """

    def __init__(self, code: str, message: str, reason: str = "malformed") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.reason = reason


class AuthUnavailable(BrokerError):
    """A token cannot be judged now, because its issuer's keys are not known."""


REASONS = (
    "algorithm",
    "audience",
    "claims",
    "expired",
    "issuer",
    "malformed",
    "not_yet_valid",
    "signature",
    "unknown_key",
)
"""Why tokens and keys are refused."""


def unauthorized(reason: str) -> Unauthorized:
    """The refusal of a token or key, for one of ``REASONS``.

    A client learns only whether a new token will help: the rest would help who guesses.
    """
    if reason == "expired":
        message = "the token has expired; get a new one"
        return Unauthorized("token_expired", message, reason)
    return Unauthorized("unauthorized", "a valid token is needed", reason)


class Right(StrEnum):
    """What somebody may do. None of them contains another."""

    SUBSCRIBE = "subscribe"
    COMMAND = "command"
    PUBLISH = "publish"
    ADMIN = "admin"


class Sessions(msgspec.Struct, frozen=True, gc=False):
    """A set of session names.

    Attributes:
        names: Names that belong to it.
        prefixes: Beginnings of further names; the empty one is that of all.
    """

    names: frozenset[str] = frozenset()
    prefixes: tuple[str, ...] = ()

    def __contains__(self, session: str) -> bool:
        return session in self.names or session.startswith(self.prefixes)


NO_SESSIONS = Sessions()
ALL_SESSIONS = Sessions(prefixes=("",))


class Identity(msgspec.Struct, frozen=True, gc=False):
    """Somebody, as a token or key says. May be shared by many connections.

    Attributes:
        user: Up to ``USER_BYTES_MAX`` bytes of printable text; empty only where
            nobody is asked who he is.
        rights: What it may do.
        sessions: Which sessions it may read and publish to.
        command_sessions: Which ones it may send commands to; None: as ``sessions``.
        expires_at: Unix seconds at which it ends; None: never.
        issued_at: Unix seconds at which the token was made; None: not known.
        token_id: By which this token or key alone can be revoked, if it has a name.
        max_sessions: Open sessions of the user, 0 for no limit; None: as configured.
        max_connections: Open connections of the user, likewise.
    """

    user: str
    rights: frozenset[Right] = frozenset()
    sessions: Sessions = NO_SESSIONS
    command_sessions: Sessions | None = None
    expires_at: float | None = None
    issued_at: float | None = None
    token_id: str | None = None
    max_sessions: int | None = None
    max_connections: int | None = None

    def may_subscribe(self, session: str) -> bool:
        """Whether it may read the events of *session*."""
        return Right.SUBSCRIBE in self.rights and session in self.sessions

    def may_command(self, session: str) -> bool:
        """Whether it may send commands to *session*."""
        allowed = self.command_sessions
        if allowed is None:
            allowed = self.sessions
        return Right.COMMAND in self.rights and session in allowed

    def may_publish(self, session: str) -> bool:
        """Whether it may add events to *session*."""
        return Right.PUBLISH in self.rights and session in self.sessions

    @property
    def is_admin(self) -> bool:
        """Whether it may use the server API."""
        return Right.ADMIN in self.rights


_EVERYBODYS_RIGHTS = frozenset((Right.SUBSCRIBE, Right.COMMAND, Right.PUBLISH))


def everybody(user: str) -> Identity:
    """Who comes where nobody is asked for a token: all but the server API is open."""
    return Identity(user, _EVERYBODYS_RIGHTS, ALL_SESSIONS)


def read_identity(
    user: object,
    claims: Mapping[str, object],
    *,
    expires_at: float | None = None,
    issued_at: float | None = None,
    token_id: str | None = None,
) -> Identity:
    """Read what a token or the record of a key grants to *user*.

    Args:
        user: Who it is of.
        claims: ``rights``, ``sessions``, ``command_sessions``, ``max_sessions`` and
            ``max_connections`` in it; all may be missing, others are ignored.
        expires_at: See `Identity`.
        issued_at: See `Identity`.
        token_id: See `Identity`.

    Raises:
        BadClaims: One of them is not what it should be.
    """
    own = claims.get("command_sessions")
    return Identity(
        user=read_name("the user", user),
        rights=_read_rights(claims.get("rights")),
        sessions=_read_sessions("sessions", claims.get("sessions")),
        command_sessions=(
            None if own is None else _read_sessions("command_sessions", own)
        ),
        expires_at=expires_at,
        issued_at=issued_at,
        token_id=token_id,
        max_sessions=_read_limit("max_sessions", claims),
        max_connections=_read_limit("max_connections", claims),
    )


def read_name(what: str, value: object) -> str:
    """Check the name of a user or token.

    Raises:
        BadClaims: *value* is not 1 to ``USER_BYTES_MAX`` bytes of printable text.
    """
    # Surrogates, which have no bytes in UTF-8, are not printable.
    if (
        not isinstance(value, str)
        or not 1 <= len(value.encode("utf-8", "replace")) <= USER_BYTES_MAX
        or not value.isprintable()
    ):
        raise BadClaims(f"{what} is printable text of 1 to {USER_BYTES_MAX} bytes")
    return value


def _read_sessions(claim: str, value: object) -> Sessions:
    names, prefixes = set(), set()
    for pattern in _read_texts(claim, value):
        start = pattern.removesuffix("*")
        if start and not is_session_name(start):
            raise BadClaims(
                f"{claim} has a text that is neither a session's name nor the "
                "beginning of one with * behind it"
            )
        if start != pattern:
            prefixes.add(start)
        elif pattern:
            names.add(pattern)
        else:
            raise BadClaims(f"{claim} has an empty text; * stands for all sessions")
    if "" in prefixes:
        return ALL_SESSIONS
    return Sessions(frozenset(names), tuple(sorted(prefixes)))


def _read_rights(value: object) -> frozenset[Right]:
    texts = _read_texts("rights", value)
    try:
        return _shared(frozenset(map(Right, texts)))
    except ValueError:
        known = ", ".join(Right)
    raise BadClaims(f"rights has a text that is none of {known}")


@lru_cache(maxsize=16)
def _shared(rights: frozenset[Right]) -> frozenset[Right]:
    """One object for equal sets: there are 16 of them, and many connections."""
    return rights


def _read_texts(claim: str, value: object) -> list[str]:
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise BadClaims(f"{claim} is a list of texts")
    return value


def _read_limit(claim: str, claims: Mapping[str, object]) -> int | None:
    value = claims.get(claim)
    if value is None:
        return None
    if type(value) is not int or not 0 <= value <= LIMIT_MAX:
        raise BadClaims(f"{claim} is a number from 0, for no limit, to {LIMIT_MAX}")
    return value
