"""Draw what a run of the tests measured, as the dashboards would show it.

    BROKER_TEST_PANELS=/tmp pytest tests/deploy/test_dashboards.py
    python -m grafana.plots /tmp/panels.json

Needs matplotlib, which neither the broker nor its tests do: run it in an environment of
its own (``pip install matplotlib``). Nothing is made up: each line is what Prometheus
answered to the query of that panel.
"""

from __future__ import annotations

import importlib
import json
import math
import sys
from pathlib import Path
from typing import Any

DIRECTORY = Path(__file__).parent / "plots"

PICTURES: dict[str, tuple[str, ...]] = {
    "Broker: overview": (
        *("Events", "Time to the client", "Clients refused"),
        *("Lost for everybody", "Lost for some", "Entries behind"),
    ),
    "Broker: clients": (
        *("Connections", "Accepted", "Subscriptions begun"),
        *("Bytes behind", "Subscriptions behind", "Where replays come from"),
    ),
    "Broker: fan-out": (
        *("Bytes", "Redis to reader", "Reader to socket"),
        *("Sockets per event", "Event-loop lag", "Write buffers"),
    ),
}
"""Which panels of which dashboards are drawn."""

UNITS = {
    "short": (1.0, "number"),
    "cps": (1.0, "per second"),
    "s": (1000.0, "milliseconds"),
    "bytes": (1 / 2**20, "MiB"),
    "Bps": (1 / 2**20, "MiB per second"),
    "percentunit": (100.0, "%"),
    "bool_yes_no": (1.0, "1: yes"),
}
"""By what a number is multiplied, and what stands at the axis then."""

_LINES_MAX = 7
_COLORS = (
    *("#1f60c4", "#e0752d", "#37872d", "#a352cc", "#c4162a", "#806eb7", "#0a7e8c"),
)

Answer = dict[str, Any]


def main() -> None:
    """Draw every picture from the file that is the only argument."""
    answers: list[Answer] = json.loads(Path(sys.argv[1]).read_text("utf-8"))
    matplotlib = importlib.import_module("matplotlib")
    matplotlib.use("agg")
    pyplot = importlib.import_module("matplotlib.pyplot")
    for title, panels in PICTURES.items():
        figure = draw(pyplot, [a for a in answers if a["dashboard"] == title], panels)
        figure.suptitle(title, fontsize=13, fontweight="bold", x=0.01, ha="left")
        name = title.removeprefix("Broker: ").replace(" ", "-")
        figure.savefig(DIRECTORY / f"{name}.png", dpi=96)
        pyplot.close(figure)


def draw(pyplot: Any, answers: list[Answer], panels: tuple[str, ...]) -> Any:
    """A figure with so many panels of one dashboard, three beside each other."""
    rows = -(-len(panels) // 3)
    figure, axes = pyplot.subplots(
        rows, 3, figsize=(12.5, 3.0 * rows + 0.4), layout="constrained"
    )
    ends = [s["points"][-1][0] for a in answers for s in a["history"] if s["points"]]
    starts = [s["points"][0][0] for a in answers for s in a["history"] if s["points"]]
    for axis, panel in zip(axes.flat, panels, strict=True):
        draw_panel(axis, [a for a in answers if a["panel"] == panel], min(starts))
        axis.set_title(panel, fontsize=10, loc="left")
        axis.set_xlim(0, max(ends) - min(starts))
    for axis in axes[-1]:
        axis.set_xlabel("seconds since the start of the run", fontsize=8)
    return figure


def draw_panel(axis: Any, answers: list[Answer], start: float) -> None:
    """The lines of one panel; those that are always zero are only counted."""
    factor, unit = UNITS[answers[0]["unit"]]
    lines = [(legend(a, s), s["points"]) for a in answers for s in a["history"]]
    finite = [(name, [p for p in ps if math.isfinite(p[1])]) for name, ps in lines]
    loud = [(name, points) for name, points in finite if any(p[1] for p in points)]
    loud.sort(key=lambda line: -max(point[1] for point in line[1]))
    for number, (name, points) in enumerate(loud[:_LINES_MAX]):
        x = [at - start for at, _ in points]
        y = [value * factor for _, value in points]
        axis.plot(x, y, label=name, lw=1.4, color=_COLORS[number])
        axis.fill_between(x, y, alpha=0.05, color=_COLORS[number])
    # Room above the lines for their names.
    axis.set_ylim(0, axis.get_ylim()[1] * (1.12 + 0.1 * min(len(loud), _LINES_MAX)))
    axis.set_ylabel(unit, fontsize=8)
    axis.tick_params(labelsize=8)
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
    if loud:
        axis.legend(fontsize=7, frameon=False, loc="upper left")


def legend(answer: Answer, sample: dict[str, Any]) -> str:
    """What Grafana would call the line."""
    text: str = answer["legend"]
    for label, value in sample["labels"].items():
        text = text.replace(f"{{{{{label}}}}}", value)
    return text


if __name__ == "__main__":
    main()
