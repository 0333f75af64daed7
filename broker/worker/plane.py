"""The worker's end of the control plane: what it keeps in Redis besides events."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Protocol

import structlog

from broker.config import Settings
from broker.control import notices
from broker.control.auto_commits import AutoCommits
from broker.control.commits import Commits
from broker.control.janitor import Janitor
from broker.control.lifecycle import connection_entry
from broker.control.presence import Presence
from broker.control.revocations import Revocations
from broker.control.sessions import Admission, SessionKeeper
from broker.control.upstream import Upstream
from broker.errors import StoreError, StoreUnavailable
from broker.metrics import catalog
from broker.metrics.pulse import Growth
from broker.metrics.slots import Row
from broker.process import Boot
from broker.store import commands, offsets, presence, sessions
from broker.store import revocations as revoked
from broker.store.connection import Command, Connection
from broker.store.scripts import load_scripts
from broker.store.session_outcomes import Record
from broker.store.standing import StandingConnection

log = structlog.get_logger(__name__)

PATIENCE_S = 2.0
"""How long a client waits for a connection to Redis that is just being made."""
RELOAD_S = 10.0
"""Notices of revocations may be lost: the whole list is read again so often."""
JANITOR_ROW = 1


class Host(Protocol):
    """What the plane tells its worker."""

    def end_session(self, notice: notices.SessionEnded) -> None:
        """A session was evicted or closed: its connections end."""

    def check_access(self, key: str) -> None:
        """A user or token was revoked: its connections must go."""

    def check_everybody(self) -> None:
        """The list of what is revoked was read: who is in it must go."""

    def disconnect_user(self, user: str) -> None:
        """All connections of *user* end; they may come back."""

    def tell_presence(self, session: str, data: dict[str, object]) -> None:
        """Users came to *session* or left it."""

    def describe_lag(self, limit: int) -> bytes:
        """The connections furthest behind, as a JSON array."""


class ControlPlane:
    """Sessions, revocations, commits, presence and commands of one worker.

    Two connections: commands have one of their own, so that their answers do not wait
    behind the leases of a hundred thousand sessions.
    """

    def __init__(self, boot: Boot, settings: Settings, values: Row) -> None:
        self._values = values
        self._host: Host
        self._settings = settings
        url = settings.redis_url.get_secret_value()
        name = f"broker-control-{boot.pod}-{boot.index}"
        self._channels: dict[bytes, None] = {notices.CHANNEL: None}
        self._standing = StandingConnection(
            url, name, self._prepare, on_push=self._handle_push
        )
        self._upstream_standing = StandingConnection(
            url,
            f"broker-upstream-{boot.pod}-{boot.index}",
            _load_command_scripts,
            command_timeout_s=settings.command_timeout_s,
        )
        self.revocations = Revocations()
        self.knows_revocations = False
        """Whether the list was ever read: before that nobody can be judged."""
        self.sessions = SessionKeeper(
            self._standing, settings, self._end_session, self.tell
        )
        self._renewals = [
            Growth(
                values,
                catalog.LEASE_RENEWALS[result],
                partial(self.sessions.renewals.__getitem__, result),
            )
            for result in self.sessions.renewals
        ]
        self.commits = Commits(settings, self._standing)
        self.auto_commits = AutoCommits(settings, self.commits, self._standing)
        self.presence = Presence(settings, self._standing, self, self._tell_presence)
        is_first = boot.index == JANITOR_ROW
        self.upstream = Upstream(self._upstream_standing, settings, trims=is_first)
        self._janitor = Janitor(self._standing, settings) if is_first else None

    def connect(self, host: Host) -> None:
        """Name who carries out what is decided here."""
        self._host = host

    def start(self) -> list[asyncio.Task[None]]:
        """Start what runs beside the sockets; if one of these ends, so must we."""
        runs = {
            "control": self._standing.run(),
            "upstream-connection": self._upstream_standing.run(),
            "sessions": self.sessions.run(),
            "commits": self.commits.run(),
            "auto-commits": self.auto_commits.run(),
            "presence": self.presence.run(),
            "upstream": self.upstream.run(),
            "revocations": self._reload_revocations(),
        }
        if self._janitor is not None:
            runs["janitor"] = self._janitor.run()
        return [asyncio.create_task(run, name=name) for name, run in runs.items()]

    async def wait_connected(self) -> None:
        """Return when all connections are there."""
        await self._standing.wait_up()
        await self._upstream_standing.wait_up()

    async def admit(
        self, user: str, session: str, *, limit: int, deliberate: bool, as_of_ms: int
    ) -> Admission:
        """Open a session of *user*; see `SessionKeeper.admit`.

        Raises:
            StoreUnavailable: Redis is away.
        """
        await self.wait_up()
        return await self.sessions.admit(
            user, session, limit=limit, deliberate=deliberate, as_of_ms=as_of_ms
        )

    async def wait_up(self) -> None:
        """Return when there is a connection that knows what was revoked.

        Raises:
            StoreUnavailable: There is none, and none comes soon.
        """
        if self._standing.up:
            return
        try:
            async with asyncio.timeout(PATIENCE_S):
                await self._standing.wait_up()
        except TimeoutError:
            raise StoreUnavailable("no connection to Redis") from None

    async def add(self, command: Command) -> str:
        """Send an ``XADD``; returns the id of the entry.

        Raises:
            StoreUnavailable: Redis is away; it may or may not be stored.
            StoreRefused: Redis cannot do it.
        """
        added: bytes = await self._upstream_standing.use().call(*command)
        return added.decode()

    async def sessions_of(self, user: str) -> list[Record]:
        """The sessions of *user*: the open ones by start, then the ended ones.

        Raises:
            StoreUnavailable: Redis is away.
            StoreRefused: A key is not what it should be.
        """
        await self.wait_up()
        return await sessions.list_sessions(self._standing.use(), user)

    # Who comes and goes.

    def entered(self, user: str, session: str, connection: str, protocol: str) -> None:
        """A connection of *user* reads *session* from now on."""
        self.sessions.entered(user, session)
        self.presence.entered(session, user)
        self._note("connection_opened", user, session, connection, protocol=protocol)

    def left(self, user: str, session: str, connection: str, reason: str) -> None:
        """It reads it no longer."""
        self.sessions.left(user, session)
        self.presence.left(session, user)
        self._note("connection_closed", user, session, connection, reason=reason)

    def _note(
        self, event: str, user: str, session: str, connection: str, **data: str
    ) -> None:
        if self._settings.lifecycle_connections:
            self._send(connection_entry(event, session, user, connection, data))

    # Notices.

    def tell(self, notice: notices.Notice) -> None:
        """Send a notice to every worker of the fleet, this one included."""
        self._send((b"PUBLISH", notices.CHANNEL, notices.encode(notice)))

    def subscribe(self, channel: bytes) -> None:
        """Receive messages of *channel*, also after a reconnect."""
        self._channels[channel] = None
        self._send_push((b"SUBSCRIBE", channel))

    def unsubscribe(self, channel: bytes) -> None:
        """Receive them no longer."""
        self._channels.pop(channel, None)
        self._send_push((b"UNSUBSCRIBE", channel))

    def _send(self, command: Command) -> None:
        """Send what may be lost: somebody else will find it out."""
        if self._standing.up:
            self._standing.use().send(command).add_done_callback(_ignore)

    def _send_push(self, command: Command) -> None:
        # Its answer is a push, so no reply must be expected.
        if self._standing.up:
            self._standing.use().send_unanswered(command)

    async def _prepare(self, connection: Connection) -> None:
        scripts = (*sessions.SCRIPTS, *offsets.SCRIPTS, *presence.SCRIPTS)
        await load_scripts(connection, *scripts)
        connection.send_unanswered((b"SUBSCRIBE", *self._channels))
        self.presence.resubscribed()
        # Behind the SUBSCRIBE: what is revoked from now on comes as a notice.
        self.revocations.load(await revoked.read_all(connection))
        self.knows_revocations = True
        self._host.check_everybody()
        # Again, now that nobody waits any more: somebody may have begun to watch.
        connection.send_unanswered((b"SUBSCRIBE", *self._channels))

    def _handle_push(self, push: list[object]) -> None:
        if push[0] != b"message":
            return
        channel, payload = push[1], push[2]
        assert isinstance(channel, bytes)  # noqa: S101 - narrows for mypy
        assert isinstance(payload, bytes)  # noqa: S101 - narrows for mypy
        try:
            if channel.startswith(presence.PREFIX):
                session = channel[len(presence.PREFIX) :].decode()
                self.presence.handle_message(session, payload)
            else:
                self._handle_notice(notices.decode(payload))
        except Exception:
            # One message must not cost the connection, and with it all leases.
            log.exception("notice_failed")

    def _handle_notice(self, notice: notices.Notice | None) -> None:
        match notice:
            case notices.SessionEnded():
                self.sessions.handle_ended(notice)
            case notices.Revoked():
                self.revocations.apply(notice.key, notice.at, notice.until)
                self._host.check_access(notice.key)
            case notices.Pardoned():
                self.revocations.forget(notice.key)
            case notices.DisconnectUser():
                self._host.disconnect_user(notice.user)
            case notices.Question():
                self._answer(notice)
            case None:
                pass

    def _end_session(
        self, user: str, session: str, fence: int, reason: str, replaced_by: str
    ) -> None:
        self._host.end_session(
            notices.SessionEnded(
                user=user,
                session=session,
                fence=fence,
                reason=reason,
                replaced_by=replaced_by,
            )
        )

    def _tell_presence(self, session: str, data: dict[str, object]) -> None:
        self._host.tell_presence(session, data)

    def _answer(self, question: notices.Question) -> None:
        key = notices.ANSWERS + question.number
        self._send((b"RPUSH", key, self._host.describe_lag(question.limit)))
        self._send((b"EXPIRE", key, notices.ANSWER_TTL_S))

    async def _reload_revocations(self) -> None:
        while True:
            await asyncio.sleep(RELOAD_S)
            try:
                self.revocations.load(await revoked.read_all(self._standing.use()))
            except StoreError:
                continue
            self._host.check_everybody()

    def measure(self) -> None:
        """Set the gauges; called each second."""
        values = self._values
        values[catalog.COMMAND_BACKLOG.slot] = self.upstream.backlog
        values[catalog.COMMANDS_IN_FLIGHT.slot] = self.upstream.in_flight
        values[catalog.COMMITS_PENDING.slot] = self.commits.pending
        values[catalog.CONTROL_UP.slot] = self._standing.up
        for renewals in self._renewals:
            renewals.take()

    async def flush(self) -> None:
        """Write the last leases and commits, and wait for the answers to commands.

        Raises:
            StoreUnavailable: Redis is away.
        """
        await self.sessions.flush()
        await self.commits.flush()
        await self.upstream.flush()


async def _load_command_scripts(connection: Connection) -> None:
    await load_scripts(connection, *commands.SCRIPTS)


def _ignore(future: asyncio.Future[list[object]]) -> None:
    if not future.cancelled():
        future.exception()  # Looked at, so that nobody complains about it.
