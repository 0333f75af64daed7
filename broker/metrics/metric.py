"""What a line of the catalog says about a metric."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

Role = Literal["reader", "worker", "supervisor"]
"""Who sets a metric."""

Labels = str | tuple[str, ...]
"""The value of the label, or one value per label where a metric has several."""

BUCKETS_S = (
    *(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05),
    *(0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)
"""Upper bounds, in seconds, of the buckets of every histogram; one more has none."""

HISTOGRAM_WIDTH = len(BUCKETS_S) + 2
"""Slots of a histogram: one per bucket, one for what is above, one for the sum."""


class Kind(StrEnum):
    """How a number behaves over time."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"

    @property
    def width(self) -> int:
        """How many slots one combination of label values takes."""
        return HISTOGRAM_WIDTH if self is Kind.HISTOGRAM else 1


class Across(StrEnum):
    """How the rows of several processes become what a scrape shows."""

    SUM = "sum"
    MAX = "max"
    WORKER = "worker"
    """One line per worker, under the label ``worker``."""


@dataclass(frozen=True)
class Metric:
    """One line of the catalog.

    Attributes:
        name: What a scrape calls it; counters end in ``_total``.
        help: One sentence for the person who reads the dashboard.
        kind: Counter, gauge or histogram.
        role: Who sets it; None for all processes, each in its own row.
        slots: The first slot of each combination of label values.
        labels: Each label's name and all the values that it can have.
        across: How the rows of several processes become one number.
    """

    name: str
    help: str
    kind: Kind
    role: Role | None
    slots: dict[Labels, int]
    labels: dict[str, tuple[str, ...]] = field(default_factory=dict)
    across: Across = Across.SUM


@dataclass(frozen=True, kw_only=True)
class Plain(Metric):
    """A metric without labels.

    Attributes:
        slot: Where in a row its number (or a histogram's first number) lies.
    """

    slot: int


@dataclass(frozen=True, kw_only=True)
class Labelled(Metric):
    """A metric with labels; ``slots`` has a place for each combination of values."""

    def __getitem__(self, labels: Labels) -> int:
        """The slot of *labels*; a histogram's first one."""
        return self.slots[labels]
