"""What one worker does about its sessions, whatever Redis answers."""

from __future__ import annotations

import pytest
from structlog.testing import capture_logs

from broker.control.notices import SessionEnded
from broker.control.sessions import SLICE_SESSIONS, Admission
from broker.errors import StoreRefused, StoreUnavailable
from broker.store.session_outcomes import Victim
from tests.unit.control.session_parts import LEASE_S, LINGER_S, Rig, held, standing

LEASE_MS = int(LEASE_S * 1000)
LINGER_MS = int(LINGER_S * 1000)
NOSCRIPT = StoreRefused("NOSCRIPT No matching script.")
OOM = StoreRefused("OOM command not allowed")


@pytest.fixture
def rig(monkeypatch: pytest.MonkeyPatch) -> Rig:
    return Rig(monkeypatch)


def evicted(session: str, fence: int) -> SessionEnded:
    return SessionEnded("ann", session, fence, "evicted", "s9")


# Admission.


async def test_admission_is_what_redis_decides(rig: Rig) -> None:
    """The limit and the deliberate act go there, the verdict comes back."""
    rig.store.answers = [
        held("ann", standing("s1", 5, new=True)),
        held("ann", standing("s2", 4, "evicted", "s7")),
    ]
    assert await rig.keeper.admit("ann", "s1", limit=3) == Admission(
        "open", 5, "", True
    )
    again = await rig.keeper.admit("ann", "s2", limit=2, deliberate=True)
    assert again == Admission("evicted", 4, "s7", False)
    assert [(one["limit"], one["deliberate"]) for one in rig.store.opened] == [
        (3, False),
        (2, True),
    ]
    assert rig.store.announced == ["ann", "ann"]


async def test_nobody_has_no_sessions(rig: Rig) -> None:
    """Without a user there is nobody to count for."""
    assert await rig.keeper.admit("", "s1", limit=1) == Admission("open", 0)
    rig.keeper.entered("", "s1")
    rig.keeper.active("", "s1")
    rig.keeper.left("", "s1")
    assert await rig.keeper.renew_all() == 0
    assert rig.store.opened == []


async def test_a_second_connection_tells_what_the_worker_knows(rig: Rig) -> None:
    """If Redis has lost the session, it does not become younger by that."""
    await rig.come("s1", fence=5)
    await rig.come("s1", fence=5)
    assert [one["known_fence"] for one in rig.store.opened] == [0, 5]


async def test_what_has_ended_is_not_known_any_more(rig: Rig) -> None:
    """Else a takeover would go on under the old fence."""
    await rig.come("s1", fence=5)
    rig.keeper.handle_ended(evicted("s1", 5))
    await rig.come("s1", fence=9)
    assert rig.store.opened[1]["known_fence"] == 0
    assert await rig.keeper.flush() == 0


async def test_victims_end_here_and_everywhere(rig: Rig) -> None:
    """All workers are told; our own echo does nothing more."""
    await rig.come("s1", fence=5)
    victims = [Victim("s1", 5, "s4"), Victim("elsewhere", 6, "s4")]
    rig.store.answers = [held("ann", standing("s4", 9), victims=victims)]
    await rig.keeper.admit("ann", "s4", limit=2)
    for notice in list(rig.told):
        rig.keeper.handle_ended(notice)
    assert rig.ended == [("s1", 5, "evicted")]
    assert rig.told == [
        SessionEnded("ann", "s1", 5, "evicted", "s4"),
        SessionEnded("ann", "elsewhere", 6, "evicted", "s4"),
    ]


async def test_a_refused_connection_ends_the_others_as_well(rig: Rig) -> None:
    """The notice was lost, and Redis says it now."""
    await rig.come("s1", fence=5)
    rig.store.answers = [held("ann", standing("s1", 5, "evicted", "s9"))]
    await rig.keeper.admit("ann", "s1", limit=3)
    assert rig.ended == [("s1", 5, "evicted")]


async def test_admission_does_not_depend_on_its_announcement(rig: Rig) -> None:
    """The outbox keeps what could not be announced."""
    rig.store.refuses_announcements = OOM
    rig.store.answers = [held("ann", standing("s1", 5))]
    assert (await rig.keeper.admit("ann", "s1", limit=3)).verdict == "open"
    assert (await rig.keeper.close("ann", "s1")).fence == 5


