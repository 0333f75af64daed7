"""Who may use the server API: an operator's token, a user's, or whoever is here."""

from __future__ import annotations

import hmac
import ipaddress
import time
from urllib.parse import urlsplit

import msgspec
from aiohttp import hdrs, web

from broker.config import Settings
from broker.control.authenticator import Authenticator
from broker.control.identity import AuthUnavailable, Identity, Unauthorized
from broker.control.revocations import Revocations
from broker.store.revocations import read_all
from broker.store.standing import StandingConnection
from broker.supervisor.api.routes import Need
from broker.worker.handshake import Refusal

REVOCATIONS_S = 0.5
"""How old the list of revocations may be that a token is held against."""

CLOSED = (
    "set BROKER_ADMIN_TOKEN to use the server API on an address that is not loopback, "
    "or BROKER_ADMIN_OPEN=true where a network policy guards the port"
)
FOREIGN_HOST = (
    "without BROKER_ADMIN_TOKEN the server API answers only to localhost and to "
    "loopback addresses"
)


class Caller(msgspec.Struct, frozen=True):
    """Who asks.

    Attributes:
        name: For logs: a user, or what let somebody in who has none.
        identity: What its token allows; None: everything.
    """

    name: str
    identity: Identity | None = None

    def check(self, need: Need, session: str) -> None:
        """Refuse what it may not do.

        Raises:
            Refusal: It has not the right *need*, or not for *session*.
        """
        if self.identity is None or self.identity.is_admin:
            return
        if need != "publish":
            raise Refusal("forbidden", "this takes the right admin")
        if not self.identity.may_publish(session):
            raise Refusal("forbidden", "the token does not allow to publish there")


class Access:
    """Judges requests before anything else of them is read."""

    def __init__(
        self,
        settings: Settings,
        authenticator: Authenticator,
        standing: StandingConnection,
    ) -> None:
        self._token = settings.admin_token.get_secret_value().encode()
        self._authenticator = authenticator
        self._knows_users = settings.auth != "none"
        self._standing = standing
        self._revocations = Revocations()
        self._read_at = float("-inf")
        self._is_local = is_loopback(settings.admin_host)
        self._is_open = settings.admin_open

    def check_origin(self, request: web.Request) -> None:
        """Refuse web pages: to them a port on loopback is open as well.

        Raises:
            Refusal: A browser says that a page is behind the request.
        """
        site = request.headers.get("Sec-Fetch-Site", "none")
        # An image of another page has no Origin, but newer browsers tell on it as well.
        # No page is served here: one of the same origin has rebound its name to us.
        if hdrs.ORIGIN in request.headers or site != "none":
            raise Refusal("forbidden", "web pages may not use the server API")

    async def identify(self, request: web.Request) -> Caller:
        """Find out who asks.

        Raises:
            Refusal: It has no valid token, or cannot do without one.
        """
        token = _bearer(request)
        if token is not None and (self._token or self._knows_users):
            return await self._identify_token(token)
        if self._token:
            raise Refusal("unauthorized")
        if self._is_open:
            return Caller("admin_open")
        if not self._is_local:
            raise Refusal("forbidden", CLOSED)
        # A page may give its own name the address of this machine ("DNS rebinding");
        # the name it then sends as Host is the only thing that shows it.
        if not is_loopback(_host_name(request)):
            raise Refusal("forbidden", FOREIGN_HOST)
        return Caller("loopback")

    async def _identify_token(self, token: str) -> Caller:
        given = token.encode("utf-8", "replace")
        if self._token and hmac.compare_digest(given, self._token):
            return Caller("admin_token")
        if not self._knows_users:
            raise Refusal("unauthorized")
        try:
            identity = await self._authenticator.identify(token)
        except Unauthorized as error:
            raise Refusal(error.code) from None
        except AuthUnavailable:
            raise Refusal("unavailable", "tokens cannot be checked now") from None
        await self._check_not_revoked(identity)
        return Caller(identity.user, identity)

    async def _check_not_revoked(self, identity: Identity) -> None:
        if time.monotonic() - self._read_at > REVOCATIONS_S:
            begun_at = time.monotonic()
            self._revocations.load(await read_all(self._standing.use()))
            self._read_at = begun_at
        if self._revocations.refuses(identity, time.time_ns() / 1e9):
            raise Refusal("revoked")


def is_loopback(host: str) -> bool:
    """Whether *host* is a name or an address by which a machine speaks to itself."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        name = host.lower().removesuffix(".")
        return name == "localhost" or name.endswith(".localhost")
    mapped = address.ipv4_mapped if address.version == 6 else None
    return (mapped or address).is_loopback


def _bearer(request: web.Request) -> str | None:
    scheme, _, token = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


def _host_name(request: web.Request) -> str:
    """The host of the ``Host`` header without its port; empty if it has none."""
    try:
        return urlsplit(f"//{request.headers.get(hdrs.HOST, '')}").hostname or ""
    except ValueError:
        return ""
