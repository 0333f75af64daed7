"""A WebSocket client that follows one session and never loses its place.

It remembers the position of the last event that it handed on and resumes from there,
as the close code and the ``closing`` frame tell it to, with full jitter otherwise.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from http import HTTPStatus

import aiohttp
import msgspec
from yarl import URL

from broker.model import is_session_name

SUBPROTOCOL = "broker.v1"
FIRST_BACKOFF_S = 0.5
MAX_BACKOFF_S = 30.0
HEALTHY_S = 10.0
"""A connection that lasted so long starts the back-off anew."""
CONNECT_TIMEOUT_S = 10.0
CLOSE_TIMEOUT_S = 2.0
MAX_FRAME_BYTES = 256 * 1024 * 1024

NORMAL_CLOSURE = 1000
ABNORMAL_CLOSURE = 1006
FIRST_TERMINAL_CODE = 4500
_RETRIED_STATUSES = frozenset(
    (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS)
)


class Frame(msgspec.Struct, frozen=True):
    """A frame of ``broker.v1``; ``data`` is left as JSON text."""

    event: str
    id: str | None = None
    session: str | None = None
    data: msgspec.Raw = msgspec.Raw(b"null")


class NotTaken(Exception):
    """The caller's ``on_frame`` failed with the `OSError` that is the cause of this."""


class Ending(msgspec.Struct, frozen=True):
    """How one connection ended.

    Attributes:
        reason: For a person.
        retry: Whether to connect again and resume.
        code: The close code, the HTTP status of a refusal, or 1006.
        delay_s: How long the server asked this client to wait; None if it did not.
    """

    reason: str
    retry: bool
    code: int = ABNORMAL_CLOSURE
    delay_s: float | None = None


class _Details(msgspec.Struct, frozen=True):
    """The parts of ``data`` that this client acts on, whatever the event."""

    heartbeat_s: float = 25.0
    resume: str = ""
    start: str | None = msgspec.field(name="from", default=None)
    tip: str | None = None
    position: str | None = None
    delay_ms: int | None = None


_NOTED = frozenset(("welcome", "subscribed", "reset", "caught_up", "closing"))
_read_frame = msgspec.json.Decoder(Frame).decode
_read_details = msgspec.json.Decoder(_Details).decode

OnFrame = Callable[[Frame, str], None]
OnPause = Callable[[Ending, float], None]


