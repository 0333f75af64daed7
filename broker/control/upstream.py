"""Commands of clients on their way to the command stream.

Nothing is sent twice from here: a command without an answer may have been stored, and
only its client knows whether to say it again. With the same id that is safe.
"""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final, Protocol

import msgspec
import structlog

from broker.config import Settings
from broker.errors import StoreError, StoreRefused, StoreUnavailable
from broker.store.commands import (
    SCRIPTS,
    CommandStream,
    NewCommand,
    backlog,
    trim_read,
)
from broker.store.once import read_added
from broker.store.standing import StandingConnection

__all__ = ["SCRIPTS", "Answer", "Sender", "Upstream"]

log = structlog.get_logger(__name__)

CHECK_S = 1.0
IN_FLIGHT_MAX = 10_000
IN_FLIGHT_BYTES_MAX = 32 * 1024 * 1024
"""Bounds of what one worker has sent and has no answer to."""
USERS_MAX = 10_000


class Answer(msgspec.Struct, frozen=True):
    """What became of a command.

    Attributes:
        stream_id: Of the entry it is now; empty if it was refused.
        code: Why it was refused, for the ``error`` frame; empty if it was stored.
        message: The same for a person.
        retry: Whether the same command may be taken later.
    """

    stream_id: str = ""
    code: str = ""
    message: str = ""
    retry: bool = False


RATE_LIMITED: Final = Answer(
    code="rate_limited", message="too many commands; say it again later", retry=True
)
OVERLOADED: Final = Answer(
    code="overloaded",
    message="too many commands wait to be done; say it again later",
    retry=True,
)
UNAVAILABLE: Final = Answer(
    code="unavailable",
    message="nobody knows whether it was stored; say it again with the same id",
    retry=True,
)
ID_REUSED: Final = Answer(
    code="id_reused", message="this id was given to another command; choose a new one"
)
TOO_LARGE: Final = Answer(code="too_large", message="the command is too large")


class Sender(Protocol):
    """The connection over which a command came.

    Attributes:
        command_allowance: State of its rate limit, None until it is used.
    """

    command_allowance: tuple[float, float] | None

    @property
    def connection_id(self) -> str:
        """The name of the connection."""

    @property
    def user(self) -> str:
        """Whose it is; empty for nobody's."""


