"""Opening the connections of one ``connect`` command, paced and counted."""

from __future__ import annotations

import time
from collections import Counter, deque
from typing import Any

import msgspec

from loadtest.fleet.dialects import DIALECTS, Spec
from loadtest.fleet.tally import BUCKET_NS


class Dialer(msgspec.Struct):
    """What is still to be opened, and what became of the rest.

    Attributes:
        rate: Connections begun per second; 0 is as fast as ``in_flight`` allows.
        in_flight_max: How many may be on the way at once; 0 is no limit.
        joins: Connections by time from ``connect`` to joined.
        upgrades: Connections by time from ``connect`` to the 101.
        failures: What went wrong, by name.
    """

    label: str
    port: int
    sources: list[str]
    waiting: deque[Spec]
    rate: float
    in_flight_max: int
    sampled: int
    group: str
    started_ns: int
    deadline_ns: int
    begun: int = 0
    ended: int = 0
    joins: dict[int, int] = {}
    upgrades: dict[int, int] = {}
    failures: Counter[str] = msgspec.field(default_factory=Counter)

    @classmethod
    def from_command(cls, command: dict[str, Any]) -> Dialer:
        """Read a ``connect`` command."""
        now_ns = time.monotonic_ns()
        return cls(
            label=command["dialect"],
            port=command["port"],
            sources=command["sources"],
            waiting=deque(msgspec.convert(command["clients"], list[Spec])),
            rate=command.get("rate", 0),
            in_flight_max=command.get("in_flight", 100),
            sampled=command.get("sampled", 0),
            group=command.get("group", ""),
            started_ns=now_ns,
            deadline_ns=now_ns + round(command.get("timeout_s", 60) * 1e9),
        )

    @property
    def dialect(self) -> Any:
        """The dialect of these clients."""
        return DIALECTS[self.label]

    def due(self, now_ns: int) -> int:
        """How many connections to begin now."""
        count = len(self.waiting)
        if self.in_flight_max:
            count = min(count, self.in_flight_max - (self.begun - self.ended))
        if self.rate:
            allowed = int((now_ns - self.started_ns) * self.rate / 1e9) + 1
            count = min(count, allowed - self.begun)
        return max(0, count)

    def finished(self, now_ns: int) -> bool:
        """Whether all have joined or failed, or time is up."""
        if now_ns > self.deadline_ns:
            return True
        return not self.waiting and self.ended == self.begun

    def upgraded(self, started_ns: int, now_ns: int) -> None:
        """Count one answer of 101."""
        bucket = (now_ns - started_ns) // BUCKET_NS
        self.upgrades[bucket] = self.upgrades.get(bucket, 0) + 1

    def joined(self, started_ns: int, now_ns: int) -> None:
        """Count one client that receives its session."""
        bucket = (now_ns - started_ns) // BUCKET_NS
        self.joins[bucket] = self.joins.get(bucket, 0) + 1
        self.ended += 1

    def failed(self, why: str) -> None:
        """Count one client that did not join."""
        self.failures[why] += 1
        self.ended += 1

    def result(self, now_ns: int) -> dict[str, Any]:
        """The answer to the command."""
        return {
            "joined": sum(self.joins.values()),
            "unfinished": len(self.waiting) + self.begun - self.ended,
            "failures": dict(self.failures),
            "seconds": (now_ns - self.started_ns) / 1e9,
            "joins": self.joins,
            "upgrades": self.upgrades,
        }
