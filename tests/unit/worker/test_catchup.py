"""From somewhere behind to the tip, by ring or by Redis, without a seam."""

from __future__ import annotations

import pytest

from broker.disconnect import Disconnect
from broker.metrics import catalog
from broker.model import Position
from broker.protocols.formats import SSE
from broker.ring.layout import Kind
from broker.worker.channels import Overflow, Start, StartAt, State
from tests.unit.worker.parts import SESSION, Bench, Listener


def from_position(bench: Bench, ordinal: int, *, seq: bool = True) -> Start:
    position = bench.stored(ordinal)
    if not seq:
        position = Position(position.id)
    return Start(at=StartAt.POSITION, position=position)


def joined(bench: Bench, count: int) -> None:
    """A stream of *count* entries that the reader has read from its beginning."""
    bench.publish(count)
    bench.open()
    bench.join(0)
    bench.ring.append_stored(bench, 1, count)
    bench.turn()


def state(listener: Listener) -> State:
    return listener.subs[SESSION].state


def test_a_resume_within_the_ring_costs_redis_nothing(bench: Bench) -> None:
    """The missing entries, then caught_up, then what happens."""
    joined(bench, 5)
    listener = bench.open(from_position(bench, 2))
    bench.turn()
    assert listener.story == ["subscribed", 3, 4, 5, "caught_up"]
    assert listener.last("subscribed")["resume"] == "complete"
    assert listener.last("caught_up") == {
        "position": str(bench.stored(5)),
        "replayed": 3,
    }
    assert not bench.worker.store.waiting
    bench.publish(1)
    bench.ring.append_stored(bench, 6, 6)
    bench.turn()
    assert listener.story[-1] == 6


def test_a_resume_below_the_ring_is_read_from_redis(bench: Bench) -> None:
    """The reader began later; Redis has what came before."""
    bench.publish(4)
    listener = bench.open(from_position(bench, 1))
    cursor = bench.stored(4)
    bench.ring.join_at(bench.token, cursor)
    bench.serve()
    assert listener.story == ["subscribed", 2, 3, 4, "caught_up"]
    assert bench.worker_values[catalog.RESUMES.slots["complete", "redis"]] >= 1


@pytest.mark.parametrize("start", ["position", "last"])
def test_a_ring_that_is_damaged_is_not_read(bench: Bench, start: str) -> None:
    """The same entries come from Redis, and the fault is counted."""
    joined(bench, 5)
    segment = bench.ring.segment
    offset = bench.channel.last & (segment.size - 1)
    segment.data[offset : offset + 8] = bytes(8)
    wanted = {
        "position": from_position(bench, 3),
        "last": Start(at=StartAt.LAST_N, count=2),
    }
    listener = bench.open(wanted[start])
    bench.serve()

    assert listener.story == ["subscribed", 4, 5, "caught_up"]
    assert bench.worker_values[catalog.RING_CORRUPTED.slot] >= 1


def test_what_one_found_overwritten_is_no_others_hole(bench: Bench) -> None:
    """The index of the ring is cut for one client; one further behind asks Redis."""
    bench.publish(600)
    bench.open()
    bench.join(0)
    bench.ring.append_stored(bench, 1, 329)
    bench.turn()
    for _ in range(6):
        bench.ring.other()
        bench.turn()
    bench.ring.append_stored(bench, 330, 600)
    bench.turn()
    latter = bench.open(from_position(bench, 10), takes_one=True)
    former = bench.open(from_position(bench, 200), takes_one=True)
    bench.turn()
    assert latter.blocked
    assert former.blocked
    lap(bench, 329)
    for listener in (former, latter):
        listener.takes_one = listener.blocked = False
        with bench.worker.loop.running():
            bench.worker.catchup.wake(listener.subs[SESSION])
        bench.serve()

    assert former.story[1:-1] == list(range(201, 601))
    assert latter.story[1:-1] == list(range(11, 601))


def lap(bench: Bench, ordinal: int) -> None:
    """Overwrite the ring up to an entry, and not what comes after it."""
    recent = bench.channel.recent
    assert recent is not None
    _, place = recent.at(recent.after(bench.stored(ordinal - 1)))
    while bench.ring.receiver.read(place) is not None:
        bench.ring.transmitter.append(Kind.EVENT, 2**31, 1, 0, 1, 0, bytes(5000))
        bench.ring.transmitter.commit()
        bench.turn()


@pytest.mark.parametrize("seq", [True, False])
def test_what_was_trimmed_is_announced(bench: Bench, *, seq: bool) -> None:
    """Exactly where the ordinal is known, as unknown where nobody can know."""
    bench.publish(6)
    listener = bench.open(from_position(bench, 1, seq=seq))
    bench.redis.trim(b"events:s1", 2)
    bench.ring.join_at(bench.token, bench.stored(6))
    bench.serve()
    assert listener.story == ["subscribed", "gap", 5, 6, "caught_up"]
    assert listener.last("subscribed")["resume"] == "gap"
    assert listener.last("gap")["lost"] == (3 if seq else None)
    assert listener.last("gap")["exact"] is seq


