"""Presence of one worker and of several, with Redis in memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hiredis import ReplyError
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.config import load_settings
from broker.control import presence as module
from broker.control.presence import LOOK_S, TICK_S, Presence, lease_of
from broker.errors import StoreUnavailable
from tests.fakes import FakeClock
from tests.unit.control.store_models import ModelPresence, Standing, TimedLoop, Wire

KEY = "broker:presence:s1"
LEASE_S = 30.0
LINGER_S = 60.0


class Listening:
    """Which channels a worker listens to."""

    def __init__(self) -> None:
        self.names: list[bytes] = []

    def subscribe(self, channel: bytes) -> None:
        self.names.append(channel)

    def unsubscribe(self, channel: bytes) -> None:
        self.names.remove(channel)


class Pod:
    """One worker's presence, and what it tells its subscribers."""

    def __init__(
        self, clock: FakeClock, server: ModelPresence, **given: object
    ) -> None:
        named = {f"BROKER_{name.upper()}": str(value) for name, value in given.items()}
        self.settings = load_settings(named, env_file=None)
        self.loop = TimedLoop(clock)
        self.server = server
        self.channels = Listening()
        self.told: list[tuple[str, dict[str, Any]]] = []
        self.standing = Standing(Wire(self.loop, server))
        self.presence = Presence(
            self.settings, self.standing, self.channels, self._note
        )
        self.running = self.loop.create_task(self.presence.run())

    def _note(self, session: str, data: dict[str, Any]) -> None:
        # In which order those who came together are named depends on their hashes.
        self.told.append((session, data | {"users": sorted(data["users"])}))

    @property
    def wire(self) -> Wire:
        assert self.standing.wire is not None
        return self.standing.wire

    def enter(self, *users: str, session: str = "s1") -> None:
        for user in users:
            self.presence.entered(session, user)

    def leave(self, *users: str, session: str = "s1") -> None:
        for user in users:
            self.presence.left(session, user)

    def watch(self, session: str = "s1") -> None:
        with self.loop.running():
            self.presence.watch(session)

    def connect(self) -> None:
        self.standing.wire = Wire(self.loop, self.server)

    def go_away(self) -> None:
        self.wire.lose()
        self.standing.wire = None


