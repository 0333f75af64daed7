"""``python -m loadtest SCENARIO...``: measure, print tables, write JSON."""

from __future__ import annotations

import os
import platform
import signal
import sys
from pathlib import Path

import click
import orjson
from rich.console import Console

from loadtest.pairing import run_pairs
from loadtest.report import REFERENCE, Case, case_json, print_case
from loadtest.scenarios import (
    accept,
    fanout,
    idle,
    reader,
    roll,
    sessions,
    slow,
    storm,
    users,
)
from loadtest.scenarios.rounds import Question, run_rounds
from loadtest.setup import Setup, raise_descriptor_limit, split_cores

SCENARIOS = {
    "fanout": fanout.questions,
    "sessions": sessions.questions,
    "slow": slow.questions,
    "storm": storm.questions,
    "reader": reader.questions,
    "idle": idle.questions,
    "users": users.questions,
    "accept": accept.questions,
    "roll": roll.questions,
}


def parse_cores(text: str | None, default: frozenset[int]) -> frozenset[int]:
    """A list of cores such as ``0,1``."""
    return frozenset(int(word) for word in text.split(",")) if text else default


def check_pairing(against: Path, out: Path | None, only: str) -> None:
    """Refuse what two checkouts cannot be measured with.

    Raises:
        click.UsageError: It says what.
    """
    if not (against / "broker" / "__main__.py").is_file():
        raise click.UsageError(f"--against {against}: there is no broker in it")
    if out is not None or only:
        raise click.UsageError("--out and --only do not go with --against")


def choose(asked: dict[str, list[Question]], match: str) -> dict[str, list[Question]]:
    """The questions whose names contain *match*, by scenario.

    Raises:
        click.UsageError: There is none.
    """
    found = {name: [q for q in asked[name] if match in q.name] for name in asked}
    if not any(found.values()):
        names = [
            question.name for questions in asked.values() for question in questions
        ]
        there = "\n  ".join(names) or "none: --against takes fanout and sessions"
        raise click.UsageError(f"no case contains {match!r}; there are\n  {there}")
    return found


def succeeded(cases: list[Case]) -> bool:
    """Whether the broker finished every run and broke no promise."""
    runs = [run for case in cases for run in case.runs.get(REFERENCE, [])]
    failures = [why for case in cases for why in case.failures.get(REFERENCE, [])]
    return not failures and not any(run.wrong for run in runs)


def write_json(path: Path, setup: Setup, cases: list[Case]) -> None:
    """Everything that was measured, and on what."""
    result = {
        "machine": {
            "cpus": os.cpu_count(),
            "kernel": platform.release(),
            "python": platform.python_version(),
        },
        "setup": {
            "rounds": setup.rounds,
            "seconds": setup.seconds,
            "workers": setup.workers,
            "scale": setup.scale,
            "server_cores": sorted(setup.server_cores),
            "load_cores": sorted(setup.load_cores),
        },
        "cases": [case_json(case) for case in cases],
    }
    path.write_bytes(orjson.dumps(result, option=orjson.OPT_INDENT_2))


@click.command()
@click.argument("names", nargs=-1, type=click.Choice([*SCENARIOS, "all"]))
@click.option(
    "--rounds",
    default=5,
    type=click.IntRange(min=1),
    help="Figures are medians of so many runs.",
)
@click.option("--quick", is_flag=True, help="One round of short runs.")
@click.option("--seconds", default=8.0, help="Length of a measured window.")
@click.option(
    "--workers", type=int, help="Broker workers, as the scenario if not given."
)
@click.option("--fleet", default=2, help="Client processes.")
@click.option("--only", default="", help="Targets to measure, such as broker,nats.")
@click.option("--match", default="", help="Only cases whose name contains this.")
@click.option("--scale", default=1.0, help="Factor on clients and sessions.")
@click.option("--server-cores", help="Cores of the server under test, such as 0,1.")
@click.option("--load-cores", help="Cores of Redis, publishers and clients.")
@click.option(
    "--against",
    type=click.Path(path_type=Path, exists=True, file_okay=False, resolve_path=True),
    help="Another checkout of the broker, run at the same time instead of the peers.",
)
@click.option(
    "--windows",
    default=10,
    type=click.IntRange(min=1),
    help="With --against: windows of 2 s in a round.",
)
@click.option(
    "--share", default=0.5, help="With --against: part of the load for each of the two."
)
@click.option("--out", type=click.Path(path_type=Path), help="Write JSON to this file.")
def main(
    names: tuple[str, ...],
    rounds: int,
    quick: bool,
    seconds: float,
    workers: int | None,
    fleet: int,
    only: str,
    match: str,
    scale: float,
    server_cores: str | None,
    load_cores: str | None,
    against: Path | None,
    windows: int,
    share: float,
    out: Path | None,
) -> None:
    """Measure SCENARIOS (default: all) against peers on the same cores."""
    # So that servers are ended when the load test itself is.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    raise_descriptor_limit()
    servers, load = split_cores()
    setup = Setup(
        server_cores=parse_cores(server_cores, servers),
        load_cores=parse_cores(load_cores, load),
        workers=workers,
        fleet=fleet,
        rounds=1 if quick else rounds,
        seconds=min(seconds, 3) if quick else seconds,
        warm_s=1 if quick else 2,
        only=frozenset(word for word in only.split(",") if word),
        scale=scale,
        share=share,
    )
    console = Console(width=None if sys.stdout.isatty() else 120)
    chosen = SCENARIOS if not names or "all" in names else dict.fromkeys(names)
    asked = {name: SCENARIOS[name](setup) for name in chosen}
    if against is not None:
        check_pairing(against, out, only)
        asked = {name: [q for q in asked[name] if q.load] for name in asked}
    found = choose(asked, match)
    if against is not None:
        every = [question for questions in found.values() for question in questions]
        paired = run_pairs(setup, every, against, windows, console)
        sys.exit(1 if any(pairs.broken for pairs in paired) else 0)
    cases: list[Case] = []
    for questions in found.values():
        measured = run_rounds(setup, questions, console)
        for case in measured:
            print_case(console, case)
        cases += measured
        if out is not None:
            write_json(out, setup, cases)
    sys.exit(0 if succeeded(cases) else 1)


if __name__ == "__main__":
    main()
