"""How sessions are opened and how they end, on real servers."""

from __future__ import annotations

import asyncio
import random

import pytest

from broker.store.connection import Connection
from broker.store.scripts import load_scripts
from broker.store.session_outcomes import Lease, Terms, Victim
from broker.store.sessions import (
    SCRIPTS,
    due_users,
)
from tests.integration.store.book import (
    BY_ACTIVITY,
    DAY_MS,
    HOUR_MS,
    PARTS,
    TERMS,
    Book,
    told,
    victims,
)
from tests.integration.store.conftest import Open


@pytest.fixture
async def connection(open_connection: Open) -> Connection:
    opened = await open_connection()
    await load_scripts(opened, *SCRIPTS)
    return opened


@pytest.fixture
def book(connection: Connection) -> Book:
    """Sessions of a user who has none; leases last for an hour."""
    return Book(connection)


# Opening.


async def test_first_opening_is_new_and_counts(book: Book) -> None:
    """It has a lease, a fence of Redis' clock, and is told to services."""
    before = await book.now()
    held = await book.open("s1")
    (standing,) = held.standings
    assert (standing.verdict, standing.new) == ("open", True)
    assert before <= standing.fence <= await book.now()
    assert told(held) == [("opened", "s1")]
    assert held.due_ms == await book.score("leases", "s1")
    record = (await book.records())["s1"]
    assert (record.state, record.fence) == ("open", standing.fence)
    assert HOUR_MS - 10_000 < record.lease_left_ms <= HOUR_MS


async def test_opening_again_keeps_the_fence(book: Book) -> None:
    """A second connection reads the same session; there is nothing to tell."""
    first = await book.open("s1")
    again = await book.open("s1")
    assert again.standings[0].fence == first.standings[0].fence
    assert not again.standings[0].new
    assert told(again) == []


async def test_one_too_many_evicts_the_oldest(book: Book) -> None:
    """In the same step, with a tombstone that names its successor."""
    fences = await book.open_all("s1", "s2", "s3")
    held = await book.open("s4")
    assert held.victims == [Victim("s1", fences["s1"], "s4")]
    assert told(held) == [("opened", "s4"), ("evicted", "s1")]
    assert await book.states() == {
        "s2": "open",
        "s3": "open",
        "s4": "open",
        "s1": "evicted",
    }
    ended = (await book.records())["s1"]
    assert (ended.replaced_by, ended.fence) == ("s4", fences["s1"])


async def test_a_smaller_limit_evicts_several(book: Book) -> None:
    """A token may allow less than the one before."""
    await book.open_all("s1", "s2", "s3")
    assert victims(await book.open("s4", limit=1)) == ["s1", "s2", "s3"]


async def test_who_comes_to_an_open_session_evicts_nobody(book: Book) -> None:
    """A smaller limit holds for what is opened, not for what is there."""
    fences = await book.open_all("s1", "s2", "s3")
    assert victims(await book.open("s1", limit=1)) == []
    held = await book.renew(Lease("s2", fences["s2"], HOUR_MS), limit=1)
    assert victims(held) == []


async def test_without_a_limit_nobody_goes(book: Book) -> None:
    """Zero is no limit."""
    names = [f"s{number}" for number in range(20)]
    await book.open_all(*names, limit=0)
    assert await book.states() == dict.fromkeys(names, "open")


async def test_the_session_just_opened_is_never_the_victim(
    open_connection: Open,
) -> None:
    """400 times four at once, on a connection each; no two have the same fence."""
    connections = [await open_connection() for _ in range(4)]
    await load_scripts(connections[0], *SCRIPTS)
    wrong, fences_shared, open_left = await four_at_once(connections, rounds=400)
    assert (wrong, fences_shared, open_left) == (0, 0, {3})


async def four_at_once(
    connections: list[Connection], rounds: int
) -> tuple[int, int, set[int]]:
    wrong = shared = 0
    left = set()
    for number in range(rounds):
        books = [Book(one, f"u{number}") for one in connections]
        # Names whose order is not that of their opening.
        names = random.sample(["a", "b", "c", "d"], 4)
        held = await asyncio.gather(
            *(book.open(name) for book, name in zip(books, names, strict=True))
        )
        wrong += sum(
            name in victims(one) for name, one in zip(names, held, strict=True)
        )
        shared += 4 - len({one.standings[0].fence for one in held})
        left.add(list((await books[0].states()).values()).count("open"))
    return wrong, shared, left