def test_a_position_ahead_of_the_pod_waits(bench: Bench) -> None:
    """It is no reset: it goes live when the pod has read that far."""
    joined(bench, 3)
    bench.publish(2)
    listener = bench.open(from_position(bench, 5))
    bench.serve()
    assert not listener.frames
    assert state(listener) is State.REPLAYING
    bench.ring.append_stored(bench, 4, 5)
    bench.serve()
    assert listener.story == ["subscribed", "caught_up"]
    assert state(listener) is State.LIVE


def test_an_answer_from_before_does_not_judge_a_newer_position(bench: Bench) -> None:
    """An XINFO that was asked for another client says nothing about an entry since."""
    joined(bench, 1)
    bench.publish(1)
    first = bench.open(from_position(bench, 2))
    bench.serve()
    bench.publish(1)
    second = bench.open(from_position(bench, 3))
    bench.serve()
    bench.ring.append_stored(bench, 2, 3)
    bench.serve()
    assert first.story == ["subscribed", 3, "caught_up"]
    assert second.last("subscribed")["resume"] == "complete"


@pytest.mark.parametrize("seq", [True, False])
def test_a_stream_made_anew_past_the_position_is_a_reset(
    rising: Bench, *, seq: bool
) -> None:
    """Its last id alone says nothing; the ordinal does, or the entries before it."""
    joined(rising, 3)
    position = from_position(rising, 3, seq=seq)
    rising.redis.delete(b"events:s1")
    rising.ring.reset()
    rising.turn()
    listener = rising.open(position)
    rising.publish(4)
    rising.serve()
    rising.ring.append_stored(rising, 1, 4)
    rising.serve()
    assert sorted(listener.story, key=str) == [1, 2, 3, 4, "caught_up", "subscribed"]
    assert listener.last("subscribed")["resume"] == "reset"


def test_a_position_of_the_new_stream_is_not_reset_with_the_old(rising: Bench) -> None:
    """Another pod knew of it first; here the news comes while the client waits."""
    joined(rising, 3)
    rising.redis.delete(b"events:s1")
    rising.publish(2)
    listener = rising.open(from_position(rising, 2))
    rising.serve()
    assert not listener.frames
    rising.ring.reset()
    rising.ring.append_stored(rising, 1, 2)
    rising.serve()
    assert listener.story == ["subscribed", "caught_up"]
    assert listener.last("subscribed")["resume"] == "complete"


def test_the_last_n_are_looked_for_again_in_a_new_stream(rising: Bench) -> None:
    """What was found before the news of a reset came is a place in another stream."""
    rising.publish(6)
    rising.open()
    rising.ring.join_at(rising.token, rising.stored(6))
    rising.turn()
    listener = rising.open(Start(at=StartAt.LAST_N, count=2))
    rising.turn()
    rising.worker.store.execute()
    rising.worker.store.receive()
    rising.redis.delete(b"events:s1")
    rising.publish(5)
    rising.ring.reset()
    rising.ring.append_stored(rising, 1, 5)
    rising.worker.loop.settle()
    rising.serve()
    assert listener.story == ["subscribed", 4, 5, "caught_up"]


def test_only_redis_decides_a_reset(bench: Bench) -> None:
    """A position behind the end of the stream is of another one: all from 0."""
    joined(bench, 3)
    far = Position((99_000_000, 0), 50)
    listener = bench.open(Start(at=StartAt.POSITION, position=far))
    bench.turn()
    assert not listener.frames
    bench.serve()
    assert listener.story == ["subscribed", 1, 2, 3, "caught_up"]
    assert listener.last("subscribed")["resume"] == "reset"
    assert listener.last("subscribed")["from"] == "0-0@0"


def test_an_answer_about_a_former_stream_is_not_used(bench: Bench) -> None:
    """After a reset nothing that was read before it may be delivered."""
    bench.publish(2)
    bench.open()
    bench.ring.join_at(bench.token, bench.stored(2))
    bench.turn()
    for _ in range(2):  # The second knows how many entries to ask for.
        former = bench.open(Start(at=StartAt.RETAINED))
        bench.serve()
        assert former.story == ["subscribed", 1, 2, "caught_up"]
    bench.redis.delete(b"events:s1")
    bench.publish(1)
    bench.ring.reset()
    bench.ring.append_stored(bench, 1, 1)
    bench.turn()
    bench.ring.flood()
    bench.turn()
    bench.ring.number += 1
    bench.ring.last = 0
    bench.ring.join_at(bench.token, bench.stored(1))
    listener = bench.open(Start(at=StartAt.RETAINED))
    bench.serve()
    ids = [frame["id"] for frame in listener.frames if "id" in frame]
    assert ids == [str(bench.stored(1))]


