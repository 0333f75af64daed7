"""The token of a client: one for all its connections, and a new one when needed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Literal

TokenReason = Literal["connect", "expiring", "expired", "refused"]
"""Why one is asked for: there is none yet, it ends soon, has ended, or is refused."""

TokenProvider = Callable[[TokenReason], Awaitable[str]]


class Tokens:
    """Knows the token of the moment; many connections ask for a new one only once.

    Args:
        source: The token, empty for none; or who makes new ones.

    Raises:
        ValueError: It is nothing that a header can carry.
    """

    def __init__(self, source: str | TokenProvider) -> None:
        self._provider = None if isinstance(source, str) else source
        self._token = _sound(source) if isinstance(source, str) else None
        self._asking = asyncio.Lock()

    @property
    def renewable(self) -> bool:
        """Whether there can be another one."""
        return self._provider is not None

    async def current(self) -> str:
        """The token to connect with.

        Raises:
            ValueError: The provider made one that a header cannot carry.
        """
        if self._token is not None:
            return self._token
        return await self.renew(None, "connect")

    async def renew(self, former: str | None, reason: TokenReason) -> str:
        """A token other than *former*, unless the provider makes the same one again.

        Raises:
            ValueError: The provider made one that a header cannot carry.
        """
        async with self._asking:
            # Another connection may have asked meanwhile.
            if self._provider is not None and self._token in (None, former):
                self._token = _sound(await self._provider(reason))
            return self._token or ""


def _sound(token: str) -> str:
    if not (token.isascii() and token.isprintable()):
        raise ValueError("the token must be printable ASCII")  # and is not repeated
    return token
