"""The counting of lost entries, against a stream in memory that knows the truth."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.model import FIRST_ID, Position
from broker.store.loss import Anchor, Gap, Page, Reset, belongs, settle
from broker.store.stream_info import NOT_READ, StreamInfo
from tests.harness.patience import examples
from tests.unit.store.account import Account, ModelStream

CHANGES = st.one_of(
    st.tuples(st.just("add"), st.integers(1, 6)),
    st.tuples(st.just("add"), st.integers(1, 6)),
    st.tuples(st.just("add"), st.integers(1, 6)),
    st.tuples(st.just("trim_to_length"), st.integers(0, 12)),
    st.tuples(st.just("trim_below"), st.integers(0, 6)),
    st.tuples(st.just("delete"), st.integers(0, 12)),
)
READS = st.tuples(st.just("read"), st.sampled_from([1, 2, 5, 100]))
BLIND_READS = st.tuples(st.just("read_blind"), st.sampled_from([1, 2, 5, 100]))
PLANS = st.lists(st.one_of(CHANGES, CHANGES, CHANGES, READS), max_size=80)
BLIND_PLANS = st.lists(
    st.one_of(CHANGES, CHANGES, CHANGES, READS, BLIND_READS), max_size=80
)


def change(stream: ModelStream, plan: list[tuple[str, int]]) -> None:
    for verb, number in plan:
        if not verb.startswith("read"):
            getattr(stream, verb)(number)


def follow(stream: ModelStream, account: Account, plan: list[tuple[str, int]]) -> None:
    for verb, number in plan:
        if verb.startswith("read"):
            ids = stream.page(account.anchor.cursor, number)
            info = NOT_READ if verb == "read_blind" else stream.info()
            account.take(ids, number, info)
        else:
            getattr(stream, verb)(number)


def catch_up(stream: ModelStream, account: Account, count: int) -> None:
    ids = stream.page(account.anchor.cursor, count)
    account.take(ids, count, stream.info())
    while len(ids) == count:
        ids = stream.page(account.anchor.cursor, count)
        account.take(ids, count, stream.info())


@settings(max_examples=examples(400), deadline=None)
@given(PLANS, st.sampled_from([2, 5, 100]))
def test_published_is_delivered_plus_lost(
    plan: list[tuple[str, int]], count: int
) -> None:
    """A reader from the beginning gets or is told of everything, at its place."""
    stream = ModelStream()
    stream.add(3)
    account = Account(Position(FIRST_ID, 0), stream.ever)

    follow(stream, account, plan)
    catch_up(stream, account, count)

    account.check_settled()


@settings(max_examples=examples(400), deadline=None)
@given(PLANS, BLIND_PLANS, st.sampled_from([2, 5, 100]))
def test_reads_without_info_only_delay_the_count(
    before: list[tuple[str, int]], plan: list[tuple[str, int]], count: int
) -> None:
    """Pages whose XINFO was left out are settled by the next one at the tail."""
    stream = ModelStream()
    stream.add(3)
    change(stream, before)
    account = Account(Position(stream.ever[-1], len(stream.ever)), stream.ever)

    follow(stream, account, plan)
    catch_up(stream, account, count)

    account.check_settled()


@settings(max_examples=examples(400), deadline=None)
@given(PLANS, BLIND_PLANS, st.integers(0, 40), st.sampled_from([1, 2, 5, 100]))
def test_resume_by_bare_id_is_never_wrong(
    before: list[tuple[str, int]],
    plan: list[tuple[str, int]],
    place: int,
    count: int,
) -> None:
    """Without an ordinal a loss may be of unknown size, but it is never silent."""
    stream = ModelStream()
    stream.add(3)
    change(stream, before)
    start = stream.ever[min(place, len(stream.ever) - 1)]
    account = Account(Position(start), stream.ever)

    follow(stream, account, plan)
    catch_up(stream, account, count)

    account.check_settled()


@settings(max_examples=examples(200), deadline=None)
@given(PLANS, st.integers(0, 40), st.sampled_from([2, 5, 100]))
def test_cursor_that_was_looked_for_is_no_false_reset(
    before: list[tuple[str, int]], place: int, count: int
) -> None:
    """A cursor whose entry was trimmed or deleted still belongs to its stream."""
    stream = ModelStream()
    stream.add(3)
    change(stream, before)
    index = min(place, len(stream.ever) - 1)
    start = stream.ever[index]
    account = Account(Position(start, index + 1), stream.ever)

    ids = stream.page(start, count)
    account.take(ids, count, stream.info(), present=start in stream.ids)
    catch_up(stream, account, count)

    account.check_settled()


def stream_of(total: int) -> ModelStream:
    stream = ModelStream()
    for _ in range(total):
        stream.add(1)
    return stream


def test_trimmed_entries_are_counted_in_front_of_the_first_kept_one() -> None:
    """The gap stands right before the first entry, with all its positions exact."""
    stream = stream_of(10)
    stream.trim_to_length(3)

    page = settle(Anchor((1002, 0), 2, (1002, 0), 0), stream.ids, False, stream.info())

    gap = Gap(
        at=Position((1007, 2**64 - 1), 7),
        after=Position((1002, 0), 2),
        next=Position((1008, 0), 8),
        lost=5,
        exact=True,
    )
    assert page == Page([(0, gap)], [8, 9, 10], Anchor.at(Position((1010, 0), 10)))


def test_loss_in_the_middle_of_a_stream_is_announced_before_its_tail() -> None:
    """A full page that begins with the first kept entry tells the loss at once."""
    stream = stream_of(10)
    stream.trim_to_length(5)

    page = settle(Anchor.at(Position(FIRST_ID, 0)), stream.ids[:2], True, stream.info())

    assert isinstance(page, Page)
    assert [gap.lost for _, gap in page.gaps] == [5]
    assert page.seqs == [6, 7]


def test_deleted_entries_are_announced_before_any_page_that_may_lack_them() -> None:
    """After XDEL the count stands in front; no ordinal is sent before the tail."""
    stream = stream_of(6)
    stream.delete(3)
    start = Anchor.at(Position(FIRST_ID, 0))

    first = settle(start, stream.ids[:2], True, stream.info())
    assert isinstance(first, Page)
    second = settle(first.anchor, stream.ids[2:], False, stream.info())

    tail = Position((1006, 0), 6)
    gap = Gap(
        at=Position((1000, 2**64 - 1)),
        after=Position(FIRST_ID, 0),
        next=tail,
        lost=1,
        exact=True,
    )
    assert (first.gaps, first.seqs) == ([(0, gap)], [0, 0])
    assert second == Page([], [0, 0, 6], Anchor.at(tail))


def test_deleted_tail_is_announced_behind_the_last_entry() -> None:
    """When the newest entry was deleted the gap stands at its id, after the page."""
    stream = stream_of(4)
    stream.delete(3)

    page = settle(Anchor.at(Position(FIRST_ID, 0)), stream.ids, False, stream.info())

    assert isinstance(page, Page)
    assert [(index, gap.at, gap.lost) for index, gap in page.gaps] == [
        (3, Position((1004, 0), 4), 1)
    ]
    assert page.anchor == Anchor.at(Position((1004, 0), 4))


def test_full_page_that_ends_at_the_tail_is_settled_there() -> None:
    """A page that holds the newest entry is at the tail however full it is."""
    stream = stream_of(4)
    stream.delete(1)

    page = settle(Anchor.at(Position(FIRST_ID, 0)), stream.ids, True, stream.info())

    assert isinstance(page, Page)
    assert [gap.lost for _, gap in page.gaps] == [1]


def test_everything_trimmed_is_one_gap_at_the_tail() -> None:
    """A stream that was emptied tells how much there was, and where it goes on."""
    stream = stream_of(4)
    stream.trim_to_length(0)

    page = settle(Anchor.at(Position((1001, 0), 1)), [], False, stream.info())

    assert isinstance(page, Page)
    assert [(index, gap.lost) for index, gap in page.gaps] == [(0, 3)]
    assert page.anchor == Anchor.at(Position((1004, 0), 4))


def test_bare_id_behind_trimmed_entries_gets_a_gap_of_unknown_size() -> None:
    """Nobody can count from an id that is gone, but later ordinals are exact."""
    stream = stream_of(10)
    stream.trim_to_length(4)

    page = settle(Anchor.at(Position((1002, 0))), stream.ids[:2], True, stream.info())

    assert isinstance(page, Page)
    assert [(gap.lost, gap.exact) for _, gap in page.gaps] == [(None, False)]
    assert page.seqs == [7, 8]


def test_bare_id_in_an_untouched_stream_gets_no_gap() -> None:
    """An id below every entry of a stream that lost nothing is its beginning."""
    stream = stream_of(3)

    page = settle(Anchor.at(Position((1000, 0))), stream.ids, False, stream.info())

    assert page == Page([], [1, 2, 3], Anchor.at(Position((1003, 0), 3)))


def test_nothing_read_and_nothing_known_changes_nothing() -> None:
    """An empty page without XINFO leaves the anchor as it is."""
    anchor = Anchor.at(Position((5, 0), 5))

    assert settle(anchor, [], False, NOT_READ) == Page([], [], anchor)


def test_missing_key_before_the_first_entry_is_an_empty_stream() -> None:
    """A session that nobody has published to yet is not a reset."""
    start = Anchor.at(Position(FIRST_ID, 0))

    assert settle(start, [], False, None) == Page([], [], start)


INFO = StreamInfo(added=5, length=3, last=(50, 0), first=(30, 0), max_deleted=(0, 0))
WHOLE = StreamInfo(added=3, length=3, last=(50, 0), first=(30, 0), max_deleted=(0, 0))


@pytest.mark.parametrize(
    ("position", "info", "present"),
    [
        pytest.param(Position((40, 0), 4), None, None, id="key is gone"),
        pytest.param(Position((51, 0), 5), INFO, None, id="cursor is ahead"),
        pytest.param(Position((40, 0), 6), INFO, None, id="ordinal is ahead"),
        pytest.param(Position((40, 0), 4), INFO, False, id="entry never was there"),
        pytest.param(Position((20, 0), 3), INFO, None, id="fewer were removed"),
        pytest.param(Position((20, 0)), WHOLE, False, id="nothing was removed"),
    ],
)
def test_position_of_another_history_is_a_reset(
    position: Position, info: StreamInfo | None, present: bool | None
) -> None:
    """A stream that was deleted, or lost writes in a failover, is another one."""
    outcome = settle(Anchor.at(position), [], False, info, cursor_present=present)

    assert outcome == Reset()
    assert not belongs(position, info, present=present)


def test_as_many_entries_as_before_and_none_left_is_a_reset() -> None:
    """Nothing was added to this stream, and yet its last id has moved."""
    info = StreamInfo(6, 0, (90, 0), (0, 0), max_deleted=(0, 0))

    assert settle(Anchor.at(Position((50, 0), 6)), [], False, info) == Reset()


def test_full_page_of_a_stream_made_anew_is_a_reset() -> None:
    """Its numbers may fit by chance: 9 were added, 6 read before, 3 are in the page."""
    info = StreamInfo(9, 9, (90, 0), (82, 0), max_deleted=(0, 0))
    ids = [(82, 0), (83, 0), (84, 0)]

    assert settle(Anchor.at(Position((50, 0), 6)), ids, True, info) == Reset()


def test_stream_made_anew_between_the_pages_of_a_bare_id_is_a_reset() -> None:
    """Where no ordinal is known, what was read says how many there were at least."""
    stream = stream_of(10)
    first = settle(Anchor.at(Position((1004, 0))), stream.ids[4:6], True, stream.info())
    assert isinstance(first, Page)
    assert first.anchor.seq is None
    second = settle(first.anchor, stream.ids[6:8], True, stream.info())
    assert isinstance(second, Page)

    anew = [(2001, 0), (2002, 0)]
    one_trimmed = StreamInfo(3, 2, anew[-1], anew[0], max_deleted=(0, 0))

    assert settle(second.anchor, anew, False, one_trimmed) == Reset()


def test_removed_entries_tell_how_many_there_were_at_least() -> None:
    """A trimmed stream was longer than what a bare id has read of it."""
    stream = stream_of(1010)
    stream.trim_to_length(10)
    start = Anchor.at(Position(stream.ids[0]))
    page = settle(start, stream.ids[1:3], True, stream.info(), cursor_present=True)
    assert isinstance(page, Page)

    anew = [(3003, 0), (3004, 0)]
    two_trimmed = StreamInfo(12, 10, (3012, 0), anew[0], max_deleted=(0, 0))

    assert settle(page.anchor, anew, True, two_trimmed) == Reset()


@pytest.mark.parametrize("full", [False, True])
def test_more_entries_behind_a_bare_id_than_were_added_is_a_reset(full: bool) -> None:
    """After a failover that lost writes, as where the ordinal is known."""
    anchor = Anchor((5, 0), None, (5, 0), 0, least=4)
    info = StreamInfo(5, 5, (11, 0), (1, 0), max_deleted=(0, 0))

    assert settle(anchor, [(9, 0), (10, 0)], full, info) == Reset()


def test_entry_deleted_by_hand_is_not_taken_for_another_history() -> None:
    """An absent entry at or below the largest deleted id may have been deleted."""
    info = StreamInfo(5, 3, (50, 0), (30, 0), max_deleted=(40, 0))

    assert belongs(Position((40, 0), 4), info, present=False)


def test_more_entries_than_were_ever_added_is_a_reset() -> None:
    """After a failover that lost writes the count at the tail becomes negative."""
    info = StreamInfo(
        added=105, length=105, last=(60, 0), first=(1, 0), max_deleted=(0, 0)
    )
    ids = [(56, 0), (57, 0), (58, 0), (59, 0), (60, 0)]

    assert settle(Anchor.at(Position((55, 0), 105)), ids, False, info) == Reset()
    assert settle(Anchor.at(Position((55, 0), 105)), ids[:2], True, info) == Reset()


def test_negative_count_behind_trimmed_entries_is_a_reset() -> None:
    """So it is when the new primary has trimmed what would have given it away."""
    info = StreamInfo(
        added=105, length=5, last=(60, 0), first=(56, 0), max_deleted=(0, 0)
    )
    ids = [(56, 0), (57, 0), (58, 0), (59, 0), (60, 0)]

    assert settle(Anchor.at(Position((55, 0), 105)), ids, False, info) == Reset()


def test_negative_count_after_a_deferral_is_a_reset() -> None:
    """What was handed on since the last exact position counts as well."""
    info = StreamInfo(
        added=12, length=9, last=(60, 0), first=(1, 0), max_deleted=(0, 0)
    )
    anchor = Anchor(cursor=(50, 0), seq=10, since=(40, 0), delivered=1)

    assert settle(anchor, [(55, 0), (60, 0)], False, info) == Reset()


def test_missing_cursor_is_a_reset_although_the_count_fits() -> None:
    """A new primary may have added as many entries as the old one had lost."""
    info = StreamInfo(added=5, length=5, last=(60, 0), first=(1, 0), max_deleted=(0, 0))
    anchor = Anchor.at(Position((50, 0), 4))

    outcome = settle(anchor, [(60, 0)], False, info, cursor_present=False)

    assert outcome == Reset()


def test_beginning_is_the_beginning_without_an_ordinal_too() -> None:
    """From 0-0 every loss can be counted."""
    stream = stream_of(5)
    stream.trim_to_length(2)

    page = settle(Anchor.at(Position(FIRST_ID)), stream.ids, False, stream.info())

    assert isinstance(page, Page)
    assert [gap.lost for _, gap in page.gaps] == [3]


def test_deletion_inside_earlier_pages_is_remembered_until_the_tail() -> None:
    """A bare id behind which something was deleted ends with a gap, however late."""
    stream = stream_of(6)
    stream.delete(2)
    start = Anchor.at(Position((1001, 0)))

    first = settle(start, [(1002, 0), (1004, 0)], True, stream.info())
    assert isinstance(first, Page)
    second = settle(first.anchor, [(1005, 0), (1006, 0)], False, stream.info())

    assert first.gaps == []
    assert isinstance(second, Page)
    assert [(gap.lost, gap.exact) for _, gap in second.gaps] == [(None, False)]


def test_loss_that_cannot_have_happened_is_a_reset() -> None:
    """A count that says lost where all behind the cursor is retained is wrong."""
    info = StreamInfo(
        added=20, length=5, last=(60, 0), first=(10, 0), max_deleted=(0, 0)
    )
    anchor = Anchor.at(Position((50, 0), 4))

    assert settle(anchor, [(60, 0)], False, info) == Reset()


def test_wrong_ordinal_of_a_client_is_corrected_when_its_entry_is_there() -> None:
    """A client's seq is not believed where the stream proves another one."""
    info = StreamInfo(
        added=20, length=5, last=(60, 0), first=(10, 0), max_deleted=(0, 0)
    )
    anchor = Anchor.at(Position((50, 0), 4))

    page = settle(anchor, [(60, 0)], False, info, cursor_present=True)

    assert page == Page([], [20], Anchor.at(Position((60, 0), 20)))
