"""A Redis of streams in memory, answering command by command as the real one does.

Commands wait on their connection until the schedule has the server execute them, and
replies and pushes wait, in one order, until the schedule has the client receive them.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections import deque
from collections.abc import Callable
from typing import Any

from hiredis import Reader, ReplyError

from broker.errors import StoreUnavailable
from broker.model import FIRST_ID, LAST_ID, StreamId, id_before, parse_stream_id
from broker.store.replies import store_error

INCARNATION_MS = 1_000_000
INCARNATIONS_MAX = 40

Fields = list[bytes]
Taker = Callable[[Any], None]


class Incarnation:
    """One life of a key: everything that was ever added, and what is left of it."""

    def __init__(self, number: int, base_ms: int) -> None:
        self.number = number
        self.base_ms = base_ms
        self.ids: list[StreamId] = []
        self.fields: list[Fields] = []
        self.first = 0
        """How many were trimmed."""
        self.deleted: set[int] = set()
        """Ordinals that were deleted from the middle."""
        self.max_deleted = FIRST_ID

    def add(self, fields: Fields) -> StreamId:
        count = len(self.ids)
        new = (self.base_ms + 1 + count // 2, count % 2)
        self.ids.append(new)
        self.fields.append(fields)
        return new

    def left(self) -> list[int]:
        """The ordinals of the entries that are still there."""
        every = range(self.first + 1, len(self.ids) + 1)
        if not self.deleted:
            return list(every)
        return [number for number in every if number not in self.deleted]

    def ordinal(self, stream_id: StreamId) -> int:
        """How many entries were added up to and including *stream_id*."""
        return bisect_right(self.ids, stream_id)

    def range(self, low: StreamId, high: StreamId, count: int) -> list[list[Any]]:
        begin, end = self.ordinal(id_before(low)), self.ordinal(high)
        if low == FIRST_ID:
            begin = 0
        chosen = []
        for number in range(max(begin, self.first) + 1, end + 1):
            if number not in self.deleted:
                chosen.append(self.entry(number))
                if len(chosen) == count:
                    break
        return chosen

    def entry(self, number: int) -> list[Any]:
        return [b"%d-%d" % self.ids[number - 1], self.fields[number - 1]]

    def info(self) -> dict[bytes, Any]:
        left = self.left()
        first = self.entry(left[0]) if left else None
        last = self.entry(left[-1]) if left else None
        return {
            b"length": len(left),
            b"entries-added": len(self.ids),
            b"last-generated-id": b"%d-%d" % (self.ids[-1] if self.ids else FIRST_ID),
            b"recorded-first-entry-id": first[0] if first else b"0-0",
            b"max-deleted-entry-id": b"%d-%d" % self.max_deleted,
            b"first-entry": first,
            b"last-entry": last,
        }


class History:
    """All lives of one key.

    Where they sink, each life has ids below those of the lives before, so a position of
    a former life is never mistaken for one of this: that much of a reset a broker can
    always see. Where they rise, as with a server's clock, it has only ordinals and the
    absence of entries to tell by; both are enough while nothing was trimmed.
    """

    def __init__(self, *, rising: bool) -> None:
        self.rising = rising
        self.lives: list[Incarnation] = []
        self.begin_life()

    @property
    def now(self) -> Incarnation:
        return self.lives[-1]

    @property
    def is_full(self) -> bool:
        """Whether there are no ids for another life."""
        return len(self.lives) == INCARNATIONS_MAX - 1

    def begin_life(self) -> None:
        number = len(self.lives)
        place = number + 1 if self.rising else INCARNATIONS_MAX - number
        self.lives.append(Incarnation(number, place * INCARNATION_MS))

    def life_of(self, stream_id: StreamId) -> Incarnation | None:
        """The life that *stream_id* belongs to, None for 0-0."""
        if stream_id == FIRST_ID:
            return None
        place = stream_id[0] // INCARNATION_MS
        return self.lives[place - 1 if self.rising else INCARNATIONS_MAX - place]


class ModelRedis:
    """Streams, and the doorbell of ``CLIENT TRACKING``."""

    def __init__(self, *, rising: bool = False) -> None:
        self._rising = rising
        self.keys: dict[bytes, History] = {}
        self._trackers: dict[bytes, set[ModelConnection]] = {}

    def history(self, key: bytes) -> History:
        if key not in self.keys:
            self.keys[key] = History(rising=self._rising)
        return self.keys[key]

    def add(self, key: bytes, fields: Fields) -> None:
        self.history(key).now.add(fields)
        self.touch(key)

    def trim(self, key: bytes, length: int) -> None:
        history = self.history(key)
        life, left = history.now, history.now.left()
        may_be = not history.rising or len(history.lives) == 1
        if len(left) > length and may_be:
            life.first = left[len(left) - length - 1]
            self.touch(key)

    def delete_entry(self, key: bytes, place: int) -> None:
        life = self.history(key).now
        left = life.left()
        if left:
            number = left[place % len(left)]
            life.deleted.add(number)
            life.max_deleted = max(life.max_deleted, life.ids[number - 1])
            self.touch(key)

    def delete(self, key: bytes) -> None:
        history = self.history(key)
        if history.now.ids and not history.is_full:
            history.begin_life()
            self.touch(key)

    def touch(self, key: bytes) -> None:
        for connection in self._trackers.pop(key, ()):
            connection.push([b"invalidate", [key]])

    def arm(self, key: bytes, connection: ModelConnection) -> None:
        if connection.on_push is not None:
            self._trackers.setdefault(key, set()).add(connection)

    def execute(self, commands: list[Any], connection: ModelConnection) -> list[Any]:
        replies: list[Any] = []
        queued: list[Any] | None = None
        for command in commands:
            name, *arguments = command
            if name == b"MULTI":
                queued = []
                replies.append(b"OK")
            elif name == b"EXEC":
                replies.append(queued)
            else:
                handler = getattr(self, "_" + name.decode().lower())
                reply = handler(connection, *arguments)
                if queued is None:
                    replies.append(reply)
                else:
                    queued.append(reply)
                    replies.append(b"QUEUED")
        return replies

    def _xread(self, connection: ModelConnection, *arguments: Any) -> Any:
        _word, count, _streams, *rest = arguments
        half = len(rest) // 2
        found = {}
        for key, cursor in zip(rest[:half], rest[half:], strict=True):
            self.arm(key, connection)
            entries = self._xrange(connection, key, b"(" + cursor, b"+", b"", count)
            if entries:
                found[key] = entries
        return found or None

    def _xinfo(self, connection: ModelConnection, _word: bytes, key: bytes) -> Any:
        self.arm(key, connection)
        life = self.history(key).now
        return life.info() if life.ids else ReplyError("ERR no such key")

    def _xrange(
        self,
        connection: ModelConnection,
        key: bytes,
        low: bytes,
        high: bytes,
        _word: bytes = b"",
        count: int = 0,
    ) -> list[list[Any]]:
        self.arm(key, connection)
        return self.history(key).now.range(_low(low), _high(high), count)

    def _xrevrange(
        self,
        connection: ModelConnection,
        key: bytes,
        high: bytes,
        low: bytes,
        _word: bytes,
        count: int,
    ) -> list[list[Any]]:
        return self._xrange(connection, key, low, high)[::-1][:count]


class ModelConnection:
    """A client's connection; what it tracks rings ``on_push``."""

    def __init__(
        self,
        redis: ModelRedis,
        loop: asyncio.AbstractEventLoop,
        on_push: Callable[[list[Any]], None] | None = None,
    ) -> None:
        self._redis = redis
        self._loop = loop
        self.on_push = on_push
        self.closed = False
        self.waiting: deque[tuple[list[Any], Taker]] = deque()
        self.arriving: deque[tuple[Taker, Any]] = deque()
        self._unanswered: list[asyncio.Future[Any]] = []

    def send(self, *commands: Any) -> asyncio.Future[Any]:
        return self._ask([list(map(_decoded, commands))], lambda _replies: None)

    def send_each(self, take: Taker, *commands: Any) -> asyncio.Future[Any]:
        """Others' commands come between these, and a loss between their answers."""

        def take_all(replies: list[Any]) -> None:
            for reply in replies:
                take(reply)
            replies.clear()

        words = list(map(_decoded, commands))
        # Only a transaction stays together.
        end = words.index((b"MULTI",)) if (b"MULTI",) in words else len(words)
        together = [words[end:]] if words[end:] else []
        return self._ask([[one] for one in words[:end]] + together, take_all)

    def _ask(self, parts: list[list[Any]], take: Taker) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = self._loop.create_future()
        if self.closed:
            future.set_exception(StoreUnavailable("the connection is lost"))
            return future

        def finish(replies: list[Any]) -> None:
            take(replies)
            self._unanswered.remove(future)
            future.set_result(replies)

        self._unanswered.append(future)
        self.waiting += [(part, take) for part in parts[:-1]]
        self.waiting.append((parts[-1], finish))
        return future

    async def call(self, *command: Any) -> Any:
        (reply,) = await self.send(command)
        if isinstance(reply, ReplyError):
            raise store_error(reply)
        return reply

    def push(self, message: list[Any]) -> None:
        if not self.closed and self.on_push is not None:
            self.arriving.append((self.on_push, message))

    def execute(self) -> bool:
        """Have the server take what comes next."""
        if not self.waiting:
            return False
        commands, take = self.waiting.popleft()
        self.arriving.append((take, self._redis.execute(commands, self)))
        return True

    def receive(self) -> bool:
        """Have the next reply or push arrive."""
        if not self.arriving:
            return False
        take, message = self.arriving.popleft()
        take(message)
        return True

    def lose(self) -> None:
        """End: whatever has not arrived never will."""
        self.closed = True
        self.waiting.clear()
        self.arriving.clear()
        while self._unanswered:
            lost = StoreUnavailable("the connection is lost")
            self._unanswered.pop(0).set_exception(lost)


def _decoded(command: Any) -> Any:
    """A command that was encoded before, as its words."""
    if not isinstance(command, bytes):
        return command
    reader = Reader()
    reader.feed(command)
    return reader.gets()


def _low(text: bytes) -> StreamId:
    if text == b"-":
        return FIRST_ID
    if text.startswith(b"("):
        ms, n = parse_stream_id(text[1:])
        return ms, n + 1
    return LAST_ID if text == b"+" else parse_stream_id(text)


def _high(text: bytes) -> StreamId:
    if text == b"+":
        return LAST_ID
    if text == b"-":
        return FIRST_ID
    if text.startswith(b"("):
        return id_before(parse_stream_id(text[1:]))
    return parse_stream_id(text)
