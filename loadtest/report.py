"""Medians over rounds, ratios against peers, a table, and JSON."""

from __future__ import annotations

import statistics
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

from loadtest.stage import Measured

REFERENCE = "broker"


class Figure(msgspec.Struct, frozen=True):
    """A row of a table.

    Attributes:
        key: Its name among the figures of a run.
        title: What a reader sees.
        better: ``lower``, ``higher``, or nothing.
        factor: From the figure's own unit to the one in the title.
    """

    key: str
    title: str
    better: str = "lower"
    factor: float = 1


class Case(msgspec.Struct):
    """All runs of one question.

    Attributes:
        runs: What was measured, by target, a list with one entry per round.
        failures: Runs that could not be finished, by target.
    """

    name: str
    figures: tuple[Figure, ...]
    runs: dict[str, list[Measured]] = {}
    failures: dict[str, list[str]] = {}

    def median(self, target: str, figure: Figure) -> float | None:
        """The median over rounds; None if the target has no such figure."""
        values = [
            run.figures[figure.key] * figure.factor
            for run in self.runs.get(target, [])
            if figure.key in run.figures
        ]
        return statistics.median(values) if values else None

    def ratio(self, target: str, figure: Figure) -> float | None:
        """The broker's median divided by that of *target*."""
        ours, theirs = self.median(REFERENCE, figure), self.median(target, figure)
        if target == REFERENCE or ours is None or not theirs:
            return None
        return ours / theirs

    @property
    def targets(self) -> list[str]:
        """Who was measured, the broker first."""
        names = dict.fromkeys([*self.runs, *self.failures])
        return sorted(names, key=lambda name: name != REFERENCE)

    def remarks(self) -> list[str]:
        """What went wrong or makes figures doubtful, each once."""
        lines = []
        for target, runs in self.runs.items():
            lines += [f"{target}: BROKEN: {w}" for run in runs for w in run.wrong]
            lines += [f"{target}: {note}" for run in runs for note in run.notes]
        for target, failures in self.failures.items():
            lines += [f"{target}: FAILED: {why}" for why in failures]
        return list(dict.fromkeys(lines))


def show(value: float | None) -> str:
    """A number with three digits that mean something."""
    if value is None:
        return "-"
    if value == 0 or abs(value) >= 1000:
        return f"{value:,.0f}"
    if abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.3g}"


def table_of(case: Case) -> Table:
    """One case as a table: a row per figure, a column per target and per ratio."""
    table = Table()
    table.add_column("figure")
    for target in case.targets:
        table.add_column(target, justify="right")
        if target != REFERENCE and REFERENCE in case.runs:
            table.add_column(f"{REFERENCE} / {target}", justify="right")
    for figure in case.figures:
        cells = [figure.title]
        for target in case.targets:
            cells.append(show(case.median(target, figure)))
            if target != REFERENCE and REFERENCE in case.runs:
                cells.append(show_ratio(case.ratio(target, figure), figure))
        table.add_row(*cells)
    return table


def show_ratio(ratio: float | None, figure: Figure) -> str:
    """A ratio, marked where the broker is the worse one."""
    if ratio is None:
        return "-"
    worse = {"lower": ratio > 1, "higher": ratio < 1}.get(figure.better, False)
    return f"{ratio:.2f}{' !' if worse else '  '}"


def print_case(console: Console, case: Case) -> None:
    """Print one case and its remarks."""
    console.print(f"[bold]{case.name}")
    console.print(table_of(case))
    for line in case.remarks():
        console.print(f"  {line}", markup=False, highlight=False)
    console.print()


def case_json(case: Case) -> dict[str, Any]:
    """Medians, ratios and every single run of a case, ready for JSON."""
    return {
        "case": case.name,
        "medians": {
            target: {f.key: case.median(target, f) for f in case.figures}
            for target in case.targets
        },
        "ratios": {
            target: {f.key: case.ratio(target, f) for f in case.figures}
            for target in case.targets
            if target != REFERENCE
        },
        "runs": msgspec.to_builtins(case.runs),
        "failures": case.failures,
    }