class Upstream:
    """Appends commands to the command stream, for all connections of one worker.

    All go over one connection in the order in which they were said, so they are stored
    and acknowledged in that order. A refusal is known at once and may overtake.

    Attributes:
        backlog: Entries in the command stream, as far as is known here.
        in_flight: Commands that were sent and are not answered.
        trimmed: Entries that were removed because everybody has read them.
    """

    def __init__(
        self, standing: StandingConnection, settings: Settings, *, trims: bool
    ) -> None:
        """Prepare; `run` must run as well.

        Args:
            standing: A connection of its own, on which `SCRIPTS` are loaded.
            settings: The rates, the limit of the backlog, the stream.
            trims: Whether to remove what was read; one worker of a pod is enough.
        """
        self._standing = standing
        self._stream = CommandStream(settings.command_stream, settings.command_dedup_s)
        self._rate = float(settings.command_rate_per_s)
        self._user_rate = float(settings.command_rate_per_user_per_s)
        self._backlog_max = settings.command_backlog
        self._bytes_max = min(settings.max_frame_bytes, IN_FLIGHT_BYTES_MAX)
        self._trims = trims
        self._users: dict[str, tuple[float, float]] = {}
        self._bytes_in_flight = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._is_over = False
        self._trouble = ""
        self.backlog = 0
        self.in_flight = 0
        self.trimmed = 0

    def send(
        self,
        sender: Sender,
        session: str,
        cmd: str,
        data: bytes,
        ref_id: str | None = None,
    ) -> asyncio.Future[Answer]:
        """Store a command, or say why not.

        The sender is not kept: who waits for the answer decides what it holds on to.

        Args:
            sender: Who said it.
            session: To which session.
            cmd: Its name.
            data: JSON text as it came; empty means null.
            ref_id: The client's id of the command.

        Returns:
            The answer, at the latest after ``command_timeout_s``; done at once where
            the command is refused.
        """
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        refusal = self._refusal(sender, len(data))
        if refusal is not None:
            answer.set_result(refusal)
            return answer
        try:
            connection = self._standing.use()
        except StoreUnavailable:
            answer.set_result(UNAVAILABLE)
            return answer
        connection_id, user = sender.connection_id, sender.user
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        command = NewCommand(
            session=session,
            user=user,
            connection=connection_id,
            cmd=cmd,
            data=data or b"null",
            id=ref_id,
            received_at=now.replace("+00:00", "Z"),
        )
        self.in_flight += 1
        self._bytes_in_flight += len(data)
        self._idle.clear()
        replies = connection.send(self._stream.add(command))
        replies.add_done_callback(partial(self._finish, answer, len(data)))
        return answer

    def _refusal(self, sender: Sender, size_bytes: int) -> Answer | None:
        if size_bytes > self._bytes_max:
            return TOO_LARGE
        if not self._may_send(sender):
            return RATE_LIMITED
        if (
            self.backlog > self._backlog_max
            or self.in_flight >= IN_FLIGHT_MAX
            or self._bytes_in_flight >= IN_FLIGHT_BYTES_MAX
        ):
            return OVERLOADED
        return None

    def _may_send(self, sender: Sender) -> bool:
        """Take from the allowances of the connection and of its user."""
        now = time.monotonic()
        allowed, sender.command_allowance = _spend(
            sender.command_allowance, self._rate, now
        )
        user = sender.user
        if not allowed or not user:
            return allowed
        # Taken out and put back, so the first one is who was silent for longest.
        allowed, left = _spend(self._users.pop(user, None), self._user_rate, now)
        self._users[user] = left
        if len(self._users) > USERS_MAX:
            del self._users[next(iter(self._users))]
        return allowed

    def _finish(
        self,
        answer: asyncio.Future[Answer],
        size_bytes: int,
        replies: asyncio.Future[list[Any]],
    ) -> None:
        self.in_flight -= 1
        self._bytes_in_flight -= size_bytes
        if not self.in_flight:
            self._idle.set()
        result = self._read(replies)
        if not answer.done():
            answer.set_result(result)

    def _read(self, replies: asyncio.Future[list[Any]]) -> Answer:
        try:
            (reply,) = replies.result()
            stream_id = read_added(reply)
        except StoreUnavailable:
            return UNAVAILABLE
        except StoreRefused as error:
            self._note_trouble(error)
            return UNAVAILABLE
        self._trouble = ""
        if stream_id is None:
            return ID_REUSED
        self.backlog += 1  # Counted anew each second; repeats count until then.
        return Answer(stream_id)

    def _note_trouble(self, error: StoreRefused) -> None:
        if error.kind == "NOSCRIPT":
            # Somebody flushed the scripts: a new connection loads them again.
            self._standing.drop()
        if self._trouble != error.kind:
            self._trouble = error.kind
            log.error("commands_not_stored", why=str(error))

    async def run(self) -> None:
        """Watch the backlog; never returns."""
        while True:
            try:
                await self.check_backlog()
            except StoreUnavailable:
                pass  # Commands are refused for that already.
            except StoreError as error:
                log.error("command_stream_unreadable", why=str(error))  # noqa: TRY400
            await asyncio.sleep(CHECK_S)

    async def check_backlog(self) -> None:
        """Count the backlog; remove what was read where it is more than half full.

        Raises:
            StoreUnavailable: No connection, or the server is not ready.
            StoreRefused: The stream cannot be read or trimmed.
        """
        connection = self._standing.use()
        entries = await backlog(connection, self._stream.key)
        if self._trims and entries > self._backlog_max // 2:
            removed = await trim_read(connection, self._stream.key)
            self.trimmed += removed
            entries -= removed
        self.backlog = entries
        is_over = entries > self._backlog_max
        if is_over != self._is_over:
            self._is_over = is_over
            level = log.warning if is_over else log.info
            level("command_backlog", full=is_over, entries=entries)

    async def flush(self) -> None:
        """Return when all that was sent is answered: within ``command_timeout_s``."""
        await self._idle.wait()


def _spend(
    allowance: tuple[float, float] | None, rate_per_s: float, now: float
) -> tuple[bool, tuple[float, float]]:
    """Take one token of a bucket of two seconds' worth, kept as (tokens, when)."""
    burst = 2 * rate_per_s
    tokens, at = allowance or (burst, now)
    tokens = min(burst, tokens + (now - at) * rate_per_s)
    return tokens >= 1, (tokens - (tokens >= 1), now)