async def test_admission_without_redis_fails(rig: Rig) -> None:
    """Nobody is let in on a guess, and nothing is kept of it."""
    rig.store.answers = [OOM, StoreUnavailable("lost")]
    with pytest.raises(StoreRefused):
        await rig.keeper.admit("ann", "s1", limit=3)
    with pytest.raises(StoreUnavailable):
        await rig.keeper.admit("ann", "s1", limit=3)
    rig.standing.up = False
    with pytest.raises(StoreUnavailable):
        await rig.keeper.admit("ann", "s1", limit=3)
    assert await rig.keeper.renew_all() == 0


async def test_forgotten_scripts_are_loaded_again(rig: Rig) -> None:
    """By a new connection; until then it is as if Redis was away."""
    rig.store.answers = [NOSCRIPT]
    with pytest.raises(StoreUnavailable):
        await rig.keeper.admit("ann", "s1", limit=3)
    assert rig.standing.dropped == 1
    await rig.come("s1")
    rig.store.failures = [{"ann": NOSCRIPT}]
    with pytest.raises(StoreUnavailable):
        await rig.keeper.renew_all()
    assert rig.standing.dropped == 2


async def test_a_session_that_is_closed_ends_everywhere(rig: Rig) -> None:
    """Here at once, elsewhere by the notice."""
    await rig.come("s1", fence=5)
    await rig.keeper.close("ann", "s1")
    assert rig.ended == [("s1", 5, "closed")]
    assert rig.told == [SessionEnded("ann", "s1", 5, "closed")]


# Renewal.


async def test_sessions_with_connections_are_renewed(rig: Rig) -> None:
    """With their fence, the user's limit, and how long nothing was done there."""
    await rig.come("s1", fence=5)
    await rig.come("s2", fence=6)
    await rig.come("s1", fence=7, user="bob")
    rig.clock.advance(2)
    rig.keeper.active("ann", "s2")
    rig.clock.advance(1)
    assert await rig.keeper.renew_all() == 3
    ((ann, bob),) = rig.store.renewed
    assert [(one.session, one.fence, one.quiet_ms) for one in ann.leases] == [
        ("s1", 5, 3000),
        ("s2", 6, 1000),
    ]
    assert [one.lease_ms for one in ann.leases] == [LEASE_MS, LEASE_MS]
    assert (ann.limit, bob.user, bob.leases[0].fence) == (2, "bob", 7)


async def test_who_stays_is_renewed_for_ever(rig: Rig) -> None:
    """However long ago the session was opened."""
    await rig.come("s1")
    rig.clock.advance(10 * LINGER_S)
    assert await rig.keeper.renew_all() == await rig.keeper.renew_all() == 1


async def test_the_last_one_to_leave_asks_for_the_linger(rig: Rig) -> None:
    """Less what has passed since; then the session is forgotten."""
    await rig.come("s1")
    await rig.come("s1")
    rig.keeper.left("ann", "s1")
    assert await rig.keeper.flush() == 0
    rig.clock.advance(7)
    rig.keeper.left("ann", "s1")
    rig.clock.advance(1.5)
    assert await rig.keeper.flush() == 1
    assert rig.store.leases() == [{"s1": LINGER_MS - 1500}]
    assert await rig.keeper.flush() == await rig.keeper.renew_all() == 0


async def test_who_comes_back_before_that_is_renewed_as_ever(rig: Rig) -> None:
    """The session did not linger."""
    await rig.come("s1")
    rig.keeper.left("ann", "s1")
    rig.keeper.entered("ann", "s1")
    await rig.keeper.flush()
    assert await rig.keeper.renew_all() == 1
    assert rig.store.leases() == [{"s1": LEASE_MS}, {"s1": LEASE_MS}]


