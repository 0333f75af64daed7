"""Sockets that never read: do the others notice, and what does stalling cost?

A run in which all 1 000 sockets read is followed by one in which 200 do not. Then the
200 read again: each must get every event that is still retained once, and a gap that
says how many are not. With the default ring nothing is lost yet after such a run, so
there is a second case with a ring of about a second and a short retention.
"""

from __future__ import annotations

from functools import partial

from loadtest.child import ChildFailed, wait_until
from loadtest.fleet.dialects import Spec
from loadtest.fleet.remote import Fleet
from loadtest.peers import BROKER, NATS
from loadtest.peers.target import Target
from loadtest.procstat import tcp_memory
from loadtest.report import Figure
from loadtest.scenarios.rounds import COMPLETE, DELIVERIES, LATENCY, Question
from loadtest.setup import Setup
from loadtest.stage import Load, Measured, even_load, measure, measure_connected

SOCKETS = 1000
STALLED = 200
RATE = 3000
SLOW = "slow"
_MIB = 1 << 20


def measure_stalled(
    max_length: int, setup: Setup, target: Target, fleet: Fleet
) -> Measured:
    """Both runs, and the return of the stalled sockets."""
    sockets, stalled = setup.scaled(SOCKETS), setup.scaled(STALLED)
    # In a session of its own, so that nothing of it is left in the second run.
    before = measure(setup, target, fleet, even_load(RATE, 1, sockets))
    fleet.cut()
    specs = [Spec(session="again")] * (sockets - stalled)
    load = Load(
        rate=RATE,
        sessions=["again"],
        specs=specs,
        copies=sockets - stalled,
        feed={"max_length": max_length},
    )
    fleet.connect_all(target.dialect, target.port, specs, sampled=0)
    fleet.connect_all(
        target.dialect,
        target.port,
        [Spec(session="again")] * stalled,
        group=SLOW,
        sampled=stalled,
    )
    fleet.ask_group("stall", SLOW)
    tcp_before, rss_before = tcp_memory(), target.rss()
    rss: list[int] = []
    measured = measure_connected(
        setup, target, fleet, load, lambda: rss.append(target.rss())
    )
    figures = measured.figures
    for name in ("p50_ms", "p99_ms", "max_ms"):
        figures[f"without_{name}"] = before.figures[name]
    figures["p99_ratio"] = figures["p99_ms"] / before.figures["p99_ms"]
    figures["tcp_bytes_per_stalled"] = (tcp_memory() - tcp_before) / stalled
    figures["rss_before_mib"] = rss_before / _MIB
    for part in (1, 2, 3, 4):
        figures[f"rss_{part}_mib"] = rss[len(rss) * part // 4 - 1] / _MIB
    figures["stalled_cut"] = fleet.lost
    measured.notes += before.notes
    measured.wrong += before.wrong
    if target.name == BROKER:
        check_return(target, fleet, measured)
    return measured


def check_return(target: Target, fleet: Fleet, measured: Measured) -> None:
    """Let the stalled sockets read until they have the last event, and audit them."""
    last = int(measured.figures["published"])
    before = target.counts()
    fleet.ask_group("wake", SLOW)
    try:
        wait_until(
            lambda: fleet.ask_group("behind", SLOW, ordinal=last) == 0,
            "stalled sockets have the last event",
            60,
            0.1,
        )
    except ChildFailed as error:
        measured.wrong.append(str(error))
    books = fleet.report().books
    figures = measured.figures
    figures["returned_events"] = books.events
    figures["returned_gaps"] = books.gaps
    figures["returned_announced"] = books.announced
    figures["returned_replayed"] = target.counts()["replayed"] - before["replayed"]
    wrong = {
        "events missing without a gap, or gaps too large": books.unexplained,
        "events twice or out of order": books.disordered,
        "wrong steps of seq": books.seq_wrong,
        "gaps of unknown size": books.unknown_gaps,
        "resets": books.resets,
    }
    measured.wrong += [f"on return {n} {what}" for what, n in wrong.items() if n]


FIGURES = (
    *LATENCY,
    Figure("without_p50_ms", "p50 when all read, ms"),
    Figure("without_p99_ms", "p99 when all read, ms"),
    Figure("p99_ratio", "p99 with / without"),
    DELIVERIES,
    COMPLETE,
    Figure(
        "tcp_bytes_per_stalled", "kernel per stalled socket, KiB", "lower", 1 / 1024
    ),
    Figure("rss_before_mib", "RSS of the server before, MiB"),
    Figure("rss_1_mib", "... after 1/4 of the window, MiB"),
    Figure("rss_2_mib", "... 2/4, MiB"),
    Figure("rss_3_mib", "... 3/4, MiB"),
    Figure("rss_4_mib", "... at the end, MiB"),
    Figure("stalled_cut", "sockets cut by the server"),
)
RETURN_FIGURES = (
    Figure("returned_events", "events of the stalled sockets", ""),
    Figure("returned_replayed", "... of them replayed", ""),
    Figure("returned_gaps", "gaps announced to them", ""),
    Figure("returned_announced", "events announced as lost", ""),
)


def questions(setup: Setup) -> list[Question]:
    """The peer is asked only once: it has nothing to give back."""
    sockets, stalled = setup.scaled(SOCKETS), setup.scaled(STALLED)
    name = f"slow: {stalled} of {sockets} sockets never read, 3 000 ev/s"
    return [
        Question(
            name=name,
            targets=(BROKER, NATS),
            figures=FIGURES + RETURN_FIGURES,
            measure=partial(measure_stalled, 10_000),
        ),
        Question(
            name=f"{name}, small ring, 2 000 events retained",
            targets=(BROKER,),
            figures=FIGURES + RETURN_FIGURES,
            measure=partial(measure_stalled, 2_000),
            broker_env={
                "BROKER_RING_BYTES": "1MiB",
                "BROKER_MAX_EVENT_BYTES": "64KiB",
            },
        ),
    ]
