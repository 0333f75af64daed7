"""When the janitor sweeps, and what it does about those it cannot sweep."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from structlog.testing import capture_logs

from broker.control import janitor as module
from broker.control.janitor import LATER_MS, USERS_AT_ONCE, Janitor
from broker.errors import StoreError, StoreRefused, StoreUnavailable
from broker.store.session_outcomes import Due, Outcome
from tests.fakes import FakeClock
from tests.unit.control.session_parts import LEASE_S, FakeStanding, settings

NOW_MS = 1_763_700_000_000


class FakeRedis:
    """Users who are due, and what sweeping them comes to.

    Attributes:
        due: Users, or what asking for them meets.
        swept: Users of each sweep.
        failures: Errors by user.
        announced: Users whose outcomes were announced.
        commands: What else was sent.
    """

    def __init__(self) -> None:
        self.due: list[str] | StoreError = ["ann"]
        self.swept: list[list[str]] = []
        self.failures: dict[str, StoreError] = {}
        self.announced: list[str] = []
        self.commands: list[object] = []

    async def due_users(self, _connection: object, count: int) -> Due:
        if isinstance(self.due, StoreError):
            raise self.due
        return Due(NOW_MS, self.due[:count])

    async def sweep_sessions(
        self, _connection: object, users: Sequence[str], _terms: object
    ) -> list[Outcome | StoreError]:
        self.swept.append(list(users))
        return [
            self.failures.get(user) or Outcome(user=user, due_ms=0, news=[])
            for user in users
        ]

    async def announce(self, _connection: object, *outcomes: Outcome) -> None:
        self.announced += [one.user for one in outcomes]

    async def call_all(self, *commands: object) -> None:
        self.commands += commands


class Rig:
    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.clock = FakeClock()
        self.redis = FakeRedis()
        self.standing = FakeStanding()
        self.standing.connection = self.redis
        patch.setattr(module, "time", self.clock)
        for name in ("due_users", "sweep_sessions", "announce"):
            patch.setattr(module, name, getattr(self.redis, name))
        made: Any = self.standing
        self.janitor = Janitor(made, settings())

    async def begin(self) -> None:
        """Let the time pass that others have to renew their leases."""
        await self.janitor.step()
        self.clock.advance(LEASE_S / 2)


@pytest.fixture
def rig(monkeypatch: pytest.MonkeyPatch) -> Rig:
    return Rig(monkeypatch)


async def test_those_who_are_due_are_swept_and_announced(rig: Rig) -> None:
    """All at once, up to a bound."""
    await rig.begin()
    rig.redis.due = [f"user{number}" for number in range(USERS_AT_ONCE + 1)]
    assert await rig.janitor.step() == USERS_AT_ONCE
    assert rig.redis.swept == [rig.redis.due[:USERS_AT_ONCE]]
    assert rig.redis.announced == rig.redis.due[:USERS_AT_ONCE]
    assert rig.redis.commands == []


async def test_nobody_due_is_nothing_to_do(rig: Rig) -> None:
    """Then nothing is sent."""
    await rig.begin()
    rig.redis.due = []
    assert await rig.janitor.step() == 0
    assert rig.redis.swept == []


async def test_a_new_connection_gives_others_time_to_renew(rig: Rig) -> None:
    """While Redis was away, leases ran out of sessions that are alive."""
    assert await rig.janitor.step() == 0
    rig.clock.advance(LEASE_S / 2 - 0.1)
    assert await rig.janitor.step() == 0
    rig.clock.advance(0.1)
    assert await rig.janitor.step() == 1
    rig.standing.up = False
    with pytest.raises(StoreUnavailable):
        await rig.janitor.step()
    rig.standing.up = True
    rig.standing.connection = FakeRedis()
    assert await rig.janitor.step() == 0


async def test_who_cannot_be_swept_waits(rig: Rig) -> None:
    """Else they would be first each time; the others are swept."""
    await rig.begin()
    rig.redis.due = ["bad one", "ann"]
    rig.redis.failures = {"bad one": StoreRefused("WRONGTYPE no")}
    with capture_logs() as logs:
        assert await rig.janitor.step() == 2
    assert [one["event"] for one in logs] == ["sweep_refused"]
    assert rig.redis.announced == ["ann"]
    later = NOW_MS + LATER_MS
    assert rig.redis.commands == [(b"ZADD", "broker:expiring", later, "bad%20one")]


@pytest.mark.parametrize(
    ("failure", "drops"),
    [(StoreUnavailable("BUSY"), 0), (StoreRefused("NOSCRIPT No matching"), 1)],
)
async def test_what_passes_by_itself_is_tried_again(
    rig: Rig, failure: StoreError, drops: int
) -> None:
    """The user stays due; scripts that were forgotten are loaded again."""
    await rig.begin()
    rig.redis.failures = {"ann": failure}
    with pytest.raises(StoreUnavailable):
        await rig.janitor.step()
    assert rig.redis.commands == []
    assert rig.standing.dropped == drops


async def test_nothing_ends_the_janitor(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It goes on after whatever Redis answers, and at once while there is more."""
    pauses: list[float] = []
    ends: list[object] = [
        StoreUnavailable("away"),
        StoreRefused("OOM no"),
        USERS_AT_ONCE,
        1,
    ]

    async def step() -> int:
        end = ends.pop(0)
        if isinstance(end, StoreError):
            raise end
        assert isinstance(end, int)
        return end

    async def sleep(pause_s: float) -> None:
        pauses.append(pause_s)
        if not ends:
            raise asyncio.CancelledError

    monkeypatch.setattr(rig.janitor, "step", step)
    monkeypatch.setattr(asyncio, "sleep", sleep)
    with capture_logs() as logs, pytest.raises(asyncio.CancelledError):
        await rig.janitor.run()
    assert pauses == [module.TICK_S, module.REFUSED_S, 0, module.TICK_S]
    assert len(logs) == 1
