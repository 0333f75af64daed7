"""Fan-out to who is at the tip."""

from __future__ import annotations

import pytest

from broker.metrics import catalog
from broker.metrics.slots import Row
from broker.model import Position
from broker.protocols.formats import NATIVE, SSE, NativeFormat
from broker.worker import hub as module
from broker.worker.channels import Channel, State, Subscription
from broker.worker.hub import Hub
from tests.fakes import FakeSocket
from tests.unit.worker.parts import Ring, at, new_channel, new_sub, story


class Fallen:
    """Takes note of who falls behind, and takes it out as the real one does."""

    def __init__(self) -> None:
        self.list: list[tuple[Subscription, Position, State]] = []

    def __call__(
        self, sub: Subscription, position: Position, epoch: int, state: State
    ) -> None:
        self.list.append((sub, position, state))
        sub.state = state
        for live in sub.channel.live.values():
            live.pop(sub, None)


@pytest.fixture
def fallen() -> Fallen:
    return Fallen()


@pytest.fixture
def hub(values: Row, fallen: Fallen) -> Hub:
    return Hub(values, fallen)


@pytest.fixture
def channel() -> Channel:
    return new_channel()


def publish(hub: Hub, channel: Channel, ring: Ring, first: int, last: int) -> None:
    ring.events(first, last)
    hub.publish(channel, ring.drain())


def test_everybody_gets_the_same_buffer(
    hub: Hub, channel: Channel, ring: Ring, values: Row
) -> None:
    """All frames of a slice are one buffer, made once for all sockets of a format."""
    sockets = [FakeSocket() for _ in range(3)]
    for socket in sockets:
        new_sub(channel, socket)
    publish(hub, channel, ring, 1, 4)
    hub.do_work()
    assert story(sockets[0]) == [1, 2, 3, 4]
    assert len(sockets[0].sent) == 1
    assert all(socket.sent[0] is sockets[0].sent[0] for socket in sockets)
    assert values[catalog.DELIVERIES.slot] == 12
    assert channel.tip == at(4)


def test_each_format_has_its_own_bytes(hub: Hub, channel: Channel, ring: Ring) -> None:
    """WebSocket and SSE say the same in their own words."""
    native, sse = FakeSocket(NATIVE), FakeSocket(SSE)
    new_sub(channel, native)
    new_sub(channel, sse)
    publish(hub, channel, ring, 1, 2)
    hub.do_work()
    assert story(native) == story(sse) == [1, 2]
    assert native.sent != sse.sent


class OddFormat(NativeFormat):
    """Shows odd ordinals only, and counts what it was asked to encode."""

    def __init__(self) -> None:
        self.encoded: list[int] = []

    def recorded(self, ms: int, n: int, seq: int, payload: bytes) -> bytes:
        self.encoded.append(seq)
        return super().recorded(ms, n, seq, payload) if seq % 2 else b""


def test_a_format_encodes_each_event_once(
    hub: Hub, channel: Channel, ring: Ring
) -> None:
    """However many sockets use it, live at once or from the queue."""
    wire = OddFormat()
    sockets = [FakeSocket(wire) for _ in range(3)]
    for socket in sockets:
        new_sub(channel, socket)
    hub.do_work()
    publish(hub, channel, ring, 1, 1)
    publish(hub, channel, ring, 2, 5)
    assert wire.encoded == [1, 2, 3, 4, 5]
    assert [story(socket) for socket in sockets] == [[1, 3, 5]] * 3


def test_what_a_format_does_not_show_is_not_written(
    hub: Hub, channel: Channel, ring: Ring, fallen: Fallen
) -> None:
    """Its clients stay live, the others get it, and the tip moves."""
    hidden, native = FakeSocket(OddFormat()), FakeSocket()
    hidden.blocked = True
    new_sub(channel, hidden)
    new_sub(channel, native)
    publish(hub, channel, ring, 2, 2)
    hub.do_work()
    assert not fallen.list
    assert story(native) == [2]
    assert channel.tip == at(2)


def test_the_tip_moves_without_readers(hub: Hub, channel: Channel, ring: Ring) -> None:
    """Where nobody is live nothing is built, and the tip is right all the same."""
    publish(hub, channel, ring, 1, 3)
    assert not hub.busy
    assert channel.tip == at(3)


def test_a_full_socket_falls_behind_before_the_broadcast(
    hub: Hub, channel: Channel, ring: Ring, fallen: Fallen
) -> None:
    """It owns no queue: its position is the tip before what it could not take."""
    publish(hub, channel, ring, 1, 2)
    socket = FakeSocket()
    sub = new_sub(channel, socket)
    socket.blocked = True
    publish(hub, channel, ring, 3, 4)
    hub.do_work()
    assert fallen.list == [(sub, at(2), State.LAGGING)]
    assert not socket.sent


def test_a_turn_writes_to_a_bounded_number_of_sockets(
    hub: Hub, channel: Channel, ring: Ring, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rest gets it in the next turns, each once."""
    monkeypatch.setattr(module, "SENDS_PER_TURN", 2)
    sockets = [FakeSocket() for _ in range(5)]
    for socket in sockets:
        new_sub(channel, socket)
    publish(hub, channel, ring, 1, 1)
    done = [hub.do_work() for _ in range(3)]
    assert done == [2, 2, 1]
    assert not hub.busy
    assert [len(socket.sent) for socket in sockets] == [1] * 5


def test_who_went_live_after_a_broadcast_does_not_get_it(
    hub: Hub, channel: Channel, ring: Ring
) -> None:
    """Catching up has brought what is still on its way to the others."""
    socket = FakeSocket()
    sub = new_sub(channel, socket)
    publish(hub, channel, ring, 1, 1)
    sub.live_since = hub.number
    publish(hub, channel, ring, 2, 2)
    hub.do_work()
    assert story(socket) == [2]


def test_a_cut_comes_after_what_is_on_its_way(
    hub: Hub, channel: Channel, ring: Ring, fallen: Fallen
) -> None:
    """Who is cut off has been sent everything up to the position it is given."""
    socket = FakeSocket()
    sub = new_sub(channel, socket)
    publish(hub, channel, ring, 1, 3)
    hub.cut(channel)
    assert not fallen.list
    hub.do_work()
    assert story(socket) == [1, 2, 3]
    assert fallen.list == [(sub, at(3), State.REPLAYING)]


def test_who_has_left_gets_nothing(hub: Hub, channel: Channel, ring: Ring) -> None:
    """A subscription that ended while a broadcast was under way is passed over."""
    socket = FakeSocket()
    sub = new_sub(channel, socket)
    publish(hub, channel, ring, 1, 1)
    sub.state = State.CLOSED
    hub.do_work()
    assert not socket.sent


def test_gaps_are_counted_by_reason(
    hub: Hub, channel: Channel, ring: Ring, values: Row
) -> None:
    """Delivered entries and lost ones are told apart."""
    for _ in range(2):
        new_sub(channel, FakeSocket())
    ring.gap(0, 4)
    ring.event(4)
    hub.publish(channel, ring.drain())
    hub.do_work()
    assert values[catalog.DROPS.slots["trimmed"]] == 6
    assert values[catalog.DELIVERIES.slot] == 2


def test_notices_go_to_who_is_live(hub: Hub, channel: Channel) -> None:
    """In the order of everything else."""
    socket = FakeSocket()
    new_sub(channel, socket)
    hub.notice(channel, "reset", {"from": "0-0@0"})
    hub.do_work()
    assert story(socket) == ["reset"]