class World:
    """Pods at one server; messages arrive at once."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.server = ModelPresence(self.clock)
        self.pods: list[Pod] = []

    def pod(self, **settings: object) -> Pod:
        given = {"session_lease_s": LEASE_S, "session_linger_s": LINGER_S} | settings
        self.pods.append(Pod(self.clock, self.server, **given))
        return self.pods[-1]

    def wait(self, seconds: float) -> None:
        """Let time pass, in steps smaller than any tick."""
        until = self.clock.now + seconds
        while self.clock.now < until:
            self.clock.advance(min(TICK_S / 2, until - self.clock.now))
            for pod in self.pods:
                pod.loop.settle()
            for session, payload in self.server.take_payloads():
                for pod in self.pods:
                    pod.presence.handle_message(session, payload)

    def kill(self, pod: Pod) -> None:
        self.pods.remove(pod)
        pod.loop.close()

    def close(self) -> None:
        for pod in list(self.pods):
            self.kill(pod)


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    made.close()


@pytest.fixture
def pod(world: World) -> Pod:
    """A worker that has been up for longer than a lease, and watches the session."""
    made = world.pod()
    made.watch()
    world.wait(LEASE_S + LOOK_S)
    made.told.clear()
    return made


def change(event: str, *users: str, count: int) -> tuple[str, dict[str, Any]]:
    return "s1", {"event": event, "users": list(users), "count": count}


def test_who_enters_has_joined(world: World, pod: Pod) -> None:
    """Within a tick, and those who came together are told together."""
    pod.enter("ann", "bob")
    world.wait(TICK_S)
    assert pod.told == [change("joined", "ann", "bob", count=2)]


def test_another_connection_of_a_user_is_silent(world: World, pod: Pod) -> None:
    """He is there as long as one of them is."""
    pod.enter("ann", "ann")
    world.wait(TICK_S)
    pod.leave("ann")
    world.wait(2 * LINGER_S)
    assert pod.told == [change("joined", "ann", count=1)]


def test_who_stays_is_renewed(world: World, pod: Pod) -> None:
    """For as long as he stays."""
    pod.enter("ann")
    world.wait(20 * LEASE_S)
    assert pod.told == [change("joined", "ann", count=1)]
    assert world.server.present(KEY) == ["ann"]


def test_who_leaves_has_left_after_the_linger(world: World, pod: Pod) -> None:
    """Neither before it nor long after."""
    pod.enter("ann", "bob")
    world.wait(TICK_S)
    pod.leave("ann")
    world.wait(LINGER_S - TICK_S)
    assert pod.told[1:] == []
    world.wait(LOOK_S + 2 * TICK_S)
    assert pod.told[1:] == [change("left", "ann", count=1)]


def test_a_reconnect_within_the_linger_is_silent(world: World, pod: Pod) -> None:
    """To whatever worker it leads."""
    other = world.pod()
    pod.enter("ann")
    world.wait(TICK_S)
    pod.leave("ann")
    world.wait(LINGER_S - 1)
    other.enter("ann")
    world.wait(3 * LINGER_S)
    assert pod.told == [change("joined", "ann", count=1)]


def test_users_of_a_killed_worker_leave_by_themselves(world: World, pod: Pod) -> None:
    """When the lease has run out that it renewed last."""
    dead = world.pod()
    dead.enter("ann")
    world.wait(5)
    world.kill(dead)
    world.wait(LEASE_S + LOOK_S + TICK_S)
    assert pod.told == [
        change("joined", "ann", count=1),
        change("left", "ann", count=0),
    ]


@pytest.mark.parametrize("linger_s", [0, 60])
@pytest.mark.parametrize("lease_s", [1, 4, 30])
def test_leaving_one_worker_is_not_leaving_the_other(
    world: World, lease_s: int, linger_s: int
) -> None:
    """However short the linger is set, and at whatever moment of the other's round."""
    given = {"session_lease_s": lease_s, "session_linger_s": linger_s}
    one, other = world.pod(**given), world.pod(**given)
    one.watch()
    other.enter("ann")
    world.wait(2 * LEASE_S)
    for _ in range(10):
        one.enter("ann")
        world.wait(1.1)
        one.leave("ann")
        world.wait(LEASE_S + 0.3)
    assert {data["event"] for _, data in one.told} == {"joined", "present"}


@given(
    lease_s=st.integers(4, 40),
    linger_s=st.integers(0, 80),
    stays=st.lists(
        st.tuples(st.integers(0, 1), st.booleans(), st.floats(0.1, 20)), max_size=30
    ),
)
@settings(max_examples=60)
def test_nobody_leaves_who_is_connected_somewhere(
    lease_s: int, linger_s: int, stays: list[tuple[int, bool, float]]
) -> None:
    """Two workers, one user who comes and goes: `left` is said only when he is gone."""
    world = World()
    given = {"session_lease_s": lease_s, "session_linger_s": linger_s}
    pods = [world.pod(**given), world.pod(**given)]
    watcher = world.pod(**given)
    watcher.watch()
    here = [0, 0]
    for place, comes, pause_s in stays:
        if comes:
            pods[place].enter("ann")
            here[place] += 1
        elif here[place]:
            pods[place].leave("ann")
            here[place] -= 1
        was_gone = not any(here)
        watcher.told.clear()
        world.wait(pause_s)
        events = [data["event"] for _, data in watcher.told]
        assert was_gone or "left" not in events
    world.close()


def test_a_watched_session_alone_is_looked_at(world: World, pod: Pod) -> None:
    """The others are pruned by those who renew, so nothing is left behind."""
    other = world.pod()
    other.enter("ann", "bob", session="s2")
    world.wait(1)
    other.leave("ann", session="s2")
    world.wait(2 * LEASE_S + LINGER_S)
    assert set(world.server.members["broker:presence:s2"]) == {"bob"}
    assert pod.told == []


