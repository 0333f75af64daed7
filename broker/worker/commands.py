"""Answers what clients say in ``broker.v1``."""

from __future__ import annotations

import time
from collections.abc import Callable

from broker.config import Settings
from broker.disconnect import Disconnect
from broker.metrics import catalog
from broker.metrics.slots import Row
from broker.model import is_session_name
from broker.protocols.native import BadFrame, ClientFrame, read_client_frame
from broker.worker.connection import Connection
from broker.worker.limits import Limits
from broker.worker.starting import BadStart, read_overflow, read_start
from broker.worker.subscriptions import Subscriptions

ERRORS_MAX = 100
"""Bad frames after which a connection is closed."""


class Commands:
    """The broker's own commands: ``ping``, ``subscribe`` and ``unsubscribe``."""

    def __init__(
        self,
        settings: Settings,
        subscriptions: Subscriptions,
        limits: Limits,
        values: Row,
        refuses_watches: Callable[[str], str],
    ) -> None:
        self._settings = settings
        self._subscriptions = subscriptions
        self._limits = limits
        self._values = values
        self._refuses_watches = refuses_watches
        self._handlers = {
            "ping": self._handle_ping,
            "subscribe": self._handle_subscribe,
            "unsubscribe": self._handle_unsubscribe,
        }

    def handle(self, connection: Connection, payload: bytes) -> None:
        """Answer one text frame; a bad one is answered with ``error``."""
        self._values[catalog.CLIENT_FRAMES.slot] += 1
        try:
            frame = read_client_frame(payload)
            self._handlers.get(frame.cmd, self._handle_unknown)(connection, frame)
        except BadFrame as error:
            self._refuse(connection, error)

    def _refuse(self, connection: Connection, error: BadFrame) -> None:
        self._values[catalog.CLIENT_ERRORS.slots[error.code]] += 1
        data: dict[str, object] = {"code": error.code, "message": error.message}
        if error.ref is not None:
            data["ref"] = error.ref
        connection.send(connection.format.notice("error", data))
        connection.errors += 1
        if connection.errors >= ERRORS_MAX:
            connection.close(Disconnect.TOO_MANY_ERRORS)

    def _handle_unknown(self, connection: Connection, frame: ClientFrame) -> None:
        known = ", ".join(self._handlers)
        raise BadFrame("unknown_cmd", f"cmd is one of {known}", frame.id)

    def _handle_ping(self, connection: Connection, frame: ClientFrame) -> None:
        connection.send(connection.format.notice("pong", _with_ref({}, frame)))

    def _handle_subscribe(self, connection: Connection, frame: ClientFrame) -> None:
        session = _session_of(frame)
        wanted = frame.data or {}
        try:
            start = read_start(wanted, self._settings.max_replay_entries)
            overflow = read_overflow(wanted)
        except BadStart as error:
            raise BadFrame("bad_position", str(error), frame.id) from None
        if session in connection.subs:
            raise BadFrame(
                "already_subscribed", "unsubscribe first to read it anew", frame.id
            )
        if not self._limits.may_subscribe(connection.user, len(connection.subs)):
            raise BadFrame(
                "too_many_subscriptions", "unsubscribe from another first", frame.id
            )
        if not self._may_ask(connection):
            raise BadFrame("rate_limited", "too many subscribe commands", frame.id)
        if self._refuses_watches(session):
            raise BadFrame("unavailable", "try again later", frame.id)
        self._subscriptions.open(connection, session, start, overflow, frame.id)

    def _handle_unsubscribe(self, connection: Connection, frame: ClientFrame) -> None:
        session = _session_of(frame)
        sub = connection.subs.get(session)
        if sub is None:
            raise BadFrame("not_subscribed", "there is no subscription to it", frame.id)
        self._subscriptions.end(sub)
        data = _with_ref({}, frame)
        connection.send(connection.format.notice("unsubscribed", data, session))

    def _may_ask(self, connection: Connection) -> bool:
        """A token bucket in two numbers: most connections never need one."""
        burst = float(self._settings.max_subscriptions_per_connection)
        now = time.monotonic()
        tokens, at = connection.allowance or (burst, now)
        tokens = min(burst, tokens + (now - at) * self._settings.subscribe_rate_per_s)
        allowed = tokens >= 1
        connection.allowance = (tokens - allowed, now)
        return allowed


def _session_of(frame: ClientFrame) -> str:
    session = (frame.data or {}).get("session")
    if not isinstance(session, str) or not is_session_name(session):
        raise BadFrame(
            "bad_session",
            "data.session is a letter or digit and up to 127 of A-Z a-z 0-9 . _ : @ -",
            frame.id,
        )
    return session


def _with_ref(data: dict[str, object], frame: ClientFrame) -> dict[str, object]:
    return data if frame.id is None else data | {"ref": frame.id}
