"""Three brokers behind HAProxy are replaced one by one, under 3 000 clients."""

from __future__ import annotations

import asyncio
import itertools
import tempfile
import time
from collections import Counter
from pathlib import Path

import uvloop

from loadtest.fleet.remote import Fleet
from loadtest.peers import BROKER
from loadtest.peers.broker import BrokerTarget
from loadtest.peers.target import Feed, Target
from loadtest.report import Figure
from loadtest.rolling.crowd import Crowd, busiest_second
from loadtest.rolling.pods import PODS, Pods, find_haproxy
from loadtest.scenarios.rounds import Question
from loadtest.setup import Setup
from loadtest.stage import Measured, session_names

SESSIONS = 1000
COPIES = 3
RATE = 2000
DRAIN_DELAY_S = 5
"""As by default; two failed checks of HAProxy take 2 s."""
LONGEST_S = 3600
CATCH_UP_S = 30
CONNECTS_ALLOWED = 3
"""A second may have so many times the connects that an even drain would bring."""


async def roll(setup: Setup, pods: Pods, feed: Feed, rate: float) -> Measured:
    """Gather, publish, replace each pod, and count what came."""
    crowd = Crowd(pods.port, session_names(setup.scaled(SESSIONS)), COPIES)
    await crowd.gather()
    gathered = len(crowd.notes.connects)
    feed.start(rate, LONGEST_S)
    await asyncio.sleep(setup.warm_s)
    began = time.monotonic()
    for number in range(PODS):
        await asyncio.to_thread(pods.replace, number)
    seconds = time.monotonic() - began
    await asyncio.sleep(setup.warm_s)
    feed.end_early()
    fed = await asyncio.to_thread(feed.finish, 30)
    expected = int(fed["published"]) * COPIES
    await crowd.wait_delivered(expected, CATCH_UP_S)
    await crowd.disperse()
    returns = crowd.notes.connects[gathered:]
    even = gathered / PODS / setup.seconds
    figures = figures_of(crowd, returns, expected) | {
        "seconds": seconds,
        "published": fed["published"],
        "even_connects_per_s": even,
    }
    return Measured(figures, [], broken_promises(crowd, figures))


def figures_of(crowd: Crowd, returns: list[float], expected: int) -> dict[str, float]:
    """What the clients have seen."""
    notes = crowd.notes
    return {
        "behind_max_ms": notes.behind_ns / 1e6,
        "p50_ms": quantile(notes.latencies, 0.5),
        "p99_ms": quantile(notes.latencies, 0.99),
        "p999_ms": quantile(notes.latencies, 0.999),
        "late_clients": len(notes.late),
        "returns": len(returns),
        "connects_per_s": busiest_second(returns),
        "lost": notes.missing + max(0, expected - notes.delivered - notes.missing),
        "doubled": notes.doubled,
        "refused": notes.refused.total(),
        "cut": notes.cut,
        "complete": notes.delivered / max(1, expected),
    }


def quantile(latencies: Counter[int], part: float) -> float:
    """The latency in milliseconds that *part* of the events do not exceed."""
    ordered = sorted(latencies)
    counts = itertools.accumulate(latencies[ms] for ms in ordered)
    wanted = latencies.total() * part
    found = next((ms for ms, n in zip(ordered, counts, strict=True) if n >= wanted), 0)
    return float(found)


def broken_promises(crowd: Crowd, figures: dict[str, float]) -> list[str]:
    """What a rolling update must not do."""
    notes = crowd.notes
    allowed = figures["even_connects_per_s"] * CONNECTS_ALLOWED
    counted = {
        "events lost": figures["lost"],
        "events doubled": notes.doubled,
        "clients more than 2 s behind": len(notes.late),
        "connections cut without a goodbye": notes.cut,
        "connects in one second, too many": max(0, figures["connects_per_s"] - allowed),
        **{f"times told {what}": n for what, n in notes.trouble.items()},
        **{
            f"times resumed as {how}": n
            for how, n in notes.resumes.items()
            if how not in {"live", "complete"}
        },
    }
    return [f"{count:g} {what}" for what, count in counted.items() if count]


def measure_roll(setup: Setup, target: Target, fleet: Fleet) -> Measured:
    """Run it; of the target only its Redis is used, its own broker has no clients."""
    del fleet
    assert isinstance(target, BrokerTarget)
    env = {
        "BROKER_WORKERS": str(setup.workers or 1),
        "BROKER_DRAIN_DELAY_S": str(min(DRAIN_DELAY_S, setup.seconds)),
        "BROKER_DRAIN_S": str(setup.seconds),
    }
    feed = target.feed(session_names(setup.scaled(SESSIONS)))
    with tempfile.TemporaryDirectory() as directory:
        pods = Pods(setup, target.redis.url, Path(directory), env)
        try:
            pods.start()
            measured = uvloop.run(roll(setup, pods, feed, RATE * setup.scale))
            measured.notes += [f"log: {line}" for line in pods.complaints()[:3]]
        finally:
            pods.stop()
    feed.stop()
    return measured


def questions(setup: Setup) -> list[Question]:
    """One, where there is HAProxy: what does a client notice?"""
    if find_haproxy() is None:
        return []
    clients = setup.scaled(SESSIONS) * COPIES
    figures = (
        Figure("behind_max_ms", "longest time behind, ms"),
        Figure("p50_ms", "p50, ms"),
        Figure("p99_ms", "p99, ms"),
        Figure("p999_ms", "p99.9, ms"),
        Figure("late_clients", "clients that were more than 2 s behind"),
        Figure("lost", "events lost"),
        Figure("doubled", "events doubled"),
        Figure("returns", "connects during the roll", ""),
        Figure("connects_per_s", "connects in the busiest second, both pods"),
        Figure("even_connects_per_s", "connects per second, if it were even", ""),
        Figure("refused", "connects refused"),
        Figure("seconds", "until all pods are new, s", ""),
        Figure("published", "events published", ""),
        Figure("complete", "delivered / expected", "higher"),
    )
    return [
        Question(
            name=f"roll: {PODS} pods, {clients} clients, {RATE * setup.scale:g} ev/s, "
            f"drain {setup.seconds:g} s",
            targets=(BROKER,),
            figures=figures,
            measure=measure_roll,
            workers=1,
        )
    ]
