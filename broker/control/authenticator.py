"""Finds out who somebody is, in whatever way the settings say."""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.config import Settings
from broker.control.api_keys import ApiKeys
from broker.control.identity import Identity, everybody

if TYPE_CHECKING:
    from broker.control.tokens import Tokens


class Authenticator:
    """Judges tokens by ``BROKER_AUTH``.

    Raises:
        ConfigError: Keys or secrets cannot be used; the message says which setting.
    """

    def __init__(self, settings: Settings) -> None:
        self._api_keys: ApiKeys | None = None
        self._tokens: Tokens | None = None
        if settings.auth == "api_key":
            self._api_keys = ApiKeys.from_settings(settings)
        elif settings.auth == "jwt":
            # Its libraries are 7 MiB in each process, which only this mode needs.
            from broker.control.tokens import Tokens

            self._tokens = Tokens.from_settings(settings)

    async def identify(self, token: str) -> Identity:
        """Who has *token*. Waits for nothing but keys that are being fetched.

        With ``BROKER_AUTH=none`` that is everybody, whatever the token.

        Raises:
            Unauthorized: The token proves nothing, or not any more.
            AuthUnavailable: It cannot be judged now; later it can.
        """
        if self._api_keys is not None:
            return self._api_keys.identify(token)
        if self._tokens is not None:
            return await self._tokens.identify(token)
        return everybody("")

    async def close(self) -> None:
        """Give back what was opened."""
        if self._tokens is not None:
            await self._tokens.close()
