"""What goes with sessions: news, the index, names, and what is refused."""

from __future__ import annotations

import asyncio
import re
from collections import Counter, defaultdict

import pytest

from broker.store.connection import Connection
from broker.store.scripts import load_scripts, script
from broker.store.session_outcomes import Lease, Renewal
from broker.store.sessions import (
    SCRIPTS,
    close_session,
    due_users,
    forget_news,
    index_due,
    list_sessions,
    open_session,
    renew_sessions,
    sweep_sessions,
    user_tag,
)
from tests.integration.store.book import (
    HOUR_MS,
    TERMS,
    Book,
    told,
)
from tests.integration.store.conftest import Open

SHARED = re.compile(
    r"^-- \[(shared|expire|bury)\](.*?)^-- \[end\]", re.MULTILINE | re.DOTALL
)


@pytest.fixture
async def connection(open_connection: Open) -> Connection:
    opened = await open_connection()
    await load_scripts(opened, *SCRIPTS)
    return opened


@pytest.fixture
def book(connection: Connection) -> Book:
    """Sessions of a user who has none; leases last for an hour."""
    return Book(connection)


# The outbox.


async def test_news_that_nobody_announced_come_again(book: Book) -> None:
    """Whoever comes by gets them, but not while they may still be on the way."""
    book.announces = False
    opened = await book.open("s1")
    assert told(await book.open("s1")) == []
    assert told(await book.sweep()) == []

    await book.age_news(by_ms=5000)
    assert told(await book.sweep()) == told(opened)
    assert told(await book.open("s1")) == told(opened)
    assert told(await book.renew(Lease("s1", 0, HOUR_MS))) == told(opened)
    again = await book.sweep()
    await book.connection.call_all(forget_news("ann", again.news))
    assert told(await book.sweep()) == []


async def test_a_user_with_news_is_due_soon(book: Book) -> None:
    """So that a janitor finds what a crash has left."""
    book.announces = False
    await book.open("s1")
    soon = (await book.sweep()).due_ms - await book.now()
    assert 0 < soon <= 5000


async def test_being_idle_twice_is_told_twice(book: Book) -> None:
    """The same session, fence and event, at another time."""
    fences = await book.open_all("s1")
    await book.run_out("s1")
    first = await book.sweep()
    await book.renew_one("s1", fences["s1"])
    await book.run_out("s1")
    await asyncio.sleep(0.002)
    second = await book.sweep()
    assert told(first) == told(second) == [("idle", "s1")]
    assert first.news[0].at < second.news[0].at
    assert first.news[0].field != second.news[0].field


# The index.


async def test_due_users_are_the_longest_overdue(
    connection: Connection, book: Book
) -> None:
    """Those whose time has not come are left out, and those who have none."""
    now = await book.now()
    when = {"a/b": now - 2, "ünï": now - 3, "c}": now - 1, "later": now + 60_000}
    await connection.call_all(*(index_due(user, at) for user, at in when.items()))
    assert (await due_users(connection, 10)).users == ["ünï", "a/b", "c}"]
    assert (await due_users(connection, 1)).users == ["ünï"]
    await connection.call_all(index_due("ünï", 0))
    assert (await due_users(connection, 10)).users == ["a/b", "c}"]


# Names.


async def test_users_do_not_share_keys(connection: Connection) -> None:
    """Whatever their names: braces and slashes are taken apart by quoting."""
    users = ["a", "a}", "{a}", "a:b", "a b", "%7D", "}", "ä", "a/b", "*"]
    books = [Book(connection, user) for user in users]
    for book in books:
        await book.open("s1")
        await book.close("s1")
    keys: list[bytes] = await connection.call("KEYS", "broker:{*")
    # The part of a key that decides on its slot ends at the first brace.
    tags = Counter(
        re.findall(rb"^broker:\{([^{}]+)\}:[a-z]+$", b"\n".join(keys), re.MULTILINE)
    )
    assert tags == {user_tag(user).encode(): 2 for user in users}
    assert user_tag("a/b}") == "a%2Fb%7D"


@pytest.mark.parametrize("user", ["", "\ud800"])
async def test_a_user_must_have_a_name(connection: Connection, user: str) -> None:
    """Without one all the world would share a session list."""
    for call in (
        open_session(connection, user, "s1", TERMS, limit=3),
        renew_sessions(connection, [Renewal(user, 3, ())], TERMS),
        close_session(connection, user, "s1", TERMS),
        sweep_sessions(connection, [user], TERMS),
        list_sessions(connection, user),
    ):
        with pytest.raises(ValueError, match=r"name|surrogates"):
            await call


async def test_what_cannot_be_is_refused(connection: Connection, book: Book) -> None:
    """Nothing of it reaches Redis."""
    with pytest.raises(ValueError, match="session"):
        await book.open("../etc")
    with pytest.raises(ValueError, match="session"):
        await book.close("_probe")
    with pytest.raises(ValueError, match="limit"):
        await book.open("s1", limit=-1)
    for fence in (-1, 10**14):
        with pytest.raises(ValueError, match="fence"):
            await book.open("s1", known_fence=fence)
    for lease in (Lease("s1", 0, 0), Lease("s1", 0, 1, -1)):
        with pytest.raises(ValueError, match="lease"):
            await book.renew(lease)
    with pytest.raises(ValueError, match="count"):
        await due_users(connection, 0)
    assert await connection.call("DBSIZE") == 0


def test_scripts_share_what_they_share() -> None:
    """Redis' scripts cannot call each other, so parts are copied: all are equal."""
    copies: dict[str, list[str]] = defaultdict(list)
    for name in SCRIPTS:
        for part, copy in SHARED.findall(script(name).text):
            copies[part].append(copy)
    found = {part: (len(texts), len(set(texts))) for part, texts in copies.items()}
    assert found == {"shared": (3, 1), "expire": (2, 1), "bury": (2, 1)}
