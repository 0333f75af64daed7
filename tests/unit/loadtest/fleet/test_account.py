from __future__ import annotations

import orjson

from loadtest import payload
from loadtest.fleet.account import Account, Books


def event(ordinal: int, seq: int | None = None, ms: int | None = None) -> bytes:
    data = payload.event_data(77, ordinal)
    head = b'{"id":"%d-0"' % (1000 + ordinal if ms is None else ms)
    seq_part = b"" if seq is None else b',"seq":%d' % seq
    return head + seq_part + b',"session":"s","event":"e","data":' + data + b"}"


def gap(lost: int | None) -> bytes:
    return orjson.dumps({"event": "gap", "session": "s", "data": {"lost": lost}})


def booked(*frames: bytes, ordinal: int = -1) -> Books:
    books = Books()
    account = Account(books, ordinal)
    for frame in frames:
        account.take(frame)
    return books


def test_events_in_order_leave_nothing_to_complain_about() -> None:
    """Rising ids and ordinals, seq in step."""
    assert booked(event(5, 105), event(6, 106), event(7, 107)) == Books(events=3)


def test_hole_that_a_gap_explains_exactly_is_in_order() -> None:
    """Published = delivered + announced as lost."""
    books = booked(event(1, 1), gap(2), gap(1), event(5, 5))

    assert books == Books(events=2, gaps=2, announced=3)


def test_hole_without_a_gap_is_unexplained() -> None:
    """Silence about a loss is the one thing that must not happen."""
    assert booked(event(1), event(4)).unexplained == 2


def test_gap_that_announces_too_much_is_unexplained() -> None:
    """A count that is not exact is as wrong as none."""
    assert booked(event(1), gap(3), event(2)).unexplained == 3


def test_gap_of_unknown_size_explains_any_hole() -> None:
    """Where the broker said that it does not know, any hole is allowed, but counted."""
    books = booked(event(1), gap(None), event(9))

    assert (books.unexplained, books.unknown_gaps) == (0, 1)


def test_repeated_event_is_disordered() -> None:
    """Neither id nor ordinal may stay."""
    assert booked(event(1), event(1)).disordered == 2


def test_id_that_falls_is_disordered_though_ordinals_rise() -> None:
    """Ids are what a client resumes from."""
    assert booked(event(1, ms=2000), event(2, ms=1999)).disordered == 1


def test_seq_that_leaps_is_wrong() -> None:
    """Seq and the publisher's ordinal move in step."""
    assert booked(event(1, 10), event(2, 12)).seq_wrong == 1


def test_seq_may_be_left_out_for_a_while() -> None:
    """A seq that is not exact is not sent; that is no error."""
    assert booked(event(1, 1), event(2), event(3, 9)).seq_wrong == 0


def test_event_gives_its_publish_time_and_notices_give_none() -> None:
    """Only events have a latency."""
    account = Account(Books())

    assert account.take(event(1)) == 77
    assert account.take(b'{"event":"heartbeat"}') is None


def test_client_has_joined_when_live_or_caught_up() -> None:
    """A subscription that replays is not there yet."""
    account = Account(Books())
    account.take(b'{"event":"subscribed","data":{"resume":"complete"}}')
    replaying = account.joined
    account.take(b'{"event":"caught_up","data":{"position":"1-1"}}')

    assert not replaying
    assert account.joined
