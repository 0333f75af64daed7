"""Committed positions on real servers."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import settings
from redis import Redis

from broker.errors import StoreRefused, StoreUnavailable
from broker.model import START, U64_MAX, Position, parse_position
from broker.store.connection import Command, Connection
from broker.store.embedded import EmbeddedServer
from broker.store.offsets import (
    CONSUMERS_MAX,
    SCRIPTS,
    Consumer,
    Mode,
    Write,
    commit_many,
    is_consumer_name,
    read,
)
from broker.store.scripts import load_scripts
from tests.integration.store.conftest import Open
from tests.unit.control.commit_world import CONSUMER, Rules
from tests.unit.control.store_models import commit
from tests.unit.control.test_commit_property import MANY, run

ANN = Consumer("s1", "ann", "phone")
TTL_S = 100.0
HIGH = 2**53
"""From here on a double does not tell a number from the next one."""


@pytest.fixture
async def connection(open_connection: Open) -> Connection:
    opened = await open_connection()
    await load_scripts(opened, *SCRIPTS)
    return opened


async def write(
    connection: Connection, position: str, mode: Mode = Mode.FORWARD
) -> str | None:
    """Write one position of Ann's; what is stored then, as the answer says."""
    one = Write(ANN, parse_position(position), mode)
    (answer,) = await commit_many(connection, [one], TTL_S)
    assert not isinstance(answer, StoreRefused)
    return None if answer is None else str(answer)


async def stored(connection: Connection) -> str:
    raw: bytes = await connection.call("HGET", ANN.key, ANN.name)
    return raw.decode()


@pytest.mark.parametrize(
    ("consumer", "key"),
    [
        (Consumer("s1", "", "c"), "broker:offsets:s1"),
        (Consumer("s1", "ann", "c"), "broker:offsets:s1/ann"),
        (Consumer("s1", "a/b é}", "c"), "broker:offsets:s1/a%2Fb%20%C3%A9%7D"),
    ],
)
async def test_each_user_has_a_hash_in_each_session(
    connection: Connection, consumer: Consumer, key: str
) -> None:
    """Whatever the user is called, it is nobody else's."""
    await commit_many(connection, [Write(consumer, Position((5, 1)))], TTL_S)
    assert await connection.call("HGETALL", key) == {b"c": b"5-1"}


@pytest.mark.parametrize(
    ("name", "is_good"),
    [
        ("a", True),
        ("Phone.1_b:c@d-e", True),
        ("x" * 64, True),
        ("", False),
        ("x" * 65, False),
        (".a", False),
        ("a/b", False),
        ("a\n", False),
        ("é", False),
    ],
)
def test_names_of_consumers(name: str, *, is_good: bool) -> None:
    """The alphabet of session names, 1 to 64 characters."""
    assert is_consumer_name(name) is is_good


async def test_what_was_written_is_read(connection: Connection) -> None:
    """With its ordinal; nothing before that."""
    assert await read(connection, ANN) is None
    await write(connection, "7-1@12")
    assert await read(connection, ANN) == Position((7, 1), 12)


@pytest.mark.parametrize(
    ("low", "high"),
    [
        ("7-1", "7-2"),
        ("7-9", "8-0"),
        ("9-0", "10-0"),
        ("9-9", "9-10"),
        ("0-0@0", "0-1"),
        (f"{HIGH}-0", f"{HIGH + 1}-0"),
        (f"5-{HIGH}", f"5-{HIGH + 1}"),
        (f"{U64_MAX - 1}-{U64_MAX}", f"{U64_MAX}-0"),
        (f"{U64_MAX}-{U64_MAX - 1}", f"{U64_MAX}-{U64_MAX}"),
        ("7-1", "7-1@5"),
    ],
)
async def test_a_position_only_moves_forward(
    connection: Connection, low: str, high: str
) -> None:
    """To the last bit; the answer is what is stored, whatever was asked."""
    assert await write(connection, low) == low
    assert await write(connection, high) == high
    assert await write(connection, low) == high
    assert await stored(connection) == high


async def test_an_ordinal_is_not_exchanged(connection: Connection) -> None:
    """The first one that was exact stays."""
    await write(connection, "7-1@5")
    assert await write(connection, "7-1@6") == "7-1@5"


async def test_begin_stores_only_where_nothing_is(connection: Connection) -> None:
    """Neither a higher nor a lower one takes its place."""
    assert await write(connection, "7-0", Mode.BEGIN) == "7-0"
    assert await write(connection, "9-0", Mode.BEGIN) == "7-0"
    assert await write(connection, "3-0", Mode.BEGIN) == "7-0"


async def test_replace_stores_what_lies_behind(connection: Connection) -> None:
    """A new history has lower ids, which count from then on."""
    await write(connection, "9-0")
    assert await write(connection, str(START), Mode.REPLACE) == "0-0@0"
    assert await write(connection, "3-0") == "3-0"


@pytest.mark.parametrize(
    "junk", ["", "x", "5", "5-", "-5", "1-2-3", "5-5@x", f"{U64_MAX + 1}-0"]
)
@pytest.mark.parametrize("mode", [Mode.FORWARD, Mode.BEGIN])
async def test_what_is_no_position_counts_as_nothing(
    connection: Connection, junk: str, mode: Mode
) -> None:
    """It would block the consumer for ever."""
    await connection.call("HSET", ANN.key, ANN.name, junk)
    assert await read(connection, ANN) is None
    assert await write(connection, "3-0", mode) == "3-0"


