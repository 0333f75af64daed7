from __future__ import annotations

from loadtest.fleet.account import Books
from loadtest.fleet.remote import FleetReport
from loadtest.latency import Latencies
from loadtest.stage import broken_promises, doubts, even_load

FED = {"refused": 0.0, "late_share": 0.0, "publish_errors": 0.0}


def report(**words: int) -> FleetReport:
    counts = dict.fromkeys(("delivered", "missing", "surplus", "chunks", "lost"), 0)
    return FleetReport(**(counts | words), latencies=Latencies(), books=Books())


def test_every_client_of_an_even_load_reads_one_session() -> None:
    """Copies times sessions make the clients."""
    load = even_load(10, sessions=3, copies=2)
    assert sorted(spec.session for spec in load.specs) == [
        "s0",
        "s0",
        "s1",
        "s1",
        "s2",
        "s2",
    ]


def test_complete_delivery_breaks_no_promise() -> None:
    """All there, nothing to say."""
    assert broken_promises(report(delivered=10), 10, FED) == []


def test_events_that_never_came_are_a_broken_promise() -> None:
    """Also when they are the last ones, after which no ordinal shows a hole."""
    assert broken_promises(report(delivered=7), 10, FED) == ["3 events not delivered"]


def test_hole_is_reported_once() -> None:
    """Events seen to be missing are not counted again as not delivered."""
    wrong = broken_promises(report(delivered=7, missing=3), 10, FED)

    assert wrong == ["3 events missing"]


def test_busy_fleet_makes_a_run_doubtful() -> None:
    """Figures that the clients have set must not pass for the server's."""
    figures = {"cores_fleet0": 0.95, "cores_worker1": 0.99}

    assert doubts(figures, FED) == ["fleet0 was busy (0.95 cores)"]


def test_late_publisher_makes_a_run_doubtful() -> None:
    """A rate that was not held is not the rate in the table."""
    assert len(doubts({}, FED | {"late_share": 0.2})) == 1
