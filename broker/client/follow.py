"""One connection after the other, as the close code and the server's word tell."""

from __future__ import annotations

import asyncio
import random
from http import HTTPStatus
from typing import Protocol

import aiohttp
import msgspec
from yarl import URL

from broker.client.link import Ending, Link, Reader
from broker.client.tokens import Tokens
from broker.disconnect import Disconnect
from broker.model import is_session_name

FIRST_BACKOFF_S = 0.5
MAX_BACKOFF_S = 30.0
HEALTHY_S = 10.0
"""A connection that lasted so long starts the back-off anew."""

_WANTS_TOKEN = frozenset(
    (
        HTTPStatus.UNAUTHORIZED,
        Disconnect.UNAUTHORIZED.code,
        Disconnect.TOKEN_EXPIRED.code,
    )
)


class Owner(Reader, Protocol):
    """What following needs of whoever wants to."""

    def handle_end(self, ending: Ending) -> bool:
        """A connection has ended; whether to open another one, if that is of use."""

    def handle_pause(self, ending: Ending, delay_s: float) -> None:
        """The next one is opened after *delay_s*."""


class Follower:
    """Keeps a connection open, over as many as it takes.

    Args:
        url: What to ask for; its query is the owner's.
        tokens: With what to say who we are.
        owner: Takes the frames.
    """

    def __init__(self, url: URL, tokens: Tokens, owner: Owner) -> None:
        self._url = url
        self._tokens = tokens
        self._owner = owner
        self._renewed = False

    async def run(self, http: aiohttp.ClientSession) -> Ending:
        """Follow until the server or the owner wants no more connections.

        Raises:
            Exception: Whatever the owner or the provider of tokens raises.
        """
        loop = asyncio.get_running_loop()
        backoff = Backoff()
        self._renewed = False
        while True:
            began = loop.time()
            link = Link(self._tokens, self._owner)
            ending = await link.run(http, self._url)
            lasted_s = loop.time() - began
            ending = await self._with_another_token(link, ending)
            if not (self._owner.handle_end(ending) and ending.retry):
                return ending
            delay_s = backoff.next_s(ending, lasted_s)
            self._owner.handle_pause(ending, delay_s)
            await asyncio.sleep(delay_s)

    async def _with_another_token(self, link: Link, ending: Ending) -> Ending:
        """The same ending; to be retried if all that it wants is another token.

        Each token that was not let in is followed by one more and no other.
        """
        if link.welcome is not None:
            self._renewed = False
        is_wanted = ending.code in _WANTS_TOKEN and self._tokens.renewable
        if not is_wanted or self._renewed:
            return ending
        self._renewed = True
        has_ended = ending.code == Disconnect.TOKEN_EXPIRED.code
        await self._tokens.renew(link.token, "expired" if has_ended else "refused")
        return msgspec.structs.replace(ending, retry=True)


class Backoff:
    """How long to wait before the next connection."""

    def __init__(self) -> None:
        self._failures = 0

    def next_s(self, ending: Ending, lasted_s: float) -> float:
        """What the server asked for, else longer and longer with full jitter."""
        if lasted_s > HEALTHY_S:
            self._failures = 0
        delay_s = ending.delay_s
        if delay_s is None:
            delay_s = backoff_s(self._failures)
        self._failures += 1
        return delay_s


def backoff_s(failures: int) -> float:
    """A wait with full jitter: anywhere from nothing to a bound that doubles."""
    bound = min(MAX_BACKOFF_S, FIRST_BACKOFF_S * 2 ** min(failures, 10))
    return random.uniform(0, bound)  # noqa: S311  no secret


def broker_url(url: str) -> URL:
    """Read where the broker listens.

    Raises:
        ValueError: It is not ``http(s)://`` or ``ws(s)://`` with host and port.
    """
    base = URL(url)
    is_known = base.scheme in {"http", "https", "ws", "wss"}
    if not (is_known and base.host) or base.user is not None:
        raise ValueError("the URL must look like http://127.0.0.1:8080")
    return base


def check_session(session: str) -> None:
    """Refuse what the broker refuses.

    Raises:
        ValueError: *session* is no session name.
    """
    if not is_session_name(session):
        raise ValueError(f"{session!r} cannot be the name of a session")


def new_http() -> aiohttp.ClientSession:
    """What connections are made with, as many at once as are wanted."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0),
        timeout=aiohttp.ClientTimeout(total=None),
    )
