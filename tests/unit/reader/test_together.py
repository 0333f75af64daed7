"""Parts that end together, and what is said of it."""

from __future__ import annotations

import asyncio
import gc
import weakref

import pytest

from broker.errors import ServerUnsuitable, StoreError, StoreUnavailable
from broker.reader.together import run_until_one_fails, worst

LOST = StoreUnavailable("the connection is lost")


async def fail(error: Exception, steps: int = 1) -> None:
    for _ in range(steps):
        await asyncio.sleep(0)
    raise error


async def last() -> None:
    await asyncio.Event().wait()


async def test_the_others_are_cancelled_when_one_fails() -> None:
    """And have ended when the error is raised."""
    ended = []

    async def clean_up() -> None:
        try:
            await last()
        finally:
            await asyncio.sleep(0)
            ended.append(True)

    with pytest.raises(StoreUnavailable):
        await run_until_one_fails(clean_up(), fail(LOST), clean_up())

    assert ended == [True, True]


@pytest.mark.parametrize("steps", range(1, 8))
async def test_to_be_cancelled_while_one_fails_is_not_forgotten(steps: int) -> None:
    """In whichever step that comes."""
    running = asyncio.create_task(run_until_one_fails(last(), fail(LOST, 2)))
    for _ in range(steps):
        await asyncio.sleep(0)
    was_done = running.done()
    running.cancel()
    await asyncio.wait([running])

    assert was_done or running.cancelled()


async def test_to_fail_leaves_no_cancellation_behind() -> None:
    """Who catches the error goes on."""
    with pytest.raises(StoreUnavailable):
        await run_until_one_fails(last(), fail(LOST))
    task = asyncio.current_task()

    assert task is not None
    assert task.cancelling() == 0


@pytest.mark.parametrize(
    "errors",
    [
        [LOST, ValueError("a fault")],
        [ServerUnsuitable("old"), ValueError("a fault")],
        [LOST, ServerUnsuitable("old")],
    ],
)
def test_what_says_most_is_raised(errors: list[Exception]) -> None:
    """A fault does not hide behind a connection that was lost with it."""
    assert worst(errors) is worst(errors[::-1]) is errors[1]


async def test_a_part_that_just_ends_is_a_fault() -> None:
    with pytest.raises(RuntimeError, match="ended"):
        await run_until_one_fails(asyncio.sleep(0), last())


async def test_what_was_raised_is_freed_without_a_collection() -> None:
    """A connection that is lost often must not pile up what belonged to it."""

    async def lose() -> None:
        raise StoreError("lost")

    raised: list[weakref.ref[StoreError]] = []
    gc.collect()
    gc.disable()
    try:
        try:
            await run_until_one_fails(last(), lose())
        except StoreError as error:
            raised.append(weakref.ref(error))
        await asyncio.sleep(0)  # Until then the loop has the future that woke us.

        assert [error() for error in raised] == [None]
    finally:
        gc.enable()
