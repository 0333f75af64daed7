"""The recorder must catch what it is there for, or every other test is blind."""

from __future__ import annotations

import pytest

from tests.harness.accounts import Account, Frame
from tests.harness.recorder import AccountingError, Recorder, Sum


def event(i: int, seq: int | None = None, *, bare: bool = False) -> Frame:
    seq = i if seq is None else seq
    if bare:
        return {"id": f"{i}-0", "session": "s", "event": "e", "data": {"i": i}}
    return {
        "id": f"{i}-0@{seq}",
        "seq": seq,
        "session": "s",
        "event": "e",
        "data": {"i": i},
    }


def gap(after: str, upto: str, lost: int | None, reason: str = "trimmed") -> Frame:
    data = {"after": after, "next": upto, "lost": lost, "reason": reason}
    return {"event": "gap", "session": "s", "data": data | {"exact": lost is not None}}


def subscribed(start: str, tip: str, resume: str = "live") -> Frame:
    data = {"from": start, "tip": tip, "resume": resume}
    return {"event": "subscribed", "session": "s", "data": data}


RESET: Frame = {
    "event": "reset",
    "session": "s",
    "data": {"from": "0-0@0", "tip": "3-0@3"},
}


def recorder_of(count: int) -> Recorder:
    recorder = Recorder()
    for i in range(1, count + 1):
        recorder.ledger.published("s", (i, 0), i)
    return recorder


def account_from(recorder: Recorder, start: str = "0-0@0") -> Account:
    account = recorder.account("c", "s")
    account.connecting()
    account.frame(subscribed(start, "0-0@0"))
    return account


def feed(account: Account, *frames: Frame) -> None:
    for frame in frames:
        account.frame(frame)


def fails(recorder: Recorder, match: str) -> None:
    with pytest.raises(AccountingError, match=match):
        recorder.settle()


def test_complete_delivery_closes_the_sum() -> None:
    """Everything delivered in order needs no gap."""
    recorder = recorder_of(3)
    feed(account_from(recorder), event(1), event(2), event(3))

    assert recorder.settle() == [Sum("c", "s", 3, 0, 3, 0)]


def test_entries_before_the_start_are_not_asked_for() -> None:
    """A live subscription owes nothing from before its start."""
    recorder = recorder_of(4)
    feed(account_from(recorder, "2-0@2"), event(3), event(4))

    assert recorder.settle() == [Sum("c", "s", 4, 2, 2, 0)]


def test_exact_gap_closes_the_sum() -> None:
    """What a gap announces counts as lost."""
    recorder = recorder_of(5)
    feed(account_from(recorder), event(1), gap("1-0@1", "4-0@4", 2), event(4), event(5))

    assert recorder.settle() == [Sum("c", "s", 5, 0, 3, 2)]


def test_gap_at_the_tail_closes_the_sum() -> None:
    """A gap after the last event counts while the connection lives."""
    recorder = recorder_of(5)
    feed(account_from(recorder), event(1), gap("1-0@1", "5-0@5", 4))

    assert recorder.settle() == [Sum("c", "s", 5, 0, 1, 4)]


def test_deferred_gap_spans_events_without_seq() -> None:
    """While the ordinal is unknown events come bare and one gap settles them."""
    recorder = recorder_of(6)
    feed(
        account_from(recorder),
        event(1, bare=True),
        event(3, bare=True),
        gap("0-0@0", "6-0@6", 2),
        event(4, bare=True),
        event(6),
    )

    assert recorder.settle() == [Sum("c", "s", 6, 0, 4, 2)]


def test_missing_event_at_the_end_is_caught() -> None:
    """An event that never comes leaves the sum open."""
    recorder = recorder_of(3)
    feed(account_from(recorder), event(1), event(2))

    fails(recorder, "missing without a gap")


def test_missing_event_in_the_middle_is_caught() -> None:
    """A hole in seq without a gap is a fault of its own."""
    recorder = recorder_of(3)
    feed(account_from(recorder), event(1), event(3))

    fails(recorder, "leaves a hole of 1 that no gap announced")


