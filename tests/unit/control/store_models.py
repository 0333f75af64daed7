"""Redis as offsets and presence see it: in memory, on a clock that a test moves."""

from __future__ import annotations

import asyncio
import contextvars
import json
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from broker.errors import StoreUnavailable
from broker.model import Position, parse_position
from broker.store.connection import Command, Connection
from broker.store.scripts import script
from broker.store.standing import StandingConnection
from tests.fakes import FakeClock, StepLoop


class Server(Protocol):
    """What a `Wire` leads to."""

    def execute(self, command: Command) -> Any:
        """Run one command; its raw reply, an error reply included."""


class TimedLoop(StepLoop):
    """A loop whose timers may be cancelled, as those of a timeout are."""

    def call_at(
        self,
        when: float,
        callback: Callable[..., object],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> asyncio.Handle:
        return self.call_later(when - self.time(), callback, *args, context=context)

    def step(self) -> bool:
        self._wake_due()
        while self._ready and self._ready[0].cancelled():
            self._ready.popleft()
        return super().step()


class Wire(Connection):
    """A connection on which a test decides what is run, and which replies arrive.

    Attributes:
        prompt: Everything is run and answered at once.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, server: Server, *, prompt: bool = True
    ) -> None:
        super().__init__(loop, 5.0)
        self.prompt = prompt
        self._fake_loop = loop
        self._server = server
        self._sent: deque[tuple[tuple[Command, ...], asyncio.Future[list[Any]]]] = (
            deque()
        )
        self._replies: deque[tuple[list[Any], asyncio.Future[list[Any]]]] = deque()

    def send(self, *commands: Command) -> asyncio.Future[list[Any]]:
        future: asyncio.Future[list[Any]] = self._fake_loop.create_future()
        if self._closed:
            future.set_exception(StoreUnavailable("the connection is lost"))
            return future
        self._sent.append((commands, future))
        while self.prompt and self.waiting:
            self.execute()
            self.receive()
        return future

    @property
    def waiting(self) -> int:
        """Calls that have not been answered."""
        return len(self._sent) + len(self._replies)

    def execute(self) -> None:
        """Have the server run the next call, if there is one."""
        if self._sent:
            commands, future = self._sent.popleft()
            replies = [self._server.execute(command) for command in commands]
            self._replies.append((replies, future))

    def receive(self) -> None:
        """Have the next reply arrive, if there is one."""
        if self._replies:
            replies, future = self._replies.popleft()
            if not future.done():
                future.set_result(replies)

    def lose(self) -> None:
        """End: what was not run never will be, and what was is not answered."""
        self._closed = True
        futures = [future for _, future in (*self._sent, *self._replies)]
        self._sent.clear()
        self._replies.clear()
        for future in futures:
            if not future.done():
                future.set_exception(StoreUnavailable("the connection is lost"))


class Standing(StandingConnection):
    """Gives the `Wire` that a test put there.

    Attributes:
        wire: The connection, None while there is none.
        drops: How often somebody wanted another one.
    """

    def __init__(self, wire: Wire | None = None) -> None:
        super().__init__("redis://nowhere", "model")
        self.wire = wire
        self.drops = 0

    @property
    def up(self) -> bool:
        return self.wire is not None

    def use(self) -> Connection:
        if self.wire is None:
            raise StoreUnavailable("no connection")
        return self.wire

    def drop(self) -> None:
        self.drops += 1


class ModelOffsets:
    """Hashes of positions and the rules of ``commit.lua``.

    Attributes:
        hashes: What is stored, by key and consumer.
        refusal: An error reply to everything instead, while it is set.
        calls: How many scripts were run.
    """

    def __init__(self) -> None:
        self.hashes: dict[str, dict[str, str]] = {}
        self.refusal: Exception | None = None
        self.calls = 0

    def execute(self, command: Command) -> Any:
        if self.refusal is not None:
            return self.refusal
        if command[0] == b"HGET":
            return _raw(self.hashes.get(_text(command[1]), {}).get(_text(command[2])))
        assert command[:3] == (b"EVALSHA", script("commit").sha, 1)
        self.calls += 1
        key, mode, consumer, position, _ttl_ms, most = map(_text, command[3:])
        hashed = self.hashes.setdefault(key, {})
        return _raw(commit(hashed, mode, consumer, position, int(most)))

    def stored(self, key: str, name: str) -> str | None:
        return self.hashes.get(key, {}).get(name)

    def snapshot(self) -> dict[str, dict[str, str]]:
        return {key: dict(hashed) for key, hashed in self.hashes.items()}

    def restore(self, snapshot: dict[str, dict[str, str]]) -> None:
        self.hashes = {key: dict(hashed) for key, hashed in snapshot.items()}


def commit(
    hashed: dict[str, str], mode: str, consumer: str, position: str, most: int
) -> str | None:
    """What ``commit.lua`` does with one hash."""
    old = _position(hashed.get(consumer, ""))
    if consumer not in hashed and len(hashed) >= most:
        return None
    new = parse_position(position)
    ahead = old is not None and (
        new.id > old.id or (new.id == old.id and not old.seq and bool(new.seq))
    )
    if old is None or mode == "replace" or (mode == "forward" and ahead):
        hashed[consumer] = position
    return hashed[consumer]


class ModelPresence:
    """The members of sessions and the rules of ``presence.lua``.

    Attributes:
        members: When each lease runs out in ms, by key and user.
        published: Channel and message, in order.
    """

    def __init__(self, clock: FakeClock) -> None:
        self.members: dict[str, dict[str, int]] = {}
        self.published: list[tuple[str, dict[str, Any]]] = []
        self.refusal: Exception | None = None
        self._clock = clock

    @property
    def now_ms(self) -> int:
        return int(self._clock.now * 1000)

    def execute(self, command: Command) -> Any:
        if self.refusal is not None:
            return self.refusal
        assert command[:3] == (b"EVALSHA", script("presence").sha, 1)
        key, mode, *rest = map(_text, command[3:])
        return getattr(self, f"_{mode}")(key, *rest)

    def _renew(
        self, key: str, lease_ms: str, _keep_ms: str, prune: str, *users: str
    ) -> None:
        members = self.members.setdefault(key, {})
        joined = [user for user in users if user not in members]
        until = self.now_ms + int(lease_ms)
        for user in users:
            members[user] = max(until, members.get(user, 0))
        self._publish(key, "joined", joined)
        if prune == "prune":
            self._prune(key)

    def _leave(self, key: str, linger_ms: str, _keep_ms: str, *users: str) -> None:
        members = self.members.get(key, {})
        for user in members.keys() & set(users):
            members[user] = self.now_ms + int(linger_ms)

    def _prune(self, key: str) -> int:
        members = self.members.get(key, {})
        gone = [user for user, until in members.items() if until <= self.now_ms]
        for user in gone:
            del members[user]
        self._publish(key, "left", gone)
        return min(members.values()) - self.now_ms if members else -1

    def _who(self, key: str, limit: str) -> list[Any]:
        present = self.present(key)
        return [len(present), [user.encode() for user in present[: int(limit)]]]

    def present(self, key: str) -> list[str]:
        """Whose lease runs, by when it runs out."""
        members = self.members.get(key, {})
        found = [user for user, until in members.items() if until > self.now_ms]
        return sorted(found, key=lambda user: (members[user], user))

    def _publish(self, key: str, event: str, users: list[str]) -> None:
        if users:
            count = len(self.present(key))
            change = {"event": event, "users": users, "count": count}
            self.published.append((key, change))

    def take_payloads(self) -> list[tuple[str, bytes]]:
        """Session and message of all that was published since the last time."""
        taken, self.published = self.published, []
        prefix = "broker:presence:"
        return [
            (key.removeprefix(prefix), json.dumps(change).encode())
            for key, change in taken
        ]


def _text(word: bytes | str | int) -> str:
    return word.decode() if isinstance(word, bytes) else str(word)


def _raw(text: str | None) -> bytes | None:
    return None if text is None else text.encode()


def _position(text: str) -> Position | None:
    try:
        return parse_position(text)
    except ValueError:
        return None
