from __future__ import annotations

from loadtest.peers.broker import sum_metric

EXPOSITION = """\
# HELP broker_events_read_total Events.
# TYPE broker_events_read_total counter
broker_events_read_total 120.0
broker_events_lost_total{reason="trimmed"} 3.0
broker_events_lost_total{reason="dropped"} 4e+00
broker_events_lost_total_created{reason="x"} 99.0
"""


def test_metric_is_added_up_over_its_labels() -> None:
    """A counter with labels counts as a whole, and longer names are others."""
    assert sum_metric(EXPOSITION, "broker_events_read_total") == 120
    assert sum_metric(EXPOSITION, "broker_events_lost_total") == 7


def test_metric_that_is_not_there_is_zero() -> None:
    """A renamed metric must not end a run of an hour."""
    assert sum_metric(EXPOSITION, "broker_nothing_total") == 0
