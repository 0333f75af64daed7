"""Two checkouts at the same moment on the same cores.

A shared machine is faster in one second than in the next by more than most changes of
the code are worth. So both brokers run and are fed at once, each with a Redis,
publishers and a fleet of its own, and each with its share of the load: the scheduler
deals them the same cores by the millisecond, and what the machine does to one of them
it does to the other.
"""

from __future__ import annotations

import contextlib
import statistics
import subprocess
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table

import loadtest
from loadtest import peers
from loadtest.child import ChildFailed
from loadtest.fleet.remote import Fleet
from loadtest.peers.target import Target
from loadtest.report import Figure, show
from loadtest.scenarios.rounds import ALL_US, LATENCY, SERVER_US, Question
from loadtest.setup import Setup
from loadtest.stage import Load, Window, broken_promises, stage

WINDOW_S = 2.0
FEWEST_BOUNDED = 6
SLACK = 1.5
"""It is fed so much longer than the windows: to open and close them takes time."""
BY_WINDOW = (SERVER_US, ALL_US)
BY_ROUND = (LATENCY[0], LATENCY[2])

Book = dict[str, list[float]]
"""What was measured of one checkout, by figure."""


class Pairs(msgspec.Struct):
    """What was measured of one question.

    Attributes:
        ours: Figures of this checkout: by window those of CPU, by round latencies.
        theirs: Those of the other one, measured next to them.
        remarks: What one of the two lost, doubled or disordered, and what it logged.
    """

    name: str
    ours: Book = msgspec.field(default_factory=lambda: defaultdict(list))
    theirs: Book = msgspec.field(default_factory=lambda: defaultdict(list))
    remarks: list[str] = []

    @property
    def broken(self) -> bool:
        """Whether a promise was broken, or a round could not be finished."""
        return any(
            word in remark for remark in self.remarks for word in ("BROKEN", "FAILED")
        )

    def ratios(self, key: str) -> list[float]:
        """Ours divided by theirs, pair by pair, in rising order.

        Pairs in which one of the two delivered nothing say nothing.
        """
        pairs = zip(self.ours[key], self.theirs[key], strict=True)
        return sorted(our / their for our, their in pairs if our and their)

    def ratio(self, key: str) -> str:
        """The median of the ratios, and between which it is with about 95 % confidence.

        The ranks n/2 -+ 0.98 sqrt(n) bound it however the ratios are distributed, if
        there are not too few.
        """
        ratios = self.ratios(key)
        if not ratios:
            return "-"
        if len(ratios) < FEWEST_BOUNDED:
            return f"{statistics.median(ratios):.3f}"
        reach = 0.98 * len(ratios) ** 0.5
        low = ratios[max(0, int(len(ratios) / 2 - reach))]
        high = ratios[min(len(ratios) - 1, int(len(ratios) / 2 + reach))]
        return f"{statistics.median(ratios):.3f} ({low:.3f} to {high:.3f})"


class Side:
    """One checkout's broker, running, with clients that are connected.

    Attributes:
        label: The checkout's path.
    """

    def __init__(
        self, setup: Setup, target: Target, fleet: Fleet, load: Load, label: str
    ) -> None:
        self._setup = setup
        self._target = target
        self._fleet = fleet
        self._load = load
        self.label = label
        self._feed = target.feed(load.sessions, **load.feed)
        self._fed: dict[str, float] = {}
        fleet.connect_all(target.dialect, target.port, load.specs)
        fleet.begin_window()

    def start(self, seconds: float) -> None:
        """Begin to feed it."""
        self._feed.start(self._load.rate * self._setup.share, seconds)

    def open(self) -> Window:
        """Begin to measure."""
        return Window(self._setup, self._target, self._fleet, self._feed)

    def finish(self) -> None:
        """Feed it no more; wait for its deliveries."""
        self._feed.end_early()
        fed = self._feed.finish(30)
        self._fed = {name: fed[name] for name in ("published", "refused")}
        self._fleet.wait_until_still(self._expected, quiet_s=1, timeout_s=10)

    @property
    def _expected(self) -> int:
        return int(self._fed["published"]) * self._load.copies

    def report(self) -> tuple[dict[str, float], list[str]]:
        """Latencies of all windows; broken promises, and warnings of the broker."""
        report = self._fleet.report()
        broken = broken_promises(report, self._expected, self._fed)
        said = [f"BROKEN: {what}" for what in broken]
        said += [f"log: {line[:300]}" for line in self._target.complaints()[:5]]
        return report.latencies.figures(), [f"{self.label}: {what}" for what in said]


