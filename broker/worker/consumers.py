"""Committed positions of a worker's subscriptions."""

from __future__ import annotations

from collections.abc import Callable

from broker.control.commits import Commits, OnDone
from broker.model import START, Position
from broker.store.offsets import Consumer
from broker.worker.channels import State, Subscription


class Committer:
    """Knows how far the subscription of one consumer has come.

    Args:
        commits: Where positions go.
        is_sending: Whether broadcasts are under way: then the tip is not yet sent.
        sub: The subscription.
        consumer: Whose position it is.
        done: What is stored of it.
        by_hand: Whether the client says itself what is done.
    """

    __slots__ = ("_by_hand", "_commits", "_done", "_is_sending", "_sub", "consumer")

    def __init__(
        self,
        commits: Commits,
        is_sending: Callable[[], bool],
        sub: Subscription,
        consumer: Consumer,
        done: Position | None,
        *,
        by_hand: bool,
    ) -> None:
        self._by_hand = by_hand
        self._done = done
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

    def acknowledge(self, position: Position, on_done: OnDone) -> None:
        """The client is done up to *position*."""
        if self._done is None or position.id > self._done.id:
            self._done = position
        self._commits.commit(self.consumer, position, on_done)

    def handed_over(self) -> Position | None:
        """What is to be stored, again if Redis has lost it; None if nobody knows.

        Of a client that acknowledges, that. Else what the kernel has taken for sure.
        """
        if self._by_hand:
            return self._done
        sub = self._sub
        # Of a socket that is lost nobody knows what was still in its buffer.
        waits = self._is_sending() or sub.hole is not None or sub.socket.buffered_bytes
        return self.sent if sub.socket.open and not waits else None

    def restart(self) -> None:
        """The stream is another one: what was committed of the former means nothing.

        But not if it is only the position that the client has asked for, beside the
        stored one, that is of no such history.
        """
        sub = self._sub
        if sub.announced or sub.start.position == self._done:
            self._done = START
            self._commits.forget(self.consumer)
