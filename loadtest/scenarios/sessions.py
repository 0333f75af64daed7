"""Many sessions of two sockets each: where every event is its own ``send``."""

from __future__ import annotations

from functools import partial

from loadtest.fleet.remote import Fleet
from loadtest.peers import BROKER, NATS
from loadtest.peers.target import Target
from loadtest.report import Figure
from loadtest.scenarios.rounds import (
    ALL_US,
    COMPLETE,
    DELIVERIES,
    LATENCY,
    SERVER_US,
    Question,
)
from loadtest.setup import Setup
from loadtest.stage import Measured, even_load, measure

RATE = 20_000
COPIES = 2


def measure_sessions(
    sessions: int, setup: Setup, target: Target, fleet: Fleet
) -> Measured:
    """Two sockets for each of *sessions*."""
    load = even_load(RATE * setup.scale, setup.scaled(sessions), COPIES)
    return measure(setup, target, fleet, load)


def questions(setup: Setup) -> list[Question]:
    """500 and 5 000 sessions."""
    return [
        Question(
            name=f"sessions: {setup.scaled(count)} x {COPIES} sockets, 20 000 ev/s",
            targets=(BROKER, NATS),
            figures=(
                *LATENCY,
                SERVER_US,
                ALL_US,
                DELIVERIES,
                COMPLETE,
                Figure("redis_xread", "XREAD calls in the window", ""),
            ),
            measure=partial(measure_sessions, count),
            # Nothing can be shared here, so a second one only adds wake-ups.
            workers=setup.own_workers,
        )
        for count in (500, 5000)
    ]
