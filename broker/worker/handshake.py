"""What a request asks for, or why it is refused. Knows HTTP, but no socket."""

from __future__ import annotations

import ipaddress
import random
from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType
from urllib.parse import urlsplit

import msgspec
from aiohttp import hdrs, web

from broker.config import Settings
from broker.disconnect import Disconnect
from broker.model import is_session_name
from broker.protocols.handshake import choose_subprotocol
from broker.worker.starting import BadStart, Reading, read_reading

USER_BYTES_MAX = 256
RETRY_AFTER_S = (1, 5)
HOSTS_KEPT = 64
"""Names of this server of which it is kept whether only this machine can mean them."""
BAD_SESSION = "a session is a letter or digit and up to 127 of A-Z a-z 0-9 . _ : @ -"

MESSAGES = {
    "bad_request": "the request is malformed",
    "forbidden": "this origin may not connect",
    "not_found": "there is nothing here",
    "too_many_connections": "this server has as many connections as it may",
    "too_many_connections_per_user": "this user has as many connections as allowed",
    "too_many_connections_per_session": "this session has as many as allowed",
    "too_many_subscriptions": "this user reads as many sessions as allowed",
    "accept_rate": "too many new connections at once",
    "memory": "this server is short of memory",
    "unavailable": "the event store is away",
    "draining": "this server is going away",
    "bad_upgrade": "this is not a WebSocket handshake",
    "internal": "the server failed",
    "unauthorized": "a valid token is needed",
    "token_expired": "the token has expired; get a new one",
    "revoked": "access was revoked",
    "session_evicted": "the user opened newer sessions; takeover=1 opens it again",
    "session_closed": "the session was closed; takeover=1 opens it again",
    "too_many_consumers": "the session has as many consumers as it may",
}

STATUSES = {
    "bad_request": 400,
    "forbidden": 403,
    "not_found": 404,
    "too_many_connections_per_user": 429,
    "too_many_connections_per_session": 429,
    "too_many_subscriptions": 429,
    "unauthorized": 401,
    "token_expired": 401,
    "revoked": 401,
    "session_evicted": 409,
    "session_closed": 409,
    "too_many_consumers": 409,
    "internal": 500,
}
"""HTTP status by reason; everything else is 503: come back later."""

TERMINAL = {
    "unauthorized": Disconnect.UNAUTHORIZED,
    "token_expired": Disconnect.TOKEN_EXPIRED,
    "revoked": Disconnect.REVOKED,
    "forbidden": Disconnect.FORBIDDEN,
    "not_found": Disconnect.NOT_FOUND,
    "session_evicted": Disconnect.SESSION_EVICTED,
    "session_closed": Disconnect.SESSION_CLOSED,
    "too_many_consumers": Disconnect.BAD_REQUEST,
}
"""Refusals for good by reason: what a page is told, since it sees no HTTP status."""


class Refusal(Exception):
    """A request is refused.

    Attributes:
        reason: Metric label and ``code`` in the answer.
        status: HTTP status.
        message: For a person; repeats nothing of the request.
        headers: What the answer carries besides.
        details: More for a ``closing`` frame, such as ``replaced_by``.
    """

    def __init__(
        self,
        reason: str,
        message: str = "",
        *,
        status: int = 0,
        headers: dict[str, str] | None = None,
        details: Mapping[str, object] = MappingProxyType({}),
    ) -> None:
        self.reason = reason
        self.status = status or STATUSES.get(reason, 503)
        self.message = message or MESSAGES[reason]
        self.headers = headers or {}
        self.details = details
        if self.status in (429, 503):
            # Not all at the same second: the answer spreads those who come back.
            self.headers[hdrs.RETRY_AFTER] = str(random.randint(*RETRY_AFTER_S))  # noqa: S311
        super().__init__(self.message)

    @property
    def temporary(self) -> bool:
        """Whether the same request may succeed later."""
        return self.status in (429, 503)


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """What a client asks for.

    Attributes:
        session: The session of the path, empty for ``/v1/ws``.
        user: Who it says it is, which counts only where nobody asks for a token.
        reading: How it wants the session of the path.
    """

    session: str = ""
    user: str = ""
    reading: Reading = Reading()


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
            BAD_SESSION,
        )
    check_origin(request, settings)
    query = {**request.query, **newer}
    if not query:
        return Wanted(session=session)  # To find that out of 8 parameters costs 3 %.
    try:
        reading = read_reading(query, settings.max_replay_entries)
    except BadStart as error:
        raise Refusal("bad_request", str(error)) from None
    return Wanted(session=session, user=read_user(query), reading=reading)


def read_user(query: Mapping[str, str]) -> str:
    """Who a client says it is.

    Raises:
        Refusal: It is too long, or not printable.
    """
    user = query.get("user", "")
    if len(user.encode("utf-8", "replace")) > USER_BYTES_MAX or not user.isprintable():
        raise Refusal("bad_request", f"user is text of at most {USER_BYTES_MAX} bytes")
    return user


def read_token(request: web.BaseRequest, settings: Settings) -> str | None:
    """The token of a request: of its header, its subprotocols or, if allowed, its URL.

    Raises:
        Refusal: It is in the URL although that is switched off.
    """
    if "token" in request.query:
        if not settings.token_in_query:
            raise Refusal(
                "bad_request",
                "a token in the URL ends up in logs: send it as Authorization: Bearer "
                "or as the subprotocol bearer.<token>",
            )
        return request.query["token"]
    scheme, _, token = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
    if scheme.lower() == "bearer":
        return token.strip()
    offered = request.headers.getall(hdrs.SEC_WEBSOCKET_PROTOCOL, [])
    return choose_subprotocol(offered)[1]


def check_origin(request: web.BaseRequest, settings: Settings) -> None:
    """Refuse pages of other sites: a browser sends them here with the user's access.

    Raises:
        Refusal: The request has an Origin that is not allowed, or comes by a name that
            only a page of another site would use.
    """
    origin = request.headers.get(hdrs.ORIGIN)
    host = request.headers.get(hdrs.HOST, "").lower()
    if origin is not None:
        allowed = settings.allowed_origins
        if "*" in allowed or origin.lower() in allowed:
            return
        if allowed or _host_of(origin) != host:
            raise Refusal("forbidden")
    # Where nobody is asked who he is, loopback is all the protection: a page whose name
    # was made to lead here must not pass for this host's own. What such a page reads
    # with a plain GET has no Origin at all.
    if settings.auth == "none" and not settings.allow_insecure and not _is_local(host):
        raise Refusal("forbidden")


@lru_cache(HOSTS_KEPT)
def _is_local(host: str) -> bool:
    # Asked of each connection, and to read the same name takes 5 % of letting one in.
    try:
        name = urlsplit(f"//{host}").hostname or ""
        if name == "localhost" or name.endswith(".localhost"):
            return True
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _host_of(origin: str) -> str | None:
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return None
