"""What a worker does by the clock: heartbeat on the board, gauges, time limits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from broker.config import Settings
from broker.disconnect import Disconnect
from broker.metrics import catalog
from broker.metrics.pulse import Growth, LoopLag
from broker.metrics.slots import Row
from broker.ring import board as b
from broker.store.connection import traffic
from broker.store.standing import StandingConnection
from broker.usage import container_memory
from broker.worker.catchup import Catchup
from broker.worker.channels import Channels
from broker.worker.depth import measure
from broker.worker.limits import Limits

BEAT_S = 0.25
BEATS_PER_LOOK = 4


class Tending:
    """The worker's clockwork. A loop that is stuck does not beat, and is killed."""

    def __init__(
        self,
        row: int,
        settings: Settings,
        board: b.Board,
        values: Row,
        channels: Channels,
        catchup: Catchup,
        limits: Limits,
        schedule: Callable[[], None],
        look: Callable[[float], None],
    ) -> None:
        self._row = row
        self._lag_timeout_s = settings.lag_timeout_s
        self._board = board
        self._values = values
        self._channels = channels
        self._catchup = catchup
        self._limits = limits
        self._schedule = schedule
        self._look_at_people = look
        self._lag = LoopLag(values, catalog.LOOP_LAG.slot)
        self._grown = [
            Growth(values, catalog.REDIS_COMMANDS["worker"], _commands_sent),
            Growth(values, catalog.RECONNECTS["worker"], _connections_retried),
        ]

    async def run(self) -> None:
        """Beat, and look around every second; never returns."""
        loop = asyncio.get_running_loop()
        beats = 0
        while True:
            due = loop.time() + BEAT_S
            await asyncio.sleep(BEAT_S)
            self._lag.note(due, loop.time())
            self._board.beat(self._row)
            self._board.set(self._row, b.CONNECTIONS, self._limits.connections)
            # The bell may be lost to nobody's fault: look at the ring all the same.
            self._schedule()
            beats += 1
            if beats % BEATS_PER_LOOK == 0:
                self._look(loop.time())

    def _look(self, now: float) -> None:
        self._limits.note_memory(container_memory())
        self._look_at_people(now)
        self._measure()
        for sub in list(self._catchup.behind):
            stuck = sub.socket.blocked and now - sub.progress_at > self._lag_timeout_s
            if stuck:
                sub.socket.close(Disconnect.NO_PROGRESS)
        for channel in self._channels.by_session.values():
            if channel.recent is not None and not channel.behind:
                channel.recent = None

    def _measure(self) -> None:
        values = self._values
        measure(values, self._catchup.behind)
        sessions = self._channels.by_session.values()
        values[catalog.SESSIONS.slot] = sum(not one.pinned for one in sessions)
        values[catalog.USERS.slot] = self._limits.users
        for growth in self._grown:
            growth.take()


def _commands_sent() -> int:
    return traffic.commands


def _connections_retried() -> int:
    return StandingConnection.retries
