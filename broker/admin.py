"""Asks the server API of a running broker, for the command line."""

from __future__ import annotations

import os
import sys
from collections.abc import Coroutine, Mapping
from typing import Any, TypeVar

import aiohttp
import msgspec
import uvloop
from yarl import URL

from broker.config import Settings
from broker.dev import read_state
from broker.errors import BrokerError
from broker.supervisor.api.messages import Failure
from broker.supervisor.api.routes import request_line

Result = TypeVar("Result")

TIMEOUT_S = 10.0


class AdminProblem(BrokerError):
    """The server API did not do what was asked; the message says why."""


class Admin:
    """The server API of one broker.

    Args:
        url: Of its admin port.
        token: Empty for none.

    Raises:
        AdminProblem: No header can carry the token.
        ValueError: *url* is no URL of HTTP with a host.
    """

    def __init__(self, url: str, token: str) -> None:
        if not (token.isascii() and token.isprintable()):
            raise AdminProblem("BROKER_ADMIN_TOKEN must be printable ASCII")
        base = URL(url)
        if base.scheme not in {"http", "https"} or not base.host:
            raise ValueError("http or https and a host are needed")
        self._url = url.rstrip("/")
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}

    async def ask(
        self,
        name: str,
        body: Mapping[str, object] | None = None,
        query: str = "",
        **parts: str,
    ) -> bytes:
        """Send the request of the route *name*; returns the body of the answer.

        Raises:
            AdminProblem: Nobody answered, or with a failure.
        """
        method, path = request_line(name, **parts)
        data = None if body is None else msgspec.json.encode(body)
        # As it is: what stands for a user may look like a part of the path.
        url = URL(f"{self._url}{path}{query}", encoded=True)
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout, headers=self._headers) as http,
                http.request(method, url, data=data, allow_redirects=False) as answer,
            ):
                text = await answer.read()
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            # A ValueError: a name that cannot be looked up, or a user beside a token.
            raise AdminProblem(f"{self._url}: {_why(error)}") from None
        if answer.status >= 300:
            raise self._problem(answer.status, text)
        return text

    def _problem(self, status: int, text: bytes) -> AdminProblem:
        try:
            error = msgspec.json.decode(text, type=Failure).error
        except (msgspec.DecodeError, UnicodeDecodeError):
            return AdminProblem(
                f"{self._url} is not the admin port of a broker: HTTP status {status}"
            )
        hint = "; set BROKER_ADMIN_TOKEN" if status == 401 else ""
        return AdminProblem(f"{error.message} ({error.code}){hint}")


def _why(error: Exception) -> str:
    if isinstance(error, aiohttp.ClientConnectorError):
        number = error.os_error.errno or 0
        # asyncio writes a sentence of its own into strerror; of names it has no number.
        reason = os.strerror(number) if number > 0 else error.os_error.strerror
        return f"nobody answers there ({reason}); is the broker running?"
    return str(error) or "no answer in time"


def where_to_ask(settings: Settings) -> str:
    """The broker that settings speak of, else the running ``broker dev``."""
    state = read_state()
    named = {"admin_host", "admin_port"} & settings.model_fields_set
    if state is not None and state.admin and not named:
        return state.admin
    host = settings.admin_host
    if host in {"0.0.0.0", "::"}:  # noqa: S104  every address, so this machine's too
        host = "127.0.0.1"
    return f"http://{f'[{host}]' if ':' in host else host}:{settings.admin_port}"


def run(work: Coroutine[Any, Any, Result]) -> Result:
    """Run *work* to its end; Ctrl-C ends the program."""
    try:
        return uvloop.run(work)
    except KeyboardInterrupt:
        # Not click's "Aborted!" with status 1: the user asked for the end.
        sys.exit(128 + 2)
