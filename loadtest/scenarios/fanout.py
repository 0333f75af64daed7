"""One session, 1 000 sockets: what a delivery costs, how late it is, how many fit."""

from __future__ import annotations

from functools import partial

from loadtest.fleet.remote import Fleet
from loadtest.peers import BROKER, NATS, OS_WRITE, SEND_STR
from loadtest.peers.target import Target
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

SOCKETS = 1000


def measure_rate(rate: float, setup: Setup, target: Target, fleet: Fleet) -> Measured:
    """All sockets read one session at *rate* events per second."""
    load = even_load(rate, sessions=1, copies=setup.scaled(SOCKETS))
    return measure(setup, target, fleet, load)


def questions(setup: Setup) -> list[Question]:
    """50, 3 000 and 10 000 events per second."""
    sockets = f"1 session, {setup.scaled(SOCKETS)} sockets"
    return [
        Question(
            name=f"fanout: {sockets}, 50 ev/s",
            targets=(BROKER, OS_WRITE, SEND_STR, NATS),
            figures=(SERVER_US, ALL_US, *LATENCY, COMPLETE),
            measure=partial(measure_rate, 50),
        ),
        Question(
            name=f"fanout: {sockets}, 3 000 ev/s",
            targets=(BROKER, NATS),
            figures=(*LATENCY, DELIVERIES, SERVER_US, ALL_US, COMPLETE),
            measure=partial(measure_rate, 3000),
        ),
        Question(
            name=f"fanout: {sockets}, 10 000 ev/s offered",
            targets=(BROKER, NATS),
            figures=(DELIVERIES, *LATENCY, SERVER_US, ALL_US, COMPLETE),
            measure=partial(measure_rate, 10_000),
        ),
    ]
