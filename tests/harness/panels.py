"""The dashboards as Grafana reads them, and what their queries return."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from broker.metrics.catalog import CATALOG
from broker.metrics.metric import Kind
from tests.harness.prometheus import Prometheus, Sample

GRAFANA = Path(__file__).parents[2] / "grafana"
RATE_INTERVAL, SHORT_RATE_INTERVAL = "1m", "5s"
"""For what is now, and for a past of a minute."""
Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Answer:
    """What one query of a panel returned.

    Attributes:
        dashboard: Title of the page.
        panel: Title of the picture.
        legend: Of the line.
        unit: Of the panel.
        expr: What Prometheus was asked.
        samples: What it said.
        history: The same over time, where that was wanted.
    """

    dashboard: str
    panel: str
    legend: str
    unit: str
    expr: str
    samples: list[Sample]
    history: list[Sample]

    @property
    def values(self) -> list[float]:
        """The numbers among what it said."""
        return [s.value for s in self.samples if math.isfinite(s.value)]


def read_dashboards() -> dict[str, Json]:
    """All files of ``grafana/dashboards`` by name."""
    files = sorted((GRAFANA / "dashboards").glob("*.json"))
    return {file.stem: json.loads(file.read_text("utf-8")) for file in files}


def panels_of(dashboard: Json) -> list[Json]:
    """What shows something."""
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def expressions(dashboard: Json) -> list[str]:
    """All queries of a dashboard."""
    return [t["expr"] for panel in panels_of(dashboard) for t in panel["targets"]]


def metric_names(expr: str) -> set[str]:
    """The broker's metrics in an expression; names of recording rules are none."""
    return set(re.findall(r"(?<![\w:])broker_\w+(?![\w:])", expr))


def exported_names() -> dict[str, str]:
    """Each name that a scrape has, and the metric of the catalog that it is of."""
    names: dict[str, str] = {}
    for metric in CATALOG:
        is_histogram = metric.kind is Kind.HISTOGRAM
        ends = ("_bucket", "_sum", "_count") if is_histogram else ("",)
        names |= {metric.name + end: metric.name for end in ends}
    return names


def ask(
    server: Prometheus, dashboard: Json, pod: str, history_s: float
) -> Iterator[Answer]:
    """Ask every query of a dashboard, with everything chosen.

    Args:
        server: Whom to ask.
        dashboard: As it lies in its file.
        pod: Which pod to choose where only one can be.
        history_s: For how many seconds to ask the past as well.
    """
    for panel in panels_of(dashboard):
        for target in panel["targets"]:
            expr = substituted(target["expr"], dashboard, pod)
            recent = expr.replace(f"[{RATE_INTERVAL}]", f"[{SHORT_RATE_INTERVAL}]")
            yield Answer(
                dashboard["title"],
                panel["title"],
                target["legendFormat"],
                panel["fieldConfig"]["defaults"]["unit"],
                expr,
                server.query(expr),
                server.query_range(recent, history_s) if history_s else [],
            )


def choices(server: Prometheus, dashboard: Json, pod: str) -> dict[str, set[str]]:
    """What each variable of a dashboard offers to choose from."""
    offered = {}
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            asked = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["definition"])
            assert asked is not None, variable["definition"]
            found = server.query(substituted(asked[1], dashboard, pod))
            offered[variable["name"]] = {one.labels[asked[2]] for one in found}
    return offered


def substituted(expr: str, dashboard: Json, pod: str) -> str:
    """*expr* with the variables of its dashboard filled in."""
    expr = expr.replace("$__rate_interval", RATE_INTERVAL)
    for variable in dashboard["templating"]["list"]:
        value = variable.get("allValue", pod)
        expr = expr.replace(f'"${variable["name"]}"', f'"{value}"')
    assert "$" not in expr, f"a variable that the dashboard does not have: {expr}"
    return expr


def report(answers: list[Answer]) -> str:
    """A line for each query: where it is shown and what it returned."""
    lines = []
    page = ""
    for answer in answers:
        if answer.dashboard != page:
            page = answer.dashboard
            lines.append(f"\n{page}")
        where = f"{answer.panel} / {answer.legend} [{answer.unit}]"
        lines.append(f"  {where}: {_shown(answer)}")
    return "\n".join(lines).strip() + "\n"


def _shown(answer: Answer) -> str:
    if len(answer.samples) == 1:
        return f"{answer.samples[0].value:.4g}"
    loud = [sample for sample in answer.samples if sample.value]
    shown = [f"{_name(sample)} {sample.value:.4g}" for sample in loud]
    quiet = len(answer.samples) - len(loud)
    return ", ".join([*shown, *([f"{quiet} series are 0"] if quiet else [])])


def _name(sample: Sample) -> str:
    return " ".join(str(value) for value in sample.labels.values())