@contextlib.contextmanager
def running(
    setup: Setup, question: Question, checkouts: Sequence[Path]
) -> Iterator[list[Side]]:
    """The broker of each checkout with its clients, ended afterwards."""
    assert question.load is not None
    workers = str(setup.workers or question.workers)
    sides = []
    with contextlib.ExitStack() as stack:
        for path in checkouts:
            counters, fleet = stack.enter_context(stage(setup))
            env = {"BROKER_WORKERS": workers, "PYTHONPATH": str(path)}
            target = peers.make_target(
                peers.BROKER, setup, counters, {**env, **question.broker_env}
            )
            stack.enter_context(target)
            sides.append(Side(setup, target, fleet, question.load, str(path)))
        yield sides


def measure_round(
    setup: Setup, question: Question, other: Path, pairs: Pairs, windows: int, swap: int
) -> None:
    """Start both, feed them for *windows* windows, end both.

    *swap* (0 or 1) says who starts first, which decides ports and memory.
    """
    here = Path(loadtest.__file__).parent.parent
    books = [(here, pairs.ours), (other, pairs.theirs)]
    order = [books[swap], books[1 - swap]]
    with running(setup, question, [path for path, _ in order]) as sides:
        for side in sides:
            side.start(setup.warm_s + windows * WINDOW_S * SLACK)
        time.sleep(setup.warm_s)
        for _ in range(windows):
            opened = [side.open() for side in sides]
            time.sleep(WINDOW_S)
            closed = [window.close() for window in opened]
            if all(figures["deliveries_per_s"] for figures in closed):
                for figures, (_, book) in zip(closed, order, strict=True):
                    note(book, figures, BY_WINDOW)
        for side in sides:
            side.finish()
        for side, (_, book) in zip(sides, order, strict=True):
            latencies, remarks = side.report()
            note(book, latencies, BY_ROUND)
            pairs.remarks += remarks


def note(book: Book, measured: dict[str, float], figures: Sequence[Figure]) -> None:
    """Write down what was measured of *figures*."""
    for figure in figures:
        book[figure.key].append(measured[figure.key])


def print_pairs(console: Console, pairs: Pairs, other: Path) -> None:
    """One table: medians of both, and the median of the ratios with its bounds."""
    table = Table()
    for title in ("figure", "this", other.name, "this / other", "pairs"):
        table.add_column(title, justify="left" if title == "figure" else "right")
    for figure in (*BY_WINDOW, *BY_ROUND):
        ours, theirs = pairs.ours[figure.key], pairs.theirs[figure.key]
        table.add_row(
            figure.title,
            show(statistics.median(ours) if ours else None),
            show(statistics.median(theirs) if theirs else None),
            pairs.ratio(figure.key),
            str(len(ours)),
        )
    console.print(f"[bold]{pairs.name}")
    console.print(table)
    for line in dict.fromkeys(pairs.remarks):
        console.print(f"  {line}", markup=False, highlight=False)
    console.print()


def run_pairs(
    setup: Setup,
    questions: Sequence[Question],
    other: Path,
    windows: int,
    console: Console,
) -> list[Pairs]:
    """Measure questions that are a plain load against the checkout *other*."""
    measured = []
    for question in questions:
        pairs = Pairs(question.name)
        for number in range(setup.rounds):
            console.print(
                f"[dim]round {number + 1} of {setup.rounds}: {question.name}: both"
            )
            try:
                measure_round(setup, question, other, pairs, windows, number % 2)
            except (ChildFailed, OSError, subprocess.SubprocessError) as error:
                pairs.remarks.append(f"FAILED: {error}")
        print_pairs(console, pairs, other)
        measured.append(pairs)
    return measured