class Tail:
    """Follows one session over as many connections as it takes.

    Attributes:
        position: From where the next connection resumes, as it goes into
            ``last_event_id``; None: live only.
    """

    def __init__(
        self,
        url: str,
        session: str,
        *,
        start: str | None = None,
        token: str = "",
        user: str = "",
        on_frame: OnFrame,
        on_pause: OnPause = lambda ending, delay_s: None,
    ) -> None:
        """Prepare without connecting.

        Args:
            url: Where the broker listens: ``http(s)://`` or ``ws(s)://`` with host and
                port.
            session: The session's name.
            start: A position, ``0`` for all that is retained, ``-N`` for the last N;
                None for what is new.
            token: Says who we are, where the broker asks for that.
            user: Who we are, where it does not.
            on_frame: Called with each frame and its text, in order.
            on_pause: Called before each wait with the reason and the seconds.

        Raises:
            ValueError: *session* is no session name, *url* no URL, or *token* nothing
                that a header can carry.
        """
        if not is_session_name(session):
            raise ValueError(f"{session!r} cannot be the name of a session")
        base = URL(url)
        if base.scheme not in {"http", "https", "ws", "wss"} or not base.host:
            raise ValueError("the URL must look like http://127.0.0.1:8080")
        if not (token.isascii() and token.isprintable()):
            raise ValueError("the token must be printable ASCII")
        self.position = start
        self._url = base / "v1" / "ws" / session
        self._query = {"user": user} if user else {}
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._on_frame = on_frame
        self._on_pause = on_pause
        self._silence_s = CONNECT_TIMEOUT_S
        self._delay_s: float | None = None

    async def run(self) -> Ending:
        """Follow the session until the server says not to come back."""
        loop = asyncio.get_running_loop()
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S)
        failures = 0
        async with aiohttp.ClientSession(timeout=timeout) as http:
            while True:
                began = loop.time()
                ending = await self._follow(http)
                if not ending.retry:
                    return ending
                if loop.time() - began > HEALTHY_S:
                    failures = 0
                delay_s = ending.delay_s
                if delay_s is None:
                    delay_s = backoff_s(failures)
                failures += 1
                self._on_pause(ending, delay_s)
                await asyncio.sleep(delay_s)

    async def _follow(self, http: aiohttp.ClientSession) -> Ending:
        """Use one connection until it ends in whatever way."""
        self._silence_s = CONNECT_TIMEOUT_S
        self._delay_s = None
        query = dict(self._query)
        if self.position is not None:
            query["last_event_id"] = self.position
        try:
            async with (
                asyncio.timeout(CONNECT_TIMEOUT_S) as deadline,
                http.ws_connect(
                    self._url.update_query(query),
                    headers=self._headers,
                    protocols=(SUBPROTOCOL,),
                    max_msg_size=MAX_FRAME_BYTES,
                    timeout=aiohttp.ClientWSTimeout(ws_close=CLOSE_TIMEOUT_S),
                ) as socket,
            ):
                return await self._read(socket, deadline)
        except aiohttp.WSServerHandshakeError as error:
            return _refusal(error)
        except TimeoutError:
            return Ending("the server was silent for too long", retry=True)
        except (aiohttp.ClientError, OSError) as error:
            return Ending(str(error) or type(error).__name__, retry=True)
        except msgspec.DecodeError as error:
            return Ending(f"the server sent no frame of ours: {error}", retry=False)

    async def _read(
        self, socket: aiohttp.ClientWebSocketResponse, deadline: asyncio.Timeout
    ) -> Ending:
        loop = asyncio.get_running_loop()
        while True:
            deadline.reschedule(loop.time() + self._silence_s)
            message = await socket.receive()
            if message.type is not aiohttp.WSMsgType.TEXT:
                break
            frame = _read_frame(message.data)
            self._note(frame)
            try:
                self._on_frame(frame, message.data)
            except OSError as error:
                # Of the caller's own: not to be taken for the end of the connection.
                raise NotTaken from error
        code = socket.close_code or ABNORMAL_CLOSURE
        reason = str(message.extra or message.data or "the connection was cut")
        if message.type is aiohttp.WSMsgType.CLOSE:
            reason = message.extra or "no reason given"
        return Ending(f"{reason} ({code})", _is_retried(code), code, self._delay_s)

    def _note(self, frame: Frame) -> None:
        """Move the position, and remember what the server asks for."""
        if frame.id is not None:
            self.position = frame.id
            return
        if frame.event not in _NOTED:
            return
        details = _read_details(frame.data)
        match frame.event, details.resume:
            case "welcome", _:
                # Two heartbeats may be late; the third may be on its way.
                self._silence_s = 3 * details.heartbeat_s
            case "subscribed", "live":
                # The next connection must not skip what happens in between.
                self.position = details.tip
            case ("subscribed", "reset") | ("reset", _):
                self.position = details.start
            case "caught_up", _:
                self.position = details.position or self.position
            case "closing", _ if details.delay_ms is not None:
                self._delay_s = details.delay_ms / 1000
            case _:
                pass


def backoff_s(failures: int) -> float:
    """A wait with full jitter: anywhere from nothing to a bound that doubles."""
    bound = min(MAX_BACKOFF_S, FIRST_BACKOFF_S * 2 ** min(failures, 10))
    return random.uniform(0, bound)  # noqa: S311  no secret


def _is_retried(code: int) -> bool:
    return code != NORMAL_CLOSURE and code < FIRST_TERMINAL_CODE


def _refusal(error: aiohttp.WSServerHandshakeError) -> Ending:
    """What an HTTP answer instead of the upgrade means."""
    is_temporary = error.status >= 500 or error.status in _RETRIED_STATUSES
    asked = error.headers.get("Retry-After", "") if error.headers else ""
    # Everybody else was told the same number, so it is a floor to jitter from.
    delay_s = float(asked) * random.uniform(1, 1.5) if asked.isdecimal() else None  # noqa: S311
    return Ending(
        f"refused with HTTP status {error.status}", is_temporary, error.status, delay_s
    )
