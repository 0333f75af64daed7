"""What is left of a stream when nobody wants it any more: nothing."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from broker.client import (
    Client,
)
from tests.harness.load import until
from tests.unit.client.conftest import Play
from tests.unit.client.script import (
    Script,
    deaf,
    event,
    feeds,
)


def tasks_of_client() -> set[asyncio.Task[object]]:
    """Whatever the client has running."""
    return {
        task
        for task in asyncio.all_tasks()
        if "/broker/client/" in cast("Any", task.get_coro()).cr_code.co_filename
    }


async def test_loop_that_is_left_closes_its_connection(play: Play):
    """Also without a word: the stream is gone with the loop."""
    script = await play(feeds(event("1-0@1")))
    async with Client(script.url) as client:
        async for _ in client.events("s1"):
            break
        await script.until(lambda: not script.open)
        await asyncio.sleep(0)

        assert tasks_of_client() == set()


async def test_stream_that_is_kept_goes_on(play: Play):
    """With the next event, as if the loop had not been left."""
    script = await play(feeds(event("1-0@1"), event("2-0@2")))
    ids: list[str | None] = []
    async with Client(script.url) as client:
        stream = client.events("s1")
        for _ in range(2):
            async for item in stream:
                ids.append(item.id)
                break

    assert ids == ["1-0@1", "2-0@2"]
    assert len(script.queries) == 1


async def test_stream_that_is_dropped_in_a_thread_closes_its_connection(play: Play):
    """The garbage collector runs where it likes."""
    script = await play(feeds(event("1-0@1")))
    async with Client(script.url) as client:
        streams = [client.events("s1")]
        await anext(streams[0])
        await asyncio.to_thread(streams.clear)
        await script.until(lambda: not script.open)


async def test_stream_as_a_context_is_closed_behind_it(play: Play):
    """No later than that."""
    script = await play(feeds(event("1-0@1"), event("2-0@2")))
    async with Client(script.url) as client:
        async with client.events("s1") as stream:
            await anext(stream)
        running = tasks_of_client()
        with pytest.raises(StopAsyncIteration):
            await anext(stream)

    assert running == set()


async def test_client_that_ends_ends_its_streams(play: Play):
    """A loop in another task is over then, without what was not taken yet."""
    script = await play(feeds(event("1-0@1"), event("2-0@2")))
    async with Client(script.url) as client:
        stream = client.events("s1")
        await anext(stream)
    running = tasks_of_client()
    with pytest.raises(StopAsyncIteration):
        await anext(stream)

    assert running == set()


async def loop_over(script: Script, taking: asyncio.Event) -> None:
    """A program."""
    async with Client(script.url) as client:
        async for _ in client.events("s1"):
            taking.set()


async def test_cancelled_loop_leaves_nothing(play: Play):
    """Neither a task nor a socket."""
    script = await play(feeds(event("1-0@1")))
    taking = asyncio.Event()
    program = asyncio.create_task(loop_over(script, taking))
    await taking.wait()
    program.cancel()
    await asyncio.wait((program,))

    assert program.cancelled()
    assert tasks_of_client() == set()


async def test_program_that_is_cancelled_while_it_closes_leaves_nothing(play: Play):
    """The server does not answer, and nobody wants to wait for it."""
    script = await play(deaf)
    taking = asyncio.Event()
    program = asyncio.create_task(loop_over(script, taking))
    await taking.wait()
    program.cancel()
    await asyncio.sleep(0)
    program.cancel()
    await asyncio.wait((program,))
    await until(lambda: not tasks_of_client(), 8, "end of the client's tasks")
    script.note()

    assert program.cancelled()
