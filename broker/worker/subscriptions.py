"""Who reads what: opens and ends subscriptions."""

from __future__ import annotations

from broker.disconnect import Disconnect
from broker.worker.catchup import Catchup
from broker.worker.channels import Channels, Overflow, Start, State, Subscription
from broker.worker.connection import Connection
from broker.worker.limits import Limits
from broker.worker.link import Link

REFUSALS = {
    "overloaded": Disconnect.OVERLOADED,
    "slow": Disconnect.SLOW,
    "bad_session": Disconnect.BAD_REQUEST,
}
"""Close reasons for a connection that cannot read the session of its path."""


class Subscriptions:
    """The subscriptions of a worker's connections."""

    def __init__(self, channels: Channels, limits: Limits) -> None:
        self._channels = channels
        self._limits = limits
        self._catchup: Catchup
        self._link: Link

    def connect(self, catchup: Catchup, link: Link) -> None:
        """Name the parts that it works with."""
        self._catchup, self._link = catchup, link

    def open(
        self,
        connection: Connection,
        session: str,
        start: Start,
        overflow: Overflow,
        ref: str | None = None,
    ) -> None:
        """Subscribe; ``subscribed`` follows, at once if the session is read already."""
        channel, new = self._channels.get_or_add(session)
        sub = Subscription(connection, channel, start, overflow, ref)
        connection.subs[session] = sub
        channel.behind[sub] = None
        self._limits.subscribed(connection.user)
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
        if connection.session or reason == "slow":
            connection.close(REFUSALS.get(reason, Disconnect.NOT_FOUND))
            return
        data = {
            "code": reason,
            "message": "the session cannot be read",
            "session": sub.channel.session,
        }
        if sub.ref is not None:
            data["ref"] = sub.ref
        connection.send(connection.format.notice("error", data))
        self.end(sub)
