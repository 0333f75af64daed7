"""The client for programs: events of sessions, and commands to services."""

from __future__ import annotations

import asyncio
import uuid
from types import TracebackType
from typing import Any, Self
from weakref import WeakValueDictionary

import aiohttp

from broker.client.flow import Flow
from broker.client.follow import broker_url, check_session, new_http
from broker.client.items import Event, Skipped
from broker.client.reading import Acknowledge, Overflow, Reading
from broker.client.sender import Sender
from broker.client.stream import Stream
from broker.client.tokens import TokenProvider, Tokens
from broker.client.wire import command_text

ID_CHARS = (8, 128)
"""Shorter ids count for one connection only, so they would be stored twice."""
_OF_THE_BROKER = frozenset(
    ("ping", "subscribe", "unsubscribe", "ack", "refresh", "auth")
)


class Client:
    """Reads sessions and sends commands; to be used as ``async with``.

    ::

        async with Client("http://127.0.0.1:8080") as client:
            async for event in client.events("s1", last_event_id="0"):
                print(event.id, event.event, event.data)

    Each session that is read has a connection of its own, and so have the commands.
    Code that blocks the event loop for longer than two heartbeats (``welcome``) is
    taken for dead by the broker; the next connection then goes on in the same place.
    """

    def __init__(
        self, url: str, *, token: str | TokenProvider = "", user: str = ""
    ) -> None:
        """Prepare without connecting.

        Args:
            url: Where the broker listens: ``http(s)://`` or ``ws(s)://`` with host and
                port.
            token: Says who we are, where the broker asks for that. Or an asynchronous
                function that makes one: called with ``connect`` before the first
                connection, with ``expiring`` when the broker says that the token ends
                soon, with ``expired`` or ``refused`` when it is not taken; then it is
                asked once and not again before a token was taken. All connections
                share the token. What it raises ends what needed the token, except with
                ``expiring``.
            user: Who we are, where it does not ask.

        Raises:
            ValueError: *url* is no URL, or *token* nothing that a header can carry.
        """
        self._url = broker_url(url) / "v1" / "ws"
        self._tokens = Tokens(token)
        self._user = user
        self._sender = Sender(self._url, self._tokens, user)
        self._http: aiohttp.ClientSession | None = None
        self._flows: set[Flow] = set()
        self._consumers: WeakValueDictionary[str, Flow] = WeakValueDictionary()

    async def __aenter__(self) -> Self:
        """Get ready; nothing is connected yet."""
        self._http = new_http()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close every connection, and end all streams; takes at most some seconds."""
        http, self._http = self._http, None
        closing = [flow.close() for flow in self._flows]
        try:
            await asyncio.gather(self._sender.close(), *closing)
        finally:
            if http is not None:
                await http.close()

    def events(
        self,
        session: str,
        *,
        last_event_id: str | None = None,
        since: str | None = None,
        consumer: str | None = None,
        ack: Acknowledge = "manual",
        overflow: Overflow = "lag",
        presence: bool = False,
        takeover: bool = False,
        everything: bool = False,
    ) -> Stream:
        """The events of *session* as they come; connects when the first is asked for.

        They come in order and each at most once, over as many connections as it takes:
        a connection that ends is followed by another one that goes on behind the last
        thing received, after the time that the broker asks for, else after growing
        times of random length. That is tried for ever, with a warning in the log each
        time. Between the socket and the loop there are at most 1000 items or 1 MiB,
        whichever is reached first. A slow loop makes the broker see a slow socket,
        which is what *overflow* is about; it is never taken for a dead connection.

        Nothing is missing without being told. In its place in the order comes

        - `Gap` for events that are not delivered, with their number;
        - `Reset` where the stream is another one, all of which follows;
        - `Skipped` for an entry that is no event.

        They have ``id``, ``event`` and ``data`` like an `Event`; ``id`` is None of gap
        and reset. Whoever must know tells them apart by type. Gaps of retention and
        resets are logged as warnings besides. With ``last_event_id="0"`` the first item
        of a stream that was ever trimmed is a gap. What had been lost when the
        stream was left is told when it is read on from ``position``.

        Args:
            session: Its name.
            last_event_id: Begin behind this position; ``0``: with all that is retained;
                ``-N``: with the last N; None: with what is new.
            since: Begin at this time (RFC 3339), if there is no *last_event_id*.
            consumer: A name under which the broker keeps how far we are: without
                *last_event_id* and *since* it begins behind that. One stream per
                session of a client may have one.
            ack: ``manual``: what `ack` is called with is kept. ``auto``: what the loop
                is finished with. Either way it is the client that says so, never
                before.
            overflow: What the broker does if we are slow: ``lag`` sends all of it
                later, ``latest`` only the newest per key, ``drop`` goes on with what is
                new, ``close`` closes the connection, and the next one resumes.
            presence: Also tell who comes and goes: `Notice` with ``present``,
                ``joined`` and ``left``.
            takeover: Open the session although it was evicted or closed. Done once, not
                on later connections.
            everything: Also tell whatever else the broker says of itself, as `Notice`.

        Raises:
            ValueError: Something in it cannot be used.
            RuntimeError: The client is not open, or the session has a consumer already.
        """
        reading = Reading(
            session=session,
            user=self._user,
            last_event_id=last_event_id,
            since=since,
            consumer=consumer,
            ack=ack,
            overflow=overflow,
            presence=presence,
            takeover=takeover,
            everything=everything,
        )
        reading.check()
        self._opened()
        flow = Flow(self._url / session, self._tokens, reading)
        return Stream(flow, self._begin)

    async def ack(self, event: Event | Skipped) -> None:
        """Say that everything up to *event* is done, where there is a consumer.

        It is said on the connection that brought the event, at most five times a second
        and when the stream is left. If that is lost, events come again later; none is
        skipped.

        Raises:
            RuntimeError: No stream of the event's session has a consumer.
        """
        flow = self._consumers.get(event.session)
        if flow is None:
            raise RuntimeError("no stream of this session has a consumer")
        flow.acks.note(event.id)

    async def send(
        self,
        session: str,
        cmd: str,
        data: dict[str, Any] | None = None,
        *,
        id: str | None = None,  # noqa: A002 - as everywhere else in the protocol
        timeout_s: float = 30.0,
    ) -> str:
        """Store a command to *session* for the services.

        Commands are said in the order of the calls, on a connection that has nothing
        else to carry. After a cut those that were not answered are said again with
        their ids, by which the broker stores each once; of a client without a user it
        cannot, so there they are given up.

        Args:
            session: To which session.
            cmd: The command's name; none of the broker's own.
            data: Its arguments.
            id: Your name for it, 8 to 128 characters; default: a new one. Said again
                within ``BROKER_COMMAND_DEDUP_S`` it is stored once and returns the
                same.
            timeout_s: How long to try; less than ``BROKER_COMMAND_DEDUP_S``.

        Returns:
            The stream id of the stored command.

        Raises:
            CommandRefused: The broker says why it is not stored, and whether to retry.
            CommandUnanswered: Nobody knows whether it is stored.
            ClosedByServer: Coming back is of no use.
            ValueError: Something in it cannot be used.
            RuntimeError: The client is not open.
        """
        check_session(session)
        name = uuid.uuid4().hex if id is None else id
        if cmd in _OF_THE_BROKER or not 1 <= len(cmd) <= ID_CHARS[1]:
            raise ValueError(f"{cmd!r} cannot be the name of a command to services")
        if not ID_CHARS[0] <= len(name) <= ID_CHARS[1]:
            raise ValueError("the id of a command has 8 to 128 characters")
        try:
            text = command_text(cmd, name, data, session)
        except TypeError as error:
            raise ValueError(f"data cannot be written as JSON: {error}") from error
        return await self._sender.send(self._opened(), name, text, timeout_s)

    def _opened(self) -> aiohttp.ClientSession:
        if self._http is None:
            raise RuntimeError("the client is to be used as async with, while it lasts")
        return self._http

    def _begin(self, flow: Flow) -> None:
        """A stream is iterated over."""
        http = self._opened()
        session = flow.reading.session
        if flow.reading.consumer is not None:
            former = self._consumers.get(session)
            if former is not None and not former.closed:
                raise RuntimeError(
                    "a consumer of this client reads the session already"
                )
            self._consumers[session] = flow
        self._flows.add(flow)
        task = flow.start(http)
        task.add_done_callback(lambda _: self._flows.discard(flow))
