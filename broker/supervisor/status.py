"""What the pod says about itself: health, readiness and metrics."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence

from broker import __version__
from broker.metrics import catalog
from broker.metrics.export import Exporter
from broker.metrics.pulse import Growth
from broker.ring import board as b
from broker.store.connection import traffic
from broker.store.standing import StandingConnection
from broker.supervisor.child import ChildProcess
from broker.supervisor.health import Health
from broker.supervisor.resources import READER_ROW, Resources
from broker.usage import memory, usage_of

_STATES = {b.STARTING: "starting", b.READY: "ready", b.DRAINING: "draining"}


class PodStatus:
    """Answers the admin server from shared memory, without asking any process.

    The reasons that it gives are those of `Health`, and in front of them:

    - ``starting``: the pod has never been ready. New clients would find nobody.
    - ``draining``: it was told to stop. This comes before anything else happens.
    - ``no_worker_ready``: the pod was ready, and just now nobody takes connections.
    """

    def __init__(
        self, resources: Resources, health: Health, children: Sequence[ChildProcess]
    ) -> None:
        self._resources = resources
        self._board = resources.board
        self._health = health
        self._children = children
        self._exporter = Exporter(resources.slots)
        values = self._values = resources.slots.row(resources.supervisor_row)
        self._grown = [
            Growth(values, catalog.REDIS_COMMANDS["supervisor"], _commands_sent),
            Growth(values, catalog.RECONNECTS["supervisor"], _connections_retried),
        ]
        values[catalog.START_TIME.slot] = time.time_ns() / 1e9
        values[catalog.RING_BYTES.slot] = resources.segment.size
        values[catalog.CONNECTIONS_LIMIT.slot] = resources.connections_limit
        for slot in catalog.BUILD_INFO.slots.values():
            values[slot] = 1.0

    def health(self) -> dict[str, object]:
        """Each process with its number, its state and how often it was started."""
        return {
            "status": self._state(self._resources.supervisor_row),
            "version": __version__,
            "pod": self._resources.pod,
            "children": [self._describe(child) for child in self._children],
        }

    def not_started(self) -> list[str]:
        """What is still waited for; empty for ever once the pod was ready."""
        if self._state(self._resources.supervisor_row) != "starting":
            return []
        self._health.look()
        return self._health.starting() or ["starting"]

    def not_live(self) -> list[str]:
        """Why only a new pod can help; empty while it is draining.

        That this is answered at all says that the supervisor's event loop turns.
        """
        if self._state(self._resources.supervisor_row) == "draining":
            return []
        self._health.look()
        return self._health.dead()

    def not_ready(self) -> list[str]:
        """Why no new clients should come here; empty when they may."""
        state = self._state(self._resources.supervisor_row)
        self._health.look()
        found = [] if state == "ready" else [state]
        if state == "ready" and not self._health.has_ready_worker():
            found.append("no_worker_ready")
        return found + self._health.reasons()

    def metrics(self) -> bytes:
        """The text of a scrape."""
        self._health.look()
        workers = [child for child in self._children if child.index != READER_ROW]
        values = self._values
        values[catalog.WORKERS_UP.slot] = sum([self._refresh(one) for one in workers])
        values[catalog.WORKERS_DEAF.slot] = sum(
            [self._health.is_deaf(one.index) for one in workers]
        )
        state = self._state(self._resources.supervisor_row)
        values[catalog.DRAINING.slot] = state == "draining"
        values[catalog.READY.slot] = not self.not_ready()
        values[catalog.MEMORY.slot], values[catalog.MEMORY_LIMIT.slot] = memory()
        self._measure_processes()
        for growth in self._grown:
            growth.take()
        return self._exporter.render()

    def _measure_processes(self) -> None:
        """Show what the processes of each role use; one that is gone uses nothing."""
        pids: dict[str, list[int]] = {role: [] for role in catalog.ROLES}
        pids["supervisor"].append(os.getpid())
        for child in self._children:
            if child.pid is not None:
                pids[child.role].append(child.pid)
        values = self._values
        for role, those in pids.items():
            found = [used for pid in those if (used := usage_of(pid)) is not None]
            resident = sum(used.resident_bytes for used in found)
            most = max([used.descriptors for used in found], default=0)
            values[catalog.MEMORY_RESIDENT[role]] = resident
            values[catalog.DESCRIPTORS[role]] = most
            limits = [used.descriptors_limit for used in found]
            if limits:  # Else what it was: nobody can be close to a limit of 0.
                values[catalog.DESCRIPTORS_LIMIT[role]] = min(limits)

    def _refresh(self, worker: ChildProcess) -> bool:
        """Renew what only a look from outside can tell about a worker.

        It lies in the worker's row, so that it goes with the process.
        """
        row = worker.index
        values = self._resources.slots.row(row)
        is_serving = self._health.is_serving(row)
        unread = self._resources.segment.head() - self._board.get(row, b.CURSOR)
        values[catalog.RING_UNREAD_BYTES.slot] = max(unread, 0) if is_serving else 0
        values[catalog.WORKER_SILENT.slot] = self._silent_s(worker) or 0.0
        heard_s = 0.0 if worker.pid is None else self._health.probe_age_s(row)
        values[catalog.PROBE_AGE.slot] = heard_s
        return is_serving and not self._health.is_silent(row)

    def _describe(self, child: ChildProcess) -> dict[str, object]:
        return {
            "name": child.name,
            "pid": child.pid,
            "state": "gone" if child.pid is None else self._state(child.index),
            "silent_s": self._silent_s(child),
            "starts": child.starts,
        }

    def _state(self, row: int) -> str:
        return _STATES.get(self._board.get(row, b.STATE), "unknown")

    def _silent_s(self, child: ChildProcess) -> float | None:
        return None if child.pid is None else round(self._health.silent_s(child), 3)


def _commands_sent() -> int:
    return traffic.commands


def _connections_retried() -> int:
    return StandingConnection.retries