async def test_an_outage_keeps_what_is_owed(rig: Rig) -> None:
    """The last lease is sent when Redis is back, as far as it still lasts."""
    await rig.come("s1")
    await rig.come("s2")
    rig.keeper.left("ann", "s1")
    rig.standing.up = False
    with pytest.raises(StoreUnavailable):
        await rig.keeper.flush()
    rig.standing.up = True
    rig.clock.advance(20)
    await rig.keeper.renew_all()
    assert rig.store.leases() == [{"s1": LINGER_MS - 20_000, "s2": LEASE_MS}]


async def test_a_long_outage_owes_nothing_to_those_who_left(rig: Rig) -> None:
    """They have lingered for as long as they should."""
    await rig.come("s1")
    rig.keeper.left("ann", "s1")
    rig.clock.advance(LINGER_S)
    assert await rig.keeper.flush() == 0
    rig.clock.advance(1)
    await rig.keeper.renew_all()
    await rig.come("s1")
    assert rig.store.opened[-1]["known_fence"] == 0


async def test_who_was_admitted_and_never_came_is_forgotten(rig: Rig) -> None:
    """Not at once: a handshake takes its time. Meanwhile nothing is renewed."""
    rig.store.answers = [held("ann", standing("s1", 5))] * 3
    for wait_s in (LEASE_S, LINGER_S, 0):
        await rig.keeper.admit("ann", "s1", limit=3)
        rig.clock.advance(wait_s + 0.1)
        assert await rig.keeper.renew_all() == 0
    assert [one["known_fence"] for one in rig.store.opened] == [0, 5, 0]


async def test_leaving_without_having_come_is_nothing(rig: Rig) -> None:
    """A connection that ends before it was let in may say so."""
    rig.keeper.left("ann", "s1")
    rig.store.answers = [held("ann", standing("s1", 5))]
    await rig.keeper.admit("ann", "s1", limit=3)
    rig.keeper.left("ann", "s1")
    rig.keeper.entered("ann", "s1")
    assert await rig.keeper.renew_all() == 1


async def test_renewals_are_cut_into_slices(rig: Rig) -> None:
    """A write is bounded, however many sessions one user has."""
    for number in range(SLICE_SESSIONS + 1):
        await rig.come(f"s{number}", user="ann" if number % 2 else "bob")
    await rig.keeper.renew_all()
    assert [len(one) for one in rig.store.leases()] == [SLICE_SESSIONS, 1]


async def test_one_who_is_refused_does_not_stop_the_others(rig: Rig) -> None:
    """It is logged, and the next round tries again."""
    await rig.come("s1", user="bad")
    await rig.come("s2", user="ann")
    rig.store.failures = [{"bad": StoreRefused("WRONGTYPE no")}]
    rig.store.verdicts["s2"] = standing("s2", 9, "closed")
    with capture_logs() as logs:
        await rig.keeper.renew_all()
    assert [one["event"] for one in logs] == ["sessions_refused"]
    assert rig.ended == [("s2", 9, "closed")]
    assert await rig.keeper.renew_all() == 1


async def test_renewals_are_counted_by_what_came_of_them(rig: Rig) -> None:
    """Renewed, ended elsewhere, refused for one user, or not sent at all."""
    for session, user in (("s1", "ann"), ("s2", "ann"), ("s3", "bad")):
        await rig.come(session, user=user)
    rig.store.failures = [{"bad": StoreRefused("WRONGTYPE no")}]
    rig.store.verdicts["s2"] = standing("s2", 9, "closed")
    with capture_logs():
        await rig.keeper.renew_all()
    assert rig.keeper.renewals == {"renewed": 1, "lost": 1, "failed": 1}
    rig.store.failures = [StoreUnavailable("away")]
    with pytest.raises(StoreUnavailable):
        await rig.keeper.renew_all()
    assert rig.keeper.renewals == {"renewed": 1, "lost": 1, "failed": 3}


async def test_announcements_that_are_refused_are_logged(rig: Rig) -> None:
    """What was learned counts nevertheless."""
    await rig.come("s1")
    rig.store.refuses_announcements = OOM
    rig.store.verdicts["s1"] = standing("s1", 5, "evicted", "s9")
    with capture_logs() as logs:
        await rig.keeper.renew_all()
    assert [one["event"] for one in logs] == ["sessions_refused"]
    assert rig.ended == [("s1", 5, "evicted")]


