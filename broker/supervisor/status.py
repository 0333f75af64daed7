"""What the pod says about itself: health, readiness and metrics."""

from __future__ import annotations

from collections.abc import Sequence

from broker import __version__
from broker.metrics import catalog
from broker.metrics.export import Exporter
from broker.ring import board as b
from broker.supervisor.child import ChildProcess
from broker.supervisor.health import Health
from broker.supervisor.resources import READER_ROW, Resources

_STATES = {b.STARTING: "starting", b.READY: "ready", b.DRAINING: "draining"}


class PodStatus:
    """Answers the admin server from shared memory, without asking any process."""

    def __init__(
        self, resources: Resources, health: Health, children: Sequence[ChildProcess]
    ) -> None:
        self._resources = resources
        self._board = resources.board
        self._health = health
        self._children = children
        self._exporter = Exporter(resources.slots)

    def health(self) -> dict[str, object]:
        """Each process with its number, its state and how often it was started."""
        return {
            "status": self._state(self._resources.supervisor_row),
            "version": __version__,
            "pod": self._resources.pod,
            "children": [self._describe(child) for child in self._children],
        }

    def not_ready(self) -> list[str]:
        """Why no new clients should come here; empty when they may."""
        state = self._state(self._resources.supervisor_row)
        self._health.look()
        return ([] if state == "ready" else [state]) + self._health.reasons()

    def metrics(self) -> bytes:
        """The text of a scrape."""
        self._health.look()
        up = [self._refresh(c) for c in self._children if c.index != READER_ROW]
        values = self._resources.slots.row(self._resources.supervisor_row)
        values[catalog.WORKERS_UP.slot] = sum(up)
        return self._exporter.render()

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
