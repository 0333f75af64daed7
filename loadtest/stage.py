"""One measured run: connect, warm up, measure a window, drain, report."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec

from loadtest.counters import Counters
from loadtest.fleet.dialects import Spec
from loadtest.fleet.remote import Fleet, FleetReport
from loadtest.peers.target import Feed, Target
from loadtest.procstat import Usage, busy_seconds
from loadtest.setup import Setup

MOST_PUBLISHERS = 4
OTHERS_ALLOWED = 0.3
"""Cores that processes outside of the run may use before its figures are doubted."""


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """What is sent to whom.

    Attributes:
        rate: Events per second over all sessions.
        specs: The clients.
        copies: How many of them read each session.
        drain_s: Longest wait for what is still on the way after the last event.
        feed: Options of ``Target.feed``.
    """

    rate: float
    sessions: Sequence[str]
    specs: Sequence[Spec]
    copies: int
    drain_s: float = 10
    feed: dict[str, Any] = {}


def session_names(count: int) -> list[str]:
    """Names of *count* sessions."""
    return [f"s{i}" for i in range(count)]


def even_load(rate: float, sessions: int, copies: int, **options: Any) -> Load:
    """Every session is read by *copies* clients of one session each."""
    names = session_names(sessions)
    specs = [Spec(session=name) for _ in range(copies) for name in names]
    return Load(rate=rate, sessions=names, specs=specs, copies=copies, **options)


class Measured(msgspec.Struct):
    """The figures of one run by name, and what makes them doubtful.

    Attributes:
        figures: Numbers; units are in the names.
        notes: Reasons to distrust them: a late publisher, a busy fleet.
        wrong: Broken promises: events missing or doubled, sockets cut.
    """

    figures: dict[str, float]
    notes: list[str] = []
    wrong: list[str] = []


@contextlib.contextmanager
def stage(setup: Setup) -> Iterator[tuple[Counters, Fleet]]:
    """Counters and a fleet for one run, ended afterwards."""
    counters = Counters.create(setup.fleet + MOST_PUBLISHERS)
    fleet = Fleet(setup.fleet, setup.load_cores, counters)
    try:
        yield counters, fleet
    finally:
        fleet.stop()
        counters.close()


class Window:
    """CPU of everybody, counts of the target, and deliveries between two moments."""

    def __init__(self, setup: Setup, target: Target, fleet: Fleet, feed: Feed) -> None:
        self._cores = setup.server_cores | setup.load_cores
        self._target = target
        self._fleet = fleet
        self._groups = {
            "server": target.servers,
            "store": target.stores,
            "load": fleet.processes | feed.processes,
        }
        self._processes = {n: p for g in self._groups.values() for n, p in g.items()}
        self._processes["controller"] = os.getpid()
        self._counts = target.counts()
        self._usage = Usage.of(self._processes)
        self._busy_s = busy_seconds(self._cores)
        self._delivered = fleet.delivered
        self._started = time.monotonic()

    def close(self) -> dict[str, float]:
        """Figures of the time since it was opened."""
        used = Usage.of(self._processes).since(self._usage)
        busy_s = busy_seconds(self._cores) - self._busy_s
        delivered = self._fleet.delivered - self._delivered
        seconds = time.monotonic() - self._started
        figures = {"window_s": seconds, "deliveries_per_s": delivered / seconds}
        for name, cpu in used.items():
            figures[f"cores_{name}"] = cpu.run_s / seconds
            figures[f"cores_waiting_{name}"] = cpu.wait_s / seconds
        ours_s = sum(cpu.run_s for cpu in used.values())
        figures["cores_others"] = max(0.0, busy_s - ours_s) / seconds
        for group, members in self._groups.items():
            run_s = sum(used[name].run_s for name in members)
            figures[f"{group}_us_per_delivery"] = run_s * 1e6 / max(1, delivered)
        figures["all_us_per_delivery"] = (
            figures["server_us_per_delivery"] + figures["store_us_per_delivery"]
        )
        for name, count in self._target.counts().items():
            figures[name] = count - self._counts[name]
        return figures


def wait_window(
    setup: Setup, target: Target, feed: Feed, during: Callable[[], None]
) -> str:
    """Let the window pass; why it ended early, if it did.

    Servers that queue without bound are no longer fed above the memory limit.
    """
    deadline = time.monotonic() + setup.seconds
    while (left_s := deadline - time.monotonic()) > 0:
        time.sleep(min(0.25, left_s))
        during()
        rss = target.rss()
        if rss > setup.memory_limit:
            feed.end_early()
            return f"not fed on: the server had {rss >> 20} MiB"
    return ""


def measure(setup: Setup, target: Target, fleet: Fleet, load: Load) -> Measured:
    """Run *load* against a started target with a fleet that is not connected."""
    fleet.connect_all(target.dialect, target.port, load.specs)
    return measure_connected(setup, target, fleet, load)


def measure_connected(
    setup: Setup,
    target: Target,
    fleet: Fleet,
    load: Load,
    during: Callable[[], None] = lambda: None,
) -> Measured:
    """The same with clients that are connected; *during* runs 4 times a second."""
    feed = target.feed(load.sessions, **load.feed)
    feed.start(load.rate, setup.warm_s + setup.seconds)
    time.sleep(setup.warm_s)
    fleet.begin_window()
    window = Window(setup, target, fleet, feed)
    early = wait_window(setup, target, feed, during)
    figures = window.close()
    fed = feed.finish(setup.seconds + 30)
    expected = int(fed["published"]) * load.copies
    fleet.wait_until_still(expected, quiet_s=2, timeout_s=load.drain_s)
    report = fleet.report()
    feed.stop()
    figures |= report.latencies.figures()
    figures |= {
        "offered_per_s": load.rate,
        "published": fed["published"],
        "delivered": report.delivered,
        "expected": expected,
        "complete": report.delivered / max(1, expected),
        "events_per_read": report.delivered / max(1, report.chunks),
        "late_max_ms": fed["late_max_ms"],
    }
    notes = [early] if early else []
    notes += doubts(figures, fed)
    return Measured(figures, notes, broken_promises(report, expected, fed))


def doubts(figures: dict[str, float], fed: dict[str, float]) -> list[str]:
    """Why the load, and not the server, may have set the figures."""
    notes = []
    for name, cores in figures.items():
        # The publisher reads answers when it has time, so only fleets can be late.
        if name.startswith("cores_fleet") and cores > 0.85:
            notes.append(f"{name.removeprefix('cores_')} was busy ({cores:.2f} cores)")
    if figures.get("cores_others", 0) > OTHERS_ALLOWED:
        others = figures["cores_others"]
        notes.append(f"something else used {others:.1f} of the cores")
    if fed["late_share"] > 0.05:
        share = fed["late_share"]
        notes.append(f"{share:.0%} of the publisher's batches were over 5 ms late")
    if fed["publish_errors"]:
        notes.append(f"{fed['publish_errors']:.0f} events were refused on publishing")
    return notes


def broken_promises(
    report: FleetReport, expected: int, fed: dict[str, float]
) -> list[str]:
    """What must not happen without a word; not all peers promise that."""
    books = report.books
    counted = {
        "events missing": report.missing,
        "events doubled": report.surplus,
        "sockets cut": report.lost,
        "writes refused": int(fed["refused"]),
        "events missing unannounced": books.unexplained,
        "events out of order": books.disordered,
        "wrong steps of seq": books.seq_wrong,
        "error frames": books.errors,
        "resets": books.resets,
        "events not delivered": max(
            0, expected - report.delivered - report.missing - books.announced
        ),
    }
    return [f"{count} {what}" for what, count in counted.items() if count]
