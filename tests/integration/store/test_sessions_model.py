"""Sessions in Redis do what a few lines of Python say, in any order of events."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter

import uvloop
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from broker.store.connection import Connection
from broker.store.embedded import EmbeddedServer
from broker.store.scripts import load_scripts
from broker.store.session_outcomes import Held, Lease, Outcome, Standing
from broker.store.sessions import SCRIPTS
from tests.integration.store.book import HOUR_MS, PARTS, Book, told

LIMIT = 2
NAMES = st.sampled_from(["a", "b", "c", "d", "e"])
USERS = itertools.count()


class Model:
    """What should be.

    Attributes:
        fences: Of the sessions that are open.
        counted: Those with a lease, over or not.
        over: Those of them whose lease is over, which nobody has noticed.
        tired: Idle ones whose time is over, which nobody has noticed.
        tombs: Reason and fence of those that have ended.
        events: What was to be told since it was last looked at.
    """

    def __init__(self) -> None:
        self.fences: dict[str, int] = {}
        self.counted: set[str] = set()
        self.over: set[str] = set()
        self.tired: set[str] = set()
        self.tombs: dict[str, tuple[str, int]] = {}
        self.events: list[tuple[str, str]] = []

    def states(self) -> dict[str, str]:
        ended = {name: reason for name, (reason, _) in self.tombs.items()}
        running = self.counted - self.over
        return ended | {
            name: "open" if name in running else "idle" for name in self.fences
        }

    def age(self, name: str) -> tuple[int, str]:
        return self.fences[name], name

    def hold(self, name: str, fence: int, known: int) -> bool:
        """Take *name* in with *fence*; whether it did not count before."""
        self.tombs.pop(name, None)
        if name not in self.fences:
            self.events.append(("resumed" if known else "opened", name))
        elif name not in self.counted:
            self.events.append(("resumed", name))
        grown = name not in self.counted
        self.fences[name] = fence
        self.counted.add(name)
        self.over.discard(name)
        self.tired.discard(name)
        return grown

    def notice_leases(self) -> None:
        self.events += [("idle", name) for name in self.over]
        self.counted -= self.over
        self.over.clear()

    def notice_tired(self) -> None:
        self.events += [("closed", name) for name in self.tired]
        for name in self.tired:
            del self.fences[name]
        self.tired.clear()

    def evict(self, spared: str) -> None:
        oldest = sorted(self.counted - {spared}, key=self.age)
        for name in oldest[: max(0, len(self.counted) - LIMIT)]:
            self.bury(name, "evicted")

    def bury(self, name: str, reason: str) -> None:
        self.tombs[name] = reason, self.fences.pop(name)
        for names in (self.counted, self.over, self.tired):
            names.discard(name)
        self.events.append((reason, name))


class Sessions(RuleBasedStateMachine):
    """One user, a worker that remembers what it opened, and Redis."""

    url = ""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
        self.model = Model()
        self.known: dict[str, int] = {}

    @initialize()
    def connect(self) -> None:
        self.connection = self.runner.run(self._connect())
        self.book = Book(self.connection, f"user{next(USERS)}")

    async def _connect(self) -> Connection:
        connection = await Connection.open(self.url, client_name="model")
        await load_scripts(connection, *SCRIPTS)
        return connection

    def teardown(self) -> None:
        self.runner.run(self._close())
        self.runner.close()

    async def _close(self) -> None:
        self.connection.close()
        await asyncio.sleep(0)

    @rule(name=NAMES, deliberate=st.booleans())
    def open(self, name: str, deliberate: bool) -> None:
        held = self.runner.run(self.book.open(name, limit=LIMIT, deliberate=deliberate))
        (standing,) = held.standings
        reason, ended = self.model.tombs.get(name, ("", 0))
        if reason and not deliberate:
            assert (standing.verdict, standing.fence) == (reason, ended)
        else:
            self._check_fence(standing, ended)
            self.known[name] = standing.fence
        if standing.verdict == "open":
            grown = self.model.hold(name, standing.fence, known=0)
            self._settle(held, [name] if grown else [], spared=name)
        else:
            self._settle(held, [], spared=name)

    def _check_fence(self, standing: Standing, ended: int) -> None:
        assert standing.verdict == "open"
        fences = self.model.fences
        if standing.session in fences:
            assert standing.fence == fences[standing.session]
        else:
            assert standing.fence > max(ended, *fences.values(), 0)

    @rule(names=st.lists(NAMES, unique=True, min_size=1))
    def renew(self, names: list[str]) -> None:
        names = [name for name in names if name in self.known]
        leases = [Lease(name, self.known[name], HOUR_MS) for name in names]
        held = self.runner.run(self.book.renew(*leases, limit=LIMIT))
        grown = [name for name in names if self._renewed(name)]
        self._settle(held, grown, spared="")
        for standing in held.standings:
            reason, fence = self.model.tombs.get(standing.session, ("open", 0))
            fence = self.model.fences.get(standing.session, fence)
            assert (standing.verdict, standing.fence) == (reason, fence)

    def _renewed(self, name: str) -> bool:
        _, ended = self.model.tombs.get(name, ("", 0))
        if ended >= self.known[name]:
            return False
        fence = max(self.model.fences.get(name, 0), self.known[name])
        return self.model.hold(name, fence, known=self.known[name])

    def _settle(self, held: Held, grown: list[str], spared: str) -> None:
        self.model.notice_leases()
        if grown and self.model.counted:
            newest = max(self.model.counted, key=self.model.age)
            self.model.evict(spared or newest)
        self._check_news(held)

    def _check_news(self, outcome: Outcome) -> None:
        assert Counter(told(outcome)) == Counter(self.model.events)
        self.model.events.clear()

    @rule(name=NAMES)
    def close(self, name: str) -> None:
        closed = self.runner.run(self.book.close(name))
        assert closed.fence == self.model.fences.get(name, 0)
        if closed.fence:
            self.model.bury(name, "closed")
        self._check_news(closed)

    @rule()
    def sweep(self) -> None:
        swept = self.runner.run(self.book.sweep())
        self.model.notice_leases()
        self.model.notice_tired()
        self._check_news(swept)

    @rule(name=NAMES)
    def lease_ends(self, name: str) -> None:
        if name in self.model.counted:
            self.runner.run(self.book.run_out(name))
            self.model.over.add(name)

    @rule(name=NAMES)
    def idle_time_ends(self, name: str) -> None:
        if name in self.model.fences and name not in self.model.counted:
            self.runner.run(self.book.put("idle", **{name: 1}))
            self.model.tired.add(name)

    @rule(happens=st.integers(0, 9).map(lambda number: number == 9))
    def redis_loses_all(self, happens: bool) -> None:
        if not happens:  # Too often, and nothing has time to grow.
            return
        self.runner.run(self.book.lose(*PARTS))
        self.model = Model()

    @invariant()
    def redis_is_as_it_should_be(self) -> None:
        if hasattr(self, "book"):
            states = self.runner.run(self.book.states())
            assert states == self.model.states()
            assert len(self.model.counted - self.model.over) <= LIMIT


def test_any_order_of_events_leads_where_the_model_does(
    shared_server: EmbeddedServer,
) -> None:
    """States, verdicts, fences and news agree, and the limit always holds."""

    class OnServer(Sessions):
        url = shared_server.url

    run_state_machine_as_test(
        OnServer,
        settings=settings(
            max_examples=60,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
