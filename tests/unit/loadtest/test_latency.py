from __future__ import annotations

import pytest

from loadtest.latency import Latencies


def test_percentiles_come_from_the_counts_of_all_processes() -> None:
    """Steps of 10 us are rounded up, and parts are added up first."""
    latencies = Latencies.merged([{"99": 98}, {"999": 1, "9999": 1}])

    assert latencies.count == 100
    assert latencies.percentile_ms(50) == pytest.approx(1, rel=0.002)
    assert latencies.percentile_ms(99) == pytest.approx(10, rel=0.002)
    assert latencies.max_ms == pytest.approx(100, rel=0.002)


def test_no_events_have_no_latency() -> None:
    """A run without deliveries prints zeros, next to 0 delivered."""
    assert Latencies.merged([{}]).figures("x_")["x_p99_ms"] == 0
