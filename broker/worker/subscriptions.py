"""Who reads what: opens and ends subscriptions."""

from __future__ import annotations

from typing import Protocol

from broker.disconnect import Disconnect
from broker.worker.catchup import Catchup
from broker.worker.channels import Channels, State, Subscription
from broker.worker.connection import Connection
from broker.worker.limits import Limits
from broker.worker.link import Link
from broker.worker.starting import Reading

REFUSALS = {
    "overloaded": Disconnect.OVERLOADED,
    "slow": Disconnect.SLOW,
    "bad_session": Disconnect.BAD_REQUEST,
}
"""Close reasons for a connection that cannot read the session of its path."""


class Watched(Protocol):
    """Who wants to know of subscriptions."""

    def opened(self, sub: Subscription, reading: Reading) -> None:
        """A subscription has begun; nothing has been sent for it yet."""

    def ended(self, sub: Subscription) -> None:
        """A subscription has ended, also one that nobody was told of."""


class Subscriptions:
    """The subscriptions of a worker's connections."""

    def __init__(self, channels: Channels, limits: Limits, watched: Watched) -> None:
        self._channels = channels
        self._limits = limits
        self._watched = watched
        self._catchup: Catchup
        self._link: Link

    def connect(self, catchup: Catchup, link: Link) -> None:
        """Name the parts that it works with."""
        self._catchup, self._link = catchup, link

    def open(
        self,
        connection: Connection,
        session: str,
        reading: Reading,
        ref: str | None = None,
    ) -> None:
        """Subscribe; ``subscribed`` follows, at once if the session is read already."""
        channel, new = self._channels.get_or_add(session)
        sub = Subscription(connection, channel, reading.start, reading.overflow, ref)
        connection.subs[session] = sub
        channel.behind[sub] = None
        self._limits.subscribed(connection.user)
        self._watched.opened(sub, reading)
        if channel.joined:
            self._catchup.begin(sub)
        elif new or not channel.token:
            # It is not asked for any more if it was refused to those who leave now.
            self._link.watch(channel)

    def end(self, sub: Subscription) -> None:
        """End one subscription; nothing is written for it any more."""
        if sub.state is State.CLOSED:
            return
        connection = sub.socket
        assert isinstance(connection, Connection)  # noqa: S101 - narrows for mypy
        channel = sub.channel
        self._catchup.set_state(sub, State.CLOSED)
        connection.subs.pop(channel.session, None)
        self._limits.unsubscribed(connection.user)
        self._watched.ended(sub)
        if not channel.needed:
            self._channels.remove(channel)
            self._link.unwatch(channel)

    def end_all(self, connection: Connection) -> None:
        """End all subscriptions of a connection."""
        for sub in list(connection.subs.values()):
            self.end(sub)

    def refuse(self, sub: Subscription, reason: str) -> None:
        """End a subscription whose stream cannot be read, or whose socket is slow."""
        connection = sub.socket
        assert isinstance(connection, Connection)  # noqa: S101 - narrows for mypy
        if connection.session == sub.channel.session or reason == "slow":
            connection.close(REFUSALS.get(reason, Disconnect.NOT_FOUND))
            return
        data = {
            "code": reason,
            "message": "the session cannot be read",
            "session": sub.channel.session,
        }
        if sub.ref is not None:
            data["ref"] = sub.ref
        connection.notify("error", data)
        self.end(sub)
