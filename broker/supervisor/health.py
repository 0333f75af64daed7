"""Who is hung, who is gone, and whether the pod is ready: judged from the board."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from broker.ring import board as b
from broker.supervisor.child import ChildProcess
from broker.supervisor.probe import ProbeLog
from broker.supervisor.resources import READER_ROW

BOOT_S = 30.0
"""Time that a process gets until its event loop turns for the first time."""

WORKER_KILL_PAUSE_S = 30.0
"""At most one hung worker is killed in this time."""

HOPELESS_FACTOR = 4
"""Whoever was silent for so many times ``hang_s`` is killed even if most are late."""

PAUSED_S = 3.0
"""Time between two looks after which the supervisor itself must have been stopped."""


class Health:
    """What the board tells about the processes of the pod.

    Hung processes are killed with care: if more than half are late, the machine is
    short of processor time and killing would only add to that. A supervisor that was
    itself stopped (a frozen container, a paused machine) first gives everybody the
    time to beat again.
    """

    def __init__(
        self,
        board: b.Board,
        probes: ProbeLog,
        hang_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._board = board
        self._probes = probes
        self._hang_s = hang_s
        self._clock = clock
        # Heartbeats come several times a second: a third of what counts as hung.
        self._silent_s = max(hang_s / 3, 1.0)
        self._looked_at = self._resumed_at = clock()
        self._worker_killed_at = -WORKER_KILL_PAUSE_S
        self._redis_was_up = False
        self._alive_at = [clock()] * (board.worker_count + 1)
        self._probes_before = [0] * (board.worker_count + 1)

    def look(self) -> None:
        """Take note of the board; called in every step of the supervisor."""
        now = self._clock()
        if now - self._looked_at > PAUSED_S:
            self._resumed_at = now
        self._looked_at = now
        if self._board.get(READER_ROW, b.REDIS_UP_EVER):
            self._redis_was_up = True
        for row in range(len(self._alive_at)):
            beat_at = self._beat_at(row)
            if beat_at and (row == READER_ROW or self.is_serving(row)):
                self._alive_at[row] = beat_at

    def expect(self, row: int) -> None:
        """A new process of *row* was started: probes before it do not count."""
        self._probes_before[row] = self._probes.count

    def is_serving(self, row: int) -> bool:
        """Whether the process of *row* says that it is ready or draining."""
        return self._board.get(row, b.STATE) != b.STARTING

    def is_ready(self, row: int) -> bool:
        """Whether the process of *row* says that it is ready."""
        return self._board.get(row, b.STATE) == b.READY

    def is_silent(self, row: int) -> bool:
        """Whether *row* has had no serving process for longer than a restart takes."""
        return self._clock() - self._alive_at[row] > self._silent_s

    def silent_s(self, child: ChildProcess) -> float:
        """How long the event loop of the present process has not turned."""
        since = max(self._beat_at(child.index), child.started_at, self._resumed_at)
        return max(self._clock() - since, 0.0)

    def choose_hung(self, children: Sequence[ChildProcess]) -> list[ChildProcess]:
        """Pick the processes to kill now: the reader, and one worker at most."""
        late = [child for child in children if self._is_late(child, 1)]
        if 2 * len(late) > len(children):
            late = [child for child in late if self._is_late(child, HOPELESS_FACTOR)]
        chosen = [child for child in late if child.index == READER_ROW]
        workers = [child for child in late if child.index != READER_ROW]
        if workers and self._clock() - self._worker_killed_at >= WORKER_KILL_PAUSE_S:
            self._worker_killed_at = self._clock()
            chosen.append(max(workers, key=self.silent_s))
        return chosen

    def reasons(self) -> list[str]:
        """Faults of this pod for which it should get no new clients.

        Redis being away is none once it has been there: it is away for all pods, and
        if all of them left together no client could stay anywhere.
        """
        found = [] if self._redis_was_up else ["redis_never_up"]
        if self.is_silent(READER_ROW):
            found.append("reader_silent")
        for row in range(1, len(self._alive_at)):
            if self.is_silent(row):
                found.append(f"worker_{row}_silent")
            elif self._is_deaf(row):
                found.append(f"worker_{row}_deaf")
        return found

    def _beat_at(self, row: int) -> float:
        return self._board.get(row, b.HEARTBEAT_NS) / 1e9

    def _is_late(self, child: ChildProcess, factor: int) -> bool:
        if child.pid is None or child.is_being_killed:
            return False
        has_beaten = self._beat_at(child.index) > 0
        limit_s = self._hang_s if has_beaten else max(self._hang_s, BOOT_S)
        return self.silent_s(child) > factor * limit_s

    def _is_deaf(self, row: int) -> bool:
        heard_ms = self._board.get(row, b.PROBE_MS)
        return self._probes.is_deaf(heard_ms, self._probes_before[row])
