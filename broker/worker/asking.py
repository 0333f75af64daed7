"""Waits for answers from Redis on behalf of subscriptions that are behind."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

import structlog

from broker.errors import StoreRefused, StoreUnavailable
from broker.model import Position
from broker.worker.channels import State, Subscription

log = structlog.get_logger(__name__)

RETRY_S = 0.25

Take = Callable[[Subscription, Any], None]


class Asking:
    """Hands each answer to the subscription that waits, if it still means anything.

    Args:
        loop: For the retries.
        wake: Gives a subscription a turn.
        refuse: Ends a subscription whose stream cannot be read, with the reason.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        wake: Callable[[Subscription], None],
        refuse: Callable[[Subscription, str], None],
    ) -> None:
        self._loop = loop
        self._wake = wake
        self._refuse = refuse

    def ask(self, sub: Subscription, task: asyncio.Task[Any], take: Take) -> None:
        """Call *take* with the result of *task*, unless *sub* has moved on by then."""
        sub.waits = True
        question = (sub.position, sub.epoch)
        task.add_done_callback(partial(self._answered, sub, question, take))

    def wait(self, sub: Subscription) -> None:
        """Give *sub* its next turn a little later: Redis cannot help it now."""
        sub.waits = True
        self._loop.call_later(RETRY_S, self._again, sub)

    def _answered(
        self,
        sub: Subscription,
        question: tuple[Position, int],
        take: Take,
        task: asyncio.Task[Any],
    ) -> None:
        sub.waits = False
        if sub.state not in (State.REPLAYING, State.LAGGING):
            return
        error = None if task.cancelled() else task.exception()
        if isinstance(error, StoreRefused):
            self._refuse(sub, error.kind.lower())
        elif task.cancelled() or error is not None:
            if error is not None and not isinstance(error, StoreUnavailable):
                log.error("archive_failed", exc_info=error)
            self.wait(sub)
        elif (sub.position, sub.epoch) != question or sub.epoch != sub.channel.epoch:
            self._wake(sub)
        else:
            take(sub, task.result())

    def _again(self, sub: Subscription) -> None:
        sub.waits = False
        self._wake(sub)
