"""A baseline server, which is its own publisher."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from broker.store.embedded import free_port
from loadtest.child import Child
from loadtest.counters import Counters
from loadtest.fleet.dialects import Dialect
from loadtest.peers.target import Feed, Target
from loadtest.setup import Setup


class BaselineTarget(Target):
    """``send_str`` or ``os_write``: one process, one session, one core at most."""

    dialect = Dialect.PLAIN

    def __init__(self, name: str, setup: Setup, counters: Counters) -> None:
        super().__init__(name, setup, counters)
        self._child: Child

    def _start(self, directory: Path) -> None:
        self.port = free_port()
        self._child = Child(
            "loadtest.baselines",
            [self.name, str(self.port)],
            self._setup.server_cores,
        )
        self._stack.callback(self._child.stop)
        self._child.receive(10)

    @property
    def servers(self) -> dict[str, int]:
        return {"server": self._child.pid}

    def feed(self, sessions: Sequence[str], **options: Any) -> Feed:
        assert len(sessions) == 1, "a baseline has one session"
        return Feed([self._child], owned=False)
