"""One session, 1 000 sockets: what a delivery costs, how late it is, how many fit."""

from __future__ import annotations

from loadtest.peers import BROKER, NATS, OS_WRITE, SEND_STR
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

SOCKETS = 1000


def load_at(rate: float, setup: Setup) -> Load:
    """All sockets read one session at *rate* events per second."""
    return even_load(rate, sessions=1, copies=setup.scaled(SOCKETS))


def questions(setup: Setup) -> list[Question]:
    """50, 3 000 and 10 000 events per second."""
    sockets = f"1 session, {setup.scaled(SOCKETS)} sockets"
    return [
        plain(
            name=f"fanout: {sockets}, 50 ev/s",
            targets=(BROKER, OS_WRITE, SEND_STR, NATS),
            figures=(SERVER_US, ALL_US, *LATENCY, COMPLETE),
            load=load_at(50, setup),
        ),
        plain(
            name=f"fanout: {sockets}, 3 000 ev/s",
            targets=(BROKER, NATS),
            figures=(*LATENCY, DELIVERIES, SERVER_US, ALL_US, COMPLETE),
            load=load_at(3000, setup),
        ),
        plain(
            name=f"fanout: {sockets}, 10 000 ev/s offered",
            targets=(BROKER, NATS),
            figures=(DELIVERIES, *LATENCY, SERVER_US, ALL_US, COMPLETE),
            load=load_at(10_000, setup),
        ),
    ]
