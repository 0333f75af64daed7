"""Connections that wait: what one of them takes in memory."""

from __future__ import annotations

import time
from functools import partial

from loadtest.fleet.dialects import Spec
from loadtest.fleet.remote import Fleet
from loadtest.peers import BROKER, NATS, SEND_STR
from loadtest.peers.target import Target
from loadtest.procstat import Memory
from loadtest.report import Figure
from loadtest.scenarios.rounds import Question
from loadtest.setup import Setup
from loadtest.stage import Measured

CONNECTIONS = 10_000
FIRST = 500


def settled_memory(target: Target, timeout_s: float = 10) -> Memory:
    """Memory once it has not moved by more than 64 KiB within half a second."""
    deadline = time.monotonic() + timeout_s
    memory = target.memory()
    while time.monotonic() < deadline:
        time.sleep(0.5)
        before, memory = memory, target.memory()
        if abs(memory.rss - before.rss) <= 65536:
            break
    return memory


def measure_idle(
    own_session: bool, setup: Setup, target: Target, fleet: Fleet
) -> Measured:
    """Memory of the connections after the first ones, which pay what is paid once.

    They read one session, or each its *own_session*.
    """
    first, count = setup.scaled(FIRST), setup.scaled(CONNECTIONS)
    names = [f"s{i if own_session else 0}" for i in range(count)]
    specs = [Spec(session=name) for name in names]
    fleet.connect_all(target.dialect, target.port, specs[:first], sampled=0)
    before = settled_memory(target)
    more = fleet.connect_all(target.dialect, target.port, specs[first:], sampled=0)
    after = settled_memory(target)
    added = count - first
    figures = {
        "rss_per_connection": (after.rss - before.rss) / added,
        "pss_per_connection": (after.pss - before.pss) / added,
        "rss_mib": after.rss / (1 << 20),
        "connected_per_s": added / more.seconds,
    }
    wrong = [f"{fleet.lost} idle sockets were cut"] if fleet.lost else []
    return Measured(figures, [], wrong)


def questions(setup: Setup) -> list[Question]:
    """Everybody in one session, and everybody in a session of their own."""
    count = setup.scaled(CONNECTIONS)
    figures = (
        Figure("rss_per_connection", "RSS per connection, bytes"),
        Figure("pss_per_connection", "PSS per connection, bytes"),
        Figure("rss_mib", "RSS of all, MiB"),
        Figure("connected_per_s", "connected per second", "higher"),
    )
    return [
        Question(
            name=f"idle: {count} connections, one session",
            targets=(BROKER, NATS, SEND_STR),
            figures=figures,
            measure=partial(measure_idle, False),
        ),
        Question(
            name=f"idle: {count} connections, a session each",
            targets=(BROKER, NATS),
            figures=figures,
            measure=partial(measure_idle, True),
        ),
    ]