@pytest.mark.parametrize("terms", [TERMS, BY_ACTIVITY])
async def test_a_clock_that_went_back_does_not_evict_the_newest(
    book: Book, terms: Terms
) -> None:
    """After a failover the others have begun, and acted, in the future."""
    book.terms = terms
    await book.open_all("s1", "s2", "s3")
    future = await book.now() + 60_000
    for part in ("sessions", "active"):
        await book.put(part, s1=future, s2=future + 1, s3=future + 2)
    held = await book.open("s0")
    assert victims(held) == ["s1"]
    assert held.standings[0].fence == future + 3


async def test_eviction_by_activity(book: Book) -> None:
    """The one where nothing was done for longest goes, though it began last."""
    book.terms = BY_ACTIVITY
    fences = await book.open_all("s1", "s2", "s3")
    now = await book.now()
    await book.put("active", s1=now - 5, s2=now - 4, s3=now - 6)
    await book.renew(Lease("s3", fences["s3"], HOUR_MS, quiet_ms=60_000))
    assert victims(await book.open("s4")) == ["s3"]


async def test_activity_never_moves_back(book: Book) -> None:
    """Of two pods one saw nothing."""
    fences = await book.open_all("s1")
    at = await book.score("active", "s1")
    await book.renew(Lease("s1", fences["s1"], HOUR_MS, quiet_ms=60_000))
    assert await book.score("active", "s1") == at


async def test_an_opening_that_is_not_finished_is_found_by_the_janitor(
    connection: Connection, book: Book
) -> None:
    """A worker that dies right behind its script has put the user into the index."""
    await book.open("s1")
    assert (await due_users(connection, 10)).users == ["ann"]


# Idle.


async def test_idle_sessions_do_not_count(book: Book) -> None:
    """Whose lease has run out is nobody's reason to evict another."""
    await book.open_all("s1", "s2", "s3")
    await book.run_out("s1")
    held = await book.open("s4")
    assert told(held) == [("opened", "s4"), ("idle", "s1")]
    assert held.victims == []
    assert victims(await book.open("s5")) == ["s2"]
    assert (await book.states())["s1"] == "idle"


async def test_an_idle_session_counts_again_when_it_is_opened(book: Book) -> None:
    """It keeps its fence, and it is not the victim though it is the oldest."""
    fences = await book.open_all("s1", "s2", "s3")
    await book.run_out("s1")
    await book.open("s4")
    held = await book.open("s1")
    assert held.standings[0].fence == fences["s1"]
    assert told(held) == [("resumed", "s1"), ("evicted", "s2")]


async def test_an_idle_session_counts_again_when_it_is_renewed(book: Book) -> None:
    """Redis was away for longer than a lease: the limit holds again."""
    fences = await book.open_all("s1", "s2", "s3")
    await book.run_out("s1")
    await book.open("s4")
    held = await book.renew(Lease("s1", fences["s1"], HOUR_MS))
    assert told(held) == [("resumed", "s1"), ("evicted", "s1")]
    assert held.victims == [Victim("s1", fences["s1"], "s4")]
    assert held.standings[0].verdict == "evicted"


async def test_a_late_renewal_that_nobody_noticed_is_none(book: Book) -> None:
    """A lease that ran out and is renewed before anybody looked tells nothing."""
    fences = await book.open_all("s1")
    await book.run_out("s1")
    assert told(await book.renew(Lease("s1", fences["s1"], HOUR_MS))) == []
    assert await book.states() == {"s1": "open"}


async def test_a_sweep_makes_idle_and_later_closes(book: Book) -> None:
    """Without a tombstone: whoever comes back finds nothing and opens anew."""
    await book.open_all("s1", "s2")
    await book.run_out("s1")
    swept = await book.sweep()
    since = await book.score("idle", "s1")
    assert since is not None
    assert told(swept) == [("idle", "s1")]
    assert swept.due_ms == await book.score("leases", "s2")

    await book.put("idle", s1=since - HOUR_MS)
    swept = await book.sweep()
    assert told(swept) == [("closed", "s1")]
    assert swept.news[0].reason == "idle"
    assert await book.states() == {"s2": "open"}
    assert await book.score("active", "s1") is None
    assert (await book.open("s1")).standings[0].new


async def test_who_came_back_is_not_closed(book: Book) -> None:
    """The idle time of before does not count any more."""
    await book.open_all("s1")
    await book.run_out("s1")
    await book.sweep()
    await book.put("idle", s1=1)
    await book.open("s1")
    assert told(await book.sweep()) == []
    assert await book.states() == {"s1": "open"}


async def test_idle_time_begins_when_it_is_noticed(book: Book) -> None:
    """After an outage who comes back has the whole time to do so."""
    await book.open_all("s1")
    before = await book.now()
    await book.put("leases", s1=before - 10 * HOUR_MS)
    assert told(await book.sweep()) == [("idle", "s1")]
    assert (await book.score("idle", "s1") or 0) >= before


