"""How clients of the hub come in: which sessions they read, and from where."""

from __future__ import annotations

from broker.config import Settings
from broker.control.identity import Identity
from broker.disconnect import Disconnect
from broker.errors import StoreError
from broker.model import START, Position
from broker.worker.archive import Archive
from broker.worker.channels import Start, StartAt
from broker.worker.connection import Connection
from broker.worker.doorway import Host
from broker.worker.edges.parts import Parts
from broker.worker.entrance import refusal_of
from broker.worker.handshake import Refusal, Wanted
from broker.worker.starting import Reading


class FromHere:
    """Begins with whatever is published from now on.

    The hub has no word for "subscribed": when its client is let in, or has said
    something, what comes after that must reach it, also from a stream that this pod
    has yet to begin to read.
    """

    async def find(self, archive: Archive, session: str) -> Start:
        """The end of the stream as it is now.

        Raises:
            StoreError: The stream cannot be read.
        """
        info = await archive.info(session)
        end = START if info is None else Position(info.last, info.added or None)
        return Start(at=StartAt.SINCE, position=end)


FROM_HERE = FromHere()


class Visit:
    """The host of one client on its way in: it opens what the client is to read.

    Args:
        parts: Of the worker.
        sessions: What it is to read; None for the sessions of its user.
        reading: How it is to read each of them.
    """

    def __init__(
        self, parts: Parts, sessions: list[str] | None, reading: Reading
    ) -> None:
        host: Host = parts.doorway.host
        self.values = host.values
        self.asks_for_tokens = host.asks_for_tokens
        self.identify = host.identify
        self.check_right = host.check_right
        self.check_waiting_room = host.check_waiting_room
        self.give_up = host.give_up
        self.new_connection = host.new_connection
        self.await_token = host.await_token
        self._host = host
        self._parts = parts
        self._sessions = sessions
        self._reading = reading
        self._opened: dict[str, Reading] = {}

    async def admit(self, identity: Identity, wanted: Wanted) -> Wanted:
        """Let somebody in, with all sessions open that are to be read.

        Raises:
            Refusal: There is no room, or a session that was named may not be read.
        """
        if reason := self._parts.limits.subscription_refusal(identity.user):
            raise Refusal(reason)
        wanted = await self._host.admit(identity, wanted)
        try:
            if self._sessions is None:
                await self._open_own(identity)
            else:
                await self._open_named(identity, self._sessions)
            # Much may have happened meanwhile.
            self._parts.entrance.check_access(identity)
        except BaseException:
            self._host.give_up(identity, wanted)
            raise
        return wanted

    async def _open_named(self, identity: Identity, sessions: list[str]) -> None:
        for session in sessions:
            self._parts.entrance.check_right(identity, session)
        # None of them was opened, and none evicted for it, if one may not be read.
        for session in sessions:
            await self._open(identity, session)

    async def _open_own(self, identity: Identity) -> None:
        for session in await self._sessions_of(identity):
            try:
                await self._open(identity, session)
            except Refusal as refusal:
                if refusal.temporary:
                    raise
                # It has ended since it was listed.

    async def _open(self, identity: Identity, session: str) -> None:
        entrance = self._parts.entrance
        self._opened[session] = await entrance.open(identity, session, self._reading)

    async def _sessions_of(self, identity: Identity) -> list[str]:
        """Those of its user that one connection reads without evicting any."""
        if not identity.user:
            return []
        try:
            records = await self._parts.plane.sessions_of(identity.user)
        except StoreError as error:
            raise refusal_of(error) from None
        states = {record.session: record.state for record in records}
        names = [name for name, state in states.items() if state == "open"]
        names += [name for name in reversed(states) if states[name] == "idle"]
        names += sorted(identity.sessions.names - states.keys())
        may = [name for name in names if identity.may_subscribe(name)]
        return may[: most_sessions(identity, self._parts.settings)]

    def welcome(self, connection: Connection, wanted: Wanted) -> None:
        """Greet a connection, and subscribe it to what was opened."""
        self._host.welcome(connection, wanted)
        limits, subs = self._parts.limits, connection.subs
        for session, reading in self._opened.items():
            if not limits.may_subscribe(connection.user, len(subs)):
                connection.close(Disconnect.OVERLOADED)
            if connection.open:
                self._parts.subscriptions.open(connection, session, reading)


def most_sessions(identity: Identity, settings: Settings) -> int:
    """How many sessions of its user a connection reads at most."""
    limit = identity.max_sessions
    if limit is None:
        limit = settings.max_sessions_per_user
    most = settings.max_subscriptions_per_connection
    return min(limit, most) if limit else most
