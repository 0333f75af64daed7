"""The table of metrics."""

from __future__ import annotations

import re

from broker.metrics.catalog import CATALOG, CLOSES, CONNECTIONS, RESUMES, row_width
from broker.metrics.metric import HISTOGRAM_WIDTH, Across, Kind

_NAME = re.compile(r"broker_[a-z]+(_[a-z]+)*\Z")


def test_no_two_numbers_share_a_slot() -> None:
    """Counting one thing never changes the number of another."""
    taken = [
        slot + offset
        for metric in CATALOG
        for slot in metric.slots.values()
        for offset in range(metric.kind.width)
    ]

    assert sorted(taken) == list(range(row_width()))


def test_names_are_unique_and_follow_the_pattern() -> None:
    """A name tells whose it is and whether it only rises."""
    names = [metric.name for metric in CATALOG]

    assert len(set(names)) == len(names)
    assert [name for name in names if not _NAME.match(name)] == []
    assert {m.name for m in CATALOG if m.kind is Kind.COUNTER} == {
        name for name in names if name.endswith("_total")
    }


def test_histograms_measure_seconds() -> None:
    """All histograms share the same bounds, which are seconds."""
    histograms = [m for m in CATALOG if m.kind is Kind.HISTOGRAM]

    assert histograms
    assert all(metric.name.endswith("_seconds") for metric in histograms)


def test_metrics_shown_per_worker_have_no_label_of_their_own() -> None:
    """The label ``worker`` stands alone."""
    per_worker = [m for m in CATALOG if m.across is Across.WORKER]

    assert per_worker
    assert all(not metric.labels for metric in per_worker)


def test_number_of_series_is_bounded() -> None:
    """A scrape stays small: no label holds what users can name."""
    assert row_width() < 500


def test_every_reason_to_close_has_a_slot() -> None:
    """The table of close codes and the metric cannot drift apart."""
    assert {"draining", "session_evicted", "lost"} <= set(CLOSES.labels["code"])


def test_two_labels_are_addressed_by_a_pair() -> None:
    """Each combination of result and source has its own slot."""
    assert len(RESUMES.slots) == 12
    assert RESUMES.slots["complete", "ring"] != RESUMES.slots["complete", "redis"]


def test_index_of_a_labelled_metric_is_its_slot() -> None:
    """``metric[label]`` and ``metric.slots[label]`` are the same place."""
    assert CONNECTIONS["sse"] == CONNECTIONS.slots["sse"]
    assert HISTOGRAM_WIDTH == 16
