"""What Prometheus reads: the rows of all processes, added up.

No process is asked. A scrape reads memory that is always there, so it takes the same
time and gives the same series whether workers run, hang or are gone.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.core import (
    Metric as Family,
)
from prometheus_client.registry import Collector

from broker.metrics.catalog import CATALOG
from broker.metrics.metric import BUCKETS_S, Across, Kind, Labels, Metric
from broker.metrics.slots import Row, Slots

_BOUNDS = (*(str(bound) for bound in BUCKETS_S), "+Inf")


class SlotsCollector(Collector):
    """Turns the rows into metric families, one per line of the catalog."""

    def __init__(self, slots: Slots) -> None:
        self._slots = slots

    def collect(self) -> Iterator[Family]:
        """Read all rows; called for each scrape."""
        rows = self._slots.rows
        for metric in CATALOG:
            match metric.kind:
                case Kind.COUNTER:
                    yield _counter(metric, rows)
                case Kind.GAUGE:
                    yield _gauge(metric, rows)
                case Kind.HISTOGRAM:
                    yield _histogram(metric, rows)


class Exporter:
    """Renders the text of a scrape."""

    def __init__(self, slots: Slots) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(SlotsCollector(slots))

    def render(self) -> bytes:
        """All metrics in the text format of Prometheus."""
        return generate_latest(self._registry)


def _counter(metric: Metric, rows: list[Row]) -> Family:
    family = CounterMetricFamily(metric.name, metric.help, labels=list(metric.labels))
    for labels, slot in metric.slots.items():
        family.add_metric(_values(labels), sum(row[slot] for row in rows))
    return family


def _gauge(metric: Metric, rows: list[Row]) -> Family:
    if metric.across is Across.WORKER:
        return _gauge_per_worker(metric, rows)
    combine = max if metric.across is Across.MAX else sum
    family = GaugeMetricFamily(metric.name, metric.help, labels=list(metric.labels))
    for labels, slot in metric.slots.items():
        family.add_metric(_values(labels), combine([row[slot] for row in rows]))
    return family


def _gauge_per_worker(metric: Metric, rows: list[Row]) -> Family:
    family = GaugeMetricFamily(metric.name, metric.help, labels=["worker"])
    (slot,) = metric.slots.values()
    for worker, row in enumerate(rows[1:-1], start=1):
        family.add_metric([str(worker)], row[slot])
    return family


def _histogram(metric: Metric, rows: list[Row]) -> Family:
    family = HistogramMetricFamily(metric.name, metric.help, labels=list(metric.labels))
    for labels, first in metric.slots.items():
        last = first + len(_BOUNDS)
        counts = [sum(row[slot] for row in rows) for slot in range(first, last)]
        family.add_metric(
            _values(labels),
            buckets=list(zip(_BOUNDS, accumulate(counts), strict=True)),
            sum_value=sum(row[last] for row in rows),
        )
    return family


def _values(labels: Labels) -> list[str]:
    return [labels] if isinstance(labels, str) else list(labels)
