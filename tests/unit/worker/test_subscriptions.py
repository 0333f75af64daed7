"""Who reads what."""

from __future__ import annotations

from broker.disconnect import Disconnect
from broker.ring import requests
from broker.worker.channels import State
from broker.worker.starting import Reading
from tests.unit.worker.parts import SESSION, Bench, Listener


def asked(bench: Bench) -> list[str]:
    return [type(said).__name__ for said in bench.asked]


def end(bench: Bench, listener: Listener) -> None:
    with bench.worker.loop.running():
        bench.worker.subscriptions.end(listener.subs[SESSION])
    bench.worker.loop.settle()


def test_a_session_is_asked_for_once(bench: Bench) -> None:
    """The second subscriber shares the channel of the first."""
    bench.open()
    bench.open()
    assert asked(bench) == ["Watch"]


def test_a_joined_session_answers_at_once(bench: Bench) -> None:
    """Nothing is asked of the reader for a session that is read already."""
    bench.open()
    bench.join(0)
    listener = bench.open()
    assert listener.story == ["subscribed"]
    assert asked(bench) == ["Watch"]


def test_the_last_who_leaves_ends_the_watch(bench: Bench) -> None:
    """The reader is told when nobody needs the session any more, not before."""
    one, two = bench.open(), bench.open()
    bench.join(0)
    end(bench, one)
    assert asked(bench) == ["Watch"]
    end(bench, two)
    assert asked(bench) == ["Watch", "Unwatch"]
    assert not bench.worker.channels.by_session
    assert not bench.worker.channels.by_number


def test_nothing_is_written_after_the_end(bench: Bench) -> None:
    """What is on its way to others passes a subscription that has ended."""
    one, two = bench.open(), bench.open()
    bench.join(0)
    sub = one.subs[SESSION]
    end(bench, one)
    bench.ring.event(1)
    bench.turn()
    assert one.story == ["subscribed"]
    assert two.story == ["subscribed", 1]
    assert sub.state is State.CLOSED
    with bench.worker.loop.running():
        bench.worker.subscriptions.end(sub)  # A second end does nothing.
    assert asked(bench) == ["Watch"]


def test_coming_back_is_a_new_subscription(bench: Bench) -> None:
    """It is asked for anew, and what was asked before means nothing."""
    listener = bench.open()
    former = bench.token
    end(bench, listener)
    again = bench.open()
    bench.ring.join(former, 0)
    bench.turn()
    assert not again.frames
    bench.join(0)
    assert again.story == ["subscribed"]


def test_a_refused_path_closes_its_connection(bench: Bench) -> None:
    """Who named the session in the path has nothing else to stay for."""
    listener = bench.open()
    listener.session = SESSION
    bench.ring.refuse(bench.token, "overloaded")
    bench.turn()
    assert listener.closing is Disconnect.OVERLOADED


def test_who_comes_while_the_refused_leave_is_asked_for(bench: Bench) -> None:
    """A refusal is no answer to those who come later."""
    leaving = bench.open()
    leaving.session = SESSION
    bench.ring.refuse(bench.token, "overloaded")
    bench.turn()
    later = bench.open()
    assert asked(bench) == ["Watch", "Watch"]
    bench.join(0)
    assert later.story == ["subscribed"]


def test_the_end_of_a_connection_ends_all(bench: Bench) -> None:
    """Its subscriptions are counted no longer."""
    listener = bench.open()
    with bench.worker.loop.running():
        bench.worker.subscriptions.open(listener, "s2", Reading())
        bench.worker.subscriptions.end_all(listener)
    bench.worker.loop.settle()
    assert not listener.subs
    assert asked(bench).count("Unwatch") == 2
    assert isinstance(bench.asked[-1], requests.Unwatch)
