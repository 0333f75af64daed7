from __future__ import annotations

from io import StringIO

import pytest
from rich.console import Console

from loadtest.__main__ import succeeded
from loadtest.report import Case, Figure, case_json, print_case, show_ratio
from loadtest.stage import Measured

P99 = Figure("p99_ms", "p99, ms")
RATE = Figure("rate", "deliveries/s", "higher")


def make_case() -> Case:
    case = Case("a case", (P99, RATE))
    ours = [{"p99_ms": v, "rate": 30.0} for v in (1.0, 9.0, 2.0)]
    case.runs["nats"] = [Measured({"p99_ms": 4.0, "rate": 20.0})]
    case.runs["broker"] = [Measured(figures) for figures in ours]
    return case


def test_figures_are_medians_over_rounds() -> None:
    """One disturbed round does not move a figure."""
    assert make_case().median("broker", P99) == 2.0


def test_ratio_is_the_broker_by_the_peer() -> None:
    """Below 1 is good where lower is better."""
    assert make_case().ratio("nats", P99) == pytest.approx(0.5)
    assert make_case().ratio("broker", P99) is None


def test_ratio_is_marked_where_the_broker_is_worse() -> None:
    """What lower means depends on the figure."""
    assert show_ratio(1.2, P99).endswith("!")
    assert show_ratio(0.8, RATE).endswith("!")
    assert not show_ratio(0.8, P99).endswith("!")


def test_broken_promises_are_printed_under_the_table_once() -> None:
    """A table of fast figures must not hide that events were lost."""
    case = make_case()
    for run in case.runs["broker"]:
        run.wrong.append("3 events missing")
    out = StringIO()
    print_case(Console(file=out, width=100), case)

    assert out.getvalue().count("broker: BROKEN: 3 events missing") == 1
    assert not succeeded([case])


def test_peers_that_lose_events_do_not_fail_the_run() -> None:
    """Only the broker promises to lose none."""
    case = make_case()
    case.runs["nats"][0].wrong.append("5 sockets cut")

    assert succeeded([case])


def test_failed_run_of_the_broker_fails_the_whole() -> None:
    """A broker that does not start is no row of dashes and exit status 0."""
    case = make_case()
    case.failures["broker"] = ["did not start"]

    assert not succeeded([case])


def test_json_has_every_round() -> None:
    """Whoever doubts a median can look at the runs."""
    result = case_json(make_case())

    assert len(result["runs"]["broker"]) == 3
    assert result["medians"]["broker"]["p99_ms"] == 2.0
    assert result["ratios"]["nats"]["rate"] == pytest.approx(1.5)
