"""The server API, put together."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog
from aiohttp import web

from broker.config import Settings
from broker.control.authenticator import Authenticator
from broker.metrics.slots import Row
from broker.store import once, presence, revocations, sessions
from broker.store.connection import Connection
from broker.store.keys import event_key_pattern
from broker.store.scripts import load_scripts
from broker.store.standing import StandingConnection
from broker.supervisor.api.access import Access
from broker.supervisor.api.connections import Questions
from broker.supervisor.api.gate import Call, Gate, Handle
from broker.supervisor.api.publishing import Publishing
from broker.supervisor.api.revocations import Revocations
from broker.supervisor.api.routes import Route
from broker.supervisor.api.sessions import Sessions, session_of
from broker.worker.archive import Archive
from broker.worker.history import History

log = structlog.get_logger(__name__)

REDIS_S = 3.0
"""A command without an answer by then ends the connection, and its request is 503."""


class Api:
    """What the server API is made of, with connections to Redis of its own.

    Args:
        settings: The effective settings.
        authenticator: Judges tokens by ``BROKER_AUTH``; closed with this.
        pod: The name of the pod.
        values: The supervisor's metric row.
        identity: Number of the server that the reader reads, 0 for not known.

    Attributes:
        handshake_s: Seconds that a client has for its first request.
    """

    def __init__(
        self,
        settings: Settings,
        authenticator: Authenticator,
        pod: str,
        values: Row,
        identity: Callable[[], int],
    ) -> None:
        self.handshake_s = settings.handshake_s
        url = settings.redis_url.get_secret_value()
        self._standing = standing = StandingConnection(
            url, f"broker-admin-{pod}", _prepare, command_timeout_s=REDIS_S
        )
        keys = event_key_pattern(settings.event_stream)
        self._archive = Archive(
            url, f"broker-admin-history-{pod}", keys, values, identity
        )
        self._history = History(settings, self._archive)
        self._authenticator = authenticator
        access = Access(settings, authenticator, standing)
        self._gate = Gate(access, standing, settings.max_event_bytes)
        self._handles = self._make_handles(settings, Questions(url))
        self._tasks: list[asyncio.Task[None]] = []

    def _make_handles(
        self, settings: Settings, questions: Questions
    ) -> dict[str, Handle]:
        """What answers which route, by its name."""
        publishing = Publishing(settings, self._standing)
        about = Sessions(settings, self._standing, self._archive)
        revoked = Revocations(settings, self._standing)
        return {
            "publish": publishing.publish,
            "history": self._events,
            "count": self._count,
            "session": about.session,
            "user_sessions": about.user_sessions,
            "close_session": about.close,
            "disconnect": about.disconnect,
            "revoke": revoked.revoke,
            "revocations": revoked.revocations,
            "pardon_user": revoked.pardon_user,
            "pardon_token": revoked.pardon_token,
            "connections": questions.connections,
        }

    def handler(self, route: Route) -> Callable[..., object]:
        """What answers *route*, for aiohttp.

        Raises:
            KeyError: Nothing does.
        """
        return self._gate.guard(route, self._handles[route.name])

    def start(self) -> None:
        """Connect to Redis, and again whenever that is lost."""
        runs = {"api": self._standing.run(), "api-history": self._archive.run()}
        for name, run in runs.items():
            task = asyncio.create_task(run, name=name)
            task.add_done_callback(_log_failure)
            self._tasks.append(task)

    async def close(self) -> None:
        """Give back what was opened."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._authenticator.close()

    async def _events(self, call: Call) -> web.Response:
        return await self._history.handle(call.request, [session_of(call)])

    async def _count(self, call: Call) -> web.Response:
        return await self._history.handle(call.request, [session_of(call), "count"])


async def _prepare(connection: Connection) -> None:
    await load_scripts(
        connection,
        once.SCRIPT,
        *presence.SCRIPTS,
        *revocations.SCRIPTS,
        *sessions.SCRIPTS,
    )


def _log_failure(task: asyncio.Task[None]) -> None:
    # Without its connection the API says that Redis is away; the rest goes on.
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("api_failed", task=task.get_name(), exc_info=error)
