"""The broker's own commands: what a client may ask of this worker."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

from broker.config import Settings
from broker.control.commits import CommitResult
from broker.control.identity import Identity
from broker.model import Position, is_session_name, parse_position
from broker.protocols.native import BadFrame, ClientFrame
from broker.worker.channels import Subscription
from broker.worker.commands import Handler
from broker.worker.connection import Connection
from broker.worker.consumers import Committer
from broker.worker.entrance import Entrance
from broker.worker.handshake import BAD_SESSION
from broker.worker.limits import Limits
from broker.worker.plane import ControlPlane
from broker.worker.starting import BadStart, Reading, read_reading
from broker.worker.subscriptions import Subscriptions

COMMIT_MESSAGES = {
    "too_many_consumers": "the session has as many consumers as it may",
    "reset": "the position is of a history that has ended",
    "unavailable": "it may not have been stored; say it again",
}


class Requests:
    """``ping``, ``subscribe``, ``unsubscribe``, ``ack`` and ``refresh``."""

    def __init__(
        self,
        settings: Settings,
        subscriptions: Subscriptions,
        limits: Limits,
        entrance: Entrance,
        plane: ControlPlane,
        on_new_identity: Callable[[Connection, Identity], None],
        refuses_watches: Callable[[str], str],
    ) -> None:
        self._settings = settings
        self._subscriptions = subscriptions
        self._limits = limits
        self._entrance = entrance
        self._plane = plane
        self._on_new_identity = on_new_identity
        self._refuses_watches = refuses_watches

    @property
    def handlers(self) -> dict[str, Handler]:
        """What is done here, by ``cmd``."""
        return {
            "ping": self._handle_ping,
            "subscribe": self._handle_subscribe,
            "unsubscribe": self._handle_unsubscribe,
            "ack": self._handle_ack,
            "refresh": self._handle_refresh,
            "auth": self._handle_auth,
        }

    def _handle_ping(self, connection: Connection, frame: ClientFrame) -> None:
        connection.notify("pong", with_ref({}, frame))

    # Subscriptions.

    def _handle_subscribe(
        self, connection: Connection, frame: ClientFrame
    ) -> Awaitable[None] | None:
        session = session_of(frame)
        try:
            wanted = frame.arguments
            reading = read_reading(wanted, self._settings.max_replay_entries)
        except BadStart as error:
            raise BadFrame("bad_position", str(error), frame.id) from None
        self._check_room(connection, session, frame)
        if connection.user or reading.consumer:
            return self._subscribe_later(connection, session, reading, frame.id)
        self._entrance.check_right(identity_of(connection), session)
        self._subscriptions.open(connection, session, reading, frame.id)
        return None

    async def _subscribe_later(
        self, connection: Connection, session: str, reading: Reading, ref: str | None
    ) -> None:
        identity = identity_of(connection)
        reading = await self._entrance.open(identity, session, reading)
        self._check_limits(connection, ref)
        if connection.open:
            self._subscriptions.open(connection, session, reading, ref)

    def _check_room(
        self, connection: Connection, session: str, frame: ClientFrame
    ) -> None:
        if session in connection.subs:
            raise BadFrame(
                "already_subscribed", "unsubscribe first to read it anew", frame.id
            )
        self._check_limits(connection, frame.id)
        if not self._may_ask(connection):
            raise BadFrame(
                "rate_limited", "too many subscribe commands", frame.id, retry=True
            )
        if self._refuses_watches(session):
            raise BadFrame("unavailable", "try again later", frame.id, retry=True)

    def _check_limits(self, connection: Connection, ref: str | None) -> None:
        if not self._limits.may_subscribe(connection.user, len(connection.subs)):
            raise BadFrame(
                "too_many_subscriptions", "unsubscribe from another first", ref
            )

    def _handle_unsubscribe(self, connection: Connection, frame: ClientFrame) -> None:
        session = session_of(frame)
        sub = connection.subs.get(session)
        if sub is None:
            raise BadFrame("not_subscribed", "there is no subscription to it", frame.id)
        self._subscriptions.end(sub)
        data = with_ref({}, frame)
        connection.notify("unsubscribed", data, session)

    def _may_ask(self, connection: Connection) -> bool:
        """A token bucket in two numbers: most connections never need one."""
        burst = float(self._settings.max_subscriptions_per_connection)
        now = time.monotonic()
        tokens, at = connection.allowance or (burst, now)
        tokens = min(burst, tokens + (now - at) * self._settings.subscribe_rate_per_s)
        allowed = tokens >= 1
        connection.allowance = (tokens - allowed, now)
        return allowed

    # Committed positions.

    def _handle_ack(self, connection: Connection, frame: ClientFrame) -> None:
        sub = self._subscription_of(connection, frame)
        committer = sub.consumer
        if not isinstance(committer, Committer):
            raise BadFrame(
                "no_consumer", "consumer= names whose position it is", frame.id
            )
        position = _position_of(frame)
        sent = committer.sent
        if sent is None or position.id > sent.id:
            raise BadFrame(
                "not_delivered", "the position has not been delivered here", frame.id
            )

        def answer(result: CommitResult) -> None:
            if not connection.open:
                return
            if result.code:
                data: dict[str, object] = {"code": result.code}
                data["message"] = COMMIT_MESSAGES[result.code]
                data["retry"] = result.code == "unavailable"
                connection.notify("error", with_ref(data, frame), name)
            elif frame.id is not None:
                data = with_ref({"position": str(position)}, frame)
                connection.notify("ack", data, name)

        name = committer.consumer.session
        committer.acknowledge(position, answer)

    def _subscription_of(
        self, connection: Connection, frame: ClientFrame
    ) -> Subscription:
        named = frame.session or frame.arguments.get("session") or connection.session
        if not named and len(connection.subs) == 1:
            (named,) = connection.subs
        sub = connection.subs.get(named) if isinstance(named, str) else None
        if sub is None:
            raise BadFrame("not_subscribed", "there is no subscription to it", frame.id)
        return sub

    # Who it is.

    def _handle_auth(self, connection: Connection, frame: ClientFrame) -> None:
        raise BadFrame(
            "already_authenticated", "a new token comes with refresh", frame.id
        )

    async def _handle_refresh(self, connection: Connection, frame: ClientFrame) -> None:
        token = frame.arguments.get("token")
        if not isinstance(token, str):
            raise BadFrame("bad_frame", "data.token is the new token", frame.id)
        identity = await self._entrance.identify(token, connection.user)
        if identity.user != connection.user:
            raise BadFrame("forbidden", "the token is of another user", frame.id)
        self._on_new_identity(connection, identity)
        data: dict[str, object] = {"expires_at": identity.expires_at}
        connection.notify("refreshed", with_ref(data, frame))


def identity_of(connection: Connection) -> Identity:
    """Who a connection is that has said so."""
    identity = connection.identity
    assert identity is not None  # noqa: S101 - nobody is heard before
    return identity


def session_of(frame: ClientFrame) -> str:
    """The session that a frame names.

    Raises:
        BadFrame: It names none, or what it names cannot be one.
    """
    session = frame.session or frame.arguments.get("session")
    if not isinstance(session, str) or not is_session_name(session):
        raise BadFrame("bad_session", f"data.session: {BAD_SESSION}", frame.id)
    return session


def with_ref(data: dict[str, object], frame: ClientFrame) -> dict[str, object]:
    """*data* with the id of the frame that it answers, if that has one."""
    return data if frame.id is None else data | {"ref": frame.id}


def _position_of(frame: ClientFrame) -> Position:
    text = frame.arguments.get("position")
    try:
        return parse_position(text if isinstance(text, str) else "")
    except ValueError as error:
        raise BadFrame("bad_position", f"data.position: {error}", frame.id) from None