# Ends.


async def test_a_renewal_finds_what_no_notice_told(rig: Rig) -> None:
    """A lost message cannot leave one too many alive."""
    await rig.come("s1", fence=5)
    rig.store.verdicts["s1"] = standing("s1", 5, "evicted", "s9")
    await rig.keeper.renew_all()
    assert rig.ended == [("s1", 5, "evicted")]
    assert await rig.keeper.renew_all() == 0


async def test_a_renewal_may_find_victims(rig: Rig) -> None:
    """After a loss the limit holds again: all workers are told."""
    await rig.come("s1", fence=5)
    ended = standing("s1", 5, "evicted", "s9")
    rig.store.answers = [held("ann", ended, victims=[Victim("s1", 5, "s9")])]
    await rig.keeper.admit("ann", "s1", limit=1)
    assert rig.told == [evicted("s1", 5)]
    assert rig.ended == [("s1", 5, "evicted")]


async def test_a_notice_of_an_earlier_opening_is_ignored(rig: Rig) -> None:
    """The user has taken the session over since."""
    await rig.come("s1", fence=5)
    rig.keeper.handle_ended(evicted("s1", 4))
    assert rig.ended == []
    rig.keeper.handle_ended(evicted("s1", 6))
    assert rig.ended == [("s1", 6, "evicted")]


async def test_a_newer_fence_is_learned(rig: Rig) -> None:
    """It was evicted and opened again elsewhere; late news of that do no harm."""
    await rig.come("s1", fence=5)
    rig.store.verdicts["s1"] = standing("s1", 9)
    await rig.keeper.renew_all()
    rig.keeper.handle_ended(evicted("s1", 5))
    assert rig.ended == []


async def test_a_notice_for_a_session_of_unknown_fence_asks_redis(rig: Rig) -> None:
    """It may be of an earlier opening."""
    rig.keeper.entered("ann", "s1")
    rig.store.failures = [StoreUnavailable("lost")]
    with pytest.raises(StoreUnavailable):
        await rig.keeper.flush()
    rig.keeper.handle_ended(evicted("s1", 5))
    assert rig.ended == []
    assert await rig.keeper.flush() == 1
    assert rig.store.leases() == [{"s1": LEASE_MS}] * 2


async def test_a_notice_for_others_is_ignored(rig: Rig) -> None:
    """Nobody here reads that session."""
    await rig.come("s1", fence=5)
    rig.keeper.handle_ended(evicted("s2", 5))
    rig.keeper.handle_ended(SessionEnded("bob", "s1", 5, "closed"))
    assert rig.ended == []


async def test_who_comes_in_behind_the_end_is_sent_away(rig: Rig) -> None:
    """The session was evicted between admission and arrival: Redis is asked at once."""
    rig.store.answers = [held("ann", standing("s1", 5))]
    await rig.keeper.admit("ann", "s1", limit=3)
    rig.keeper.handle_ended(evicted("s1", 5))
    rig.keeper.entered("ann", "s1")
    rig.ended.clear()
    rig.store.verdicts["s1"] = standing("s1", 5, "evicted", "s9")
    assert await rig.keeper.flush() == 1
    assert rig.ended == [("s1", 5, "evicted")]


async def test_connections_on_their_way_out_do_not_end_a_takeover(rig: Rig) -> None:
    """The old one leaves after the new one came: there is still one."""
    await rig.come("s1", fence=5)
    rig.keeper.handle_ended(evicted("s1", 5))
    await rig.come("s1", fence=9)
    rig.keeper.left("ann", "s1")
    assert await rig.keeper.renew_all() == 1
    assert rig.store.leases() == [{"s1": LEASE_MS}]


async def test_what_has_ended_is_neither_renewed_nor_lingers(rig: Rig) -> None:
    """Its connections are on their way out."""
    await rig.come("s1", fence=5)
    rig.keeper.handle_ended(evicted("s1", 5))
    assert await rig.keeper.renew_all() == 0
    rig.keeper.left("ann", "s1")
    assert await rig.keeper.flush() == 0
    rig.keeper.handle_ended(evicted("s1", 5))
    assert len(rig.ended) == 1
