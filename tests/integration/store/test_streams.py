"""Reads of streams on real servers."""

from __future__ import annotations

import asyncio

import pytest

from broker.errors import StoreRefused, StoreUnavailable
from broker.model import FIRST_ID, LAST_ID, U64_MAX, StreamId
from broker.store.connection import Connection
from broker.store.stream_info import NOT_READ, Info, StreamInfo
from broker.store.streams import (
    BatchError,
    Entry,
    EntryPage,
    KeyRead,
    doorbell_read,
    history,
    parse_doorbell_reply,
    read_page,
    stream_info,
)
from tests.integration.store.conftest import Open


@pytest.fixture
async def connection(open_connection: Open) -> Connection:
    return await open_connection()


async def add(connection: Connection, key: str, *ids: str) -> None:
    await connection.call_all(*(("XADD", key, one, "event", one) for one in ids))


async def doorbell(
    connection: Connection, cursors: dict[bytes, StreamId], count: int, with_info: bool
) -> list[KeyRead] | BatchError:
    commands = doorbell_read(list(cursors), list(cursors.values()), count, with_info)
    replies = await connection.send(*commands)
    return parse_doorbell_reply(replies, list(cursors), with_info)


def contents(read: list[KeyRead] | BatchError) -> list[tuple[list[Entry], Info]]:
    assert not isinstance(read, BatchError)
    return [(one.entries, one.info()) for one in read]


def entry(ms: int) -> tuple[StreamId, list[bytes]]:
    return (ms, 0), [b"event", b"%d-0" % ms]


INFO = StreamInfo(3, 3, (3, 0), (1, 0), (0, 0), 8)


async def test_doorbell_read_brings_entries_and_info_of_each_key(
    connection: Connection,
) -> None:
    """Keys with entries, without new ones and without a stream come in order."""
    await add(connection, "a", "1-0", "2-0", "3-0")
    cursors = {b"none": FIRST_ID, b"a": (1, 0), b"b": FIRST_ID}
    await add(connection, "b", "7-0")

    read = await doorbell(connection, cursors, 10, True)

    assert contents(read) == [
        ([], None),
        ([entry(2), entry(3)], INFO),
        ([entry(7)], StreamInfo(1, 1, (7, 0), (7, 0), (0, 0), 8)),
    ]


async def test_doorbell_read_without_news_brings_only_infos(
    connection: Connection,
) -> None:
    """XREAD answers null when no key has anything; the infos are there."""
    await add(connection, "a", "1-0", "2-0", "3-0")

    read = await doorbell(connection, {b"a": (3, 0)}, 10, True)

    assert contents(read) == [([], INFO)]


async def test_doorbell_read_without_info_says_so(connection: Connection) -> None:
    """A read that leaves out the XINFO is marked: nothing can be counted from it."""
    await add(connection, "a", "1-0", "2-0", "3-0")

    cursors: dict[bytes, StreamId] = {b"a": FIRST_ID, b"none": FIRST_ID}
    read = await doorbell(connection, cursors, 2, False)
    nothing = await doorbell(connection, {b"a": (3, 0)}, 2, False)

    assert read == [KeyRead([entry(1), entry(2)]), KeyRead([])]
    assert contents(nothing) == [([], NOT_READ)]


@pytest.mark.parametrize("with_info", [True, False])
async def test_key_of_another_type_fails_the_whole_batch(
    connection: Connection, with_info: bool
) -> None:
    """One wrong key starves all others of the call, so the batch is to be repeated."""
    await add(connection, "a", "1-0")
    await connection.call("SET", "wrong", "x")

    cursors: dict[bytes, StreamId] = {b"a": FIRST_ID, b"wrong": FIRST_ID}
    read = await doorbell(connection, cursors, 10, with_info)

    assert isinstance(read, BatchError)
    assert read.kind == "WRONGTYPE"
    assert not read.retry


async def test_refused_command_is_the_reason_and_not_execabort(
    open_connection: Open, connection: Connection
) -> None:
    """A transaction that is not run tells why."""
    await connection.call("ACL", "SETUSER", "eve", "on", "nopass", "~a", "+@all")
    limited = await open_connection()
    await limited.call("AUTH", "eve", "")

    read = await doorbell(limited, {b"b": FIRST_ID}, 10, True)

    assert isinstance(read, BatchError)
    assert read.kind == "NOPERM"
    with pytest.raises(StoreRefused, match="NOPERM"):
        await read_page(limited, b"b", FIRST_ID, 1, inclusive_check=False)
    await connection.call("ACL", "DELUSER", "eve")


async def test_xinfo_that_is_not_allowed_is_an_error_of_the_batch(
    open_connection: Open, connection: Connection
) -> None:
    """Without XINFO nothing can be counted, so it is not left out silently."""
    await connection.call("ACL", "SETUSER", "eve", "on", "nopass", "~*", "+@all")
    await connection.call("ACL", "SETUSER", "eve", "-xinfo")
    limited = await open_connection()
    await limited.call("AUTH", "eve", "")

    read = await doorbell(limited, {b"b": FIRST_ID}, 10, True)

    assert isinstance(read, BatchError)
    assert read.kind == "NOPERM"
    await connection.call("ACL", "DELUSER", "eve")


async def test_busy_server_is_a_batch_error_that_may_be_retried(
    open_connection: Open, connection: Connection
) -> None:
    """BUSY blames no key."""
    other = await open_connection()
    script = other.send(("EVAL", "while true do end", 0))
    await asyncio.sleep(0.2)

    read = await doorbell(connection, {b"a": FIRST_ID}, 10, True)
    with pytest.raises(StoreUnavailable, match="BUSY"):
        await read_page(connection, b"a", FIRST_ID, 1, inclusive_check=True)

    await connection.call("SCRIPT", "KILL")
    await script
    assert isinstance(read, BatchError)
    assert (read.kind, read.retry) == ("BUSY", True)


