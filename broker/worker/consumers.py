"""Committed positions of a worker's subscriptions."""

from __future__ import annotations

from collections.abc import Callable

from broker.control.commits import Commits
from broker.model import Position
from broker.store.offsets import Consumer
from broker.worker.channels import State, Subscription


class Committer:
    """Knows how far the subscription of one consumer has come.

    Args:
        commits: Where positions go.
        is_sending: Whether broadcasts are under way: then the tip is not yet sent.
        sub: The subscription.
        consumer: Whose position it is.
    """

    __slots__ = ("_commits", "_is_sending", "_sub", "consumer")

    def __init__(
        self,
        commits: Commits,
        is_sending: Callable[[], bool],
        sub: Subscription,
        consumer: Consumer,
    ) -> None:
        self._commits = commits
        self._is_sending = is_sending
        self._sub = sub
        self.consumer = consumer

    @property
    def sent(self) -> Position | None:
        """Up to where the subscription has been sent; None while nobody can say."""
        sub = self._sub
        if sub.state is State.LIVE:
            return sub.channel.tip
        known = sub.announced and sub.checked and sub.epoch == sub.channel.epoch
        return sub.position if known else None

    def handed_over(self) -> Position | None:
        """What the kernel has taken for sure; None while nobody can say."""
        sub = self._sub
        # Of a socket that is lost nobody knows what was still in its buffer.
        waits = self._is_sending() or sub.hole is not None or sub.socket.buffered_bytes
        return self.sent if sub.socket.open and not waits else None

    def restart(self) -> None:
        """The stream is another one: what was committed of the former means nothing."""
        self._commits.forget(self.consumer)