def test_channels_are_listened_to_while_somebody_watches(world: World) -> None:
    """Once for all who do."""
    pod = world.pod()
    pod.watch()
    pod.watch()
    pod.watch("s2")
    assert pod.channels.names == [b"broker:presence:s1", b"broker:presence:s2"]
    pod.presence.unwatch("s1")
    assert len(pod.channels.names) == 2
    pod.presence.unwatch("s1")
    pod.presence.unwatch("s1")
    assert pod.channels.names == [b"broker:presence:s2"]


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xff",
        b"[]",
        b'{"event":"x","users":[],"count":1}',
        b'{"event":"left","users":1,"count":1}',
    ],
)
def test_messages_of_others_are_ignored(pod: Pod, payload: bytes) -> None:
    """Anybody may publish anything there."""
    pod.presence.handle_message("s1", payload)
    assert pod.told == []


def test_a_message_after_the_end_is_ignored(pod: Pod) -> None:
    """It was on its way when nobody watched any more."""
    payload = b'{"event":"left","users":["ann"],"count":1}'
    pod.presence.handle_message("s1", payload)
    assert pod.told == [change("left", "ann", count=1)]
    pod.presence.unwatch("s1")
    pod.presence.handle_message("s1", payload)
    assert len(pod.told) == 1


def test_an_outage_makes_nobody_leave(world: World, pod: Pod) -> None:
    """All leases have run out when Redis is back, and are renewed before the look."""
    other = world.pod()
    other.enter("ann")
    pod.enter("bob")
    world.wait(1)
    pod.told.clear()
    for one in (pod, other):
        one.go_away()
    world.wait(3 * LEASE_S)
    pod.connect()
    world.wait(3)
    other.connect()
    world.wait(2 * LEASE_S)
    assert pod.told == [change("present", "ann", "bob", count=2)]


def test_a_watcher_who_comes_after_an_outage_makes_nobody_leave(
    world: World, pod: Pod
) -> None:
    """The session is not looked at either before everybody had the time to renew."""
    other = world.pod()
    other.enter("ann", session="s2")
    world.wait(1)
    for one in (pod, other):
        one.go_away()
    world.wait(3 * LEASE_S)
    pod.connect()
    world.wait(1)
    pod.watch("s2")
    world.wait(LOOK_S)
    other.connect()
    world.wait(2 * LEASE_S)
    assert [data["event"] for _, data in pod.told] == ["present"]


def test_who_left_during_an_outage_is_not_present_after_it(
    world: World, pod: Pod
) -> None:
    """The list that watchers get takes the place of what they missed."""
    pod.enter("ann", "bob")
    world.wait(TICK_S)
    pod.told.clear()
    pod.go_away()
    pod.leave("ann")
    pod.enter("carl")
    world.wait(3 * LEASE_S)
    world.server.members.clear()
    pod.connect()
    world.wait(TICK_S)
    assert pod.told == [change("joined", "bob", "carl", count=2)]
    world.wait(LEASE_S + LOOK_S)
    assert pod.told[1:] == [change("present", "bob", "carl", count=2)]


def test_leaving_during_an_outage_needs_no_memory(pod: Pod) -> None:
    """Whoever comes and goes while Redis is away leaves nothing behind here."""
    pod.go_away()
    pod.enter("ann")
    pod.leave("ann")
    assert not pod.presence._touched
    assert not any(pod.presence._slots)


def test_channels_that_were_away_bring_a_list(world: World, pod: Pod) -> None:
    """Changes may have been missed meanwhile."""
    pod.enter("ann")
    world.wait(TICK_S)
    pod.told.clear()
    with pod.loop.running():
        pod.presence.resubscribed()
    world.wait(TICK_S)
    assert pod.told == [change("present", "ann", count=1)]
    world.wait(2 * LEASE_S)
    assert len(pod.told) == 1


def test_a_server_that_is_not_ready_is_told_again(world: World, pod: Pod) -> None:
    """Who came meanwhile has joined a tick later."""
    world.server.refusal = ReplyError("BUSY a script runs")
    pod.enter("ann")
    world.wait(1)
    world.server.refusal = None
    world.wait(TICK_S)
    assert pod.told == [change("joined", "ann", count=1)]


