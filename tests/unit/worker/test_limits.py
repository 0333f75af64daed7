"""How many may come in, and how fast."""

from __future__ import annotations

import pytest

from broker.config import Settings, load_settings
from broker.usage import Memory
from broker.worker import limits as module
from broker.worker.limits import Limits, TokenBucket
from tests.fakes import FakeClock


@pytest.fixture
def passing(monkeypatch: pytest.MonkeyPatch, clock: FakeClock) -> FakeClock:
    """The clock that the limits look at."""
    monkeypatch.setattr(module, "time", clock)
    return clock


def settings(**given: int) -> Settings:
    named = {f"BROKER_{name.upper()}": str(value) for name, value in given.items()}
    return load_settings(named, env_file=None)


def test_a_bucket_gives_its_burst_and_then_its_rate(passing: FakeClock) -> None:
    """Tokens come back with time, up to the burst and no further."""
    bucket = TokenBucket(2, 3)
    assert [bucket.take() for _ in range(4)] == [True, True, True, False]
    passing.advance(0.5)
    assert bucket.take()
    assert not bucket.take()
    passing.advance(100)
    assert [bucket.take() for _ in range(4)] == [True, True, True, False]


def test_connections_are_bounded() -> None:
    """Per worker, and the place of one that has left is free again."""
    limits = Limits(settings(max_connections=2))
    for _ in range(2):
        assert limits.refusal("", "s1") == ""
        limits.opened("", "s1")
    assert limits.refusal("", "s2") == "too_many_connections"
    limits.closed("", "s1")
    assert limits.refusal("", "s2") == ""


def test_connections_per_user_and_session_are_bounded() -> None:
    """Others are not touched, nor is who names no user."""
    limits = Limits(settings(max_connections_per_user=1, max_connections_per_session=2))
    limits.opened("ann", "s1")
    assert limits.refusal("ann", "s2") == "too_many_connections_per_user"
    assert limits.refusal("bob", "s1") == ""
    limits.opened("bob", "s1")
    assert limits.refusal("", "s1") == "too_many_connections_per_session"
    assert limits.refusal("", "") == ""
    limits.closed("ann", "s1")
    assert limits.refusal("ann", "s1") == ""


def test_the_accept_rate_is_bounded(passing: FakeClock) -> None:
    """A storm of clients is told to come back."""
    del passing
    limits = Limits(settings(accept_rate_per_s=3))
    refusals = [limits.refusal("", "") for _ in range(4)]
    assert refusals == ["", "", "", "accept_rate"]


def test_subscriptions_are_bounded() -> None:
    """Per connection, per user and per worker."""
    limits = Limits(
        settings(
            max_subscriptions_per_connection=2,
            max_subscriptions_per_user=1,
            max_subscriptions=3,
        )
    )
    assert limits.may_subscribe("", 1)
    assert not limits.may_subscribe("", 2)
    limits.subscribed("ann")
    assert not limits.may_subscribe("ann", 0)
    assert limits.subscription_refusal("ann") == "too_many_subscriptions"
    assert limits.may_subscribe("bob", 0)
    limits.subscribed("")
    limits.subscribed("")
    assert not limits.may_subscribe("", 0)
    assert limits.subscription_refusal("bob") == "too_many_connections"
    limits.unsubscribed("ann")
    assert limits.may_subscribe("ann", 0)


@pytest.mark.parametrize(
    ("memory", "high"),
    [(Memory(901, 1000), True), (Memory(899, 1000), False), (None, False)],
)
def test_nobody_is_let_in_when_memory_is_nearly_used_up(
    memory: Memory | None, *, high: bool
) -> None:
    """Above the ratio of the container's limit; without a limit everybody is."""
    limits = Limits(settings())
    limits.note_memory(memory)
    assert limits.memory_is_high is high
    assert (limits.refusal("", "") == "memory") is high
