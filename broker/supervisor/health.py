"""Who is hung, who is gone, and whether the pod is ready: judged from the board."""

from __future__ import annotations

import math
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

DEAD_S = 300.0
"""Whoever had no serving process for so long will have none in this pod any more: each
start failed, and the pause between two is ten seconds at most."""

BLAME_AGAIN_S = 300.0
"""How long a reader is not blamed again for workers that hear nothing, if a new reader
has changed nothing."""


class Health:
    """What the board tells about the processes of the pod.

    Three questions have three answers, each a list of reasons that is empty when all is
    well. ``N`` is the number of a worker:

    `starting`, until it was empty once:

    - ``reader_starting``, ``worker_N_starting``: it has never been ready so far.
    - ``redis_never_up``: no server was found. The address or the password is wrong, or
      Redis is not there yet.

    `reasons`, of a fault for which the pod should get no new clients:

    - ``redis_never_up``: as above. Redis being away later is none: it is away for all
      pods, and if all of them left together no client could stay anywhere.
    - ``reader_silent``, ``worker_N_silent``: it has had no process whose event loop
      turns for longer than a restart takes.
    - ``worker_N_deaf``: its loop turns, and none of the probes of half a minute came
      through Redis, the reader and the ring to it. It, or the reader if all are deaf,
      is killed for that (see `choose_deaf`), and the reason stays until the worker has
      heard a probe.

    `dead`, of a fault that only a new pod can mend:

    - ``reader_dead``, ``worker_N_dead``: nobody serves under its number any more,
      although it was started again for five minutes.

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
        self._began_at = [clock()] * (board.worker_count + 1)
        self._heard_at = [0.0] * (board.worker_count + 1)
        self._heard_ms = [0] * (board.worker_count + 1)
        self._was_serving = [False] * (board.worker_count + 1)
        self._reader_blamed_at = -math.inf
        self._distrusted: set[int] = set()

    def look(self) -> None:
        """Take note of the board; called in every step of the supervisor."""
        now = self._clock()
        if now - self._looked_at > PAUSED_S:
            self._resumed_at = now
        self._looked_at = now
        if self._board.get(READER_ROW, b.REDIS_UP_EVER):
            self._redis_was_up = True
        if not self._board.get(READER_ROW, b.REDIS_UP):
            # Back again it takes up all its sessions, as a new one does.
            self._began_at[READER_ROW] = now
        for row in range(len(self._alive_at)):
            self._was_serving[row] |= self.is_serving(row)
            heard_ms = self._board.get(row, b.PROBE_MS)
            if heard_ms != self._heard_ms[row]:
                self._heard_ms[row], self._heard_at[row] = heard_ms, now
                if heard_ms:
                    self._distrusted.discard(row)
            beat_at = self._beat_at(row)
            if beat_at and (row == READER_ROW or self.is_serving(row)):
                self._alive_at[row] = beat_at

    def expect(self, row: int) -> None:
        """A new process of *row* was started: probes before it do not count."""
        self._probes_before[row] = self._probes.count
        self._began_at[row] = self._clock()

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

    def choose_deaf(self, children: Sequence[ChildProcess]) -> list[ChildProcess]:
        """Pick the process to kill now because no probe arrives, one at most.

        If no worker hears anything it is the reader: it stayed with a server that is
        no primary any more, say. Else it is the worker, and also if a new reader has
        changed nothing. A reader that knows that its connection is lost is let alone,
        and so is everybody while a new reader takes up all sessions again.
        """
        now = self._clock()
        reader, *workers = children
        serving = [child for child in workers if self._can_hear(child)]
        deaf = [child for child in serving if self._missed_all(child.index)]
        if not deaf or not self._board.get(READER_ROW, b.REDIS_UP):
            return []
        if now - self._began_at[READER_ROW] < self._probes.return_s:
            return []
        self._distrusted.update(child.index for child in deaf)
        if len(deaf) == len(serving) and self._may_blame_reader(now):
            self._reader_blamed_at = now
            return [reader]
        if now - self._worker_killed_at < WORKER_KILL_PAUSE_S:
            return []
        self._worker_killed_at = now
        return deaf[:1]

    def _can_hear(self, child: ChildProcess) -> bool:
        is_there = child.pid is not None and not child.is_being_killed
        return is_there and self.is_serving(child.index)

    def _may_blame_reader(self, now: float) -> bool:
        blamed_at = self._reader_blamed_at
        helped = any(heard_at > blamed_at for heard_at in self._heard_at)
        return helped or now - blamed_at >= BLAME_AGAIN_S

    def starting(self) -> list[str]:
        """What the pod still waits for before it can serve the first time."""
        found = [
            f"{_name(row)}_starting"
            for row, was_serving in enumerate(self._was_serving)
            if not was_serving
        ]
        return found if self._redis_was_up else [*found, "redis_never_up"]

    def dead(self) -> list[str]:
        """Faults that only a new pod can mend."""
        now = self._clock()
        return [
            f"{_name(row)}_dead"
            for row, alive_at in enumerate(self._alive_at)
            if now - max(alive_at, self._resumed_at) >= DEAD_S
        ]

    def has_ready_worker(self) -> bool:
        """Whether anybody takes new connections."""
        return any(self.is_ready(row) for row in range(1, len(self._alive_at)))

    def probe_age_s(self, row: int) -> float:
        """Time since the worker of *row* heard a probe; or since it was started."""
        since = max(self._heard_at[row], self._began_at[row])
        return max(self._clock() - since, 0.0)

    def is_deaf(self, row: int) -> bool:
        """Whether a worker hears nothing, or was replaced for that and has not yet."""
        is_proven = row not in self._distrusted or self._probes.is_silent
        return self._missed_all(row) or not is_proven

    def _missed_all(self, row: int) -> bool:
        if not self._beat_at(row):
            return False  # Nobody is there.
        # What came before the present processes is no fault of theirs.
        before = max(self._probes_before[row], self._probes_before[READER_ROW])
        return self._probes.is_deaf(self._board.get(row, b.PROBE_MS), before)

    def reasons(self) -> list[str]:
        """Faults of this pod for which it should get no new clients."""
        found = [] if self._redis_was_up else ["redis_never_up"]
        if self.is_silent(READER_ROW):
            found.append("reader_silent")
        for row in range(1, len(self._alive_at)):
            if self.is_silent(row):
                found.append(f"worker_{row}_silent")
            elif self.is_deaf(row):
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


def _name(row: int) -> str:
    return "reader" if row == READER_ROW else f"worker_{row}"