def test_a_key_of_another_kind_stops_nobody(world: World, pod: Pod) -> None:
    """Its session has no presence, and it is not tried in every tick."""
    world.server.refusal = ReplyError("WRONGTYPE no zset")
    pod.enter("ann")
    world.wait(1)
    assert not pod.presence._touched
    world.server.refusal = None
    world.wait(LEASE_S)
    assert world.server.present(KEY) == ["ann"]


def test_a_server_that_forgot_the_script_gets_a_new_connection(
    world: World, pod: Pod
) -> None:
    """Somebody ran SCRIPT FLUSH: a new connection loads it."""
    world.server.refusal = ReplyError("NOSCRIPT No matching script")
    pod.enter("ann")
    world.wait(TICK_S)
    assert pod.standing.drops > 0
    assert pod.presence._touched


def test_writes_are_bounded(
    world: World, pod: Pod, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many who come at once are told in several writes."""
    monkeypatch.setattr(module, "CALL_MAX", 2)
    pod.enter("ann", "bob", "carl", "dora", "eve")
    world.wait(TICK_S)
    assert [len(data["users"]) for _, data in pod.told] == [2, 2, 1]


def test_renewals_are_spread_over_the_round(world: World, pod: Pod) -> None:
    """Not everybody in the same tick."""
    users = [f"u{n}" for n in range(200)]
    pod.enter(*users)
    world.wait(LEASE_S)
    times = set(world.server.members[KEY].values())
    assert len(times) > 20


def test_nobody_is_present_without_a_name(world: World, pod: Pod) -> None:
    """Clients that need not say who they are."""
    pod.enter("")
    pod.leave("")
    world.wait(TICK_S)
    assert pod.told == []
    assert world.server.members.get(KEY, {}) == {}


def test_who_asks_redis(world: World, pod: Pod) -> None:
    """Count and names, or an error while Redis is away."""
    pod.enter("ann", "bob", "carl")
    world.wait(TICK_S)
    task = pod.loop.create_task(pod.presence.who("s1", 2))
    pod.loop.settle()
    assert task.result() == (3, ["ann", "bob"])
    pod.go_away()
    task = pod.loop.create_task(pod.presence.who("s1", 2))
    pod.loop.settle()
    with pytest.raises(StoreUnavailable):
        task.result()


def test_who_has_just_come_can_be_said_at_once(pod: Pod) -> None:
    """So that he is in the first list that he is shown; nobody else is said."""
    pod.enter("ann", "bob")
    said = [
        pod.loop.create_task(pod.presence.say("s1", user))
        for user in ("ann", "ann", "carl")
    ]
    pod.loop.settle()
    task = pod.loop.create_task(pod.presence.who("s1"))
    pod.loop.settle()
    assert all(one.done() for one in said)
    assert task.result() == (1, ["ann"])
    pod.go_away()
    late = pod.loop.create_task(pod.presence.say("s1", "bob"))
    pod.loop.settle()
    with pytest.raises(StoreUnavailable):
        late.result()


def test_presence_that_is_off_does_nothing(world: World) -> None:
    """No word to Redis, no channel, an empty list."""
    pod = world.pod(presence=False)
    world.server.refusal = AssertionError("nobody asks")
    pod.enter("ann")
    pod.watch()
    world.wait(LEASE_S)
    pod.leave("ann")
    assert pod.channels.names == []
    pod.presence.unwatch("s1")
    task = pod.loop.create_task(pod.presence.who("s1"))
    pod.loop.settle()
    assert task.result() == (0, [])


@pytest.mark.parametrize(
    ("lease_s", "linger_s", "expected"),
    [(30, 60, (30, 60)), (30, 0, (30, 15)), (1, 0, (4, 2)), (30, 20, (30, 20))],
)
def test_lease_and_linger_have_a_least_length(
    lease_s: float, linger_s: float, expected: tuple[float, float]
) -> None:
    """The linger is longer than a round of renewals."""
    named = {
        "BROKER_SESSION_LEASE_S": str(lease_s),
        "BROKER_SESSION_LINGER_S": str(linger_s),
    }
    lease = lease_of(load_settings(named, env_file=None))
    assert (lease.lease_ms / 1000, lease.linger_ms / 1000) == expected
