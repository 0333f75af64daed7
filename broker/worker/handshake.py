"""What a request asks for, or why it is refused. Knows HTTP, but no socket."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from urllib.parse import urlsplit

from aiohttp import hdrs, web

from broker.config import Settings
from broker.model import is_session_name
from broker.worker.channels import Overflow, Start
from broker.worker.starting import BadStart, read_overflow, read_start

USER_BYTES_MAX = 256
RETRY_AFTER_S = (1, 5)

MESSAGES = {
    "bad_request": "the request is malformed",
    "forbidden": "this origin may not connect",
    "not_found": "there is nothing here",
    "too_many_connections": "this server has as many connections as it may",
    "too_many_connections_per_user": "this user has as many connections as allowed",
    "too_many_connections_per_session": "this session has as many as allowed",
    "accept_rate": "too many new connections at once",
    "memory": "this server is short of memory",
    "unavailable": "the event store is away",
    "draining": "this server is going away",
    "bad_upgrade": "this is not a WebSocket handshake",
}

STATUSES = {
    "bad_request": 400,
    "forbidden": 403,
    "not_found": 404,
    "too_many_connections_per_user": 429,
    "too_many_connections_per_session": 429,
}
"""HTTP status by reason; everything else is 503: come back later."""


class Refusal(Exception):
    """A request is refused.

    Attributes:
        reason: Metric label and ``code`` in the answer.
        status: HTTP status.
        message: For a person; repeats nothing of the request.
        headers: What the answer carries besides.
    """

    def __init__(
        self,
        reason: str,
        message: str = "",
        *,
        status: int = 0,
        headers: dict[str, str] | None = None,
    ) -> None:
        self.reason = reason
        self.status = status or STATUSES.get(reason, 503)
        self.message = message or MESSAGES[reason]
        self.headers = headers or {}
        if self.status in (429, 503):
            # Not all at the same second: the answer spreads those who come back.
            self.headers[hdrs.RETRY_AFTER] = str(random.randint(*RETRY_AFTER_S))  # noqa: S311
        super().__init__(self.message)

    @property
    def temporary(self) -> bool:
        """Whether the same request may succeed later."""
        return self.status in (429, 503)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a client asks for.

    Attributes:
        session: The session of the path, empty for ``/v1/ws``.
        user: Who it says it is; empty where nobody asks.
        start: From where it wants events.
        overflow: What happens when its socket does not keep up.
    """

    session: str
    user: str
    start: Start = field(default_factory=Start)
    overflow: Overflow = Overflow.LAG


def read_request(
    request: web.BaseRequest,
    session: str,
    settings: Settings,
    newer: Mapping[str, str] = MappingProxyType({}),
) -> Wanted:
    """Read path and query of a request for events.

    Args:
        request: The request.
        session: The session of its path, empty for none.
        settings: The effective settings.
        newer: Parameters that beat those of the query.

    Raises:
        Refusal: Something in it cannot be used.
    """
    if session and not is_session_name(session):
        raise Refusal(
            "bad_request",
            "a session is a letter or digit and up to 127 of A-Z a-z 0-9 . _ : @ -",
        )
    check_origin(request, settings)
    query = {**request.query, **newer}
    user = query.get("user", "")
    if len(user.encode("utf-8", "replace")) > USER_BYTES_MAX or not user.isprintable():
        raise Refusal("bad_request", f"user is text of at most {USER_BYTES_MAX} bytes")
    if "token" in query:
        raise Refusal(
            "bad_request",
            "a token in the URL ends up in logs: send it as Authorization: Bearer or "
            "as the subprotocol bearer.<token>",
        )
    try:
        return Wanted(
            session=session,
            user=user,
            start=read_start(query, settings.max_replay_entries),
            overflow=read_overflow(query),
        )
    except BadStart as error:
        raise Refusal("bad_request", str(error)) from None


def check_origin(request: web.BaseRequest, settings: Settings) -> None:
    """Refuse pages of other sites: a browser sends them here with the user's access.

    Raises:
        Refusal: The request has an Origin that is not allowed.
    """
    origin = request.headers.get(hdrs.ORIGIN)
    if origin is None:
        return
    allowed = settings.allowed_origins
    if "*" in allowed or origin.lower() in allowed:
        return
    host = request.headers.get(hdrs.HOST, "")
    if allowed or _host_of(origin) != host.lower():
        raise Refusal("forbidden")


def _host_of(origin: str) -> str | None:
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return None
