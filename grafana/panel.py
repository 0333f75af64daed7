"""Panels, rows and dashboards, and the JSON that Grafana 10 and 11 read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from grafana.query import Query

Json = dict[str, Any]

SCHEMA_VERSION = 39
"""That of Grafana 10.4 and 11; later ones convert it by themselves."""

GRID_WIDTH = 24
HEIGHT = {"stat": 4, "timeseries": 8}
_DATASOURCE: Json = {"type": "prometheus", "uid": "${datasource}"}


class Unit(StrEnum):
    """Grafana's names of the units that we use."""

    COUNT = "short"
    PER_SECOND = "cps"
    SECONDS = "s"
    BYTES = "bytes"
    BYTES_PER_SECOND = "Bps"
    RATIO = "percentunit"
    YES_NO = "bool_yes_no"


Thresholds = tuple[tuple[float | None, str], ...]
"""From which value on a number has which colour; the first has no lower bound."""

CALM: Thresholds = ((None, "blue"),)
"""For a number that is neither good nor bad."""


def bad_above(warning: float, critical: float | None = None) -> Thresholds:
    """Green up to *warning*, then orange, and red from *critical* on."""
    steps: Thresholds = ((None, "green"), (warning, "orange"))
    return steps if critical is None else (*steps, (critical, "red"))


def bad_below(needed: float) -> Thresholds:
    """Red below *needed*, else green."""
    return ((None, "red"), (needed, "green"))


@dataclass(frozen=True, slots=True)
class Panel:
    """One picture or number.

    Attributes:
        title: What is shown.
        description: What it means, and what to do about it where it is bad.
        unit: Of the only axis.
        queries: Its lines.
        thresholds: Where it turns bad.
        kind: ``timeseries`` or ``stat``.
        width: In columns of 24.
        is_stacked: The lines add up to something that means something.
    """

    title: str
    description: str
    unit: Unit
    queries: tuple[Query, ...]
    thresholds: Thresholds = CALM
    kind: str = "timeseries"
    width: int = 8
    is_stacked: bool = False

    def json(self, number: int, x: int, y: int) -> Json:
        """The panel at a place of the grid."""
        place = {"x": x, "y": y, "w": self.width, "h": HEIGHT[self.kind]}
        return {
            "id": number,
            "type": self.kind,
            "title": self.title,
            "description": self.description,
            "datasource": _DATASOURCE,
            "gridPos": place,
            "targets": [self._target(index) for index in range(len(self.queries))],
            "fieldConfig": {"defaults": self._defaults(), "overrides": []},
            "options": _OPTIONS[self.kind],
        }

    def _target(self, index: int) -> Json:
        query = self.queries[index]
        return {
            "refId": chr(ord("A") + index),
            "datasource": _DATASOURCE,
            "expr": query.expr,
            "legendFormat": query.legend,
            "range": True,
        }

    def _defaults(self) -> Json:
        steps = [{"value": at, "color": color} for at, color in self.thresholds]
        defaults: Json = {
            "unit": self.unit,
            "min": 0,
            "noValue": "no data",
            "color": {
                "mode": "thresholds" if self.kind == "stat" else "palette-classic"
            },
            "thresholds": {"mode": "absolute", "steps": steps},
        }
        if self.kind == "timeseries":
            defaults["custom"] = self._drawing()
        return defaults

    def _drawing(self) -> Json:
        # A dashed line where it turns bad, so that a quiet picture says how far off
        # trouble is.
        line = "off" if self.thresholds is CALM else "dashed"
        return {
            "axisLabel": self.title,
            "drawStyle": "line",
            "lineWidth": 1,
            "fillOpacity": 25 if self.is_stacked else 8,
            "showPoints": "never",
            "stacking": {"mode": "normal" if self.is_stacked else "none", "group": "A"},
            "thresholdsStyle": {"mode": line},
        }


_OPTIONS: dict[str, Json] = {
    "stat": {
        "colorMode": "background",
        "graphMode": "none",
        "textMode": "auto",
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
    },
    "timeseries": {
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
        "tooltip": {"mode": "multi", "sort": "desc"},
    },
}