def test_missing_bare_event_is_caught() -> None:
    """A hole between events without seq is found by the comparison at the end."""
    recorder = recorder_of(3)
    feed(account_from(recorder), event(1), event(3, bare=True))

    fails(recorder, r"1 missing without a gap, \(2, 0\)")


def test_duplicate_is_caught() -> None:
    """The same event twice is a fault."""
    recorder = recorder_of(2)
    feed(account_from(recorder), event(1), event(1), event(2))

    fails(recorder, "1-0@1 received twice")


def test_duplicate_over_a_reconnect_is_caught() -> None:
    """The same event again on the next connection is a fault as well."""
    recorder = recorder_of(2)
    account = account_from(recorder)
    feed(account, event(1), event(2))
    account.connecting()
    feed(account, subscribed("2-0@2", "2-0@2", "complete"), event(2))

    fails(recorder, "2-0@2 received twice")


def test_reordering_is_caught() -> None:
    """An older event after a newer one is a fault."""
    recorder = recorder_of(3)
    feed(account_from(recorder), event(1), event(3), event(2))

    fails(recorder, "2-0@2 received after")


@pytest.mark.parametrize("told", [1, 3])
def test_gap_with_wrong_count_is_caught(told: int) -> None:
    """A gap must say exactly how many are missing."""
    recorder = recorder_of(4)
    feed(account_from(recorder), event(1), gap("1-0@1", "4-0@4", told), event(4))

    fails(recorder, "although 2 are missing there")


def test_gap_in_the_wrong_place_is_caught() -> None:
    """A right total does not excuse a gap that spans other entries."""
    recorder = recorder_of(6)
    feed(
        account_from(recorder),
        event(1),
        event(3, bare=True),
        gap("3-0@3", "5-0@5", 1),
        event(5, bare=True),
        event(6),
    )

    fails(recorder, "although 1 are missing there|missing without a gap")


def test_seq_that_is_not_the_ordinal_is_caught() -> None:
    """A seq must be the true ordinal even where its neighbours agree with it."""
    recorder = recorder_of(3)
    feed(account_from(recorder, "1-0"), event(2, 3), event(3, 4))

    fails(recorder, r"\(2, 0\) is 2 and not 3")


def test_wrong_ordinal_of_a_told_position_is_caught() -> None:
    """Positions in notices are held to the same truth as events."""
    recorder = recorder_of(2)
    feed(account_from(recorder, "1-0@2"), event(2, bare=True))

    fails(recorder, "position 1-0@2 was told, its ordinal is 1")


def test_event_without_id_is_caught() -> None:
    """Every published event carries its position."""
    recorder = recorder_of(1)
    feed(account_from(recorder), {"event": "token", "session": "s", "data": {"i": 1}})

    fails(recorder, "an event without id")


def test_id_that_disagrees_with_seq_is_caught() -> None:
    """The ordinal in the id and the one beside it are one number."""
    recorder = recorder_of(1)
    feed(account_from(recorder), event(1) | {"seq": 2})

    fails(recorder, "disagrees with seq 2")


def test_unpublished_event_is_caught() -> None:
    """Nothing is delivered that was not published."""
    recorder = recorder_of(1)
    feed(account_from(recorder), event(1), event(2))

    fails(recorder, "never published here")


def test_foreign_content_is_caught() -> None:
    """An id must come with the content that was published under it."""
    recorder = recorder_of(2)
    feed(account_from(recorder), event(1), event(2) | {"data": {"i": 7}})

    fails(recorder, "has the content of 7, not of 2")


def test_gap_after_the_last_event_is_superseded_by_a_reconnect() -> None:
    """A gap of a connection that ended is told again and counted once."""
    recorder = recorder_of(4)
    account = account_from(recorder)
    feed(account, event(1), gap("1-0@1", "3-0@3", 1))
    account.connecting()
    feed(account, subscribed("1-0@1", "4-0@4", "gap"))
    feed(account, gap("1-0@1", "4-0@4", 2), event(4))

    assert recorder.settle() == [Sum("c", "s", 4, 0, 2, 2)]


