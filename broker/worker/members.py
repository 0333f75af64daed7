"""Subscriptions that the control plane knows of: of users, consumers and watchers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from broker.errors import StoreError
from broker.store.offsets import Consumer
from broker.worker.channels import State, Subscription
from broker.worker.connection import Connection
from broker.worker.consumers import Committer
from broker.worker.plane import ControlPlane
from broker.worker.starting import Reading


class Members:
    """Joins subscriptions with open sessions, committed positions and presence.

    Anonymous reading without consumer or presence is not in here at all.

    Args:
        plane: The worker's end of the control plane.
        is_sending: Whether broadcasts are under way.
    """

    def __init__(self, plane: ControlPlane, is_sending: Callable[[], bool]) -> None:
        self._plane = plane
        self._is_sending = is_sending
        self._committers: dict[Subscription, Committer] = {}
        self._watching: dict[str, dict[Subscription, None]] = {}
        # Who is still to be told who is there, and whether that is under way.
        self._newcomers: dict[Subscription, bool] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def opened(self, sub: Subscription, reading: Reading) -> None:
        """A subscription has begun; nothing has been sent for it yet."""
        connection, session = _connection(sub), sub.channel.session
        user = connection.user
        if reading.consumer:
            consumer = Consumer(session, user, reading.consumer)
            committer = Committer(
                self._plane.commits,
                self._is_sending,
                sub,
                consumer,
                reading.committed,
                by_hand=not reading.auto_ack,
            )
            sub.consumer = self._committers[sub] = committer
            self._plane.auto_commits.add(committer)
        if reading.presence:
            if session not in self._watching:
                self._watching[session] = {}
                self._plane.presence.watch(session)
            self._watching[session][sub] = None
            self._newcomers[sub] = False
        if user:
            name = connection.format.name
            self._plane.entered(user, session, connection.connection_id, name)

    def ended(self, sub: Subscription) -> None:
        """A subscription has ended, also one that nobody was told of."""
        connection, session = _connection(sub), sub.channel.session
        committer = self._committers.pop(sub, None)
        if committer is not None:
            self._plane.auto_commits.remove(committer)
        watching = self._watching.get(session)
        if watching is not None and sub in watching:
            del watching[sub]
            self._newcomers.pop(sub, None)
            if not watching:
                del self._watching[session]
                self._plane.presence.unwatch(session)
        if connection.user:
            self._plane.left(
                connection.user, session, connection.connection_id, connection.ending
            )

    def look(self) -> None:
        """Tell those who have begun to watch who is there; called each second."""
        ready = [
            sub
            for sub, under_way in self._newcomers.items()
            if sub.announced and not (under_way or sub.socket.blocked)
        ]
        for sub in ready:
            self._newcomers[sub] = True
        if ready:
            task = asyncio.get_running_loop().create_task(self._introduce(ready))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _introduce(self, subs: list[Subscription]) -> None:
        for sub in subs:
            session, user = sub.channel.session, _connection(sub).user
            presence = self._plane.presence
            try:
                # So that he finds himself among them, and is not told that he came.
                await presence.say(session, user)
                self._newcomers.pop(sub, None)
                count, users = await presence.who(session)
            except StoreError:
                self._newcomers.pop(sub, None)
                continue  # It is told when Redis is back.
            data = {"users": users, "count": count}
            if sub.state is not State.CLOSED:
                sub.socket.notify("present", data, session)

    def tell(self, session: str, data: dict[str, object]) -> None:
        """Tell who asked for it that users came or went; ``event`` says which."""
        event = str(data.pop("event"))
        for sub in list(self._watching.get(session, ())):
            if sub in self._newcomers:
                continue  # It is told as a whole, as soon as that can be.
            if sub.socket.blocked:
                self._newcomers[sub] = False
            elif sub.state is not State.CLOSED:
                sub.socket.notify(event, data, session)


def _connection(sub: Subscription) -> Connection:
    connection = sub.socket
    assert isinstance(connection, Connection)  # noqa: S101 - narrows for mypy
    return connection
