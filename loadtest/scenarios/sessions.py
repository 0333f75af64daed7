"""Many sessions of two sockets each: where every event is its own ``send``."""

from __future__ import annotations

from loadtest.peers import BROKER, NATS
from loadtest.report import Figure
from loadtest.scenarios.rounds import (
    ALL_US,
    COMPLETE,
    DELIVERIES,
    LATENCY,
    SERVER_US,
    Question,
    plain,
)
from loadtest.setup import Setup
from loadtest.stage import Load, even_load

RATE = 20_000
COPIES = 2


def load_of(sessions: int, setup: Setup) -> Load:
    """Two sockets for each of *sessions*."""
    return even_load(RATE * setup.scale, setup.scaled(sessions), COPIES)


def questions(setup: Setup) -> list[Question]:
    """500 and 5 000 sessions."""
    return [
        plain(
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
            load=load_of(count, setup),
            # Nothing can be shared here, so a second one only adds wake-ups.
            workers=setup.own_workers,
        )
        for count in (500, 5000)
    ]
