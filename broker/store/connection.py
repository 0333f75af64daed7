"""One raw RESP3 connection: pipelined, with pushes, without any retry.

A client library that reconnects on its own loses the invalidations of
``CLIENT TRACKING`` silently: the new connection tracks nothing. So this one never
reconnects: when it is gone it says so, once, and its owner starts anew.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final, cast

from hiredis import (
    HiredisError,
    PushNotification,
    Reader,
    ReplyError,
    pack_command,
)

from broker.errors import ServerUnsuitable, StoreError, StoreUnavailable
from broker.store.address import Address, parse_url
from broker.store.replies import error_kind, first_error, store_error
from broker.store.sentinel import open_primary

Command = Sequence[bytes | str | int]
"""A command and its arguments; or, as ``bytes``, one that was encoded before."""
OnPush = Callable[[list[Any]], None]
OnReply = Callable[[Any], object]
OnLost = Callable[[Exception | None], None]

_INCOMPLETE: Final = object()


def encode_commands(*commands: Command) -> bytes:
    """The bytes that ask for *commands*, in order."""
    # hiredis' stub describes a tuple of exactly one argument.
    return b"".join(
        [
            command if type(command) is bytes else pack_command(tuple(command))  # type: ignore[arg-type]
            for command in commands
        ]
    )


def _ignore(_: object) -> None:
    pass


class Traffic:
    """What all connections of this process have sent so far.

    An object of its own: to write an attribute of a class makes Python forget what it
    has learned of all its objects, with each command.

    Attributes:
        commands: Number of commands.
    """

    __slots__ = ("commands",)

    def __init__(self) -> None:
        self.commands = 0


traffic: Final = Traffic()


class _Call:
    """Commands that were sent together, and who takes their replies as they come."""

    __slots__ = ("deadline", "future", "missing", "replies", "take")

    def __init__(
        self,
        missing: int,
        deadline: float,
        future: asyncio.Future[list[Any]],
        take: OnReply | None,
    ) -> None:
        self.missing = missing
        self.deadline = deadline
        self.future = future
        self.replies: list[Any] = []
        self.take = take or self.replies.append


class Connection(asyncio.Protocol):
    """A connection that is open from `open` until `close` or until it is lost.

    Replies and pushes are handled in the order of their arrival: a push that arrived
    before a reply has been given to ``on_push`` before the future of that reply is
    done. Belongs to one event loop.

    Attributes:
        on_push: Called with each push, such as ``[b"invalidate", [key]]``. Must not
            raise; may be replaced at any time.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, command_timeout_s: float
    ) -> None:
        self.on_push: OnPush = _ignore
        self._on_lost: OnLost = _ignore
        self._loop = loop
        self._command_timeout_s = command_timeout_s
        self._transport: asyncio.Transport | None = None
        self._reader = Reader(notEnoughData=_INCOMPLETE)
        self._calls: deque[_Call] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    @classmethod
    async def open(
        cls,
        url: str | Address,
        *,
        client_name: str,
        on_push: OnPush | None = None,
        on_lost: OnLost | None = None,
        connect_timeout_s: float = 5,
        command_timeout_s: float = 5,
    ) -> Connection:
        """Connect, switch to RESP3, log in, name the connection, choose the database.

        Args:
            url: As `broker.store.address.parse_url` reads it, or what it returns. With
                Sentinels: to the primary of the moment.
            client_name: Shown by ``CLIENT LIST``; without blanks.
            on_push: See the attribute.
            on_lost: Called once, with the reason, if the connection ends in any way
                but by `close`. All pending futures have failed by then.
            connect_timeout_s: For the socket and the log-in together, and for the
                questions to Sentinels.
            command_timeout_s: A reply that takes longer ends the connection.

        Raises:
            ConfigError: The URL cannot be used.
            StoreUnavailable: Nobody answers there, or not in time, or not yet.
            StoreRefused: User, password or database are wrong.
            ServerUnsuitable: The server does not speak RESP3.
        """
        address = parse_url(url) if isinstance(url, str) else url

        async def connect(to: Address) -> Connection:
            connection = cls(asyncio.get_running_loop(), command_timeout_s)
            try:
                await connection._dial(to)
                await connection._log_in(to, client_name)
            except BaseException:
                connection.close()
                raise
            return connection

        try:
            async with asyncio.timeout(connect_timeout_s):
                if address.kind == "sentinel":
                    connection = await open_primary(address, connect)
                else:
                    connection = await connect(address)
        except (OSError, TimeoutError) as error:
            why = str(error) or f"no answer within {connect_timeout_s} s"
            raise StoreUnavailable(f"{address}: {why}") from error
        connection.give_to(on_push or _ignore, on_lost or _ignore)
        return connection

    def give_to(self, on_push: OnPush, on_lost: OnLost) -> None:
        """Name who is told of pushes and of the end from now on; see `open`."""
        self.on_push = on_push
        self._on_lost = on_lost

    async def _dial(self, address: Address) -> None:
        if address.path:
            await self._loop.create_unix_connection(lambda: self, address.path)
            return
        await self._loop.create_connection(
            lambda: self, address.host, address.port, ssl=address.ssl_context()
        )

    async def _log_in(self, address: Address, client_name: str) -> None:
        hello: list[bytes | str | int] = ["HELLO", 3]
        if address.password:
            hello += ["AUTH", address.username or "default", address.password]
        hello += ["SETNAME", client_name]
        commands: list[Command] = [hello]
        if address.db:  # A Sentinel has no databases, and 0 needs no right to SELECT.
            commands.append(("SELECT", address.db))
        replies = await self.send(*commands)
        for reply in replies:
            if isinstance(reply, ReplyError):
                raise _log_in_error(address, reply)

    @property
    def closed(self) -> bool:
        """Whether the connection has ended, in whatever way."""
        return self._closed

    def send(self, *commands: Command) -> asyncio.Future[list[Any]]:
        """Send *commands* in one write.

        Returns:
            A future of one raw reply per command. An error reply is a
            `hiredis.ReplyError` in that list. The future fails with
            `StoreUnavailable` if the connection ends first; cancelling it only
            ends the waiting.
        """
        return self._send(commands, None)

    def send_each(self, take: OnReply, *commands: Command) -> asyncio.Future[list[Any]]:
        """As `send`, but *take* is called with each reply as soon as it has come.

        So the first is used before the last is taken apart, and each while the
        processor still has it at hand.

        Args:
            take: Called once per command, in order, until the connection ends, also
                when nobody waits any more. What it raises ends the connection and is
                what the future fails with.
            commands: To send.

        Returns:
            A future of an empty list; see `send`.
        """
        return self._send(commands, take)

    def _send(
        self, commands: Sequence[Command], take: OnReply | None
    ) -> asyncio.Future[list[Any]]:
        future: asyncio.Future[list[Any]] = self._loop.create_future()
        if self._closed or self._transport is None:
            future.set_exception(StoreUnavailable("the connection is closed"))
            return future
        request = encode_commands(*commands)
        traffic.commands += len(commands)
        deadline = self._loop.time() + self._command_timeout_s
        self._calls.append(_Call(len(commands), deadline, future, take))
        if self._timer is None:
            self._timer = self._loop.call_at(deadline, self._check_deadline)
        self._transport.write(request)
        return future

    def send_unanswered(self, command: Command) -> None:
        """Send a command that is answered by pushes, such as ``SUBSCRIBE``."""
        if not self._closed and self._transport is not None:
            self._transport.write(encode_commands(command))

    async def call(self, *command: bytes | str | int) -> Any:
        """Send one command and return its reply.

        Raises:
            StoreUnavailable: The connection ended, or the server is not ready.
            StoreRefused: The reply is another error.
        """
        (reply,) = await self.call_all(command)
        return reply

    async def call_all(self, *commands: Command) -> list[Any]:
        """Send *commands* in one write and return their replies.

        Raises:
            StoreUnavailable: The connection ended, or the server is not ready.
            StoreRefused: A reply is another error; all commands were answered.
        """
        replies = await self.send(*commands)
        error = first_error(replies)
        if error is not None:
            raise store_error(error)
        return replies

    async def call_in_turn(self, *commands: Command) -> list[Any]:
        """As `call_all`; in a cluster each is sent when the one before is answered."""
        return await self.call_all(*commands)

    def close(self) -> None:
        """End the connection at once; pending futures fail, ``on_lost`` is not called.

        Commands without a reply may or may not have run.
        """
        self._on_lost = _ignore
        self._end(StoreUnavailable("the connection was closed"))

    def _end(self, reason: StoreUnavailable) -> None:
        if self._closed:
            return
        self._closed = True
        self.on_push = _ignore
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        # Not close(): that waits for a peer that may never read again.
        if self._transport is not None:
            self._transport.abort()
        calls, self._calls = self._calls, deque()
        for call in calls:
            if not call.future.done():
                call.future.set_exception(StoreUnavailable(str(reason)))
        self._on_lost(reason)

    def _check_deadline(self) -> None:
        # One timer per connection: replies come in order, so the oldest call is the
        # first one to be late. It is armed again only if something is pending.
        self._timer = None
        if not self._calls:
            return
        deadline = self._calls[0].deadline
        if deadline <= self._loop.time():
            self._end(StoreUnavailable(f"no reply within {self._command_timeout_s} s"))
        else:
            self._timer = self._loop.call_at(deadline, self._check_deadline)

    # What the transport calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep *transport*."""
        self._transport = cast("asyncio.Transport", transport)
        if self._closed:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        """Take apart what arrived and hand it on."""
        gets, calls = self._reader.gets, self._calls
        try:
            self._reader.feed(data)
            while not self._closed and (reply := gets()) is not _INCOMPLETE:
                if type(reply) is PushNotification:
                    self.on_push(reply)
                elif calls:
                    call = calls[0]
                    try:
                        call.take(reply)
                    except Exception as error:  # noqa: BLE001 - its owner gets it
                        self._give_up(call, error)
                        return
                    call.missing -= 1
                    if not call.missing:
                        self._finish(calls.popleft())
                else:
                    self._end(StoreUnavailable("the server answered what nobody asked"))
                    return
        except HiredisError as error:
            self._end(StoreUnavailable(f"the server does not speak RESP: {error}"))

    def _give_up(self, call: _Call, error: Exception) -> None:
        if call.future.done():
            told = {"message": "nobody waits for this reply", "exception": error}
            self._loop.call_exception_handler(told)
        else:
            call.future.set_exception(error)
        # Not what it says: that may repeat what was published.
        why = f"a reply could not be used: {type(error).__name__}"
        self._end(StoreUnavailable(why))

    def _finish(self, call: _Call) -> None:
        if not call.future.done():
            call.future.set_result(call.replies)

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail what is pending and tell the owner."""
        self._end(StoreUnavailable(str(exc or "the server closed the connection")))


def _log_in_error(address: Address, reply: ReplyError) -> StoreError:
    if error_kind(reply) == "NOPROTO" or "unknown command" in str(reply).lower():
        return ServerUnsuitable(f"{address}: RESP3 is needed: {reply}")
    if "max number of clients" in str(reply):
        return StoreUnavailable(f"{address}: {reply}")
    error = store_error(reply)
    if isinstance(error, StoreUnavailable):
        return StoreUnavailable(f"{address}: {reply}")
    return error
