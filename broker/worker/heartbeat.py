"""Heartbeats to all connections from one wheel: a timer each would cost more memory."""

from __future__ import annotations

import asyncio
import random

from broker.disconnect import Disconnect
from broker.worker.connection import Connection

SLOTS = 64


class HeartbeatWheel:
    """Every connection gets a heartbeat once per turn, at a random place of it.

    A WebSocket client from which nothing came since its last heartbeat, not even the
    pong that its library sends by itself, is dead and its socket is cut. A client whose
    socket is full gets none, so none is expected of it: it is bounded by the time that
    a subscription may lag.
    """

    def __init__(self, heartbeat_s: float) -> None:
        self._slots: list[set[Connection]] = [set() for _ in range(SLOTS)]
        self._tick_s = heartbeat_s / SLOTS
        self._asked: set[Connection] = set()

    def add(self, connection: Connection) -> None:
        """Begin: the first heartbeat comes within one turn."""
        connection.slot = random.randrange(SLOTS)  # noqa: S311 - spreading load
        self._slots[connection.slot].add(connection)

    def remove(self, connection: Connection) -> None:
        """The connection is gone."""
        self._slots[connection.slot].discard(connection)
        self._asked.discard(connection)

    async def run(self) -> None:
        """Turn the wheel; never returns."""
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            for slot in range(SLOTS):
                due += self._tick_s
                await asyncio.sleep(max(0.0, due - loop.time()))
                self.beat(slot)

    def beat(self, slot: int) -> None:
        """Send the heartbeats of one slot."""
        for connection in list(self._slots[slot]):
            if connection.blocked:
                self._asked.discard(connection)
            elif connection in self._asked and not connection.heard:
                connection.abort(Disconnect.NO_PONG)
            else:
                connection.heard = False
                connection.send(connection.format.heartbeat)
                if connection.format.answers:
                    self._asked.add(connection)
