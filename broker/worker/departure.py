"""How connections leave a worker that ends: in which order, and when they return."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Collection

from broker.disconnect import Disconnect
from broker.worker.channels import State
from broker.worker.connection import Connection

SPREAD_MS = 500
"""Clients that were told at the same moment return within this time, not all at once:
short enough that a person does not notice the pause."""
HURRIED_SPREAD_MS = 5_000
"""The same where a hurried end closes many at once: the other pods must bear them."""


def return_delay_ms(spread_ms: int = SPREAD_MS) -> int:
    """How long one client should wait before it comes back, in milliseconds."""
    return random.randrange(spread_ms)  # noqa: S311 - spreading load


def order_by_harm(connections: Collection[Connection]) -> list[Connection]:
    """Everybody, those whom leaving disturbs least first.

    First who reads nothing, then who has been quiet the longest: a pause there goes by
    unseen. Who gets events just now has the rest of the window for them to end. Last
    who is still catching up, and would begin at another pod what is half done here.
    Readers of one session leave next to each other: the pod that they go to reads it
    once for all of them.
    """
    everybody = list(connections)
    random.shuffle(everybody)  # Whoever is alike: not always the oldest first.
    return sorted(everybody, key=_harm)


def _harm(connection: Connection) -> tuple[bool, int, str]:
    newest_ms, session, is_behind = 0, "", False
    for name, sub in connection.subs.items():
        is_behind = is_behind or sub.state is not State.LIVE
        if sub.channel.tip.id[0] >= newest_ms:
            newest_ms, session = sub.channel.tip.id[0], name
    return is_behind, newest_ms, session


class Departure:
    """Closes connections one by one, evenly over a window.

    Args:
        window_s: Length of the window.
        hurry: Set when there is no time left: the rest is closed at once.
    """

    def __init__(self, window_s: float, hurry: asyncio.Event) -> None:
        self._window_s = window_s
        self._hurry = hurry

    async def run(self, connections: Collection[Connection]) -> None:
        """Tell everybody to go, each with a delay of its own."""
        clock = asyncio.get_running_loop().time
        everybody = order_by_harm(connections)
        pause_s = self._window_s / max(1, len(everybody))
        due = clock()
        end = due + self._window_s
        for connection in everybody:
            await self._wait_until(due)
            due += pause_s
            spread_ms = SPREAD_MS
            if self._hurry.is_set():
                # They return over the time in which they would have left.
                left_ms = int((end - clock()) * 1000)
                spread_ms = max(SPREAD_MS, min(left_ms, HURRIED_SPREAD_MS))
            delay_ms = return_delay_ms(spread_ms)
            connection.close(Disconnect.DRAINING, delay_ms=delay_ms)

    async def _wait_until(self, due: float) -> None:
        left_s = due - asyncio.get_running_loop().time()
        if left_s <= 0 or self._hurry.is_set():
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(left_s):
                await self._hurry.wait()
