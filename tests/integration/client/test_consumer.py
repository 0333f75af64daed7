"""A service reads what clients say, through everything that can go wrong."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import sys
import textwrap
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from redis.asyncio import Redis

from broker.client import Command, CommandConsumer
from broker.client import commands as module
from broker.errors import StoreRefused, StoreUnavailable
from broker.store.embedded import EmbeddedServer
from tests.conftest import RedisAt, StartRedis
from tests.harness.upstream import Sender, running_upstream

STREAM = "broker:commands"
GROUP = "agents"

NewConsumer = Callable[..., CommandConsumer]


@pytest.fixture
async def redis(redis: Redis) -> AsyncIterator[Any]:
    """The shared server without commands, before and after."""
    await redis.delete(STREAM, "broker:dead")
    yield redis
    await redis.delete(STREAM, "broker:dead")


@pytest.fixture
def consumer(shared_redis: EmbeddedServer) -> NewConsumer:
    """Makes consumers of the shared server."""

    def make(name: str = "one", **options: Any) -> CommandConsumer:
        return CommandConsumer(shared_redis.url, group=GROUP, name=name, **options)

    return make


async def add(redis: Any, *numbers: int, **fields: str | bytes) -> list[str]:
    """Add commands whose data is a number, as the broker does."""
    entry = {"session": "s1", "user": "ann", "connection": "c1", "cmd": "do", **fields}
    added = [await redis.xadd(STREAM, {"data": n, **entry}) for n in numbers]
    return [entry_id.decode() for entry_id in added]


async def take(commands: CommandConsumer, count: int) -> list[Command]:
    """The next commands; none is done."""
    async with asyncio.timeout(10):
        return [await anext(commands) for _ in range(count)]


async def finish(commands: CommandConsumer, count: int) -> list[Any]:
    """The data of the next commands, each done before the next."""
    found = []
    async with asyncio.timeout(20):
        for _ in range(count):
            command = await anext(commands)
            found.append(command.data)
            await command.done()
    return found


def data_of(commands: list[Command]) -> list[Any]:
    return [command.data for command in commands]


async def pending(redis: Any, group: str = GROUP) -> int:
    """How many commands were given to somebody and are not done."""
    count: int = (await redis.xpending(STREAM, group))["pending"]
    return count


async def names(redis: Any) -> list[str]:
    """The consumers that the group knows."""
    return [one["name"].decode() for one in await redis.xinfo_consumers(STREAM, GROUP)]


async def dead(redis: Any) -> list[dict[str, str]]:
    """The fields of what was buried."""
    return [
        {name.decode(): value.decode("latin-1") for name, value in fields.items()}
        for _, fields in await redis.xrange("broker:dead")
    ]


async def until_buried(redis: Any, count: int) -> None:
    async with asyncio.timeout(10):
        while await redis.xlen("broker:dead") < count:  # noqa: ASYNC110 - no event
            await asyncio.sleep(0.01)


async def blocked(redis: Any) -> None:
    """Return when a consumer waits for news."""
    async with asyncio.timeout(10):
        while not (await redis.info("clients"))["blocked_clients"]:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def drop_connections(redis: Any) -> None:
    """Close what the consumers under test have open."""
    for one in await redis.client_list():
        if one["name"] == "broker-client-commands":
            await redis.client_kill_filter(_id=one["id"])


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


# Redis goes away and comes back.


async def test_lost_connections_lose_no_command(
    redis: Any, consumer: NewConsumer
) -> None:
    """Each one comes, in order, also what was just being delivered."""
    async with consumer() as commands:
        finishing = asyncio.create_task(finish(commands, 300))
        for number in range(300):
            await add(redis, number)
            if number % 60 == 30:
                await drop_connections(redis)
        found = await finishing

    assert list(dict.fromkeys(found)) == [*range(300)]
    assert await pending(redis) == 0


async def test_done_waits_for_redis(
    start_redis: StartRedis, redis_at: RedisAt, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A restart of Redis is a pause for the service, and nothing is done twice."""
    monkeypatch.setattr(module, "backoff_s", lambda failures: 0.01 * (failures + 1))
    server = start_redis(appendonly=True)
    await add(redis_at(server.url), 1, 2)
    async with CommandConsumer(server.url, group=GROUP) as commands:
        (command,) = await take(commands, 1)
        server.kill()
        finishing = asyncio.create_task(command.done())
        await asyncio.to_thread(server.start)
        await finishing
        assert await pending(redis_at(server.url)) == 0
        server.restart()
        assert await finish(commands, 1) == [2]


async def test_redis_that_forgot_everything_is_read_anew(
    start_redis: StartRedis, redis_at: RedisAt
) -> None:
    """The group is made again, and begins with all that is there."""
    server = start_redis()
    redis = redis_at(server.url)
    async with CommandConsumer(server.url, group=GROUP, start="$") as commands:
        waiting = asyncio.create_task(finish(commands, 2))
        await blocked(redis)
        await redis.flushall()
        await add(redis, 1, 2)

        assert await waiting == [1, 2]


async def test_service_that_starts_before_redis_waits_for_it(
    start_redis: StartRedis, redis_at: RedisAt
) -> None:
    """The order in which programs are started does not matter."""
    server = start_redis(appendonly=True)
    await add(redis_at(server.url), 1)
    server.kill()
    commands = CommandConsumer(server.url, group=GROUP)
    entering = asyncio.create_task(commands.__aenter__())
    await asyncio.to_thread(server.start)
    await entering

    assert await finish(commands, 1) == [1]
    await commands.__aexit__(None, None, None)


