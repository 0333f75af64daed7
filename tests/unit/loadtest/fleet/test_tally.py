from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from loadtest import payload
from loadtest.fleet.tally import BUCKET_NS, PREFIX_BYTES, Stream, Tally

NOW_NS = 1_000_000_000


def frames(ordinals: list[int], age_ns: int = 0) -> bytes:
    return b"".join(
        b'\x81\x7e\x01\x4a{"seq":%d,"data":%s,"timestamp":"T"}'
        % (n, payload.event_data(NOW_NS - age_ns, n))
        for n in ordinals
    )


def feed(tally: Tally, stream: Stream, *chunks: bytes) -> None:
    for chunk in chunks:
        buffer = bytearray(PREFIX_BYTES) + chunk
        tally.take(stream, buffer, len(buffer), NOW_NS, checked=True)


@given(st.lists(st.integers(0, 330 * 12), max_size=8), st.integers(1, 12))
def test_count_does_not_depend_on_where_reads_are_cut(
    cuts: list[int], count: int
) -> None:
    """Every event is counted once, also when its marker or time is cut in two."""
    data = frames(list(range(1, count + 1)))
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    tally, stream = Tally(), Stream()
    chunks = [data[a:b] for a, b in pairwise(edges) if a != b]
    feed(tally, stream, *chunks)

    assert tally.delivered == count
    assert (tally.missing, tally.surplus) == (0, 0)
    assert stream.ordinal == count
    assert sum(tally.latencies.values()) == count


def test_missing_event_is_seen_within_a_chunk_and_between_chunks() -> None:
    """A hole shows in the ordinals wherever it lies."""
    within, between = Tally(), Tally()
    feed(within, Stream(ordinal=0), frames([1, 2, 4, 5]))
    feed(between, Stream(), frames([1, 2]), frames([5, 6]))

    assert within.missing == 1
    assert between.missing == 2


def test_event_that_comes_twice_is_surplus() -> None:
    """A repeated event moves the count, but not the ordinal."""
    tally = Tally()
    feed(tally, Stream(), frames([1, 2]), frames([2, 3]))

    assert tally.surplus == 1
    assert tally.missing == 0


def test_resuming_stream_must_go_on_with_the_next_ordinal() -> None:
    """A client that knows where it was sees events left out before its first one."""
    tally = Tally()
    feed(tally, Stream(ordinal=100), frames([103]))

    assert tally.missing == 2


def test_first_event_behind_a_long_greeting_is_one_event() -> None:
    """Before anything is known of a stream, only markers count."""
    tally = Tally()
    feed(tally, Stream(), b"x" * 300 + frames([500]))

    assert tally.delivered == 1


def test_growing_frames_are_counted_right() -> None:
    """A seq with one digit more changes the size of frames; the count stays exact."""
    tally = Tally()
    feed(tally, Stream(), frames([7, 8]), frames([9, 10, 11]), frames([12, 14]))

    assert tally.delivered == 7
    assert tally.missing == 1


def test_events_of_several_sessions_are_counted_by_their_markers() -> None:
    """Ordinals of different sessions say nothing about each other."""
    tally, stream = Tally(), Stream()
    for ordinals in ([1, 2, 3], [9, 4, 5]):
        buffer = bytearray(PREFIX_BYTES) + frames(ordinals)
        tally.take(stream, buffer, len(buffer), NOW_NS, checked=False)

    assert tally.delivered == 6
    assert (tally.missing, tally.surplus) == (0, 0)


def test_strided_samples_weigh_for_the_chunks_left_out() -> None:
    """At high rates every n-th chunk speaks for n."""
    tally, stream = Tally(), Stream()
    tally.stride = 2
    feed(tally, stream, frames([1]), frames([2]), frames([3]), frames([4]))

    assert tally.delivered == 4
    assert tally.latencies == {0: 4}


def test_chunk_counts_half_by_its_first_and_half_by_its_last_event() -> None:
    """The weights of a chunk add up to its events."""
    tally = Tally()
    chunk = frames([1], age_ns=50 * BUCKET_NS) + frames([2]) + frames([3])
    feed(tally, Stream(), chunk)

    assert tally.latencies == {50: 1, 0: 2}


def test_events_from_before_the_window_have_no_latency() -> None:
    """What was published while warming up is delivered, but not measured."""
    tally = Tally()
    tally.window_ns = NOW_NS
    feed(tally, Stream(), frames([1], age_ns=1), frames([2]))

    assert tally.delivered == 2
    assert tally.latencies == {0: 1}


def test_frames_of_the_servers_own_are_no_events() -> None:
    """A heartbeat is not a delivery."""
    tally = Tally()
    feed(tally, Stream(), b'\x81\x15{"event":"heartbeat"}')

    assert tally.delivered == 0
