"""A service reads what clients say."""

from __future__ import annotations

import asyncio
import inspect
import textwrap
from typing import Any

import pytest

from broker.client import CommandConsumer
from broker.client import commands as module
from broker.store.embedded import EmbeddedServer
from tests.harness.upstream import Sender, running_upstream
from tests.integration.client.service import (
    GROUP,
    STREAM,
    NewConsumer,
    add,
    blocked,
    data_of,
    dead,
    finish,
    pending,
    take,
    until_buried,
)


async def test_example_runs(
    shared_redis: EmbeddedServer, redis: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """The five lines of the documentation print what clients say."""
    await add(redis, 7, session="s9", cmd="user_input")
    documented = inspect.cleandoc(module.__doc__ or "").split("::\n")[1]
    lines = documented.split("\nEvery command")[0]
    code = lines.replace("redis://127.0.0.1:6379/0", shared_redis.url)
    scope: dict[str, Any] = {"CommandConsumer": CommandConsumer}
    exec(f"async def example():\n{textwrap.indent(code, ' ')}", scope)
    running = asyncio.create_task(scope["example"]())
    await blocked(redis)
    running.cancel()
    await asyncio.wait([running])

    assert capsys.readouterr().out == "s9 user_input 7\n"
    assert await pending(redis) == 0


async def test_command_says_who_said_what(
    shared_redis: EmbeddedServer, redis: Any, consumer: NewConsumer
) -> None:
    """All that the broker stored, with the data as values."""
    del redis  # it empties the stream
    async with running_upstream(shared_redis.url) as upstream, consumer() as commands:
        sender = Sender("c0ffee", "ann")
        data = '{"text":"Hé"}'.encode()
        answer = await upstream.send(sender, "s1", "user_input", data, "my-id-12")
        (command,) = await take(commands, 1)

    assert command.id == answer.stream_id
    assert (command.session, command.user, command.connection) == (
        *("s1", "ann", "c0ffee"),
    )
    assert (command.cmd, command.data, command.ref) == (
        *("user_input", {"text": "Hé"}, "my-id-12"),
    )
    assert command.received_at.endswith("Z")
    assert command.deliveries == 1


@pytest.mark.parametrize(("start", "found"), [("0", [1, 2]), ("$", [2])])
async def test_new_group_begins_where_it_is_told(
    redis: Any, consumer: NewConsumer, start: str, found: list[int]
) -> None:
    """With all that is there, or only with what is new."""
    await add(redis, 1)
    async with consumer(start=start) as commands:
        await add(redis, 2)

        assert await finish(commands, len(found)) == found


async def test_done_command_is_done_for_its_group_only(
    redis: Any, consumer: NewConsumer
) -> None:
    """Another group gets it too: only the broker removes entries."""
    await add(redis, 1)
    async with consumer() as commands:
        assert await finish(commands, 1) == [1]
    assert await pending(redis) == 0
    async with CommandConsumer(consumer()._url, group="billing") as others:
        assert await finish(others, 1) == [1]


async def test_consumers_of_a_group_share_the_commands(
    redis: Any, consumer: NewConsumer
) -> None:
    """Each command goes to one of them."""
    await add(redis, *range(20))
    async with consumer("one") as one, consumer("two") as two:
        halves = await asyncio.gather(finish(one, 10), finish(two, 10))

    assert sorted(halves[0] + halves[1]) == [*range(20)]


async def test_consumer_that_comes_back_goes_on_with_what_it_had(
    redis: Any, consumer: NewConsumer
) -> None:
    """Under its name, in order, before anything new."""
    await add(redis, 1, 2, 3)
    async with consumer() as before:
        taken = await take(before, 3)
        await taken[1].done()
    await add(redis, 4)
    async with consumer() as after:
        again = await take(after, 3)

    assert data_of(again) == [1, 3, 4]
    assert [command.deliveries for command in again] == [2, 2, 1]


async def test_consumers_without_a_name_read_only_what_is_theirs(
    shared_redis: EmbeddedServer, redis: Any
) -> None:
    """Two of one process are two: what one has not finished is not the other's."""
    await add(redis, 1, 2, 3)
    async with CommandConsumer(shared_redis.url, group=GROUP) as one:
        taken = await take(one, 2)
        async with CommandConsumer(shared_redis.url, group=GROUP) as other:
            assert data_of(await take(other, 1)) == [3]

    assert data_of(taken) == [1, 2]


async def test_abandoned_commands_are_taken_over(
    redis: Any, consumer: NewConsumer
) -> None:
    """What a dead consumer had comes to another one, though not too early."""
    await add(redis, *range(30))
    async with consumer("dead") as gone:
        await take(gone, 30)
    await add(redis, 30)
    async with consumer("late", claim_after_s=1000) as patient:
        assert await finish(patient, 1) == [30]
    async with consumer("heir", claim_after_s=0.2) as heir:
        assert await finish(heir, 30) == [*range(30)]


async def test_command_that_fails_comes_again(
    redis: Any, consumer: NewConsumer
) -> None:
    """Whoever does not call done gets it again, with the number of the time."""
    await add(redis, 1)
    async with consumer(claim_after_s=0.05) as commands:
        again = await take(commands, 3)

    assert data_of(again) == [1, 1, 1]
    assert [command.deliveries for command in again] == [1, 2, 3]


async def test_poison_is_buried_with_its_reason(
    redis: Any, consumer: NewConsumer
) -> None:
    """After its last chance it is out of the way, and somebody can look at it."""
    (poison,) = await add(redis, 1, id="c1")
    async with consumer(claim_after_s=0.02, max_deliveries=2) as commands:
        assert len(await take(commands, 2)) == 2
        waiting = asyncio.create_task(finish(commands, 1))
        await until_buried(redis, 1)
        await add(redis, 2)
        assert await waiting == [2]
    (buried,) = await dead(redis)

    assert await pending(redis) == 0
    assert buried == {
        "reason": "too_many_deliveries",
        "from_stream": STREAM,
        "from_id": poison,
        "from_group": GROUP,
        "from_consumer": "one",
        "deliveries": "3",
        "session": "s1",
        "user": "ann",
        "connection": "c1",
        "cmd": "do",
        "data": "1",
        "id": "c1",
    }


async def test_poison_takes_nothing_else_with_it(
    redis: Any, consumer: NewConsumer
) -> None:
    """What waits behind a command that kills its consumer was never given to it."""
    await add(redis, *range(5))
    for _ in range(3):
        async with consumer(max_deliveries=3) as killed:
            assert data_of(await take(killed, 1)) == [0]
    async with consumer(max_deliveries=3) as commands:
        rest = await take(commands, 4)

    assert data_of(rest) == [1, 2, 3, 4]
    assert [command.deliveries for command in rest] == [1, 1, 1, 1]
    assert len(await dead(redis)) == 1


@pytest.mark.parametrize(
    "fields",
    [
        {"session": "s1", "data": "1"},
        {"cmd": "do", "data": "1"},
        {"session": "s1", "cmd": "do", "data": "{"},
        {"session": "s1", "cmd": b"\xff", "data": "1"},
        {"session": "s1", "cmd": "do", "data": "[" * 100_000},
    ],
    ids=["no-cmd", "no-session", "not-json", "not-utf8", "deep"],
)
async def test_bad_entry_is_buried_and_stops_nobody(
    redis: Any, consumer: NewConsumer, fields: dict[str, str | bytes]
) -> None:
    """What no broker would have stored is not given to the service."""
    await redis.xadd(STREAM, fields)
    await add(redis, 2)
    async with consumer() as commands:
        assert await finish(commands, 1) == [2]
    (buried,) = await dead(redis)

    assert buried["reason"] == "bad_entry"
    assert await pending(redis) == 0


async def test_entry_that_cannot_be_buried_is_kept(
    redis: Any, consumer: NewConsumer
) -> None:
    """Nothing is acknowledged that is neither done nor put away."""
    await redis.set("broker:dead", "no stream")
    await redis.xadd(STREAM, {"data": "1"})
    await add(redis, 2)
    async with consumer(claim_after_s=0.05) as commands:
        assert await finish(commands, 1) == [2]
        assert await pending(redis) == 1
        await redis.delete("broker:dead")
        waiting = asyncio.create_task(finish(commands, 1))
        await until_buried(redis, 1)
        await add(redis, 3)
        assert await waiting == [3]


async def test_entry_that_was_deleted_is_passed_over(
    redis: Any, consumer: NewConsumer
) -> None:
    """Somebody removed it after it was given out: there is nothing left to do."""
    first, *_ = await add(redis, 1, 2)
    async with consumer() as before:
        await take(before, 2)
    await redis.xdel(STREAM, first)
    async with consumer() as after:
        assert await finish(after, 1) == [2]

        assert await pending(redis) == 0