def test_resume_from_another_place_is_caught() -> None:
    """A resumed subscription starts where the client stood."""
    recorder = recorder_of(2)
    account = account_from(recorder)
    feed(account, event(1))
    account.connecting()
    feed(account, subscribed("2-0@2", "2-0@2", "complete"))

    fails(recorder, "resumed from 2-0@2 instead of")


def test_reset_starts_a_new_account() -> None:
    """After a reset only the new history is owed, all of it."""
    recorder = recorder_of(5)
    account = account_from(recorder)
    feed(account, event(1), event(2))
    recorder.ledger.deleted("s")
    for i in (11, 12):
        recorder.ledger.published("s", (i, 0), i)
    feed(account, RESET, event(11, 1), event(12, 2))

    assert recorder.settle() == [Sum("c", "s", 2, 0, 2, 0)]


def test_missing_event_after_a_reset_is_caught() -> None:
    """A reset excuses nothing of the new history."""
    recorder = recorder_of(2)
    account = account_from(recorder)
    feed(account, event(1), event(2))
    recorder.ledger.deleted("s")
    for i in (11, 12):
        recorder.ledger.published("s", (i, 0), i)
    feed(account, RESET, event(12, 2))

    fails(recorder, "missing without a gap")


def test_hole_before_a_reset_is_caught() -> None:
    """A reset does not excuse a hole between events that were delivered before it."""
    recorder = recorder_of(3)
    account = account_from(recorder)
    feed(account, event(1), event(3))
    recorder.ledger.deleted("s")
    feed(account, RESET)

    fails(recorder, "leaves a hole of 1")


def test_silent_change_of_history_is_caught() -> None:
    """Events of a new history without a reset are a fault."""
    recorder = recorder_of(2)
    account = account_from(recorder)
    feed(account, event(1), event(2))
    recorder.ledger.deleted("s")
    recorder.ledger.published("s", (11, 0), 11)
    feed(account, event(11, 1))

    fails(recorder, "fewer were lost|never published here")


def test_rewind_keeps_the_older_entries() -> None:
    """After lost writes the kept entries come again, under a reset."""
    recorder = recorder_of(4)
    account = account_from(recorder)
    feed(account, event(1), event(2), event(3), event(4))
    recorder.ledger.rewound("s", (2, 0))
    recorder.ledger.published("s", (9, 0), 9)
    feed(account, RESET, event(1), event(2), event(9, 3))

    assert recorder.settle() == [Sum("c", "s", 3, 0, 3, 0)]


def test_unknown_loss_needs_its_range_only() -> None:
    """A gap without a number still has to span what is missing."""
    recorder = recorder_of(5)
    account = account_from(recorder, "1-0")
    feed(account, gap("1-0", "4-0@4", None), event(4), event(5))

    assert recorder.settle() == [Sum("c", "s", 5, 1, 2, 2)]


def test_client_that_left_is_owed_nothing_more() -> None:
    """A client that does not come back is settled up to its last event."""
    recorder = recorder_of(5)
    account = account_from(recorder)
    feed(account, event(1), event(2))
    account.leave()

    assert recorder.settle() == [Sum("c", "s", 2, 0, 2, 0)]


async def test_complete_names_who_is_late() -> None:
    """Waiting for an event that does not come ends with the account that lacks it."""
    recorder = recorder_of(2)
    feed(account_from(recorder), event(1))

    with pytest.raises(AccountingError, match=r"c/s at \(1, 0\) of \(2, 0\)"):
        await recorder.complete(timeout_s=0.05)


async def test_complete_waits_for_the_reset_of_a_deleted_stream() -> None:
    """A client that stands in a deleted history is not complete."""
    recorder = recorder_of(1)
    account = account_from(recorder)
    feed(account, event(1))
    recorder.ledger.deleted("s")

    assert not recorder.is_complete(account)
    feed(account, RESET)
    assert recorder.is_complete(account)
