"""History by HTTP: pages of a session's events, and how many there are."""

from __future__ import annotations

import orjson
from aiohttp import hdrs, web

from broker.config import Settings
from broker.entry import Event, read_entry
from broker.errors import StoreRefused, StoreUnavailable
from broker.model import StreamId, is_session_name, parse_position
from broker.protocols import native
from broker.store.streams import Entry
from broker.worker.archive import Archive, next_count
from broker.worker.handshake import Refusal
from broker.worker.starting import read_number

LIMIT_DEFAULT = 100
ANSWER_BYTES_MAX = 4 * 1024 * 1024
STEP_FIRST = 10


class History:
    """Answers ``/v1/sessions/{session}/events`` and ``.../events/count``."""

    def __init__(self, settings: Settings, archive: Archive) -> None:
        self._settings = settings
        self._archive = archive

    async def handle(self, request: web.BaseRequest, path: list[str]) -> web.Response:
        """Answer a request; *path* is the session and what follows ``events``.

        Raises:
            Refusal: The request cannot be answered.
        """
        session, *rest = path
        if request.method != hdrs.METH_GET:
            raise Refusal("bad_request", "history is read with GET")
        if not is_session_name(session):
            raise Refusal("bad_request", "this is no session name")
        try:
            if rest == ["count"]:
                return await self._count(session)
            if not rest:
                return await self._events(request, session)
        except StoreUnavailable:
            raise Refusal("unavailable") from None
        except StoreRefused:
            raise Refusal("not_found", "the session cannot be read") from None
        raise Refusal("not_found")

    async def _count(self, session: str) -> web.Response:
        info = await self._archive.info(session)
        if info is None:
            body: dict[str, object] = {"count": 0, "added": 0}
            body |= {"first": None, "last": None}
        else:
            first = _text(info.first) if info.length else None
            body = {"count": info.length, "added": info.added}
            body |= {"first": first, "last": _text(info.last)}
        return _json(orjson.dumps(body))

    async def _events(self, request: web.BaseRequest, session: str) -> web.Response:
        query = request.query
        after = _position(query.get("after"), "after")
        before = _position(query.get("before"), "before")
        limit = self._limit(query.get("limit"))
        reverse = _flag(query.get("reverse"), "reverse")
        frames: list[bytes] = []
        size, seen, more, step = 0, 0, True, min(STEP_FIRST, limit)
        while more and seen < limit and size < ANSWER_BYTES_MAX:
            step = min(step, limit - seen)
            entries = await self._archive.history(session, after, before, step, reverse)
            more = len(entries) == step
            taken = 0
            for entry in entries:
                if size >= ANSWER_BYTES_MAX:
                    more = True
                    break
                frame = self._frame(session.encode(), entry)
                size += len(frame)
                taken += 1
                frames += [frame] if frame else []
            if taken:
                seen += taken
                last = entries[taken - 1][0]
                after, before = (after, last) if reverse else (last, before)
                step = next_count(entries)
        following = (before if reverse else after) if more else None
        name = b"null" if following is None else b'"%d-%d"' % following
        return _json(b'{"events":[%b],"next":%b}' % (b",".join(frames), name))

    def _frame(self, session: bytes, entry: Entry) -> bytes:
        (ms, n), fields = entry
        event = read_entry(fields, self._settings.max_event_bytes)
        if not isinstance(event, Event):
            detail = event.detail
            return native.skipped_json(session, ms, n, 0, event.reason, detail)
        if event.transient:
            return b""  # Delivered live only.
        return native.event_json(session, ms, n, 0, event)

    def _limit(self, text: str | None) -> int:
        largest = self._settings.max_replay_entries
        if text is None:
            return min(LIMIT_DEFAULT, largest)
        limit = read_number(text)
        if not 0 < limit <= largest:
            raise Refusal("bad_request", f"limit is a number from 1 to {largest}")
        return limit


def _position(text: str | None, name: str) -> StreamId | None:
    if not text:
        return None
    try:
        return parse_position(text).id
    except ValueError as error:
        raise Refusal("bad_request", f"{name}: {error}") from None


def _flag(text: str | None, name: str) -> bool:
    if text in (None, "", "0", "false"):
        return False
    if text in ("1", "true"):
        return True
    raise Refusal("bad_request", f"{name} is 0 or 1")


def _text(stream_id: StreamId) -> str:
    return f"{stream_id[0]}-{stream_id[1]}"


def _json(body: bytes) -> web.Response:
    headers = {hdrs.SERVER: "broker", hdrs.CACHE_CONTROL: "no-store"}
    return web.Response(body=body, content_type="application/json", headers=headers)