async def test_consumers_of_a_user_are_bounded(connection: Connection) -> None:
    """One more is refused in every mode, and the others go on."""
    many = [Consumer("s1", "ann", f"c{n}") for n in range(CONSUMERS_MAX)]
    first = [Write(one, Position((1, 0))) for one in many]
    assert None not in await commit_many(connection, first, TTL_S)
    for mode in Mode:
        assert await write(connection, "5-0", mode) is None
    last = Write(many[-1], Position((2, 0)))
    other = Write(Consumer("s2", "ann", "phone"), Position((3, 0)))
    answers = await commit_many(connection, [last, other], TTL_S)
    assert answers == [Position((2, 0)), Position((3, 0))]


@pytest.mark.parametrize(
    ("mode", "position"),
    [
        (Mode.FORWARD, "9-0"),
        (Mode.FORWARD, "5-0"),
        (Mode.FORWARD, "1-0"),
        (Mode.BEGIN, "5-0"),
        (Mode.REPLACE, "1-0"),
    ],
)
async def test_every_write_prolongs_the_life(
    connection: Connection, mode: Mode, position: str
) -> None:
    """One that changes nothing, too: somebody is there."""
    await write(connection, "5-0")
    await connection.call("PEXPIRE", ANN.key, 5000)
    await write(connection, position, mode)
    assert TTL_S - 5 < await connection.call("TTL", ANN.key) <= TTL_S


async def test_a_key_of_another_kind_is_refused_alone(connection: Connection) -> None:
    """The others of the same write are stored."""
    await connection.call("SET", ANN.key, "x")
    other = Consumer("s2", "ann", "phone")
    writes = [Write(ANN, Position((1, 0))), Write(other, Position((2, 0)))]
    refused, answer = await commit_many(connection, writes, TTL_S)
    assert isinstance(refused, StoreRefused)
    assert answer == Position((2, 0))
    with pytest.raises(StoreRefused, match="WRONGTYPE"):
        await read(connection, ANN)


async def test_a_script_that_was_forgotten_is_told_apart(
    connection: Connection,
) -> None:
    """Nothing was stored, so it cannot pass for an answer about one key."""
    await connection.call("SCRIPT", "FLUSH")
    with pytest.raises(StoreRefused, match="NOSCRIPT"):
        await write(connection, "5-0")


async def test_a_lost_connection_is_unavailable(connection: Connection) -> None:
    """And nothing to do needs no connection."""
    connection.close()
    assert await commit_many(connection, [], TTL_S) == []
    with pytest.raises(StoreUnavailable):
        await write(connection, "5-0")


async def test_the_script_agrees_with_its_model(connection: Connection) -> None:
    """The property below is tried out on the model in many more schedules."""
    chance = random.Random(3)
    numbers = [0, 1, 9, 10, HIGH, HIGH + 1, U64_MAX - 1, U64_MAX]
    names = [f"c{n}" for n in range(CONSUMERS_MAX + 2)]
    hashed: dict[str, str] = {}
    for _ in range(2000):
        seq = chance.choice([None, None, 3, 4])
        position = Position((chance.choice(numbers), chance.choice(numbers)), seq)
        mode, name = chance.choice(list(Mode)), chance.choice(names)
        one = Write(Consumer("s1", "ann", name), position, mode)
        (answer,) = await commit_many(connection, [one], TTL_S)
        expected = commit(hashed, mode, name, str(position), CONSUMERS_MAX)
        assert answer == (expected and parse_position(expected))
    found = await connection.call("HGETALL", ANN.key)
    assert {name.decode(): one.decode() for name, one in found.items()} == hashed


class RealOffsets:
    """A real server under the schedules of the property."""

    def __init__(self, client: Redis) -> None:
        self._client: Any = client  # Its types leave out what is sent raw.
        self._client.delete(CONSUMER.key)

    def execute(self, command: Command) -> Any:
        return self._client.execute_command(*command)

    def snapshot(self) -> dict[str, dict[str, str]]:
        found = self._client.hgetall(CONSUMER.key)
        hashed = {name.decode(): one.decode() for name, one in found.items()}
        return {CONSUMER.key: hashed} if hashed else {}

    def restore(self, snapshot: dict[str, dict[str, str]]) -> None:
        self._client.delete(CONSUMER.key)
        for name, one in snapshot.get(CONSUMER.key, {}).items():
            self._client.hset(CONSUMER.key, name, one)


@pytest.fixture
def client(server: EmbeddedServer, connection: Connection) -> Iterator[Redis]:
    """A client that waits for its answers; the scripts are loaded."""
    del connection
    with Redis.from_url(server.url) as made:
        yield made


def test_no_event_is_skipped_with_the_real_script(client: Redis) -> None:
    """Any order of connect, deliver, ack, crash and loss, as in the unit test."""
    few = settings(MANY, max_examples=100)
    run(lambda: RealOffsets(client), Rules(), few)