async def test_page_begins_behind_its_position(connection: Connection) -> None:
    """A page is cut at its bound and says so."""
    await add(connection, "a", "1-0", "2-0", "3-0")

    page = await read_page(connection, b"a", (1, 0), 1, inclusive_check=False)
    rest = await read_page(connection, b"a", (2, 0), 2, inclusive_check=False)

    assert page == EntryPage([entry(2)], INFO, True, None)
    assert rest == EntryPage([entry(3)], INFO, False, None)


@pytest.mark.parametrize(
    ("after", "count", "entries", "full", "present"),
    [
        ((1, 0), 1, [2], True, True),
        ((1, 0), 2, [2, 3], True, True),
        ((1, 0), 3, [2, 3], False, True),
        ((1, 5), 1, [2], True, False),
        ((1, 5), 2, [2, 3], True, False),
        ((1, 5), 3, [2, 3], False, False),
        ((3, 0), 1, [], False, True),
        ((9, 0), 1, [], False, False),
    ],
)
async def test_inclusive_page_tells_whether_its_position_is_there(
    connection: Connection,
    after: StreamId,
    count: int,
    entries: list[int],
    full: bool,
    present: bool,
) -> None:
    """The entry at the position is looked for and never delivered again."""
    await add(connection, "a", "1-0", "2-0", "3-0")

    page = await read_page(connection, b"a", after, count, inclusive_check=True)

    assert page == EntryPage([entry(ms) for ms in entries], INFO, full, present)


@pytest.mark.parametrize("inclusive", [True, False])
async def test_page_of_a_missing_key_has_no_info(
    connection: Connection, inclusive: bool
) -> None:
    """No key is no error: nobody has published yet, or the stream is gone."""
    page = await read_page(connection, b"no", (1, 0), 5, inclusive_check=inclusive)

    assert page == EntryPage([], None, False, False if inclusive else None)


async def test_other_type_is_refused(connection: Connection) -> None:
    """A key that holds no stream is told apart from an empty one."""
    await connection.call("SET", "wrong", "x")

    with pytest.raises(StoreRefused, match="WRONGTYPE"):
        await read_page(connection, b"wrong", FIRST_ID, 5, inclusive_check=True)
    with pytest.raises(StoreRefused, match="WRONGTYPE"):
        await stream_info(connection, b"wrong")
    with pytest.raises(StoreRefused, match="WRONGTYPE"):
        await history(connection, b"wrong", None, None, 5, reverse=False)


async def test_largest_id_there_is_can_be_read_and_read_past(
    connection: Connection,
) -> None:
    """The id that closes a stream is legal and ends every range without an error."""
    await add(connection, "a", f"{U64_MAX}-{U64_MAX}")

    page = await read_page(connection, b"a", LAST_ID, 5, inclusive_check=False)
    again = await read_page(connection, b"a", LAST_ID, 5, inclusive_check=True)
    live = await doorbell(connection, {b"a": LAST_ID}, 5, False)

    assert (page.entries, page.full) == ([], False)
    assert (again.entries, again.cursor_present) == ([], True)
    assert contents(live) == [([], NOT_READ)]
    assert await history(connection, b"a", LAST_ID, None, 5, reverse=False) == []
    assert await history(connection, b"a", None, FIRST_ID, 5, reverse=True) == []
    assert await history(connection, b"a", None, LAST_ID, 5, reverse=False) == []


async def test_info_counts_trimmed_and_remembers_deleted_entries(
    connection: Connection,
) -> None:
    """Trimming leaves max-deleted-entry-id alone; XDEL moves it."""
    await add(connection, "a", "1-0", "2-0", "3-0", "4-0")
    await connection.call("XDEL", "a", "3-0")
    await connection.call("XTRIM", "a", "MAXLEN", "=", 2)

    info = await stream_info(connection, b"a")

    assert info == StreamInfo(4, 2, (4, 0), (2, 0), (3, 0), 8)
    assert await stream_info(connection, b"none") is None


async def test_info_of_an_emptied_stream_has_no_first_entry(
    connection: Connection,
) -> None:
    """An empty stream still knows its last id and how much there was."""
    await add(connection, "a", "1-0", "2-0")
    await connection.call("XTRIM", "a", "MAXLEN", "=", 0)

    info = await stream_info(connection, b"a")

    assert info == StreamInfo(2, 0, (2, 0), (0, 0), (0, 0), 0)


@pytest.mark.parametrize(
    ("after", "before", "limit", "reverse", "found"),
    [
        (None, None, 9, False, [1, 2, 3, 4]),
        (None, None, 2, False, [1, 2]),
        (None, None, 2, True, [4, 3]),
        ((1, 0), (4, 0), 9, False, [2, 3]),
        ((1, 0), (4, 0), 9, True, [3, 2]),
        ((1, 0), None, 2, False, [2, 3]),
        (None, (3, 0), 1, True, [2]),
        ((4, 0), None, 9, False, []),
        ((3, 0), (2, 0), 9, False, []),
    ],
)
async def test_history_lies_between_its_ends(
    connection: Connection,
    after: StreamId | None,
    before: StreamId | None,
    limit: int,
    reverse: bool,
    found: list[int],
) -> None:
    """Neither end is included, the bound is kept, either direction works."""
    await add(connection, "a", "1-0", "2-0", "3-0", "4-0")

    entries = await history(connection, b"a", after, before, limit, reverse)

    assert entries == [entry(ms) for ms in found]
