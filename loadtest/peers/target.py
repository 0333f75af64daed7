"""The shape of a server under test."""

from __future__ import annotations

import contextlib
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import orjson

from loadtest.child import Child
from loadtest.counters import Counters
from loadtest.fleet.dialects import Dialect
from loadtest.procstat import Memory, read_memory, read_rss
from loadtest.setup import Setup


class Feed:
    """The processes that make events, each with its share of the sessions."""

    def __init__(self, children: Sequence[Child], *, owned: bool) -> None:
        self._children = children
        self._owned = owned

    @property
    def processes(self) -> dict[str, int]:
        """Process ids of publishers of their own, by name."""
        if not self._owned:
            return {}
        return {f"publisher{i}": child.pid for i, child in enumerate(self._children)}

    def start(self, rate: float, seconds: float) -> None:
        """Begin to publish *rate* events per second in all."""
        share = rate / len(self._children)
        for child in self._children:
            child.send(do="run", rate=share, seconds=seconds)

    def end_early(self) -> None:
        """Publish no more."""
        for child in self._children:
            child.send(do="stop")

    def finish(self, timeout_s: float) -> dict[str, float]:
        """Wait for the end of the run; events published, and how late they were."""
        answers = [child.receive(timeout_s) for child in self._children]
        return {
            "published": sum(answer["published"] for answer in answers),
            "late_max_ms": max(answer["late_max_ms"] for answer in answers),
            "late_share": max(answer["late_share"] for answer in answers),
            "publish_errors": sum(answer.get("errors", 0) for answer in answers),
            "refused": sum(answer.get("refused", 0) for answer in answers),
        }

    def stop(self) -> None:
        """End the publishers."""
        if self._owned:
            for child in self._children:
                child.stop()


class Target(ABC):
    """A server under test; a context manager that starts and ends it.

    Attributes:
        name: In tables and on the command line.
        port: Where clients connect, on 127.0.0.1.
    """

    dialect: Dialect

    def __init__(self, name: str, setup: Setup, counters: Counters) -> None:
        self.name = name
        self.port = 0
        self._setup = setup
        self._counters = counters
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        try:
            directory = self._stack.enter_context(tempfile.TemporaryDirectory())
            self._start(Path(directory))
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()

    @abstractmethod
    def _start(self, directory: Path) -> None:
        """Start it and wait until it serves; endings go on ``_stack``."""

    @property
    @abstractmethod
    def servers(self) -> dict[str, int]:
        """Process ids of the server itself, by role."""

    @property
    def stores(self) -> dict[str, int]:
        """Process ids of stores that it needs (Redis), by role."""
        return {}

    @property
    def holders(self) -> dict[str, int]:
        """Of ``servers``, those that hold connections."""
        return self.servers

    @abstractmethod
    def feed(self, sessions: Sequence[str], **options: Any) -> Feed:
        """Publishers for *sessions*, ready to start; stopped with the target."""

    def counts(self) -> dict[str, float]:
        """What the target counts by itself, for differences over a window."""
        return {}

    def stored_bytes(self) -> int:
        """Memory that the data in its stores takes."""
        return 0

    def complaints(self) -> list[str]:
        """Lines that the target logged as warnings or worse."""
        return []

    def memory(self) -> Memory:
        """Memory of the processes that hold connections, added up."""
        parts = [read_memory(pid) for pid in self.holders.values()]
        return Memory(sum(p.rss for p in parts), sum(p.pss for p in parts))

    def rss(self) -> int:
        """Resident bytes of the same processes; cheap enough under load."""
        return sum(read_rss(pid) for pid in self.holders.values())

    def _publishers(
        self, sessions: Sequence[str], count: int, config: dict[str, object]
    ) -> Feed:
        children = []
        for index in range(count):
            config |= {
                "sessions": sessions[index::count],
                "counters_fd": self._counters.fd,
                "rows": self._counters.rows,
                "row": self._setup.fleet + index,
            }
            child = Child(
                "loadtest.publisher",
                [orjson.dumps(config).decode()],
                self._setup.load_cores,
                pass_fds=[self._counters.fd],
            )
            self._stack.callback(child.stop)
            children.append(child)
        for child in children:
            child.receive(20)
        return Feed(children, owned=True)
