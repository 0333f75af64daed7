"""Stand-ins for what a pure test must control: the clock, the loop and sockets."""

from __future__ import annotations

import asyncio
import contextvars
import heapq
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from broker.disconnect import Disconnect
from broker.protocols.formats import NATIVE, Format


class FakeClock:
    """Time that passes only when told; stands for the module ``time`` as well."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def monotonic_ns(self) -> int:
        return int(self.now * 1e9)

    def time_ns(self) -> int:
        return int(self.now * 1e9)

    def advance(self, seconds: float) -> None:
        self.now += seconds


_Loop: Any = asyncio.AbstractEventLoop  # Most of it is not needed here.


class StepLoop(_Loop):  # type: ignore[misc]
    """A loop that runs one callback at a time, when it is told to.

    Tasks and futures of the real asyncio run on it; nothing happens by itself, so a
    test decides what comes between any two callbacks.
    """

    def __init__(self, clock: FakeClock) -> None:
        self._clock = clock
        self._ready: deque[asyncio.Handle] = deque()
        self._timers: list[tuple[float, int, asyncio.Handle]] = []
        self._order = 0
        self._failure: BaseException | None = None
        self._tasks: list[asyncio.Task[Any]] = []

    @property
    def idle(self) -> bool:
        """Whether nothing is left to run before the clock moves."""
        self._wake_due()
        return not self._ready

    @property
    def sleeping(self) -> bool:
        """Whether something waits for the clock."""
        return bool(self._timers)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Be the running loop of this thread."""
        before = asyncio._get_running_loop()
        asyncio._set_running_loop(self)
        try:
            yield
        finally:
            asyncio._set_running_loop(before)

    def step(self) -> bool:
        """Run the next callback; False if there is none."""
        self._wake_due()
        if not self._ready:
            return False
        handle = self._ready.popleft()
        with self.running():
            handle._run()
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure
        return True

    def settle(self, limit: int = 10_000) -> int:
        """Run until nothing is left before the clock moves; returns how many."""
        for count in range(limit):
            if not self.step():
                return count
        raise AssertionError(f"still busy after {limit} callbacks")

    def close(self) -> None:
        """Drop what is under way, as the end of a process does."""
        self._ready.clear()
        self._timers.clear()
        for task in self._tasks:
            if not task.done():
                task._log_destroy_pending = False  # type: ignore[attr-defined]
                with self.running():
                    task.get_coro().close()
            elif not task.cancelled():
                task.exception()
        self._tasks.clear()

    def _wake_due(self) -> None:
        while self._timers and self._timers[0][0] <= self._clock.now:
            self._ready.append(heapq.heappop(self._timers)[2])

    # What asyncio and the code under test call.

    def time(self) -> float:
        return self._clock.now

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False

    def call_soon(
        self,
        callback: Callable[..., object],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    def call_later(
        self,
        delay: float,
        callback: Callable[..., object],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        self._order += 1
        due = self._clock.now + delay
        heapq.heappush(self._timers, (due, self._order, handle))
        return handle

    def create_task(self, coro: Any, **kwargs: Any) -> asyncio.Task[Any]:
        task = asyncio.Task(coro, loop=self, **kwargs)
        self._tasks.append(task)
        return task

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        failure = context.get("exception")
        self._failure = failure or AssertionError(context["message"])


class FakeSocket:
    """A connection as fan-out sees it; keeps what it is sent."""

    def __init__(self, wire: Format = NATIVE) -> None:
        self.format = wire
        self.fd = -1
        self.blocked = False
        self.buffered_bytes = 0
        self.sent: list[bytes] = []
        self.closed: Disconnect | None = None

    @property
    def open(self) -> bool:
        return self.closed is None

    def send(self, data: bytes) -> None:
        if data:
            self.sent.append(data)

    def notify(self, event: str, data: object, session: str | None = None) -> None:
        self.send(self.format.notice(event, data, session))

    def hold(self, frame: bytes) -> None:
        raise AssertionError("this format holds nothing back")

    def queue_rest(self, data: bytes, written: int) -> None:
        raise AssertionError("there is no descriptor to write to")

    def close(self, reason: Disconnect) -> None:
        self.closed = reason
