"""The text that Prometheus reads."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from prometheus_client.parser import text_string_to_metric_families

from broker.metrics import catalog
from broker.metrics.catalog import CATALOG
from broker.metrics.export import Exporter
from broker.metrics.slots import Slots, observe


@pytest.fixture
def slots() -> Iterator[Slots]:
    made = Slots.create(2)
    yield made
    made.close()
    os.close(made.fd)


def scrape(slots: Slots) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    text = Exporter(slots).render().decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_counters_of_all_rows_are_added_up(slots: Slots) -> None:
    """One number for the pod."""
    slots.row(1)[catalog.DROPS["trimmed"]] = 3
    slots.row(2)[catalog.DROPS["trimmed"]] = 4

    samples = scrape(slots)
    assert samples["broker_events_lost_total", (("reason", "trimmed"),)] == 7
    assert samples["broker_events_lost_total", (("reason", "reset"),)] == 0


def test_largest_of_all_rows_is_shown_where_a_sum_means_nothing(slots: Slots) -> None:
    """The subscription furthest behind is behind by its own count."""
    slots.row(1)[catalog.QUEUE_DEPTH_MAX.slot] = 30
    slots.row(2)[catalog.QUEUE_DEPTH_MAX.slot] = 20

    assert scrape(slots)["broker_queue_depth_max_entries", ()] == 30


def test_loop_lag_is_shown_for_each_worker(slots: Slots) -> None:
    """A sum would hide which worker is late."""
    slots.row(2)[catalog.LOOP_LAG.slot] = 0.25

    samples = scrape(slots)
    assert samples["broker_loop_lag_seconds", (("worker", "1"),)] == 0
    assert samples["broker_loop_lag_seconds", (("worker", "2"),)] == 0.25
    assert ("broker_loop_lag_seconds", (("worker", "3"),)) not in samples


def test_two_labels_appear_under_their_names(slots: Slots) -> None:
    """Result and source keep their order."""
    slots.row(1)[catalog.RESUMES.slots["gap", "redis"]] = 5

    labels = (("result", "gap"), ("source", "redis"))
    assert scrape(slots)["broker_resumes_total", labels] == 5


def test_histogram_is_cumulative_over_all_rows(slots: Slots) -> None:
    """Buckets contain the ones below, and the last one is the count."""
    slot = catalog.REPLAY_SECONDS.slot
    observe(slots.row(1), slot, 0.003)
    observe(slots.row(2), slot, 0.2)
    observe(slots.row(2), slot, 60.0)

    samples = scrape(slots)
    assert samples["broker_replay_seconds_bucket", (("le", "0.0025"),)] == 0
    assert samples["broker_replay_seconds_bucket", (("le", "0.005"),)] == 1
    assert samples["broker_replay_seconds_bucket", (("le", "10.0"),)] == 2
    assert samples["broker_replay_seconds_bucket", (("le", "+Inf"),)] == 3
    assert samples["broker_replay_seconds_count", ()] == 3
    assert samples["broker_replay_seconds_sum", ()] == pytest.approx(60.203)


def test_every_metric_is_there_before_anything_happened(slots: Slots) -> None:
    """A series that appears only with its first event is missing when it matters."""
    text = Exporter(slots).render().decode()

    missing = [metric.name for metric in CATALOG if f"# TYPE {metric.name}" not in text]
    assert missing == []