def test_everything_retained(bench: Bench) -> None:
    """``0`` asks for what is there; what was trimmed before is not missed."""
    bench.publish(4)
    bench.redis.trim(b"events:s1", 2)
    listener = bench.open(Start(at=StartAt.RETAINED))
    bench.ring.join_at(bench.token, bench.stored(4))
    bench.serve()
    assert [step for step in listener.story if step != "gap"] == [
        *("subscribed", 3, 4, "caught_up")
    ]


@pytest.mark.parametrize("cursor", [0, 5])
def test_the_last_entries(bench: Bench, cursor: int) -> None:
    """``-2`` asks for two, whether the ring has them or Redis."""
    bench.publish(5)
    listener = bench.open(Start(at=StartAt.LAST_N, count=2))
    if cursor:
        bench.ring.join_at(bench.token, bench.stored(5))
    else:
        bench.ring.append_stored(bench, 1, 5)
        bench.ring.join_at(bench.token, bench.stored(5))
    bench.serve()
    events = [frame for frame in listener.frames if "id" in frame]
    assert [frame["data"] for frame in events] == [4, 5]
    assert listener.story[-1] == "caught_up"


def test_a_time_is_no_entry(bench: Bench) -> None:
    """``since`` stands for no entry, so its absence in Redis is no reset."""
    bench.publish(4)
    ms, _n = bench.stored(3).id
    since = Start(at=StartAt.SINCE, position=Position((ms - 1, 2**64 - 1)))
    listener = bench.open(since)
    bench.ring.join_at(bench.token, bench.stored(4))
    bench.serve()
    assert listener.last("subscribed")["resume"] != "reset"
    events = [frame["data"] for frame in listener.frames if "id" in frame]
    assert events == [3, 4]


def fall_behind(bench: Bench, overflow: Overflow) -> Listener:
    """One who is live, then full while five entries come, then drained."""
    joined(bench, 1)
    listener = bench.open(overflow=overflow)
    bench.turn()
    listener.blocked = True
    bench.publish(5)
    bench.ring.append_stored(bench, 2, 6)
    bench.turn()
    with bench.worker.loop.running():
        listener.unblock()
    bench.serve()
    return listener


def test_a_slow_socket_misses_nothing(bench: Bench) -> None:
    """``overflow=lag``: it gets everything as soon as it takes it."""
    listener = fall_behind(bench, Overflow.LAG)
    assert listener.story == ["subscribed", 2, 3, 4, 5, 6, "caught_up"]


def test_a_slow_socket_may_jump_to_the_tip(bench: Bench) -> None:
    """``overflow=drop``: a gap says how many it leaves out."""
    listener = fall_behind(bench, Overflow.DROP)
    assert listener.story == ["subscribed", "gap"]
    assert (listener.last("gap")["lost"], listener.last("gap")["reason"]) == (
        *(5, "dropped"),
    )
    assert state(listener) is State.LIVE


def test_a_slow_socket_may_be_closed(bench: Bench) -> None:
    """``overflow=close``: with a code that means resume."""
    listener = fall_behind(bench, Overflow.CLOSE)
    assert listener.closing is Disconnect.SLOW


def test_a_full_socket_is_left_alone(bench: Bench) -> None:
    """While it takes nothing, nothing is read for it."""
    joined(bench, 3)
    listener = bench.open(from_position(bench, 1), blocked=True)
    bench.turn()
    assert not listener.frames


def test_redis_away_is_waited_for(bench: Bench) -> None:
    """A replay goes on when the connection is back."""
    bench.publish(2)
    listener = bench.open(from_position(bench, 1))
    bench.ring.join_at(bench.token, bench.stored(2))
    bench.turn()
    bench.worker.lose_store()
    bench.worker.loop.settle()
    assert not listener.frames
    bench.clock.advance(1)
    bench.serve()
    assert listener.story == ["subscribed", 2, "caught_up"]


def test_one_read_serves_all_at_the_same_place(bench: Bench) -> None:
    """Identical questions are asked once, and answered with the same bytes."""
    bench.publish(3)
    many = [bench.open(from_position(bench, 1), wire=SSE) for _ in range(5)]
    before = bench.worker_values[catalog.REPLAY_READS.slot]
    bench.ring.join_at(bench.token, bench.stored(3))
    bench.serve()
    assert all(each.story == ["subscribed", 2, 3, "caught_up"] for each in many)
    assert bench.worker_values[catalog.REPLAY_READS.slot] - before <= 2
