"""The reader alone: few sockets watch many sessions, publishers go flat out."""

from __future__ import annotations

from functools import partial

from loadtest.fleet.dialects import Spec
from loadtest.fleet.remote import Fleet
from loadtest.peers import BROKER
from loadtest.peers.target import Target
from loadtest.report import Figure
from loadtest.scenarios.rounds import COMPLETE, Question
from loadtest.setup import Setup
from loadtest.stage import Load, Measured, measure, session_names

SOCKETS = 20
RATES = (20_000, 120_000)
PUBLISHERS = 3

_ENV = {
    "BROKER_MAX_SUBSCRIPTIONS_PER_CONNECTION": "100000",
    "BROKER_MAX_SUBSCRIPTIONS_PER_USER": "1000000",
    "BROKER_MAX_SUBSCRIPTIONS": "1000000",
    "BROKER_SUBSCRIBE_RATE_PER_S": "1000000",
}


def measure_reader(
    sessions: int, rate: float, setup: Setup, target: Target, fleet: Fleet
) -> Measured:
    """Each session is watched through one of a few sockets."""
    names = session_names(setup.scaled(sessions))
    parts = [names[i::SOCKETS] for i in range(min(SOCKETS, len(names)))]
    load = Load(
        rate=rate,
        sessions=names,
        specs=[Spec(sessions=part) for part in parts],
        copies=1,
        feed={"publishers": PUBLISHERS, "max_length": 500},
    )
    measured = measure(setup, target, fleet, load)
    figures = measured.figures
    seconds = figures["window_s"]
    read = max(1, figures["events_read"])
    figures["read_per_s"] = figures["events_read"] / seconds
    figures["published_per_s"] = figures["published"] / (setup.warm_s + seconds)
    for role in ("reader", "redis"):
        cores = figures.get(f"cores_{role}", 0)
        figures[f"{role}_us_per_event"] = cores * seconds * 1e6 / read
    return measured


def questions(setup: Setup) -> list[Question]:
    """500 and 20 000 sessions, at a rate it should not feel and at one it does."""
    return [
        Question(
            name=f"reader: {setup.scaled(count)} sessions, {rate} ev/s offered",
            targets=(BROKER,),
            figures=(
                Figure("published_per_s", "published per second", ""),
                Figure("read_per_s", "read per second", "higher"),
                Figure("reader_us_per_event", "reader CPU per event, us"),
                Figure("cores_reader", "reader, cores"),
                Figure("redis_us_per_event", "Redis CPU per event, us"),
                Figure("redis_xread", "XREAD calls", ""),
                Figure("p50_ms", "p50, ms"),
                Figure("p99_ms", "p99, ms"),
                COMPLETE,
            ),
            measure=partial(measure_reader, count, rate),
            broker_env=_ENV,
        )
        for count in (500, 20_000)
        for rate in RATES
    ]
