"""Revocations on real servers."""

from __future__ import annotations

import asyncio
import math

import pytest

from broker.errors import StoreRefused, StoreUnavailable
from broker.store.connection import Connection
from broker.store.revocations import (
    REVOKED,
    SCRIPTS,
    Revocation,
    pardon,
    read_all,
    revoke,
)
from broker.store.scripts import load_scripts
from tests.integration.store.conftest import Open

ANN = "user:ann%40example.com"


@pytest.fixture
async def connection(open_connection: Open) -> Connection:
    connection = await open_connection()
    await load_scripts(connection, *SCRIPTS)
    return connection


async def server_s(connection: Connection) -> float:
    seconds, micros = await connection.call("TIME")
    return int(seconds) + int(micros) / 1e6


async def put(connection: Connection, key: str, text: str) -> None:
    await connection.call("HSET", REVOKED, key, text)


async def test_a_revocation_is_read_by_others(
    connection: Connection, open_connection: Open
) -> None:
    """What was revoked is what every worker finds."""
    one = await revoke(connection, ANN, ttl_s=60)
    other = await revoke(connection, "token:Ünal", ttl_s=600)

    assert await read_all(await open_connection()) == {ANN: one, "token:Ünal": other}


async def test_times_are_those_of_the_server_rounded_up(
    connection: Connection,
) -> None:
    """A token of the same second, whose issuer rounds up, is void as well."""
    before = await server_s(connection)
    one = await revoke(connection, ANN, ttl_s=60)
    after = await server_s(connection)

    assert before < one.at <= after + 1
    assert one.at == int(one.at)
    assert one.until == one.at + 60


async def test_the_leeway_of_clocks_is_added(connection: Connection) -> None:
    """A token from a clock that is ahead, and one that lives on by the leeway."""
    before = await server_s(connection)
    one = await revoke(connection, ANN, ttl_s=60.5, leeway_s=4.2)
    after = await server_s(connection)

    assert before + 5 < one.at <= after + 6
    assert before + 64.7 < one.until <= after + 66


async def test_revoking_again_never_gives_back(connection: Connection) -> None:
    """Neither time becomes earlier, whatever is asked for."""
    first = await revoke(connection, ANN, ttl_s=600, leeway_s=100)
    second = await revoke(connection, ANN, ttl_s=1)
    third = await revoke(connection, ANN, ttl_s=6000, leeway_s=200)

    assert second == first
    assert third.at >= first.at + 100
    assert third.until >= first.until + 5400
    assert await read_all(connection) == {ANN: third}


async def test_a_pardon_removes_it(connection: Connection) -> None:
    """And tells whether there was anything to remove."""
    await revoke(connection, ANN, ttl_s=60)

    assert await pardon(connection, ANN)
    assert not await pardon(connection, ANN)
    assert await read_all(connection) == {}


async def test_after_a_pardon_a_shorter_one_is_possible(
    connection: Connection,
) -> None:
    """It is how a revocation is shortened."""
    first = await revoke(connection, ANN, ttl_s=600)
    await pardon(connection, ANN)
    second = await revoke(connection, ANN, ttl_s=60)

    assert second.until < first.until


async def test_what_has_run_out_is_not_read(connection: Connection) -> None:
    """Though it may still be there."""
    now = int(await server_s(connection))
    await put(connection, "user:old", f'{{"at":1,"until":{now}}}')
    await put(connection, "user:new", f'{{"at":1.5,"until":{now + 60}.5}}')

    assert await read_all(connection) == {"user:new": Revocation(1.5, now + 60.5)}


async def test_what_has_run_out_is_removed_by_the_way(connection: Connection) -> None:
    """A hash that is only added to would grow for ever."""
    for number in range(500):
        await put(connection, f"user:{number}", '{"at":1,"until":2}')
    await put(connection, "user:stays", '{"at":1,"until":99999999999}')

    for _ in range(30):
        await revoke(connection, ANN, ttl_s=60)

    left = await connection.call("HKEYS", REVOKED)
    assert set(left) == {b"user:stays", ANN.encode()}


async def test_a_revocation_that_ran_out_can_be_made_anew(
    connection: Connection,
) -> None:
    """Its times are in the past and hold nothing up."""
    await put(connection, ANN, '{"at":1,"until":2}')

    one = await revoke(connection, ANN, ttl_s=60)

    assert await read_all(connection) == {ANN: one}


@pytest.mark.parametrize("text", ["", "yes", "{}", "[1, 2]", '{"at":1}', "null", "\\"])
async def test_what_was_written_by_hand_holds_for_good(
    connection: Connection, text: str
) -> None:
    """Somebody meant to take access away; and it does not stop a revocation."""
    await put(connection, ANN, text)
    await revoke(connection, "user:bob", ttl_s=60)

    found = await read_all(connection)
    assert found[ANN] == Revocation(math.inf, math.inf)

    one = await revoke(connection, ANN, ttl_s=60)
    assert (await read_all(connection))[ANN] == one


async def test_revocations_at_the_same_time_are_all_kept(
    connection: Connection, open_connection: Open
) -> None:
    """From several pods, some of them of the same user."""
    others = [connection, await open_connection(), await open_connection()]
    keys = [f"user:{number % 40}" for number in range(120)]

    await asyncio.gather(
        *(revoke(others[at % 3], key, ttl_s=60 + at) for at, key in enumerate(keys))
    )

    assert set(await read_all(connection)) == set(keys)


async def test_a_key_of_another_type_is_an_error(connection: Connection) -> None:
    """It is said, not taken for an empty list."""
    await connection.call("SET", REVOKED, "x")

    with pytest.raises(StoreRefused):
        await read_all(connection)
    with pytest.raises(StoreRefused):
        await revoke(connection, ANN, ttl_s=60)
    with pytest.raises(StoreRefused):
        await pardon(connection, ANN)


async def test_a_connection_that_has_ended_is_unavailable(
    connection: Connection,
) -> None:
    """The caller cannot know whether it was revoked, and is told to try again."""
    connection.close()

    with pytest.raises(StoreUnavailable):
        await read_all(connection)
    with pytest.raises(StoreUnavailable):
        await revoke(connection, ANN, ttl_s=60)
