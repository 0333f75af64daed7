"""How far behind subscriptions are, also where records come without ordinals."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.metrics import catalog
from broker.metrics.slots import Row
from broker.model import START, Position
from broker.protocols.formats import event_payload
from broker.ring.layout import Kind
from broker.worker.channels import UNCOUNTED, Start, StartAt, State, Subscription
from broker.worker.depth import after_page, entries_behind, measure
from broker.worker.hub import Hub
from broker.worker.recent import Hole, Page
from tests.fakes import FakeClock, FakeSocket
from tests.unit.worker.parts import (
    SESSION,
    Bench,
    Listener,
    Ring,
    at,
    event,
    id_of,
    new_channel,
    new_sub,
)


def append(bench: Bench, count: int, *, exact: bool) -> None:
    """New entries, drained by the worker; without ordinals unless they are *exact*."""
    for _ in range(count):
        bench.publish(1)
        number = len(bench.redis.history(b"events:s1").now.ids)
        where = bench.stored(number)
        seq = number if exact else 0
        payload = event_payload(SESSION.encode(), *where.id, seq, event(number))
        bench.ring.append(Kind.EVENT, Position(where.id, seq or None), payload)
    bench.turn()


def depth(listener: Listener) -> int:
    return entries_behind(listener.subs[SESSION])


def received(listener: Listener) -> int:
    """Events that it was sent, with an ordinal or without."""
    return sum(frame["event"] == "e" for frame in listener.frames)


def start_at(bench: Bench, ordinal: int, *, seq: bool = True) -> Start:
    position = bench.stored(ordinal)
    known = position if seq else Position(position.id)
    return Start(at=StartAt.POSITION, position=known)


def test_a_full_socket_is_behind_by_what_came_since(bench: Bench) -> None:
    """Large entries come without ordinals for seconds: they count all the same."""
    listener = bench.open()
    bench.join(0)
    append(bench, 2, exact=True)
    listener.blocked = True
    append(bench, 5, exact=False)
    assert listener.subs[SESSION].state is State.LAGGING
    assert bench.channel.tip.seq is None
    assert depth(listener) == 5
    assert bench.channel.entry_bytes > 0


def test_an_ordinal_that_comes_later_changes_nothing(bench: Bench) -> None:
    """Counted and known numbers are of the same scale."""
    listener = bench.open()
    bench.join(0)
    append(bench, 2, exact=False)
    listener.blocked = True
    append(bench, 3, exact=False)
    append(bench, 2, exact=True)
    assert depth(listener) == 5


def test_a_scale_that_is_found_later_moves_who_was_counted_before(
    bench: Bench,
) -> None:
    """A worker may join a stream of which nobody knows the ordinals just then."""
    bench.publish(100)
    listener = bench.open()
    bench.ring.join_at(bench.token, Position(bench.stored(100).id))
    bench.turn()
    listener.blocked = True
    append(bench, 3, exact=False)
    assert bench.channel.reached == UNCOUNTED + 3
    assert depth(listener) == 3
    append(bench, 1, exact=True)
    assert bench.channel.reached == 104
    assert depth(listener) == 4


def test_a_resume_with_an_ordinal_counts_from_it(bench: Bench) -> None:
    """Before its first page, which a full socket keeps it waiting for."""
    bench.open()
    bench.join(0)
    append(bench, 8, exact=True)
    listener = bench.open(start_at(bench, 3), blocked=True)
    assert depth(listener) == 5


def test_a_resume_without_an_ordinal_is_not_known_until_its_first_page(
    bench: Bench,
) -> None:
    """Nothing is invented; a page says how far it led."""
    bench.open()
    bench.join(0)
    append(bench, 8, exact=True)
    listener = bench.open(start_at(bench, 3, seq=False), blocked=True)
    assert listener.subs[SESSION].reached is None
    assert depth(listener) == 0
    listener.unblock()
    bench.serve()
    assert listener.subs[SESSION].reached == 8


def test_the_last_few_are_as_many_as_were_asked_for(bench: Bench) -> None:
    """Their ids have to be found first, their number is known."""
    bench.open()
    bench.join(0)
    append(bench, 8, exact=False)
    listener = bench.open(Start(at=StartAt.LAST_N, count=3), blocked=True)
    assert depth(listener) == 3


def test_more_than_there_are_is_all_there_are(bench: Bench) -> None:
    """Nobody is behind by entries that never were."""
    bench.open()
    bench.join(0)
    append(bench, 2, exact=True)
    listener = bench.open(Start(at=StartAt.LAST_N, count=50), blocked=True)
    assert depth(listener) == 2


def test_who_is_ahead_of_the_tip_is_not_behind(bench: Bench) -> None:
    """Its position is of another pod that has read further."""
    bench.publish(9)
    bench.open()
    bench.join(0)
    bench.ring.append_stored(bench, 1, 3)
    bench.turn()
    listener = bench.open(start_at(bench, 9), blocked=True)
    assert depth(listener) == 0


def test_a_reset_begins_to_count_anew(bench: Bench) -> None:
    """Ordinals of the former history mean nothing in the new one."""
    listener = bench.open()
    bench.join(0)
    append(bench, 5, exact=True)
    listener.blocked = True
    append(bench, 1, exact=True)
    bench.ring.reset()
    bench.turn()
    assert bench.channel.reached == 0
    assert depth(listener) == 0


def test_who_was_stuck_before_a_reset_has_all_of_the_new_stream_before_him(
    bench: Bench,
) -> None:
    """However far he was in the old one."""
    listener = bench.open()
    bench.join(0)
    append(bench, 5, exact=True)
    listener.blocked = True
    append(bench, 1, exact=True)
    bench.channel.epoch += 1
    bench.channel.reached = 3
    assert depth(listener) == 3


@pytest.mark.parametrize(("exact", "behind"), [(True, 4), (False, 3)])
def test_a_new_reader_goes_on_counting(
    bench: Bench, *, exact: bool, behind: int
) -> None:
    """Where it begins without an ordinal, what was missed meanwhile is not counted."""
    listener = bench.open()
    bench.join(0)
    append(bench, 4, exact=True)
    listener.blocked = True
    append(bench, 1, exact=True)
    bench.publish(1)
    bench.restart_reader()
    cursor = bench.stored(6)
    bench.ring.join_at(bench.token, cursor if exact else Position(cursor.id))
    bench.turn()
    append(bench, 2, exact=False)
    assert depth(listener) == behind


def test_who_starts_at_the_tip_counts_with_it(bench: Bench) -> None:
    """The ordinal of neither is known, and both are the same."""
    bench.open()
    bench.join(0)
    append(bench, 3, exact=False)
    now = Start(at=StartAt.SINCE, position=Position((2**60, 0)))
    listener = bench.open(now, blocked=True)
    append(bench, 2, exact=False)
    assert depth(listener) == 2


def test_who_is_reached_too_late_is_behind_by_what_waited_for_it(
    values: Row, ring: Ring
) -> None:
    """A queue of broadcasts is served in turns; the tip has moved on meanwhile."""
    hub = Hub(values, lambda *_: None)
    channel = new_channel(10)
    channel.reached = 10
    sub = new_sub(channel, FakeSocket())
    ring.append(Kind.SKIPPED, Position(id_of(11)), bytes(2))
    hub.publish(channel, ring.drain())
    sub.socket.blocked = True
    hub.do_work()
    assert (sub.reached, channel.reached) == (10, 11)


def page(events: int, *, lost: int = 0, hole: int = 0) -> Page:
    """A page whose end has no ordinal."""
    left = Hole(START, "transient", hole) if hole else None
    announced = {"transient": lost} if lost else {}
    return Page(b"x", Position((9000, 0)), events, announced, 0, left)


def test_what_pages_leave_out_counts_once() -> None:
    """It stays in the hole over several pages until the next frame tells of it."""
    sub = new_sub(new_channel(50), FakeSocket(), state=State.REPLAYING)
    sub.reached = 10
    sub.reached = after_page(sub, page(3, hole=2))
    assert sub.reached == 15
    sub.hole = Hole(START, "transient", 2)
    sub.reached = after_page(sub, page(0, hole=5))
    assert sub.reached == 18
    sub.hole = Hole(START, "transient", 5)
    assert after_page(sub, page(1, lost=5)) == 19


def test_a_page_that_ends_at_an_ordinal_is_believed() -> None:
    """Whatever was counted before."""
    sub = new_sub(new_channel(50), FakeSocket(), state=State.REPLAYING)
    exact = Page(b"x", at(30), 1, {}, 0, None)
    assert after_page(sub, page(3)) is None
    assert after_page(sub, exact) == 30


def lagging(entries: int, state: State = State.LAGGING) -> Subscription:
    """So many entries behind, with 100 bytes each and some in its buffer."""
    channel = new_channel(entries)
    channel.reached = entries
    channel.learn_size(300, 3)
    socket = FakeSocket()
    socket.buffered_bytes = 7
    sub = new_sub(channel, socket, state=state)
    sub.reached = 0
    return sub


def test_gauges_tell_how_many_are_how_far_behind(values: Row) -> None:
    """By state, the largest, in bytes, and as steps that contain the higher ones."""
    measure(values, [lagging(5), lagging(2000), lagging(40, State.REPLAYING)])
    assert values[catalog.QUEUE_DEPTH["lagging"]] == 2005
    assert values[catalog.QUEUE_DEPTH["replaying"]] == 40
    assert values[catalog.QUEUE_DEPTH_MAX.slot] == 2000
    assert values[catalog.QUEUE_DEPTH_BYTES.slot] == 204_500
    assert values[catalog.QUEUE_BYTES.slot] == 21
    over = [values[slot] for slot in catalog.QUEUE_DEPTH_SUBSCRIPTIONS.slots.values()]
    assert over == [3, 2, 1, 1, 0, 0]


def test_a_buffer_counts_once_however_many_sessions_its_socket_reads(
    values: Row,
) -> None:
    """They share it."""
    first, second = lagging(5), lagging(6)
    second.socket = first.socket
    measure(values, [first, second])
    assert values[catalog.QUEUE_BYTES.slot] == 7


def test_gauges_fall_when_nobody_is_behind_any_more(values: Row) -> None:
    """They are of now."""
    measure(values, [lagging(5)])
    measure(values, [])
    assert sum(values) == 0


def test_sizes_that_nobody_knows_are_the_usual_ones(values: Row) -> None:
    """Of everything that this worker has delivered."""
    sub = lagging(10)
    sub.channel.entry_bytes = 0.0
    values[catalog.DELIVERIES.slot] = 4
    values[catalog.DELIVERED_BYTES.slot] = 1000
    measure(values, [sub])
    assert values[catalog.QUEUE_DEPTH_BYTES.slot] == 2500


def test_the_mean_size_follows_the_newest() -> None:
    """The first sample counts whole, each further one an eighth."""
    channel = new_channel()
    channel.learn_size(100, 1)
    channel.learn_size(0, 0)
    assert channel.entry_bytes == 100
    channel.learn_size(1800, 2)
    assert channel.entry_bytes == 200


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("exact"), st.integers(1, 5)),
        st.tuples(st.just("bare"), st.integers(1, 5)),
        st.tuples(st.sampled_from(["block", "free"]), st.just(0)),
    ),
    max_size=20,
)


@pytest.mark.usefixtures("quiet")
@given(steps=STEPS)
def test_depth_is_what_is_still_to_come(steps: list[tuple[str, int]]) -> None:
    """While nothing is lost it is exact, however many ordinals are missing."""
    bench = Bench(FakeClock())
    listener = bench.open()
    bench.join(0)
    published = 0
    for step, count in steps:
        if step == "block":
            listener.blocked = True
        elif step == "free":
            listener.unblock()
            bench.serve()
        else:
            append(bench, count, exact=step == "exact")
            published += count
        if listener.subs[SESSION].state is not State.LIVE:
            assert depth(listener) == published - received(listener)
    bench.close()
