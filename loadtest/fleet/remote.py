"""The controller's handle on the processes of a fleet."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from loadtest.child import Child, ChildFailed
from loadtest.counters import DELIVERED, LOST, OPEN, Counters
from loadtest.fleet.account import Books
from loadtest.fleet.dialects import Dialect, Spec
from loadtest.latency import Latencies


class Connected(msgspec.Struct):
    """What became of a ``connect``.

    Attributes:
        joins: Time from ``connect`` to joined (live, or caught up).
        upgrades: Time from ``connect`` to the 101.
    """

    joined: int
    failures: dict[str, int]
    seconds: float
    joins: Latencies
    upgrades: Latencies


class FleetReport(msgspec.Struct):
    """What all processes counted since they were last cut."""

    delivered: int
    missing: int
    surplus: int
    chunks: int
    lost: int
    latencies: Latencies
    books: Books


class Fleet:
    """Some processes, each with its share of the clients and its source addresses."""

    def __init__(self, count: int, cores: Iterable[int], counters: Counters) -> None:
        self._counters = counters
        self._children = [
            Child(
                "loadtest.fleet",
                [str(counters.fd), str(counters.rows), str(row)],
                cores,
                pass_fds=[counters.fd],
            )
            for row in range(count)
        ]

    @property
    def processes(self) -> dict[str, int]:
        """Process ids by name."""
        return {f"fleet{i}": child.pid for i, child in enumerate(self._children)}

    @property
    def delivered(self) -> int:
        """Events received so far, without asking anybody."""
        return self._counters.total(DELIVERED)

    @property
    def open(self) -> int:
        """Clients that have joined and are connected."""
        return self._counters.total(OPEN)

    @property
    def lost(self) -> int:
        """Clients that the server has cut."""
        return self._counters.total(LOST)

    def connect(
        self,
        dialect: Dialect,
        port: int,
        clients: Sequence[Spec],
        *,
        rate: float = 0,
        in_flight: int = 200,
        sampled: int = 2,
        group: str = "",
        timeout_s: float = 60,
    ) -> Connected:
        """Connect clients, dealt out to the processes in turn, and wait for them.

        *rate* is of connections begun per second by all processes (0: no limit but
        *in_flight*), *in_flight* how many may be on the way at once (0: no limit), and
        the first *sampled* clients of each process are followed frame by frame.
        """
        count = len(self._children)
        for index, child in enumerate(self._children):
            base = 2 + index * 4
            child.send(
                do="connect",
                dialect=dialect.label,
                port=port,
                sources=[f"127.0.0.{base + i}" for i in range(4)],
                clients=msgspec.to_builtins(list(clients[index::count])),
                rate=rate / count,
                in_flight=-(-in_flight // count),
                sampled=sampled,
                group=group,
                timeout_s=timeout_s,
            )
        answers = [child.receive(timeout_s + 10) for child in self._children]
        failures: Counter[str] = Counter()
        for answer in answers:
            failures.update(answer["failures"])
            failures["unfinished"] += answer["unfinished"]
        return Connected(
            joined=sum(answer["joined"] for answer in answers),
            failures={why: n for why, n in failures.items() if n},
            seconds=max(answer["seconds"] for answer in answers),
            joins=Latencies.merged(answer["joins"] for answer in answers),
            upgrades=Latencies.merged(answer["upgrades"] for answer in answers),
        )

    def connect_all(
        self, dialect: Dialect, port: int, clients: Sequence[Spec], **options: Any
    ) -> Connected:
        """Connect clients of which every one has to join.

        Raises:
            ChildFailed: Some did not.
        """
        connected = self.connect(dialect, port, clients, **options)
        if connected.joined != len(clients):
            raise ChildFailed(
                f"{connected.joined} of {len(clients)} clients joined; "
                f"failures: {connected.failures}"
            )
        return connected

    def _ask_all(self, **command: object) -> list[dict[str, Any]]:
        for child in self._children:
            child.send(**command)
        return [child.receive(30) for child in self._children]

    def begin_window(self) -> None:
        """Only events published from now on count for latencies."""
        self._ask_all(do="window")

    def report(self) -> FleetReport:
        """Everything counted so far."""
        answers = self._ask_all(do="report")
        totals: Counter[str] = Counter()
        books: Counter[str] = Counter()
        for answer in answers:
            books.update(answer["books"])
            for name in ("delivered", "missing", "surplus", "chunks", "lost"):
                totals[name] += answer[name]
        return FleetReport(
            **{name: totals[name] for name in totals},
            latencies=Latencies.merged(answer["latencies"] for answer in answers),
            books=Books(**books),
        )

    def ask_group(self, do: str, group: str, **words: object) -> int:
        """``stall``, ``wake`` or ``behind``; the number of clients concerned."""
        answers = self._ask_all(do=do, group=group, **words)
        return sum(answer["clients"] for answer in answers)

    def wait_until_still(self, expected: int, quiet_s: float, timeout_s: float) -> None:
        """Wait for *expected* deliveries, or until nothing came for *quiet_s*."""
        deadline = time.monotonic() + timeout_s
        seen, moved_at = self.delivered, time.monotonic()
        while time.monotonic() < deadline:
            now = self.delivered
            if now >= expected:
                return
            if now != seen:
                seen, moved_at = now, time.monotonic()
            elif time.monotonic() - moved_at > quiet_s:
                return
            time.sleep(0.02)

    def cut(self) -> None:
        """Reset all connections and forget what was counted."""
        self._ask_all(do="cut")

    def stop(self) -> None:
        """End the processes."""
        for child in self._children:
            child.stop()
