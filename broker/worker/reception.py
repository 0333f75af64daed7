"""The connections of a worker: who is let in, greeted, and shown out."""

from __future__ import annotations

import time
from collections.abc import Callable

from broker.config import Settings
from broker.control.identity import Identity
from broker.disconnect import Disconnect
from broker.metrics import catalog
from broker.metrics.slots import Row
from broker.worker.connection import Connection, Owner
from broker.worker.departure import return_delay_ms
from broker.worker.dialect import Dialect
from broker.worker.entrance import Entrance
from broker.worker.expiry import Expiries
from broker.worker.greeter import Greeter
from broker.worker.handshake import Refusal, Wanted
from broker.worker.heartbeat import HeartbeatWheel
from broker.worker.limits import Limits
from broker.worker.people import People
from broker.worker.subscriptions import Subscriptions


class Reception:
    """Opens connections and knows all that are open.

    Args:
        settings: The effective settings.
        values: The process's metric row.
        limits: How many may come in.
        entrance: Who may come in.
        subscriptions: Subscribes what a path names.
        wheel: Heartbeats.
        refusal: Why nobody may come in now for a session, "" if somebody may.
    """

    def __init__(
        self,
        settings: Settings,
        values: Row,
        limits: Limits,
        entrance: Entrance,
        subscriptions: Subscriptions,
        wheel: HeartbeatWheel,
        refusal: Callable[[str], str],
    ) -> None:
        self.values = values
        self.asks_for_tokens = entrance.asks_for_tokens
        self.connections: set[Connection] = set()
        self.people = People()
        self.draining = False
        self._settings = settings
        self._limits = limits
        self._entrance = entrance
        self._subscriptions = subscriptions
        self._wheel = wheel
        self._refusal = refusal
        self._greeter = Greeter(settings, self._enter)
        self._expiries = Expiries(settings.token_warn_s, _warn, _end)
        self._owner: Owner

    def connect(self, owner: Owner) -> None:
        """Name whom connections talk to."""
        self._owner = owner

    # Before there is a connection.

    async def identify(self, token: str | None, user: str) -> Identity:
        """Find out who has a token; see `Entrance.identify`."""
        return await self._entrance.identify(token, user)

    def check_right(self, identity: Identity, session: str) -> None:
        """Refuse a session that somebody may not read."""
        self._entrance.check_right(identity, session)

    async def admit(self, identity: Identity, wanted: Wanted) -> Wanted:
        """Let somebody in: a place is taken, and the session of the path is open.

        Raises:
            Refusal: There is no room, or the session may not be read.
        """
        user, session, reading = identity.user, wanted.session, wanted.reading
        if session:
            self.check_right(identity, session)
        in_the_way = self._check_room(identity, session)
        # Taken before anybody is asked: many may come at the same moment.
        self._limits.opened(user, session)
        if session:
            try:
                reading = await self._entrance.open(identity, session, reading)
                # Much may have happened meanwhile.
                self._entrance.check_access(identity)
                self._check_subscription(user)
            except BaseException:
                self._limits.closed(user, session)
                raise
        for connection in in_the_way:
            connection.close(Disconnect.CONNECTION_REPLACED)
        return Wanted(session=session, user=user, reading=reading)

    def give_up(self, identity: Identity, wanted: Wanted) -> None:
        """Somebody who was let in has left before there was a connection."""
        self._limits.closed(identity.user, wanted.session)

    def _check_room(self, identity: Identity, session: str) -> list[Connection]:
        """The connections whose place a newcomer takes: mostly none."""
        reason = "draining" if self.draining else self._refusal(session)
        if reason:
            raise Refusal(reason)
        user = identity.user
        if session:
            self._check_subscription(user)
        in_the_way: dict[str, Connection] = {}
        while reason := self._limits.refusal(
            user, session, identity.max_connections, in_the_way
        ):
            oldest = self._in_the_way(reason, user, session)
            if oldest is None:
                raise Refusal(reason)
            in_the_way[reason] = oldest
        return list(in_the_way.values())

    def _check_subscription(self, user: str) -> None:
        if reason := self._limits.subscription_refusal(user):
            raise Refusal(reason)

    def _in_the_way(self, reason: str, user: str, session: str) -> Connection | None:
        """The connection that a newcomer may replace, if the settings say so."""
        if self._settings.connection_limit_action != "evict_oldest":
            return None
        if reason == "too_many_connections_per_session":
            return self.people.oldest(user, session)
        if reason == "too_many_connections_per_user":
            return self.people.oldest(user)
        return None

    def check_waiting_room(self) -> None:
        """Refuse one more connection that has not said yet who it is.

        Raises:
            Refusal: As many wait as may, or nobody can be let in now.
        """
        reason = "draining" if self.draining else self._refusal("")
        if not reason and self._greeter.full:
            reason = "too_many_connections"
        if reason:
            raise Refusal(reason)

    # Connections.

    def new_connection(
        self, identity: Identity | None, session: str, dialect: Dialect
    ) -> Connection:
        """A connection that is not attached yet."""
        return Connection(self._owner, dialect, identity, session)

    def await_token(self, connection: Connection, wanted: Wanted) -> None:
        """A connection is open that has not said who it is."""
        self._greeter.add(connection, wanted)

    def hear_stranger(self, connection: Connection, payload: bytes) -> None:
        """Take the first frame of such a connection."""
        self._greeter.hear(connection, payload)

    async def _enter(
        self, connection: Connection, wanted: Wanted, token: str | None
    ) -> None:
        identity = await self.identify(token, wanted.user)
        wanted = await self.admit(identity, wanted)
        if not connection.open:
            self.give_up(identity, wanted)
            return
        connection.identity = identity
        connection.set_frame_limit(self._settings.max_frame_bytes)
        self.welcome(connection, wanted)

    def welcome(self, connection: Connection, wanted: Wanted) -> None:
        """Greet a connection that was admitted, and subscribe it to its path."""
        self.connections.add(connection)
        self.people.add(connection)
        self._expiries.add(connection, time.time_ns() / 1e9)
        name = connection.format.name
        self.values[catalog.CONNECTIONS.slots[name]] += 1
        self.values[catalog.CONNECTIONS_OPENED.slots[name]] += 1
        self._wheel.add(connection)
        data = {
            "connection_id": connection.connection_id,
            "user": connection.user or None,
            "heartbeat_s": self._settings.heartbeat_s,
            "max_frame_bytes": self._settings.max_frame_bytes,
        }
        connection.notify("welcome", data)
        if wanted.session:
            self._subscriptions.open(connection, wanted.session, wanted.reading)
        if self.draining:
            connection.close(Disconnect.DRAINING, delay_ms=return_delay_ms())

    def change_identity(self, connection: Connection, identity: Identity) -> None:
        """A connection has a newer token of the same user."""
        if not connection.open:
            return
        self.people.remove(connection)
        connection.identity = identity
        self.people.add(connection)
        self._expiries.add(connection, time.time_ns() / 1e9)
        for session, sub in list(connection.subs.items()):
            if identity.may_subscribe(session):
                continue
            if session == connection.session:
                connection.close(Disconnect.FORBIDDEN)
                return
            self._subscriptions.end(sub)
            data = {"reason": "forbidden"}
            connection.notify("unsubscribed", data, session)

    def forget(self, connection: Connection, label: str) -> None:
        """A connection has ended."""
        self._greeter.remove(connection)
        if connection not in self.connections:
            return  # It never said who it was.
        self._subscriptions.end_all(connection)
        self._wheel.remove(connection)
        self._expiries.remove(connection)
        self.people.remove(connection)
        self.connections.discard(connection)
        self._limits.closed(connection.user, connection.session)
        self.values[catalog.CONNECTIONS.slots[connection.format.name]] -= 1
        self.values[catalog.CLOSES.slots[label]] += 1

    def drain(self) -> None:
        """Nobody comes in any more; who has not said who he is leaves at once."""
        self.draining = True
        self._greeter.drain()

    def look(self, now: float) -> None:
        """Show out whose time is over; *now* is the loop's time."""
        self._greeter.look(now)
        self._expiries.look(time.time_ns() / 1e9)


def _warn(connection: Connection, left_s: float) -> None:
    data = {"expires_in_s": round(left_s, 1)}
    connection.notify("token_expiring", data)


def _end(connection: Connection) -> None:
    connection.close(Disconnect.TOKEN_EXPIRED)
