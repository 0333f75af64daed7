"""How sessions are kept, and what happens when Redis loses them."""

from __future__ import annotations

import random
from collections import defaultdict

import pytest

from broker.errors import StoreError, StoreRefused
from broker.store.connection import Connection
from broker.store.scripts import load_scripts
from broker.store.session_outcomes import Held, Lease, Outcome, Renewal, Victim
from broker.store.sessions import (
    SCRIPTS,
    list_sessions,
    renew_sessions,
    sweep_sessions,
)
from tests.integration.store.book import (
    HOUR_MS,
    PARTS,
    TERMS,
    Book,
    told,
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


# Renewing.


async def test_renewing_extends_a_lease_and_never_shortens_it(book: Book) -> None:
    """The longest word of any pod holds."""
    fences = await book.open_all("s1")
    await book.renew_one("s1", fences["s1"], 2 * HOUR_MS)
    until = await book.score("leases", "s1")
    assert until is not None
    assert until > await book.now() + HOUR_MS
    standing = await book.renew_one("s1", fences["s1"], 1000)
    assert standing.verdict == "open"
    assert await book.score("leases", "s1") == until


async def test_one_pod_leaves_and_the_other_keeps_the_lease(
    open_connection: Open, connection: Connection
) -> None:
    """A drain takes nothing away from connections elsewhere."""
    here, there = Book(connection), Book(await open_connection())
    fences = await here.open_all("s1")
    await there.open("s1")
    await here.renew_one("s1", fences["s1"], 1)
    assert await there.states() == {"s1": "open"}
    assert (await there.renew_one("s1", fences["s1"])).verdict == "open"


async def test_renewing_finds_a_tombstone(book: Book) -> None:
    """A lost message cannot leave one too many alive."""
    fences = await book.open_all("s1", "s2", limit=1)
    standing = await book.renew_one("s1", fences["s1"])
    assert (standing.verdict, standing.replaced_by) == ("evicted", "s2")
    assert (await book.renew_one("s1", 0)).verdict == "evicted"


async def test_a_tombstone_of_an_earlier_opening_is_none(book: Book) -> None:
    """A failover brought it back after a takeover had cleared it."""
    fences = await book.open_all("s1", "s2", limit=1)
    standing = await book.renew_one("s1", fences["s1"] + 1000)
    assert (standing.verdict, standing.fence) == ("open", fences["s1"] + 1000)
    assert (await book.records())["s1"].state != "evicted"


async def test_a_newer_opening_is_taken_over(book: Book) -> None:
    """It was evicted and opened again elsewhere, and we missed both."""
    fences = await book.open_all("s1")
    standing = await book.renew_one("s1", fences["s1"] - 1000)
    assert (standing.verdict, standing.fence) == ("open", fences["s1"])


async def test_an_older_opening_gives_way(book: Book) -> None:
    """A failover has lost that it was opened again."""
    fences = await book.open_all("s1")
    standing = await book.renew_one("s1", fences["s1"] + 1000)
    assert standing.fence == fences["s1"] + 1000
    assert await book.score("sessions", "s1") == fences["s1"] + 1000


async def test_renewing_without_a_fence_learns_it(book: Book) -> None:
    """And opens what is not there."""
    fences = await book.open_all("s1")
    assert (await book.renew_one("s1", 0)).fence == fences["s1"]
    assert (await book.renew_one("s2", 0)).new


async def test_renewals_of_many_users_stand_alone(
    connection: Connection, book: Book
) -> None:
    """One whose key is no sorted set is refused, the others are renewed."""
    await connection.call("SET", "broker:{bad}:sessions", "text")
    lease = (Lease("s1", 0, HOUR_MS),)
    asked = [Renewal(user, 3, lease) for user in ("bad", "ann")]
    bad, good = await renew_sessions(connection, asked, TERMS)
    assert isinstance(bad, StoreRefused)
    assert isinstance(good, Held)
    bad_sweep, good_sweep = await sweep_sessions(connection, ["bad", "ann"], TERMS)
    assert isinstance(bad_sweep, StoreError)
    assert isinstance(good_sweep, Outcome)
    assert await book.states() == {"s1": "open"}
    with pytest.raises(StoreRefused):
        await list_sessions(connection, "bad")


# What Redis loses.


@pytest.mark.parametrize(
    "lost",
    [("sessions",), ("leases",), ("active",), ("sessions", "leases"), PARTS],
    ids="+".join,
)
async def test_what_is_lost_is_registered_again(
    connection: Connection, lost: tuple[str, ...]
) -> None:
    """300 of 300, with the fences they had, and nobody is evicted."""
    books = [Book(connection, f"u{number}") for number in range(100)]
    fences = {book.user: await book.open_all("s1", "s2", "s3") for book in books}
    for book in books:
        await book.lose(*lost)
    verdicts = await renewed_one_by_one(books, fences)
    assert verdicts == {"open": 300}
    states = [await book.states() for book in books]
    assert states == [dict.fromkeys(("s1", "s2", "s3"), "open")] * 100


async def renewed_one_by_one(
    books: list[Book], fences: dict[str, dict[str, int]]
) -> dict[str, int]:
    """Renew in random order, and count verdicts of standings that kept their fence."""
    verdicts: dict[str, int] = defaultdict(int)
    pairs = [(book, name) for book in books for name in fences[book.user]]
    random.shuffle(pairs)
    for book, name in pairs:
        fence = fences[book.user][name]
        standing = await book.renew_one(name, fence)
        verdicts[standing.verdict if standing.fence == fence else "changed"] += 1
    return dict(verdicts)


async def test_what_is_registered_again_is_told(book: Book) -> None:
    """Services that lost their stream with it learn what is open."""
    fences = await book.open_all("s1")
    await book.lose(*PARTS)
    held = await book.renew(Lease("s1", fences["s1"], HOUR_MS))
    assert told(held) == [("resumed", "s1")]
    assert held.news[0].reason == "registered_again"


async def test_opening_registers_what_the_caller_still_serves(book: Book) -> None:
    """A second connection after a loss does not make the session younger."""
    fences = await book.open_all("s1", "s2", "s3")
    await book.lose(*PARTS)
    held = await book.open("s1", known_fence=fences["s1"])
    assert held.standings[0].fence == fences["s1"]
    assert not held.standings[0].new


async def test_the_limit_holds_again_after_a_loss(book: Book) -> None:
    """One that was opened in between counts; the oldest goes, wherever it is."""
    fences = await book.open_all("s1", "s2", "s3")
    await book.lose(*PARTS)
    await book.open("s4")
    leases = [Lease(name, fences[name] - 60_000, HOUR_MS) for name in fences]
    held = await book.renew(*reversed(leases))
    assert held.victims == [Victim("s1", fences["s1"] - 60_000, "s4")]
    assert [one.verdict for one in held.standings] == ["open", "open", "evicted"]
    assert await book.states() == {
        "s2": "open",
        "s3": "open",
        "s4": "open",
        "s1": "evicted",
    }


async def test_strays_do_not_make_a_newer_one_the_victim(book: Book) -> None:
    """Leases whose sessions are lost count only when these are back."""
    fences = await book.open_all("s1", "s2", "s3")
    await book.lose("sessions")
    await book.open("s4")
    for name in ("s3", "s2", "s1"):
        await book.renew_one(name, fences[name])
    assert (await book.records())["s1"].state == "evicted"


async def test_a_stray_lease_runs_out_unheard(book: Book) -> None:
    """Nobody knows any more of which opening it was."""
    await book.open_all("s1", "s2")
    await book.lose("sessions")
    await book.run_out("s1")
    assert told(await book.open("s3")) == [("opened", "s3")]
    assert await book.score("leases", "s1") is None
    assert await book.score("idle", "s1") is None


async def test_a_sweep_mends_what_is_half_lost(book: Book) -> None:
    """Without leases all are idle, and close in time; strays are taken away."""
    await book.open_all("s1", "s2")
    await book.lose("leases")
    assert told(await book.sweep()) == [("idle", "s1"), ("idle", "s2")]
    await book.lose("sessions")
    swept = await book.sweep()
    assert (told(swept), swept.due_ms) == ([], 0)
    for part in ("leases", "idle", "active"):
        assert await book.connection.call("EXISTS", book.key(part)) == 0