async def test_what_redis_refuses_is_told_at_once(
    shared_redis: EmbeddedServer, redis: Any, consumer: NewConsumer
) -> None:
    """A wrong password, or a key that is no stream, is not tried for ever."""
    wrong = shared_redis.url.replace("//", "//nobody:wrong@")
    with pytest.raises(StoreRefused, match="WRONGPASS"):
        await CommandConsumer(wrong, group=GROUP).__aenter__()
    await redis.set(STREAM, "no stream")
    with pytest.raises(StoreRefused, match="WRONGTYPE"):
        await consumer().__aenter__()


# The service stops.


async def test_stop_lets_what_is_under_way_finish(
    redis: Any, consumer: NewConsumer
) -> None:
    """Nothing more is taken, and the block is left when all is done."""
    await add(redis, 1, 2, 3)
    async with consumer() as commands:
        first, second = await take(commands, 2)
        commands.stop()
        assert [command async for command in commands] == []
        finishing = [asyncio.create_task(one.done()) for one in (first, second)]
    assert all(task.done() for task in finishing)
    assert await pending(redis) == 0
    async with consumer("two") as others:
        assert await finish(others, 1) == [3]


async def test_stop_does_not_wait_for_ever(
    redis: Any, consumer: NewConsumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A command that is never done stays for the next consumer."""
    monkeypatch.setattr(module, "STOP_S", 0.05)
    await add(redis, 1)
    async with consumer() as commands:
        (command,) = await take(commands, 1)
        commands.stop()
    with pytest.raises(StoreUnavailable, match="closed"):
        await command.done()
    assert await pending(redis) == 1


async def test_stop_ends_a_wait_for_news(redis: Any, consumer: NewConsumer) -> None:
    """And a consumer that held nothing leaves no name behind."""
    async with consumer() as commands:
        waiting = asyncio.ensure_future(anext(commands, None))
        await blocked(redis)
        assert await names(redis) == ["one"]
        commands.stop()
        async with asyncio.timeout(5):
            assert await waiting is None
    assert await names(redis) == []


async def test_stop_while_redis_is_away_ends_the_wait(start_redis: StartRedis) -> None:
    """An outage keeps no service from ending."""
    server = start_redis()
    async with CommandConsumer(server.url, group=GROUP) as commands:
        server.kill()
        waiting = asyncio.ensure_future(anext(commands, None))
        await asyncio.sleep(0)
        commands.stop()
        async with asyncio.timeout(5):
            assert await waiting is None


async def test_name_that_holds_commands_stays(
    redis: Any, consumer: NewConsumer
) -> None:
    """With the name the commands would be gone."""
    await add(redis, 1)
    async with consumer() as commands:
        await take(commands, 1)
    assert await names(redis) == ["one"]


async def test_cancelled_wait_loses_no_command(
    redis: Any, consumer: NewConsumer
) -> None:
    """What was delivered to a wait that was given up comes to the next one."""
    async with consumer() as commands:
        for number in range(20):
            waiting = asyncio.ensure_future(anext(commands))
            await blocked(redis)
            waiting.cancel()
            await add(redis, number)
            with contextlib.suppress(asyncio.CancelledError):
                await waiting

            assert await finish(commands, 1) == [number]


# All of it together.

CHILD = """
import asyncio, sys
from broker.client import CommandConsumer

async def main():
    async with CommandConsumer(sys.argv[1], group="agents", name="one") as commands:
        async for command in commands:
            print(command.id, command.connection, command.data, flush=True)
            await command.done()

asyncio.run(main())
"""
SENDERS = 200
EACH = 100


async def run_child(url: str, limit: int) -> list[list[str]]:
    """Run a consumer until it has handled *limit* commands, then kill it (SIGKILL).

    Returns what it handled: it may be some more.
    """
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", CHILD, url), stdout=asyncio.subprocess.PIPE
    )
    assert child.stdout is not None
    handled = [(await child.stdout.readline()).split() for _ in range(limit)]
    child.kill()
    handled += [line.split() for line in (await child.stdout.read()).splitlines()]
    await child.wait()
    return [[word.decode() for word in words] for words in handled if len(words) == 3]


async def test_consumer_that_is_killed_again_and_again_misses_nothing(
    start_redis: StartRedis, redis_at: RedisAt
) -> None:
    """20 000 commands of 200 connections: stored once, handled, in order each."""
    server = start_redis()
    async with running_upstream(server.url) as upstream:
        senders = [Sender(f"c{number}") for number in range(SENDERS)]

        async def talk(sender: Sender) -> list[str]:
            told = []
            for number in range(EACH):
                ref = f"{sender.connection_id}-command-{number}"
                data = b"%d" % number
                answer = await upstream.send(sender, "s1", "do", data, ref)
                told.append(answer.stream_id)
            return told

        talking = asyncio.gather(*[talk(sender) for sender in senders])
        handled: list[list[str]] = []
        while len({words[0] for words in handled}) < SENDERS * EACH:
            left = SENDERS * EACH - len({words[0] for words in handled})
            handled += await run_child(server.url, min(4500, left))
        stored = [entry_id for told in await talking for entry_id in told]
    first_times = {entry_id: rest for entry_id, *rest in reversed(handled)}
    orders = defaultdict(list)
    for connection, number in reversed(first_times.values()):
        orders[connection].append(int(number))

    assert "" not in stored
    assert len(set(stored)) == SENDERS * EACH == len(stored)
    assert await redis_at(server.url).xlen(STREAM) == SENDERS * EACH
    assert set(first_times) == set(stored)
    assert list(orders.values()) == [[*range(EACH)]] * SENDERS