def number(
    title: str,
    description: str,
    unit: Unit,
    expr: str,
    thresholds: Thresholds = CALM,
    width: int = 4,
) -> Panel:
    """A panel that shows one number as it is now."""
    query = Query(expr, title)
    return Panel(title, description, unit, (query,), thresholds, "stat", width)


@dataclass(frozen=True, slots=True)
class Row:
    """Panels under one heading, which is the question that they answer."""

    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True, slots=True)
class Dashboard:
    """One page.

    Attributes:
        name: Of its file, and of its address: uid ``broker-<name>``.
        title: What a person finds it by.
        description: For whom it is.
        rows: From top to bottom.
        is_one_pod: The page is about a single pod; otherwise about any number.
    """

    name: str
    title: str
    description: str
    rows: tuple[Row, ...]
    is_one_pod: bool = False

    @property
    def panels(self) -> tuple[Panel, ...]:
        """Those of all rows."""
        return tuple(panel for row in self.rows for panel in row.panels)

    def json(self) -> Json:
        """The whole file."""
        return {
            "uid": f"broker-{self.name}",
            "title": self.title,
            "description": self.description,
            "tags": ["broker"],
            "schemaVersion": SCHEMA_VERSION,
            "version": 1,
            "editable": True,
            "graphTooltip": 1,
            "refresh": "30s",
            "timezone": "browser",
            "time": {"from": "now-1h", "to": "now"},
            "links": [_LINK],
            "templating": {"list": self._variables()},
            "annotations": {"list": [_RESTARTS]},
            "panels": list(self._grid()),
        }

    def _grid(self) -> Iterator[Json]:
        y = 0
        count = 0
        for row in self.rows:
            count += 1
            yield _heading(count, row.title, y)
            y += 1
            x = tallest = 0
            for panel in row.panels:
                if x + panel.width > GRID_WIDTH:
                    x, y = 0, y + tallest
                count += 1
                yield panel.json(count, x, y)
                x, tallest = x + panel.width, HEIGHT[panel.kind]
            y += tallest

    def _variables(self) -> list[Json]:
        known = 'broker_build_info{job="broker"'
        found = [
            _SOURCE,
            _variable("namespace", f"label_values({known}}}, namespace)"),
            _variable(
                "pod",
                f'label_values({known},namespace=~"$namespace"}}, pod)',
                is_one=self.is_one_pod,
            ),
        ]
        if any("$protocol" in q.expr for panel in self.panels for q in panel.queries):
            found.append(
                _variable(
                    "protocol",
                    'label_values(broker_connections_open{job="broker"}, protocol)',
                )
            )
        return found


_SOURCE: Json = {
    "name": "datasource",
    "label": "Data source",
    "type": "datasource",
    "query": "prometheus",
    "current": {},
    "hide": 0,
}
_LINK: Json = {
    "title": "Broker",
    "type": "dashboards",
    "tags": ["broker"],
    "asDropdown": True,
    "includeVars": True,
    "keepTime": True,
}
_RESTARTS: Json = {
    "name": "Pods started",
    "datasource": _DATASOURCE,
    "enable": True,
    "iconColor": "blue",
    # By its age: the series of a new pod begins with it, so nothing in it changes.
    "expr": 'time() - broker_start_time_seconds{job="broker",namespace=~"$namespace",'
    'pod=~"$pod"} < 60',
    "titleFormat": "started",
    "textFormat": "{{pod}}",
}


def _variable(name: str, query: str, *, is_one: bool = False) -> Json:
    made: Json = {
        "name": name,
        "label": name.capitalize(),
        "type": "query",
        "datasource": _DATASOURCE,
        "definition": query,
        "query": {"query": query, "refId": "Variable"},
        "refresh": 2,
        "sort": 1,
        "multi": not is_one,
        "includeAll": not is_one,
        "current": {},
    }
    if not is_one:
        everything = {"text": ["All"], "value": ["$__all"]}
        made |= {"allValue": ".*", "current": everything}
    return made


def _heading(number: int, title: str, y: int) -> Json:
    place = {"x": 0, "y": y, "w": GRID_WIDTH, "h": 1}
    return {
        "id": number,
        "type": "row",
        "title": title,
        "collapsed": False,
        "gridPos": place,
        "panels": [],
    }
