"""5 000 clients are cut and come back within a second, each 100 events behind."""

from __future__ import annotations

from functools import partial

import orjson

from loadtest.fleet.dialects import Spec
from loadtest.fleet.remote import Fleet
from loadtest.payload import ORDINAL_BASE
from loadtest.peers import BROKER
from loadtest.peers.broker import KEY_PATTERN, BrokerTarget
from loadtest.peers.target import Target
from loadtest.procstat import Usage
from loadtest.report import Figure
from loadtest.scenarios.rounds import Question
from loadtest.setup import Setup
from loadtest.stage import Measured, session_names

CLIENTS = 5000
MISSED = 100
RETURN_S = 1.0

OTHER = "other"
OTHER_EVENTS = 10_000

FROM_RING = {"BROKER_RING_BYTES": "256MiB"}
# The smallest ring there is: the events of another session push everything out of it.
FROM_REDIS = {"BROKER_RING_BYTES": "1MiB", "BROKER_MAX_EVENT_BYTES": "64KiB"}


def positions_behind(target: BrokerTarget, sessions: list[str]) -> dict[str, Spec]:
    """For each session, a client that has missed its last ``MISSED`` events."""
    pipeline = target.redis.client.pipeline(transaction=False)
    for name in sessions:
        key = KEY_PATTERN.replace("{session}", name)
        pipeline.xrevrange(key, count=MISSED + 1)
    specs = {}
    for name, entries in zip(sessions, pipeline.execute(), strict=True):
        stream_id, fields = entries[-1]
        ordinal = orjson.loads(fields[b"data"])["q"] - ORDINAL_BASE
        specs[name] = Spec(session=name, after=stream_id.decode(), ordinal=ordinal)
    return specs


def publish_all(target: Target, sessions: list[str], events: int) -> int:
    """Publish *events* in all and wait until Redis has them."""
    feed = target.feed(sessions, max_length=10 * MISSED)
    rate = min(20_000, 1000 * len(sessions))
    feed.start(rate, events / rate)
    published = int(feed.finish(events / rate + 30)["published"])
    feed.stop()
    return published


def fill(
    target: Target, fleet: Fleet, sessions: list[str], clients: list[Spec]
) -> None:
    """Let everybody read ``MISSED`` events and a few, then another session."""
    watcher = Spec(session=OTHER)
    fleet.connect_all(target.dialect, target.port, [*clients, watcher])
    published = publish_all(target, sessions, (MISSED + 10) * len(sessions))
    expected = published * len(clients) // len(sessions)
    fleet.wait_until_still(expected, quiet_s=2, timeout_s=30)
    expected += publish_all(target, [OTHER], OTHER_EVENTS)
    fleet.wait_until_still(expected, quiet_s=2, timeout_s=30)


def measure_storm(
    session_count: int, setup: Setup, target: Target, fleet: Fleet
) -> Measured:
    """Connect, publish, cut, return; from ``connect`` to ``caught_up``."""
    assert isinstance(target, BrokerTarget)
    clients = setup.scaled(CLIENTS)
    sessions = session_names(min(clients, setup.scaled(session_count)))
    names = [sessions[i % len(sessions)] for i in range(clients)]
    fill(target, fleet, sessions, [Spec(session=name) for name in names])
    fleet.cut()

    behind = positions_behind(target, sessions)
    processes = target.servers | target.stores | fleet.processes
    counts, usage = target.counts(), Usage.of(processes)
    returned = fleet.connect(
        target.dialect,
        target.port,
        [behind[name] for name in names],
        rate=clients / RETURN_S,
        in_flight=0,
        sampled=0,
    )
    expected = clients * MISSED
    fleet.wait_until_still(expected, quiet_s=1, timeout_s=10)
    used = Usage.of(processes).since(usage)
    figures = {key: n - counts[key] for key, n in target.counts().items()}
    figures |= returned.joins.figures() | returned.upgrades.figures("upgrade_")
    figures["joined"] = returned.joined
    figures["seconds"] = returned.seconds
    figures["server_s"] = sum(used[name].run_s for name in target.servers)
    figures["fleet_s"] = sum(used[name].run_s for name in fleet.processes)
    figures["store_s"] = sum(used[name].run_s for name in target.stores)
    report = fleet.report()
    figures["complete"] = report.delivered / expected
    wrong = {
        "clients not back": clients - returned.joined,
        "events missing": report.missing,
        "events doubled": report.surplus,
        "events too few or too many": abs(expected - report.delivered),
        "sockets cut": report.lost,
    }
    notes = [f"{n} x {why}" for why, n in returned.failures.items()]
    return Measured(figures, notes, [f"{n} {w}" for w, n in wrong.items() if n])


def questions(setup: Setup) -> list[Question]:
    """One session and 2 500, from the ring and, where it is too small, from Redis."""
    clients = setup.scaled(CLIENTS)
    figures = (
        Figure("p50_ms", "connect to caught_up p50, ms"),
        Figure("p90_ms", "connect to caught_up p90, ms"),
        Figure("p99_ms", "connect to caught_up p99, ms"),
        Figure("max_ms", "connect to caught_up max, ms"),
        Figure("upgrade_p99_ms", "connect to 101 p99, ms"),
        Figure("seconds", "until all are back, s"),
        Figure("redis_xrange", "XRANGE calls"),
        Figure("redis_xrevrange", "XREVRANGE calls"),
        Figure("server_s", "server CPU, s"),
        Figure("store_s", "Redis CPU, s"),
        Figure("fleet_s", "clients' CPU, s", ""),
        Figure("complete", "delivered / expected", "higher"),
    )
    return [
        Question(
            name=f"storm: {clients} return to {setup.scaled(n)} sessions, {source}",
            targets=(BROKER,),
            figures=figures,
            measure=partial(measure_storm, n),
            broker_env=env,
        )
        for n in (1, 2500)
        for source, env in (("ring", FROM_RING), ("ring too small", FROM_REDIS))
    ]
