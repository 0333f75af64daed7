"""Parts of the reader that run side by side, and end together when one fails."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any

from broker.errors import ServerUnsuitable, StoreError


async def run_until_one_fails(*parts: Coroutine[Any, Any, None]) -> None:
    """Run all *parts*, cancel the rest when one ends, and raise what it failed with.

    Not a task group: before Python 3.13 that forgets that its owner is cancelled if
    one of its tasks fails meanwhile, and a reader that is told to end would read on.

    Raises:
        Exception: The `worst` of what the parts have failed with.
    """
    tasks = [asyncio.create_task(part) for part in parts]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        errors = await _end(tasks)
    try:
        raise worst(errors)
    finally:
        del tasks, errors  # They hold the error, and it holds this frame.


async def _end(tasks: Sequence[asyncio.Task[None]]) -> list[Exception]:
    for task in tasks:
        task.cancel()
    ended = await asyncio.gather(*tasks, return_exceptions=True)
    return [error for error in ended if isinstance(error, Exception)]


def worst(errors: Sequence[Exception]) -> Exception:
    """The one of *errors* that says most: a fault of ours, if there is any.

    It must not hide behind a connection that was lost with it.
    """
    return min(errors, key=_patience, default=RuntimeError("a part has just ended"))


def _patience(error: Exception) -> int:
    if isinstance(error, ServerUnsuitable):
        return 1
    return 2 if isinstance(error, StoreError) else 0
