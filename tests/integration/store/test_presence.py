"""Presence on real servers: the script, its messages, and two workers."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from broker.config import load_settings
from broker.control import presence as control
from broker.errors import StoreRefused, StoreUnavailable
from broker.store.connection import Connection, encode_commands
from broker.store.embedded import EmbeddedServer
from broker.store.presence import (
    SCRIPTS,
    Change,
    Lease,
    channel,
    decode,
    leave,
    prune,
    renew,
    who,
)
from broker.store.scripts import load_scripts
from broker.store.standing import StandingConnection
from tests.fakes import FakeClock
from tests.integration.store.conftest import Open
from tests.unit.control.store_models import ModelPresence

KEY = channel("s1")
LEASE = Lease(30_000, 60_000)
SHORT = Lease(30_000, 15_000)
SLACK_MS = 5_000
"""How long a test may take between two commands."""


class Ear:
    """A connection that listens to the channel of the session."""

    def __init__(self) -> None:
        self.heard: list[Change] = []

    def hear(self, push: list[Any]) -> None:
        if push[0] == b"message":
            change = decode(push[2])
            assert push[1] == KEY
            assert change is not None
            self.heard.append(change)


@pytest.fixture
async def connection(open_connection: Open) -> Connection:
    opened = await open_connection()
    await load_scripts(opened, *SCRIPTS)
    return opened


@pytest.fixture
async def ear(connection: Connection) -> Ear:
    """Hears in time: messages come on the connection that published them."""
    made = Ear()
    connection.on_push = made.hear
    await listen(connection, "SUBSCRIBE", KEY)
    return made


def listen(
    connection: Connection, verb: str, channel: bytes
) -> asyncio.Future[list[Any]]:
    """Subscribe or unsubscribe.

    In RESP3 that is answered by a push alone, so the reply is that to a PING.
    """
    command: Any = encode_commands((verb, channel), ("PING",))
    return connection.send(command)


async def enter(connection: Connection, *users: str, lease: Lease = LEASE) -> None:
    await renew(connection, {"s1": users}, lease, prune=False)


async def left_ms(connection: Connection, user: str) -> float:
    """How long the lease of *user* runs."""
    score, time = await connection.call_all(("ZSCORE", KEY, user), ("TIME",))
    return float(score) - (int(time[0]) * 1000 + int(time[1]) / 1000)


async def pass_by(connection: Connection, ms: int) -> None:
    """Let *ms* pass for all leases at once."""
    users = await connection.call("ZRANGE", KEY, 0, -1)
    await connection.call_all(*(("ZINCRBY", KEY, -ms, user) for user in users))


async def test_who_was_not_there_has_joined(connection: Connection, ear: Ear) -> None:
    """And is renewed silently from then on."""
    await enter(connection, "ann", "bob")
    await enter(connection, "bob", "carl")
    await enter(connection, "ann", "bob", "carl")
    assert ear.heard == [
        Change("joined", ["ann", "bob"], 2),
        Change("joined", ["carl"], 3),
    ]


async def test_any_name_can_be_present(connection: Connection, ear: Ear) -> None:
    """The message and the list say it as it is."""
    names = ["a b/c", "é\u2028😀", '"\\\n', "{}"]
    await enter(connection, *names)
    assert ear.heard == [Change("joined", names, 4)]
    assert await who(connection, "s1", 10) == (4, sorted(names))


async def test_a_renewal_never_shortens(connection: Connection) -> None:
    """Somebody who left with a longer linger keeps it."""
    await enter(connection, "ann")
    assert 0 <= 30_000 - await left_ms(connection, "ann") < SLACK_MS
    await leave(connection, {"s1": ["ann"]}, LEASE)
    await enter(connection, "ann")
    assert 0 <= 60_000 - await left_ms(connection, "ann") < SLACK_MS


@pytest.mark.parametrize("lease", [LEASE, SHORT])
async def test_who_leaves_stays_for_the_linger(
    connection: Connection, ear: Ear, lease: Lease
) -> None:
    """Whether it is longer or shorter than the lease, and nothing is said."""
    await enter(connection, "ann")
    await leave(connection, {"s1": ["ann", "bob"]}, lease)
    assert 0 <= lease.linger_ms - await left_ms(connection, "ann") < SLACK_MS
    assert await who(connection, "s1", 10) == (1, ["ann"])
    assert ear.heard == [Change("joined", ["ann"], 1)]


async def test_whose_lease_has_run_out_has_left(
    connection: Connection, ear: Ear
) -> None:
    """Once, and the others stay; the answer is when to look again."""
    await enter(connection, "ann", "bob")
    await leave(connection, {"s1": ["ann"]}, SHORT)
    (next_ms,) = await prune(connection, ["s1"])
    assert isinstance(next_ms, int)
    assert 0 <= 15_000 - next_ms < SLACK_MS
    await pass_by(connection, 16_000)
    ear.heard.clear()
    for _ in range(2):
        (next_ms,) = await prune(connection, ["s1"])
        assert isinstance(next_ms, int)
        assert 0 <= 14_000 - next_ms < SLACK_MS
    assert ear.heard == [Change("left", ["ann"], 1)]
    await pass_by(connection, 30_000)
    assert await prune(connection, ["s1", "s2"]) == [-1, -1]


async def test_a_late_renewal_is_silent(connection: Connection, ear: Ear) -> None:
    """Nobody was told that he had left."""
    await enter(connection, "ann")
    await pass_by(connection, 31_000)
    assert await who(connection, "s1", 10) == (0, [])
    await enter(connection, "ann")
    assert await who(connection, "s1", 10) == (1, ["ann"])
    assert ear.heard == [Change("joined", ["ann"], 1)]


async def test_a_renewal_prunes_only_if_told(connection: Connection, ear: Ear) -> None:
    """After an outage the one that comes first must not remove the others."""
    await enter(connection, "ann", "bob")
    await pass_by(connection, 31_000)
    ear.heard.clear()
    await renew(connection, {"s1": ["bob"]}, LEASE, prune=False)
    assert ear.heard == []
    await renew(connection, {"s1": ["bob"]}, LEASE, prune=True)
    assert ear.heard == [Change("left", ["ann"], 1)]


async def test_many_leave_in_bounded_messages(connection: Connection, ear: Ear) -> None:
    """The rest is due at once."""
    await enter(connection, *(f"u{n}" for n in range(700)))
    await pass_by(connection, 31_000)
    ear.heard.clear()
    assert await prune(connection, ["s1"]) == [0]
    assert await prune(connection, ["s1"]) == [-1]
    assert [len(one.users) for one in ear.heard] == [500, 200]


async def test_the_list_is_bounded_and_the_count_is_not(connection: Connection) -> None:
    """Names of at most so many, in order."""
    await enter(connection, *(f"u{n}" for n in range(20)))
    count, users = await who(connection, "s1", 5)
    assert (count, len(users)) == (20, 5)
    assert users == sorted(users)
    assert await who(connection, "s2", 5) == (0, [])


async def test_nothing_stays_behind(connection: Connection) -> None:
    """The key outlives the last lease, and not for ever."""
    await enter(connection, "ann")
    assert 0 <= LEASE.keep_ms - await connection.call("PTTL", KEY) < SLACK_MS
    await connection.call("PEXPIRE", KEY, 1000)
    await leave(connection, {"s1": ["ann"]}, LEASE)
    assert 0 <= LEASE.keep_ms - await connection.call("PTTL", KEY) < SLACK_MS
    assert LEASE.keep_ms > LEASE.linger_ms + LEASE.lease_ms


async def test_a_key_of_another_kind_is_refused_alone(connection: Connection) -> None:
    """The other sessions of the same write are renewed and pruned."""
    await connection.call("SET", KEY, "x")
    both = {"s1": ["ann"], "s2": ["ann"]}
    with pytest.raises(StoreRefused, match="WRONGTYPE"):
        await renew(connection, both, LEASE, prune=True)
    assert await who(connection, "s2", 5) == (1, ["ann"])
    refused, next_ms = await prune(connection, ["s1", "s2"])
    assert isinstance(refused, StoreRefused)
    assert isinstance(next_ms, int)


async def test_a_script_that_was_forgotten_is_told_apart(
    connection: Connection,
) -> None:
    """It cannot pass for an answer about one session."""
    await connection.call("SCRIPT", "FLUSH")
    with pytest.raises(StoreRefused, match="NOSCRIPT"):
        await enter(connection, "ann")
    with pytest.raises(StoreRefused, match="NOSCRIPT"):
        await prune(connection, ["s1"])


async def test_a_lost_connection_is_unavailable(connection: Connection) -> None:
    """And nothing to do needs no connection."""
    connection.close()
    await renew(connection, {}, LEASE, prune=True)
    assert await prune(connection, []) == []
    with pytest.raises(StoreUnavailable):
        await enter(connection, "ann")
    with pytest.raises(StoreUnavailable):
        await prune(connection, ["s1"])


async def test_the_script_agrees_with_its_model(
    connection: Connection, ear: Ear
) -> None:
    """The tests of several workers are made on the model, whose clock can be moved."""
    chance, clock = random.Random(5), FakeClock()
    model = ModelPresence(clock)
    steps: list[Callable[[list[str]], Awaitable[object]]] = [
        lambda users: renew(connection, {"s1": users}, SHORT, prune=False),
        lambda users: renew(connection, {"s1": users}, SHORT, prune=True),
        lambda users: leave(connection, {"s1": users}, SHORT),
        lambda _: prune(connection, ["s1"]),
    ]
    lease, linger, keep = SHORT.lease_ms, SHORT.linger_ms, SHORT.keep_ms
    same: list[Callable[[list[str]], object]] = [
        lambda users: model._renew("k", str(lease), str(keep), "-", *users),
        lambda users: model._renew("k", str(lease), str(keep), "prune", *users),
        lambda users: model._leave("k", str(linger), str(keep), *users),
        lambda _: model._prune("k"),
    ]
    for _ in range(400):
        users = chance.sample("abcdef", chance.randint(1, 3))
        number = chance.randrange(4)
        await steps[number](users)
        same[number](users)
        if chance.random() < 0.4:
            # Not a sum of leases and lingers: a moment more or less changes nothing.
            clock.advance(7.0)
            await pass_by(connection, 7_000)
        count, present = await who(connection, "s1", 10)
        assert present == sorted(model.present("k"))
        assert count == len(present)
    said = [Change(**change) for _, change in model.published]
    assert [_sorted(one) for one in ear.heard] == [_sorted(one) for one in said]


def _sorted(change: Change) -> Change:
    return Change(change.event, sorted(change.users), change.count)


class Worker:
    """One worker's presence at a real server, with its two connections."""

    def __init__(self, url: str) -> None:
        given = {"BROKER_SESSION_LEASE_S": "1", "BROKER_SESSION_LINGER_S": "0"}
        self.told: list[dict[str, Any]] = []
        self.news = asyncio.Event()
        self.standing = StandingConnection(url, "control", self._load)
        self.listening = StandingConnection(url, "channels", on_push=self._hear)
        self.presence = control.Presence(
            load_settings(given, env_file=None), self.standing, self, self._note
        )
        self.tasks = [
            asyncio.create_task(self.standing.run()),
            asyncio.create_task(self.listening.run()),
            asyncio.create_task(self.presence.run()),
        ]

    async def _load(self, connection: Connection) -> None:
        await load_scripts(connection, *SCRIPTS)

    def subscribe(self, channel: bytes) -> None:
        listen(self.listening.use(), "SUBSCRIBE", channel).cancel()

    def unsubscribe(self, channel: bytes) -> None:
        listen(self.listening.use(), "UNSUBSCRIBE", channel).cancel()

    def _hear(self, push: list[Any]) -> None:
        if push[0] == b"message":
            self.presence.handle_message("s1", push[2])

    def _note(self, _session: str, data: dict[str, Any]) -> None:
        self.told.append(data)
        self.news.set()

    async def wait_for(self, event: str, *users: str) -> None:
        """Return as soon as that was told."""
        async with asyncio.timeout(10):
            while not any(
                data["event"] == event and data["users"] == list(users)
                for data in self.told
            ):
                self.news.clear()
                await self.news.wait()

    async def kill(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


@pytest.fixture
async def new_worker(
    server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Callable[[], Awaitable[Worker]]]:
    """Make workers whose clockwork runs faster than in production."""
    monkeypatch.setattr(control, "TICK_S", 0.02)
    monkeypatch.setattr(control, "LOOK_S", 0.1)
    monkeypatch.setattr(control, "LEASE_MIN_S", 1.0)
    async with AsyncExitStack() as stack:

        async def make() -> Worker:
            worker = Worker(server.url)
            stack.push_async_callback(worker.kill)
            await worker.standing.wait_up()
            await worker.listening.wait_up()
            return worker

        yield make


async def test_users_of_a_killed_worker_disappear(
    new_worker: Callable[[], Awaitable[Worker]],
) -> None:
    """Those who are connected to another one as well, or only there, do not."""
    watcher, other = await new_worker(), await new_worker()
    watcher.presence.watch("s1")
    watcher.presence.entered("s1", "ann")
    await watcher.wait_for("joined", "ann")
    other.presence.entered("s1", "ann")
    other.presence.entered("s1", "bob")
    await watcher.wait_for("joined", "bob")
    other.presence.left("s1", "ann")
    await other.kill()
    await watcher.wait_for("left", "bob")
    assert await watcher.presence.who("s1") == (1, ["ann"])
    assert [data["users"] for data in watcher.told if data["event"] == "left"] == [
        ["bob"]
    ]
