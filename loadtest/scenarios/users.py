"""Users with a session each: what opening one costs, and what keeping it open does.

The other scenarios have clients without a user, of whom nothing is kept in Redis.
"""

from __future__ import annotations

import time

from loadtest.fleet.dialects import Spec
from loadtest.fleet.remote import Fleet
from loadtest.peers import BROKER
from loadtest.peers.target import Target
from loadtest.procstat import Cpu, Usage
from loadtest.report import Figure
from loadtest.scenarios.idle import settled_memory
from loadtest.scenarios.rounds import Question
from loadtest.setup import Setup
from loadtest.stage import Measured

USERS = 5_000
FIRST = 500
HOLD_S = 20.0
"""Two renewals of all leases, at the default of BROKER_SESSION_LEASE_S."""


def seconds(used: dict[str, Cpu], names: dict[str, int]) -> float:
    """CPU seconds of all *names*."""
    return sum(used[name].run_s for name in names)


def measure_users(setup: Setup, target: Target, fleet: Fleet) -> Measured:
    """CPU and memory, here and in Redis, of users after the first ones."""
    first, count = setup.scaled(FIRST), setup.scaled(USERS)
    specs = [Spec(session=f"s{i}", user=f"u{i}") for i in range(count)]
    everybody = target.servers | target.stores
    fleet.connect_all(target.dialect, target.port, specs[:first], sampled=0)
    memory, stored = settled_memory(target), target.stored_bytes()
    before = Usage.of(everybody)
    fleet.connect_all(target.dialect, target.port, specs[first:], sampled=0)
    settled = settled_memory(target)
    opening = Usage.of(everybody).since(before)
    kept = target.stored_bytes()
    before, began = Usage.of(everybody), time.monotonic()
    time.sleep(HOLD_S)
    held_s = time.monotonic() - began
    holding = Usage.of(everybody).since(before)
    added = count - first
    figures = {
        "open_us": seconds(opening, target.servers) * 1e6 / added,
        "open_redis_us": seconds(opening, target.stores) * 1e6 / added,
        "rss_per_user": (settled.rss - memory.rss) / added,
        "redis_bytes_per_user": (kept - stored) / added,
        "hold_ms_per_s": seconds(holding, target.servers) * 1e6 / held_s / count,
        "hold_redis_ms_per_s": seconds(holding, target.stores) * 1e6 / held_s / count,
    }
    wrong = [f"{fleet.lost} sockets were cut"] if fleet.lost else []
    return Measured(figures, [], wrong)


def questions(setup: Setup) -> list[Question]:
    """Everybody with a session of their own."""
    return [
        Question(
            name=f"users: {setup.scaled(USERS)} users with a session each",
            targets=(BROKER,),
            figures=(
                Figure("open_us", "server CPU to open one, us"),
                Figure("open_redis_us", "Redis CPU to open one, us"),
                Figure("rss_per_user", "RSS per user, bytes"),
                Figure("redis_bytes_per_user", "Redis memory per user, bytes"),
                Figure("hold_ms_per_s", "server CPU to hold 1 000, ms per s"),
                Figure("hold_redis_ms_per_s", "Redis CPU to hold 1 000, ms per s"),
            ),
            measure=measure_users,
        )
    ]
