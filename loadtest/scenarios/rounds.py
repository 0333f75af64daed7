"""Rounds: every target of every case in turn, so that a busy minute hits them all."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import msgspec
from rich.console import Console

from loadtest import peers
from loadtest.child import ChildFailed
from loadtest.fleet.remote import Fleet
from loadtest.peers.target import Target
from loadtest.report import Case, Figure
from loadtest.setup import Setup
from loadtest.stage import Load, Measured, measure, stage

MeasureTarget = Callable[[Setup, Target, Fleet], Measured]

LATENCY = (
    Figure("p50_ms", "p50, ms"),
    Figure("p90_ms", "p90, ms"),
    Figure("p99_ms", "p99, ms"),
    Figure("max_ms", "max, ms"),
)
DELIVERIES = Figure("deliveries_per_s", "deliveries/s", "higher")
SERVER_US = Figure("server_us_per_delivery", "server CPU per delivery, us")
ALL_US = Figure("all_us_per_delivery", "the same with Redis, us")
COMPLETE = Figure("complete", "delivered / expected", "higher")


class Question(msgspec.Struct, kw_only=True):
    """A case before it is measured.

    Attributes:
        targets: Who is asked, by name.
        measure: One run against a started target and an unconnected fleet.
        broker_env: Settings of the broker for this case.
        workers: How many workers it has, unless the setup says.
        load: What ``measure`` sends, if that is all it does: such a question can be
            put to two checkouts at once (``loadtest.pairing``).
    """

    name: str
    targets: tuple[str, ...]
    figures: tuple[Figure, ...]
    measure: MeasureTarget
    broker_env: Mapping[str, str] = {}
    workers: int = 2
    load: Load | None = None


def plain(load: Load, **parts: Any) -> Question:
    """A question that is one load on clients that stay connected."""
    return Question(load=load, measure=partial(measure, load=load), **parts)


def run_once(setup: Setup, question: Question, name: str) -> Measured:
    """One run with everything started for it and ended after it."""
    with stage(setup) as (counters, fleet):
        workers = str(setup.workers or question.workers)
        env = {"BROKER_WORKERS": workers, **question.broker_env}
        target = peers.make_target(name, setup, counters, env)
        with target:
            measured = question.measure(setup, target, fleet)
            log = dict.fromkeys(line[:300] for line in target.complaints())
            measured.notes += [f"log: {line}" for line in list(log)[:3]]
            return measured


def run_rounds(
    setup: Setup, questions: Iterable[Question], console: Console
) -> list[Case]:
    """Measure all questions; a run that fails is noted, and the others go on."""
    asked = list(questions)
    cases = [Case(question.name, question.figures) for question in asked]
    for number in range(1, setup.rounds + 1):
        for question, case in zip(asked, cases, strict=True):
            for name in question.targets:
                if not setup.wants(name) or not peers.available(name):
                    continue
                console.print(
                    f"[dim]round {number} of {setup.rounds}: {question.name}: {name}"
                )
                try:
                    measured = run_once(setup, question, name)
                except (ChildFailed, OSError, subprocess.SubprocessError) as error:
                    case.failures.setdefault(name, []).append(str(error))
                else:
                    case.runs.setdefault(name, []).append(measured)
    return [case for case in cases if case.targets]
