"""What subscriptions of the hub are sent when they are behind."""

from __future__ import annotations

from itertools import pairwise

import orjson
import pytest

from broker.entry import Event
from broker.protocols.council import Clock, CouncilFormat
from broker.protocols.formats import event_payload
from broker.ring.layout import Kind
from broker.worker.channels import Start, StartAt
from tests.unit.worker.parts import SESSION, Bench, Listener, at, id_of

COUNT = 300


@pytest.fixture
def wire() -> CouncilFormat:
    """With a clock that stands still."""
    return CouncilFormat(Clock(lambda: 0))


def chunk(ordinal: int) -> Event:
    data = orjson.dumps({"chunk": f"{ordinal} "})
    return Event(b"token_stream", data, b"", b"a", b"", False)


def say(bench: Bench, first: int, last: int) -> None:
    """Chunks of one node, as the reader writes them."""
    for ordinal in range(first, last + 1):
        payload = event_payload(
            SESSION.encode(), *id_of(ordinal), ordinal, chunk(ordinal)
        )
        bench.ring.append(Kind.EVENT, at(ordinal), payload)


def stamps(listener: Listener) -> list[str]:
    return [frame["timestamp"] for frame in listener.frames]


def text(listener: Listener) -> str:
    return "".join(frame["data"]["chunk"] for frame in listener.frames)


def rises(values: list[str]) -> bool:
    return all(earlier < later for earlier, later in pairwise(values))


def all_said(count: int) -> str:
    return "".join(f"{ordinal} " for ordinal in range(1, count + 1))


def test_who_asks_for_the_past_gets_it_as_it_was_published(
    bench: Bench, wire: CouncilFormat
) -> None:
    """Merging is for a socket that cannot keep up."""
    retained = bench.open(Start(at=StartAt.RETAINED), wire=wire)
    bench.ring.base()
    say(bench, 1, COUNT)
    bench.join(COUNT)

    assert len(retained.frames) == COUNT
    assert text(retained) == all_said(COUNT)


def test_who_lags_gets_it_merged(bench: Bench, wire: CouncilFormat) -> None:
    """The same text in fewer frames."""
    listener = bench.open(wire=wire)
    bench.ring.base()
    bench.join(0)
    listener.blocked = True
    say(bench, 1, COUNT)
    bench.turn()
    listener.unblock()
    bench.turn()

    assert len(listener.frames) < COUNT / 10
    assert text(listener) == all_said(COUNT)


def test_nobody_is_sent_a_page_that_was_made_before_what_he_has(
    bench: Bench, wire: CouncilFormat
) -> None:
    """Its timestamps would lie before those that he has seen."""
    bench.ring.base()
    say(bench, 1, COUNT)
    first = bench.open(Start(at=StartAt.POSITION, position=at(128)), wire=wire)
    bench.join(COUNT)
    second = bench.open(Start(at=StartAt.RETAINED), wire=wire)
    bench.turn()

    assert text(second) == all_said(COUNT)
    assert rises(stamps(first))
    assert rises(stamps(second))
    assert not set(stamps(first)) & set(stamps(second))


def test_pages_from_redis_are_not_passed_on_either(
    bench: Bench, wire: CouncilFormat
) -> None:
    """Two who ask the same get timestamps of their own."""
    for ordinal in range(1, COUNT + 1):
        fields = [b"event", b"token_stream", b"data", chunk(ordinal).data]
        bench.redis.add(b"events:" + SESSION.encode(), fields)
    listeners = [bench.open(Start(at=StartAt.RETAINED), wire=wire) for _ in range(2)]
    bench.ring.join_at(bench.token, bench.stored(COUNT))
    bench.serve()
    first, second = map(stamps, listeners)

    assert [text(listener) for listener in listeners] == [all_said(COUNT)] * 2
    assert rises(first)
    assert rises(second)
    assert not set(first) & set(second)
