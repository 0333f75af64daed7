"""Short ways to write the queries of panels, all with the same filter."""

from __future__ import annotations

from dataclasses import dataclass

_FILTER = 'job="broker",namespace=~"$namespace",pod=~"$pod"'


@dataclass(frozen=True, slots=True)
class Query:
    """One line of a panel.

    Attributes:
        expr: PromQL with Grafana's variables in it.
        legend: What the line is called; ``{{label}}`` stands for a label's value.
    """

    expr: str
    legend: str


def series(name: str, **labels: str) -> str:
    """The series of *name* in the chosen pods; *labels* are regular expressions."""
    more = "".join(f',{label}=~"{value}"' for label, value in labels.items())
    return f"{name}{{{_FILTER}{more}}}"


def rate(name: str, **labels: str) -> str:
    """How much a counter grows per second."""
    return f"rate({series(name, **labels)}[$__rate_interval])"


def total(expr: str, *by: str) -> str:
    """The sum of *expr* over everything but the labels *by*."""
    return f"sum {_by(by)}({expr})"


def highest(expr: str, *by: str) -> str:
    """The maximum of *expr* over everything but the labels *by*."""
    return f"max {_by(by)}({expr})"


def lowest(expr: str, *by: str) -> str:
    """The minimum of *expr* over everything but the labels *by*."""
    return f"min {_by(by)}({expr})"


def quantile(part: float, name: str, *by: str, **labels: str) -> str:
    """A quantile of the histogram *name*, added up over all pods first."""
    buckets = total(rate(f"{name}_bucket", **labels), "le", *by)
    return f"histogram_quantile({part}, {buckets})"


def quantiles(name: str, what: str = "", **labels: str) -> tuple[Query, ...]:
    """The median and the 99th percentile of a histogram."""
    return (
        Query(quantile(0.5, name, **labels), f"{what}median"),
        Query(quantile(0.99, name, **labels), f"{what}99th percentile"),
    )


def share(part: str, whole: str) -> str:
    """How much of *whole* is *part*; 0 where there is nothing of either."""
    return f"{part} / clamp_min({whole}, 1e-9)"


def _by(labels: tuple[str, ...]) -> str:
    return f"by ({', '.join(labels)}) " if labels else ""
