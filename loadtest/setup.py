"""What a run is measured with: cores, times, and how often."""

from __future__ import annotations

import os
import resource

import msgspec


class Setup(msgspec.Struct, frozen=True, kw_only=True):
    """Options of a whole run.

    Attributes:
        server_cores: Where the server under test runs.
        load_cores: Where Redis, publishers and the fleet run.
        workers: Broker workers; None for what each scenario says.
        fleet: Fleet processes.
        rounds: Every figure is the median of so many runs.
        seconds: Length of a measured window.
        warm_s: Load before the window.
        only: Names of the targets to measure; empty for all that a scenario has.
        scale: Factor on numbers of clients and sessions, for trying things out.
        share: Of a load, for each of two checkouts that are measured at once.
        memory_limit: Bytes at which the servers under test are no longer fed.
    """

    server_cores: frozenset[int]
    load_cores: frozenset[int]
    workers: int | None = None
    fleet: int = 2
    rounds: int = 5
    seconds: float = 8
    warm_s: float = 2
    only: frozenset[str] = frozenset()
    scale: float = 1
    share: float = 0.5
    memory_limit: int = 6 << 30

    def scaled(self, count: int) -> int:
        """*count* times ``scale``, at least 1."""
        return max(1, round(count * self.scale))

    @property
    def own_workers(self) -> int:
        """How many the broker itself takes on its cores."""
        return max(1, len(self.server_cores) - 1)

    def wants(self, name: str) -> bool:
        """Whether target *name* is to be measured."""
        return not self.only or name in self.only


def split_cores() -> tuple[frozenset[int], frozenset[int]]:
    """Cores for servers and for the load: halves, or the same one if there is one."""
    cores = sorted(os.sched_getaffinity(0))[:4]
    half = (len(cores) + 1) // 2
    return frozenset(cores[:half]), frozenset(cores[half:] or cores)


def raise_descriptor_limit() -> int:
    """Allow as many descriptors per process as the system does; that number."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard
