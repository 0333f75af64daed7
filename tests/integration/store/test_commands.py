"""The command stream on real servers."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest

from broker.errors import ConfigError, StoreRefused
from broker.store.commands import (
    SCRIPTS,
    CommandStream,
    NewCommand,
    backlog,
    trim_read,
)
from broker.store.connection import Connection
from broker.store.embedded import free_port
from broker.store.once import OnceStream, read_added
from broker.store.scripts import load_scripts
from tests.integration.store.conftest import Open, StartServer

KEY = b"broker:commands"
LONG_ID = "6f1c2f0e-1"
PAUSE = NewCommand(
    session="s1",
    user="ann",
    connection="c0ffee",
    cmd="pause_session",
    data=b'{"why":"lunch"}',
    id=LONG_ID,
    received_at="2026-01-02T03:04:05.678Z",
)

Store = Callable[[NewCommand], Awaitable["str | None"]]


@pytest.fixture
async def connection(open_connection: Open) -> Connection:
    """A connection that knows the scripts."""
    opened = await open_connection()
    await load_scripts(opened, *SCRIPTS)
    return opened


@pytest.fixture
def store(connection: Connection) -> Store:
    """Stores a command and returns its stream id."""
    stream = CommandStream(KEY.decode(), 300)

    async def store_one(command: NewCommand) -> str | None:
        (reply,) = await connection.send(stream.add(command))
        return read_added(reply)

    return store_one


def changed(**fields: Any) -> NewCommand:
    return msgspec.structs.replace(PAUSE, **fields)


async def ids(connection: Connection, key: bytes = KEY) -> list[str]:
    """The ids of all entries."""
    entries = await connection.call("XRANGE", key, "-", "+")
    return [entry_id.decode() for entry_id, _ in entries]


async def gone(connection: Connection, pattern: str) -> None:
    """Return when there is no such key."""
    while await connection.call("KEYS", pattern):
        pass


async def test_entry_has_the_fields_of_the_contract(
    connection: Connection, store: Store
) -> None:
    """What services read is what was said, by whom, where and when."""
    entry_id = await store(PAUSE)

    ((stored_id, fields),) = await connection.call("XRANGE", KEY, "-", "+")
    assert stored_id.decode() == entry_id
    assert dict(zip(fields[::2], fields[1::2], strict=True)) == {
        b"session": b"s1",
        b"user": b"ann",
        b"connection": b"c0ffee",
        b"cmd": b"pause_session",
        b"data": b'{"why":"lunch"}',
        b"id": LONG_ID.encode(),
        b"received_at": b"2026-01-02T03:04:05.678Z",
    }


async def test_same_command_again_is_stored_once(
    connection: Connection, store: Store
) -> None:
    """A resend gets the answer of the first time, whenever it was received."""
    first = await store(PAUSE)
    again = await store(changed(connection="other", received_at="later"))

    assert again == first
    assert await ids(connection) == [first]


@pytest.mark.parametrize(
    "other", [{"cmd": "user_input"}, {"session": "s2"}, {"data": b'{"why":"stop!"}'}]
)
async def test_same_id_with_other_content_is_refused(
    connection: Connection, store: Store, other: dict[str, Any]
) -> None:
    """No command is swallowed by the answer to another one, and none is stored."""
    first = await store(PAUSE)

    assert await store(changed(**other)) is None
    assert await ids(connection) == [first]


async def test_borders_between_the_parts_of_a_command_count(
    connection: Connection, store: Store
) -> None:
    """What ends one part is not taken for the beginning of the next."""
    await store(changed(session="s1", cmd="2stop"))

    assert await store(changed(session="s12", cmd="stop")) is None


async def test_command_without_id_is_stored_each_time(
    connection: Connection, store: Store
) -> None:
    """Who gives no id asks for no such thing, and nothing is remembered."""
    first, second = await store(changed(id=None)), await store(changed(id=None))

    assert await ids(connection) == [first, second]
    assert await connection.call("KEYS", "broker:dedup:*") == []


@pytest.mark.parametrize(
    ("said", "again", "times"),
    [
        ({"id": "1234567"}, {"connection": "other"}, 2),
        ({"id": "1234567"}, {}, 1),
        ({"id": "12345678"}, {"connection": "other"}, 1),
        ({"id": "12345678"}, {"user": "bob"}, 2),
        ({"user": ""}, {"connection": "other"}, 2),
        ({"user": ""}, {}, 1),
        ({"user": "c0ffee"}, {"user": ""}, 2),
    ],
    ids=[
        *("short-elsewhere", "short-here", "long-elsewhere", "long-by-another"),
        *("nobody-elsewhere", "nobody-here", "user-named-as-connection"),
    ],
)
async def test_whose_an_id_is(
    connection: Connection,
    store: Store,
    said: dict[str, Any],
    again: dict[str, Any],
    times: int,
) -> None:
    """Long ids are their user's; short ones and nobody's are the connection's."""
    await store(changed(**said))
    assert await store(changed(**{**said, **again})) is not None

    assert len(await ids(connection)) == times


async def test_id_is_forgotten_in_time(connection: Connection) -> None:
    """Memory of ids is bounded by time."""
    stream = CommandStream(KEY.decode(), 0.02)
    await connection.send(stream.add(PAUSE))
    await gone(connection, "broker:dedup:*")
    (reply,) = await connection.send(stream.add(changed(cmd="user_input")))

    assert read_added(reply) is not None


async def test_what_was_not_stored_is_not_remembered(
    connection: Connection, store: Store
) -> None:
    """The id of a command that met an error can be said again."""
    await connection.call("SET", KEY, "no stream")
    with pytest.raises(StoreRefused, match="WRONGTYPE"):
        await store(PAUSE)
    await connection.call("DEL", KEY)

    assert await store(PAUSE) == (await ids(connection))[0]


async def test_stream_and_memory_are_in_one_slot(
    start_server: StartServer, open_connection: Open
) -> None:
    """A cluster, which checks it, takes the script for every name of a stream."""
    bus = str(free_port())
    server = start_server("--cluster-enabled", "yes", "--cluster-port", bus)
    opened = await open_connection(server.url)
    await opened.call("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
    while b"cluster_state:ok" not in await opened.call("CLUSTER", "INFO"):
        pass
    await load_scripts(opened, *SCRIPTS)

    keys = ("broker:commands", "{app}:commands", "a:{b}:{c}")
    replies = await opened.send(*[CommandStream(key, 300).add(PAUSE) for key in keys])

    assert all(read_added(reply) for reply in replies)
    assert await opened.send(*[("XLEN", key) for key in keys]) == [1, 1, 1]


@pytest.mark.parametrize("key", [b"a}b", b"a{}b", b"{}"])
def test_braces_that_are_no_hash_tag_are_refused(key: bytes) -> None:
    """No other key can be put beside such a stream."""
    with pytest.raises(ConfigError, match="hash tag"):
        OnceStream(key)


# What was read is trimmed.


class Groups:
    """Consumer groups of the command stream."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    async def make(self, *names: str, origin: str = "0") -> None:
        for name in names:
            await self.connection.call(
                "XGROUP", "CREATE", KEY, name, origin, "MKSTREAM"
            )

    async def add(self, count: int) -> list[str]:
        added = await self.connection.call_all(
            *[("XADD", KEY, "*", "cmd", "x")] * count
        )
        return [entry_id.decode() for entry_id in added]

    async def read(self, group: str, count: int) -> list[bytes]:
        reply = await self.connection.call(
            *("XREADGROUP", "GROUP", group, "me", "COUNT", count, "STREAMS", KEY, ">")
        )
        return [entry_id for entry_id, _ in (reply or {}).get(KEY, ())]

    async def ack(self, group: str, *entries: str | bytes) -> None:
        await self.connection.call("XACK", KEY, group, *entries)

    async def finish(self, group: str, count: int) -> None:
        await self.ack(group, *await self.read(group, count))

    async def trim(self) -> int:
        return await trim_read(self.connection, KEY)

    async def needed(self) -> set[bytes]:
        """What some group has not read, or not acknowledged; one by one."""
        found: set[bytes] = set()
        for group in await self.connection.call("XINFO", "GROUPS", KEY):
            name, last = group[b"name"], group[b"last-delivered-id"]
            unread = await self.connection.call("XRANGE", KEY, b"(" + last, "+")
            pending = await self.connection.call("XPENDING", KEY, name, "-", "+", 9999)
            found |= {entry[0] for entry in [*unread, *pending]}
        return found


@pytest.fixture
def groups(connection: Connection) -> Groups:
    return Groups(connection)


async def test_without_a_group_nothing_is_trimmed(groups: Groups) -> None:
    """Commands wait for the first service that comes, and a missing key is none."""
    assert await groups.trim() == 0
    await groups.add(3)

    assert await groups.trim() == 0
    assert await backlog(groups.connection, KEY) == 3


async def test_what_every_group_has_done_is_removed(groups: Groups) -> None:
    """To the last entry: nothing that is done stays."""
    await groups.make("a", "b")
    await groups.add(300)
    await groups.finish("a", 300)
    await groups.finish("b", 300)

    assert await groups.trim() == 300
    assert await backlog(groups.connection, KEY) == 0


async def test_what_one_group_has_not_read_stays(groups: Groups) -> None:
    """The slowest group decides."""
    await groups.make("a", "b")
    added = await groups.add(10)
    await groups.finish("a", 10)
    await groups.finish("b", 4)

    assert await groups.trim() == 4
    assert await ids(groups.connection) == added[4:]


async def test_what_is_under_way_stays_with_all_behind_it(groups: Groups) -> None:
    """An entry that was read and not acknowledged may have to be read again."""
    await groups.make("a")
    added = await groups.add(10)
    await groups.read("a", 10)
    await groups.ack("a", *added[:3], *added[4:])

    assert await groups.trim() == 3
    assert await ids(groups.connection) == added[3:]


async def test_group_that_was_set_back_reads_what_is_there(groups: Groups) -> None:
    """The place from which a group will read counts, not how far it once was."""
    await groups.make("a")
    added = await groups.add(10)
    await groups.read("a", 10)
    await groups.ack("a", *added[:8])
    await groups.connection.call("XGROUP", "SETID", KEY, "a", added[4])

    assert await groups.trim() == 5
    assert await ids(groups.connection) == added[5:]


async def test_new_group_that_begins_at_the_start_keeps_all(groups: Groups) -> None:
    """A service that is just being introduced misses nothing that is there."""
    await groups.make("a")
    await groups.add(5)
    await groups.finish("a", 5)
    await groups.make("late")

    assert await groups.trim() == 0


@pytest.mark.parametrize(
    "entries",
    [
        ["9-1", "10-1"],
        ["1-9", "1-10"],
        ["7-9007199254740992", "7-9007199254740993"],
        ["1-18446744073709551615", "2-0"],
    ],
    ids=["ms", "n", "not-a-double", "largest"],
)
async def test_ids_are_compared_as_numbers_of_64_bits(
    groups: Groups, entries: list[str]
) -> None:
    """Neither as text nor as floating point: that would cut what is needed."""
    for entry in entries:
        await groups.connection.call("XADD", KEY, entry, "cmd", "x")
    await groups.make("a-fast", "b-slow")
    await groups.finish("a-fast", 2)
    await groups.read("b-slow", 1)
    await groups.trim()

    assert await ids(groups.connection) == entries


async def test_entry_behind_one_with_a_huge_number_is_not_skipped(
    groups: Groups,
) -> None:
    """What comes next is not computed where that would be rounded up."""
    done, unread = "7-1152921504606847176", "7-1152921504606847177"
    for entry in (done, unread):
        await groups.connection.call("XADD", KEY, entry, "cmd", "x")
    await groups.make("slow")
    await groups.finish("slow", 1)
    await groups.trim()

    assert unread in await ids(groups.connection)


@pytest.mark.parametrize("seed", range(5))
async def test_any_order_of_reading_keeps_what_is_needed(
    groups: Groups, seed: int
) -> None:
    """Whatever groups do, exactly what none of them needs is removed."""
    rng = random.Random(seed)
    await groups.make("a", "b", "c")
    for _ in range(40):
        await groups.add(rng.randrange(1, 4))
        group = rng.choice("abc")
        for entry in await groups.read(group, rng.randrange(1, 6)):
            if rng.random() < 0.8:
                await groups.ack(group, entry)
        if rng.random() < 0.3:
            pending = await groups.connection.call("XPENDING", KEY, group, "-", "+", 9)
            await groups.ack(group, b"0-1", *[entry[0] for entry in pending])
        before = await groups.needed()
        await groups.trim()
        left = await ids(groups.connection)
        assert before <= {entry.encode() for entry in left}
        assert not left or left[0].encode() in before or not before
