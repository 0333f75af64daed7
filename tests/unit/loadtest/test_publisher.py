from __future__ import annotations

import hiredis

from loadtest import payload
from loadtest.publisher import NatsSink, RedisSink


def test_redis_template_is_an_xadd_with_the_events_data() -> None:
    """What Redis parses is the contract's XADD, with data of the fixed size."""
    template = RedisSink("broker:events:{session}", 10_000).template("100%s")
    command = template % (payload.TIME_BASE + 5, payload.ORDINAL_BASE + 9)
    reader = hiredis.Reader()
    reader.feed(command)
    words = reader.gets()

    assert words[:6] == [
        b"XADD",
        b"broker:events:100%s",
        b"MAXLEN",
        b"~",
        b"10000",
        b"*",
    ]
    assert words[6:] == [b"event", b"token_stream", b"data", payload.event_data(5, 9)]


def test_redis_answers_are_counted_with_errors_among_them() -> None:
    """An id has a minus as well; only one at the start of a line is an error."""
    sink = RedisSink("k:{session}", 1)
    sink.sent(4)
    sink.received(b"-ERR full\r\n$15\r\n1763700000000-0\r\n-ERR full\r\n$3\r\n5-1\r\n")

    assert sink.unanswered == 0
    assert sink.errors == 2


def test_nats_pong_answers_for_the_batch_before_it() -> None:
    """NATS does not answer a PUB, so a batch counts as taken at its PONG."""
    sink = NatsSink()
    sink.sent(10)
    sink.sent(5)
    sink.received(b"PONG\r\n")
    after_first = sink.unanswered
    sink.received(b"PONG\r\n")

    assert after_first == 5
    assert sink.unanswered == 0


def test_nats_template_announces_the_size_that_follows() -> None:
    """A wrong size would make the server read events as commands."""
    command = NatsSink().template("s1") % (payload.TIME_BASE, payload.ORDINAL_BASE)
    head, _, rest = command.partition(b"\r\n")

    assert head == b"PUB s1 200"
    assert rest == payload.event_data(0, 0) + b"\r\n"