async def test_a_sweep_says_when_to_come_again(book: Book) -> None:
    """When the next lease or the next idle time is over, or never."""
    assert (await book.sweep()).due_ms == 0
    await book.open_all("s1", "s2")
    now = await book.now()
    await book.put("leases", s2=now + 10_000)
    assert (await book.sweep()).due_ms == now + 10_000
    await book.run_out("s1")
    await book.sweep()
    await book.put("idle", s1=now + 5000 - HOUR_MS)
    assert (await book.sweep()).due_ms == now + 5000


# Tombstones.


async def test_a_tombstone_is_terminal(book: Book) -> None:
    """Who was evicted does not come back by itself, and does not evict anybody."""
    fences = await book.open_all("s1", "s2", limit=1)
    held = await book.open("s1", limit=1)
    (standing,) = held.standings
    assert (standing.verdict, standing.replaced_by) == ("evicted", "s2")
    assert (standing.fence, standing.new) == (fences["s1"], False)
    assert (held.victims, told(held)) == ([], [])
    assert await book.states() == {"s2": "open", "s1": "evicted"}


async def test_a_takeover_clears_the_tombstone(book: Book) -> None:
    """A deliberate act opens it anew, with a higher fence, and may evict another."""
    fences = await book.open_all("s1", "s2", limit=1)
    held = await book.open("s1", limit=1, deliberate=True)
    (standing,) = held.standings
    assert (standing.verdict, standing.new) == ("open", True)
    assert standing.fence > fences["s2"]
    assert told(held) == [("opened", "s1"), ("evicted", "s2")]
    assert await book.states() == {"s1": "open", "s2": "evicted"}


async def test_a_takeover_has_a_higher_fence_on_any_clock(book: Book) -> None:
    """Else the notice of the former end would close the new session."""
    await book.open_all("s1")
    future = await book.now() + 60_000
    await book.put("sessions", s1=future)
    await book.close("s1")
    held = await book.open("s1", deliberate=True, known_fence=future)
    assert held.standings[0].fence == future + 1


async def test_a_session_that_was_closed_stays_closed(book: Book) -> None:
    """Until somebody opens it on purpose."""
    fences = await book.open_all("s1")
    closed = await book.close("s1")
    assert (closed.fence, told(closed)) == (fences["s1"], [("closed", "s1")])
    assert (closed.news[0].reason, closed.due_ms) == ("requested", 0)
    assert (await book.open("s1")).standings[0].verdict == "closed"
    assert (await book.renew_one("s1", fences["s1"])).verdict == "closed"
    assert (await book.open("s1", deliberate=True)).standings[0].verdict == "open"


async def test_what_is_not_open_cannot_be_closed(book: Book) -> None:
    """It gets no tombstone, and one that was evicted stays evicted."""
    await book.open_all("s1", "s2", limit=1)
    assert (await book.close("s1")).fence == 0
    assert (await book.close("never")).fence == 0
    assert await book.states() == {"s2": "open", "s1": "evicted"}


async def test_an_idle_session_can_be_closed(book: Book) -> None:
    """It is open for its user as long as it was not closed."""
    fences = await book.open_all("s1")
    await book.run_out("s1")
    await book.sweep()
    assert (await book.close("s1")).fence == fences["s1"]
    assert await book.states() == {"s1": "closed"}


async def test_tombstones_crumble_after_a_day(book: Book) -> None:
    """An old one is none, and a sweep takes it away."""
    await book.open_all("s1", "s2", "s3", limit=1)
    await book.put("evicted", s1=await book.now() - DAY_MS)
    assert await book.states() == {"s3": "open", "s2": "evicted"}
    await book.sweep()
    assert await book.connection.call("HKEYS", book.key("tombs")) == [b"s2"]
    await book.put("evicted", s2=await book.now() - DAY_MS)
    assert (await book.open("s2")).standings[0].new


async def test_tombstones_are_bounded(book: Book) -> None:
    """Who opens sessions without end keeps the youngest thousand."""
    await book.open_all(*(f"s{number}" for number in range(1010)), limit=1)
    assert await book.connection.call("ZCARD", book.key("evicted")) == 1000
    assert await book.connection.call("HLEN", book.key("tombs")) == 1000
    assert (await book.open("s0", limit=1)).standings[0].new
    assert (await book.open("s1008", limit=1)).standings[0].verdict == "evicted"


async def test_nothing_is_left_of_a_user_who_has_gone(book: Book) -> None:
    """Keys that nobody deletes expire, news that nobody announces among them."""
    book.announces = False
    await book.open_all("s1", "s2", limit=1)
    await book.close("s2")
    lives = [await book.connection.call("PTTL", book.key(part)) for part in PARTS]
    assert all(life == -2 or DAY_MS - 10_000 < life <= DAY_MS for life in lives)
