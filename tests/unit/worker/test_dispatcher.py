"""From the ring to the channels."""

from __future__ import annotations

from broker.metrics import catalog
from broker.model import START
from broker.ring import requests
from broker.ring.transmitter import Transmitter
from broker.worker.channels import State
from tests.unit.worker.parts import SESSION, Bench, at


def watches(bench: Bench) -> list[requests.Watch]:
    return [said for said in bench.asked if isinstance(said, requests.Watch)]


def test_a_channel_is_learnt_from_its_join_only(bench: Bench) -> None:
    """Records of a number that nobody has named are not for anybody."""
    listener = bench.open()
    bench.ring.events(1, 2)
    bench.turn()
    assert not listener.frames
    bench.join(2)
    bench.ring.event(3)
    bench.turn()
    assert listener.story == ["subscribed", 3]
    assert listener.last("subscribed")["from"] == str(at(2))


def test_answers_to_other_workers_are_theirs(bench: Bench) -> None:
    """A JOIN names the worker that asked."""
    listener = bench.open()
    bench.join(2, worker=2)
    assert not listener.frames
    assert not bench.channel.joined


def test_what_the_worker_has_had_is_dropped(bench: Bench) -> None:
    """After a restart the reader may begin below the tip of this worker."""
    listener = bench.open()
    bench.join(0)
    bench.ring.events(1, 5)
    bench.turn()
    bench.restart_reader()
    bench.ring.base(2)
    bench.join(2, base=2)
    bench.ring.events(3, 6)
    bench.turn()
    assert listener.story == ["subscribed", 1, 2, 3, 4, 5, 6]


def test_a_gap_over_what_was_delivered_is_counted_anew(bench: Bench) -> None:
    """Of a gap that begins below an exact tip only the rest is announced."""
    bench.publish(6)
    listener = bench.open()
    bench.join(0)
    bench.ring.append_stored(bench, 1, 2)
    bench.turn()
    bench.redis.trim(b"events:s1", 2)
    bench.restart_reader()
    bench.ring.base(0)
    bench.join(0)
    bench.ring.stored_gap(bench, 0, 5)
    bench.ring.append_stored(bench, 5, 6)
    bench.serve()
    assert listener.story[:3] == ["subscribed", 1, 2]
    assert listener.last("gap")["lost"] == 2
    assert listener.story[-2:] in ([6, "caught_up"], [5, 6])


def test_a_reset_begins_a_new_epoch(bench: Bench) -> None:
    """Who is live is told, and gets the new stream from its first entry."""
    listener = bench.open()
    bench.join(4)
    life = bench.channel.life
    bench.ring.reset()
    bench.ring.events(1, 2)
    bench.turn()
    assert listener.story == ["subscribed", "reset", 1, 2]
    assert bench.channel.epoch == 1
    assert bench.channel.life != life


def test_a_large_entry_is_fetched_by_who_is_live(bench: Bench) -> None:
    """A REFERENCE moves the tip; the entry comes from Redis, once, in its place."""
    bench.publish(3)
    listener = bench.open()
    bench.join(0)
    bench.ring.append_stored(bench, 1, 1)
    bench.ring.stored_reference(bench, 2)
    bench.ring.append_stored(bench, 3, 3)
    bench.serve()
    assert listener.story == ["subscribed", 1, 2, 3, "caught_up"]


def test_a_lapped_worker_joins_again_where_it_stood(bench: Bench) -> None:
    """Every channel is asked for with the tip that this worker has drained."""
    bench.open()
    bench.join(3)
    bench.ring.flood()
    bench.turn()
    assert bench.worker.channels.by_session[SESSION].joined is False
    again = watches(bench)[-1]
    assert again.have == (*at(3).id, 3)
    assert again.channel == bench.ring.number


def test_a_new_generation_is_read_from_its_beginning(bench: Bench) -> None:
    """A restarted reader's records are seen although their positions leap."""
    listener = bench.open()
    bench.ring.transmitter = Transmitter(bench.ring.segment)
    bench.ring.base(3)
    bench.join(3)
    bench.ring.event(4)
    bench.turn()
    assert listener.story == ["subscribed", 4]


def test_a_dead_readers_answer_is_not_believed(bench: Bench) -> None:
    """What lies in the ring when the reader is lost joins nobody."""
    bench.open()
    token = bench.token
    bench.worker.dispatcher.cut_off()
    bench.ring.join(token, 0)
    bench.turn()
    assert not bench.channel.joined


def test_refusals_reach_who_asked(bench: Bench) -> None:
    """The client is told which session cannot be read."""
    listener = bench.open()
    bench.ring.refuse(bench.token, "overloaded")
    bench.turn()
    assert listener.last("error")["code"] == "overloaded"
    assert not listener.subs
    assert SESSION not in bench.worker.channels.by_session


def test_an_answer_makes_room_for_the_next_rejoin(bench: Bench) -> None:
    """Even if nobody waits for it any more: else the queue would stand still."""
    listener = bench.open()
    bench.worker.link._rejoining.add(bench.token)
    with bench.worker.loop.running():
        bench.worker.subscriptions.end(listener.subs[SESSION])
    assert not bench.worker.link._rejoining


def test_a_slice_for_others_is_no_reason_to_sleep(bench: Bench) -> None:
    """The bell does not ring again for what lies behind a slice."""
    listener = bench.open()
    bench.join(0)
    for _ in range(3):
        bench.ring.other()
    bench.ring.event(1)
    bench.turn()
    assert listener.story == ["subscribed", 1]


def test_everybody_is_cut_off_when_the_reader_is_lost(bench: Bench) -> None:
    """Nobody stays live under a number that means nothing any more."""
    listener = bench.open()
    bench.join(0)
    bench.ring.event(1)
    bench.turn()
    bench.worker.dispatcher.cut_off()
    sub = listener.subs[SESSION]
    assert sub.state is State.REPLAYING
    assert sub.position == at(1)
    assert not bench.channel.joined


def test_what_is_drained_is_counted(bench: Bench) -> None:
    """The metric counts records of channels that somebody reads."""
    bench.open()
    bench.join(0)
    before = bench.worker_values[catalog.DRAINED.slot]
    bench.ring.events(1, 3)
    bench.turn()
    assert bench.worker_values[catalog.DRAINED.slot] - before == 3


def test_a_reset_that_was_lapped_is_noticed(bench: Bench) -> None:
    """The JOIN of the same watch has another epoch then."""
    listener = bench.open()
    bench.join(3)
    bench.ring.flood()
    bench.turn()
    bench.join(0, epoch=1)
    assert bench.channel.tip == START
    assert listener.story == ["subscribed", "reset"]
    assert listener.subs[SESSION].state is State.LIVE
