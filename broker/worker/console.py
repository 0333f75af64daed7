"""The console: a page to watch a session with, and the little that it asks by HTTP."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from hashlib import blake2b
from pathlib import Path
from typing import Annotated, Protocol

import msgspec
import orjson
from aiohttp import hdrs, web

import broker
from broker.config import Settings
from broker.control.identity import Identity, Right
from broker.entry import Skipped, read_entry
from broker.errors import StoreRefused, StoreUnavailable
from broker.model import is_session_name
from broker.store.connection import Command
from broker.store.keys import event_key_pattern
from broker.store.server import WRITES_REFUSED
from broker.worker.handshake import BAD_SESSION, Refusal, check_origin, read_token

WEB = Path(broker.__file__).parent / "web"
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
}
PAGE = "console.html"
SHOWN = ("console.*", "console/*", "client.js", "client/**/*")
"""What of ``broker/web`` is for browsers that open the console."""
MAX_LEN = 10_000
"""About how many entries a stream keeps; that of the library, which needs redis-py."""
BODY_S = 5.0
NAMES_BYTES = 64 * 1024
"""What the names around an event may take in a body."""
IN_FLIGHT_MAX = 16
"""Bodies that are being read or stored: each may be as large as an event."""

HEADERS = {
    hdrs.SERVER: "broker",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src data: 'self'; "
    "connect-src {}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'"
)
_HOST = re.compile(
    r"[A-Za-z0-9.-]{1,253}(:\d{1,5})?\Z|\[[0-9a-fA-F:.]{2,45}\](:\d{1,5})?\Z"
)

Add = Callable[[Command], Awaitable[str]]
"""Sends an ``XADD`` and returns the id of the entry; raises `StoreError`."""


class Host(Protocol):
    """What the console needs of the worker."""

    async def identify(self, token: str | None, user: str) -> Identity:
        """Find out who has a token, or raise `Refusal`."""


class Publish(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """The body of ``POST /console/publish``: an event, and where it goes."""

    session: str
    event: str
    data: Annotated[msgspec.Raw, msgspec.Meta(description="Any JSON value.")] = (
        msgspec.field(default_factory=lambda: msgspec.Raw(b"null"))
    )
    node_id: str = ""
    transient: bool = False


class _File(msgspec.Struct, frozen=True):
    body: bytes
    content_type: str
    etag: str


class Console:
    """Answers everything below ``/console``.

    The files are read once: what a request names is looked up, never opened.

    Args:
        settings: The effective settings.
        host: Knows who has a token.
        add: Stores what is published.
        session: The session that the page opens first; empty for none.
    """

    def __init__(
        self, settings: Settings, host: Host, add: Add, session: str = ""
    ) -> None:
        self._settings = settings
        self._host = host
        self._add = add
        self._keys = event_key_pattern(settings.event_stream)
        self._body_bytes_max = settings.max_event_bytes + NAMES_BYTES
        self._in_flight = 0
        self._files = read_files(WEB)
        self._config = orjson.dumps(
            {
                "auth": "none" if settings.auth == "none" else "token",
                "session": session or None,
                "max_sessions_per_user": settings.max_sessions_per_user,
                "max_event_bytes": settings.max_event_bytes,
                "max_replay_entries": settings.max_replay_entries,
                "heartbeat_s": settings.heartbeat_s,
                "presence": settings.presence,
            }
        )

    async def handle(self, request: web.BaseRequest, path: list[str]) -> web.Response:
        """Answer a request.

        Args:
            request: As it came.
            path: What follows ``console`` in its path, unescaped.

        Raises:
            Refusal: There is nothing of that name, or it may not be done.
        """
        if path == ["publish"]:
            return await self._publish(request)
        if request.method not in (hdrs.METH_GET, hdrs.METH_HEAD):
            raise _wrong_method("GET, HEAD")
        if not path:
            # Relative: a proxy may have taken away what stood in front.
            headers = HEADERS | {hdrs.LOCATION: "console/"}
            return web.Response(status=307, headers=headers)
        if path == ["config.json"]:
            return _json(self._config)
        return self._show(request, "/".join(path) or PAGE)

    def _show(self, request: web.BaseRequest, name: str) -> web.Response:
        file = self._files.get(name)
        if file is None:
            raise Refusal("not_found")
        headers = HEADERS | {
            hdrs.ETAG: f'"{file.etag}"',
            hdrs.CACHE_CONTROL: "no-cache",
            "Content-Security-Policy": _policy(request),
        }
        known = request.if_none_match or ()
        if any(tag.value in (file.etag, "*") for tag in known):
            return web.Response(status=304, headers=headers)
        headers[hdrs.CONTENT_TYPE] = file.content_type
        return web.Response(body=file.body, headers=headers)

    # Publishing.

    async def _publish(self, request: web.BaseRequest) -> web.Response:
        if request.method != hdrs.METH_POST:
            raise _wrong_method("POST")
        check_origin(request, self._settings)
        # A page of another site cannot send this type without asking first.
        if request.content_type != "application/json":
            raise Refusal("bad_request", "the body is application/json", status=415)
        token = read_token(request, self._settings)
        identity = await self._host.identify(token, "")
        # Before the body: who may not publish cannot make us read one.
        if Right.PUBLISH not in identity.rights:
            raise _forbidden()
        if self._in_flight >= IN_FLIGHT_MAX:
            raise Refusal("unavailable", "too many events at once", status=429)
        self._in_flight += 1
        try:
            event = _decode(await self._read(request))
            # Again: much may have happened while the body came.
            identity = await self._host.identify(token, "")
            return await self._store(identity, event)
        finally:
            self._in_flight -= 1

    async def _store(self, identity: Identity, event: Publish) -> web.Response:
        if not is_session_name(event.session):
            raise Refusal("bad_request", BAD_SESSION)
        if not identity.may_publish(event.session):
            raise _forbidden()
        fields = _fields(event, self._settings.max_event_bytes)
        key = self._keys.key(event.session)
        command: Command = (b"XADD", key, b"MAXLEN", b"~", MAX_LEN, b"*", *fields)
        try:
            added = await self._add(command)
        except StoreUnavailable:
            why = "Redis does not answer; it may have been stored"
            raise Refusal("unavailable", why) from None
        except StoreRefused as error:
            if error.kind in WRITES_REFUSED:
                raise Refusal("unavailable", "Redis takes no writes now") from None
            raise Refusal("not_found", "the key of the session is no stream") from None
        return _json(orjson.dumps({"id": added}))

    async def _read(self, request: web.BaseRequest) -> bytes:
        received = bytearray()
        try:
            async with asyncio.timeout(BODY_S):
                async for part in request.content.iter_any():
                    received += part
                    if len(received) > self._body_bytes_max:
                        why = "the body is too large"
                        raise Refusal("bad_request", why, status=413)
        except TimeoutError:
            why = "the body did not come in time"
            raise Refusal("bad_request", why, status=408) from None
        except (web.RequestPayloadError, ConnectionError):
            raise Refusal("bad_request", "the body cannot be read") from None
        return bytes(received)


def read_files(directory: Path) -> dict[str, _File]:
    """The files that browsers may have, by their path below *directory*."""
    files = {}
    for path in (path for shown in SHOWN for path in directory.glob(shown)):
        content_type = TYPES.get(path.suffix)
        if content_type is not None and path.is_file():
            body = path.read_bytes()
            etag = blake2b(body, digest_size=12).hexdigest()
            name = path.relative_to(directory).as_posix()
            files[name] = _File(body, content_type, etag)
    return files


def _policy(request: web.BaseRequest) -> str:
    """What the page may load: from here, and sockets to here, nothing else."""
    host = request.headers.get(hdrs.HOST, "")
    sources = ["'self'"]
    # Not every browser takes 'self' for sockets too. The name is the client's own.
    if _HOST.match(host):
        sources += [f"ws://{host}", f"wss://{host}"]
    return POLICY.format(" ".join(sources))


def _decode(text: bytes) -> Publish:
    try:
        return msgspec.json.decode(text, type=Publish)
    except msgspec.DecodeError as error:
        raise Refusal("bad_request", f"the body cannot be used: {error}") from None
    except RecursionError:
        raise Refusal("bad_request", "the body is nested too deeply") from None
    except UnicodeDecodeError:
        raise Refusal("bad_request", "the body is not UTF-8") from None


def _fields(event: Publish, max_event_bytes: int) -> list[bytes]:
    """Names and values of the entry, which every reader will accept."""
    given = {
        b"event": event.event.encode(),
        b"data": bytes(event.data),
        b"node_id": event.node_id.encode(),
        b"transient": b"1" if event.transient else b"",
    }
    fields = [part for item in given.items() if item[1] for part in item]
    entry = read_entry(fields, max_event_bytes)
    if isinstance(entry, Skipped):
        status = 413 if entry.reason == "too_large" else 400
        raise Refusal("bad_request", entry.detail.decode(), status=status)
    return fields


def _forbidden() -> Refusal:
    return Refusal("forbidden", "the token does not allow to publish there")


def _wrong_method(allowed: str) -> Refusal:
    headers: dict[str, str] = {hdrs.ALLOW: allowed}
    return Refusal("bad_request", f"this takes {allowed}", status=405, headers=headers)


def _json(body: bytes) -> web.Response:
    headers = HEADERS | {hdrs.CACHE_CONTROL: "no-store"}
    return web.Response(body=body, content_type="application/json", headers=headers)
