"""``/api`` and the routes of health: what clients of OpenHands V1 ask by HTTP."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Final, NamedTuple

from aiohttp import hdrs, web

from broker import __version__
from broker.control.identity import Identity
from broker.control.upstream import Answer
from broker.errors import StoreError
from broker.protocols.openhands import rest, rest_answers
from broker.protocols.openhands.rest import COMMANDS, Invalid
from broker.store.session_outcomes import Record
from broker.store.stream_info import StreamInfo
from broker.worker.edges.edge import HEADERS, Outbox, json_response
from broker.worker.edges.openhands_acts import Acts, BadBody, read_body
from broker.worker.edges.openhands_past import Past
from broker.worker.edges.parts import Parts
from broker.worker.entrance import refusal_of
from broker.worker.handshake import Refusal, check_origin, read_token
from broker.worker.snapshots import Snapshots

KEY_HEADER: Final = "X-Session-API-Key"
KEY_QUERY: Final = "session_api_key"
SEGMENTS: Final = ("api", "alive", "health", "ready", "server_info", "docs")
"""First segments of the paths that are answered here."""
METHODS: Final = "GET, POST, OPTIONS"
PREFLIGHT_S: Final = 600
STATUSES: Final = {"rate_limited": 429, "too_large": 413}
"""Of commands that were not stored; everything else is 503."""


class Question(NamedTuple):
    """What somebody who may wants to know about a session."""

    request: web.BaseRequest
    identity: Identity
    session: str


Read = Callable[[Question], Awaitable[web.Response]]
"""Answers a question about a session."""
Answers = Mapping[str, Callable[[], Awaitable[web.Response]]]
"""What a path answers, by method."""


class OpenHandsRest:
    """The HTTP routes of the agent-server that its clients need.

    Args:
        parts: The parts of the worker.
        snapshots: Know the newest states.
    """

    def __init__(self, parts: Parts, snapshots: Snapshots) -> None:
        self._settings = parts.settings
        self._entrance = parts.entrance
        self._archive = parts.archive
        self._plane = parts.plane
        self._past = Past(parts.archive, snapshots, parts.settings.max_event_bytes)
        self._acts = Acts(parts.values, parts.entrance, parts.plane)
        self._outbox = Outbox()
        self._was_ready = False
        self._started = self._heard = time.monotonic()
        self._open = {
            "alive": self._show_alive,
            "health": self._show_alive,
            "ready": self._show_ready,
            "server_info": self._show_server,
            "docs": self._show_docs,
        }

    async def handle(
        self, request: web.BaseRequest, path: list[str]
    ) -> web.StreamResponse:
        """Answer a request.

        Raises:
            Refusal: It comes from somewhere it may not, or asks for what it may not.
        """
        check_origin(request, self._settings)
        if request.method == hdrs.METH_OPTIONS:
            return self._permit(request, _preflight())
        answer = await self._answer(request, path)
        return self._permit(request, answer)

    def refuse(self, request: web.BaseRequest, refusal: Refusal) -> web.StreamResponse:
        """Say why not, as the agent-server does."""
        detail = "Unauthorized" if refusal.status == 401 else refusal.message
        answer = _error(refusal.status, detail, refusal.headers)
        try:
            check_origin(request, self._settings)
        except Refusal:
            return answer
        return self._permit(request, answer)

    async def _answer(self, request: web.BaseRequest, path: list[str]) -> web.Response:
        answers = self._find(request, path)
        answer = answers.get(request.method)
        if not answers:
            return _error(404, rest_answers.NOT_FOUND)
        if answer is None:
            return _error(405, "Method Not Allowed", {hdrs.ALLOW: ", ".join(answers)})
        try:
            return await answer()
        except Invalid as error:
            return json_response(rest_answers.invalid_json(error), status=422)
        except BadBody as error:
            refused = _error(error.status, error.message)
            # What is left of the body is nobody's next request.
            refused.force_close()
            return refused

    def _find(self, request: web.BaseRequest, path: list[str]) -> Answers:
        match path:
            case [name] if name in self._open:
                return {hdrs.METH_GET: self._open[name]}
            case ["api", "conversations", text, *rest_of_path] if text:
                return self._conversation(request, text, rest_of_path)
            case ["api", "v1", "events", "search" | "count" as what]:
                text = request.query.get("conversation_id__eq", "")
                read = self._search if what == "search" else self._count
                where = ("query", "conversation_id__eq")
                return {hdrs.METH_GET: partial(self._read, request, read, text, where)}
            case _:
                return {}

    def _conversation(
        self, request: web.BaseRequest, text: str, rest_of_path: list[str]
    ) -> Answers:
        answers: dict[str, Callable[[], Awaitable[web.Response]]] = {}
        read = self._reader(rest_of_path)
        if read is not None:
            where = ("path", "conversation_id")
            answers[hdrs.METH_GET] = partial(self._read, request, read, text, where)
        cmd = COMMANDS.get(tuple(rest_of_path))
        if cmd is not None:
            answers[hdrs.METH_POST] = partial(self._act, request, cmd, text)
        return answers

    def _reader(self, rest_of_path: list[str]) -> Read | None:
        match rest_of_path:
            case []:
                return self._show
            case ["events"]:
                return self._show_several
            case ["events", "search"]:
                return self._search
            case ["events", "count"]:
                return self._count
            case ["events", event_id] if event_id:
                return partial(self._show_one, event_id)
        return None

    # Who asks.

    async def _identify(self, request: web.BaseRequest) -> Identity:
        self._heard = time.monotonic()
        key = request.headers.get(KEY_HEADER) or read_token(request, self._settings)
        return await self._entrance.identify(key or request.query.get(KEY_QUERY))

    async def _read(
        self, request: web.BaseRequest, read: Read, text: str, where: Sequence[str]
    ) -> web.Response:
        identity = await self._identify(request)
        session = rest.read_conversation(text, where)
        self._entrance.check_right(identity, session)
        answer = await read(Question(request, identity, session))
        self._entrance.check_access(identity)
        return self._outbox.take(answer)

    async def _act(self, request: web.BaseRequest, cmd: str, text: str) -> web.Response:
        identity = await self._identify(request)
        session = rest.read_conversation(text, ("path", "conversation_id"))
        if not identity.may_command(session):
            raise Refusal("forbidden", "no commands may be sent to this conversation")
        settings = self._settings
        body = await read_body(request, settings.max_frame_bytes, settings.handshake_s)
        self._entrance.check_access(identity)  # Much may have happened meanwhile.
        data = rest.check_command(cmd, body)
        done = await self._acts.do(identity, request.remote or "", session, cmd, data)
        return _refused_command(done) if done.code else _json(rest_answers.SUCCESS)

    # What is read.

    async def _search(self, asked: Question) -> web.Response:
        search = rest.read_search(asked.request.query)
        page = await self._past.search(asked.session, search)
        if page.empty and await self._past.info(asked.session) is None:
            return _no_conversation(asked.session)
        return _json(rest_answers.page_json(page.items, page.following))

    async def _count(self, asked: Question) -> web.Response:
        which = rest.read_filter(asked.request.query)
        number = await self._past.count(asked.session, which)
        if number is None:
            return _no_conversation(asked.session)
        return _json(b"%d" % number)

    async def _show_one(self, event_id: str, asked: Question) -> web.Response:
        found = await self._past.find(asked.session, [event_id])
        if event_id in found:
            return _json(found[event_id])
        return _error(404, rest_answers.NOT_FOUND)

    async def _show_several(self, asked: Question) -> web.Response:
        settings, request = self._settings, asked.request
        body = await read_body(request, settings.max_frame_bytes, settings.handshake_s)
        ids = rest.read_ids(body, request.query.getall("ids", []))
        found = await self._past.find(asked.session, ids)
        return _json(rest_answers.list_json([found.get(one) for one in ids]))

    async def _show(self, asked: Question) -> web.Response:
        record = await self._record(asked)
        info = await self._past.info(asked.session)
        if info is None and record is None:
            return _no_conversation(asked.session)
        look = await self._past.state(asked.session)
        state = None if look.snapshot is None else look.snapshot.data
        status = None if look.status is None else look.status.value
        life = _life(info, record)
        return _json(rest_answers.conversation_json(asked.session, state, status, life))

    async def _record(self, asked: Question) -> Record | None:
        """What is kept of the session of the user who asks."""
        user = asked.identity.user
        if not user:
            return None
        try:
            records = await self._plane.sessions_of(user)
        except StoreError as error:
            raise refusal_of(error) from None
        mine = (record for record in records if record.session == asked.session)
        return next(mine, None)

    # What everybody may know.

    async def _show_alive(self) -> web.Response:
        return _json(rest_answers.STATUS_OK)

    async def _show_ready(self) -> web.Response:
        # Once is enough: while Redis is away every pod would be taken out at once.
        self._was_ready = self._was_ready or self._archive.up
        if self._was_ready:
            return _json(rest_answers.STATUS_READY)
        return json_response(rest_answers.STATUS_INITIALIZING, status=503)

    async def _show_server(self) -> web.Response:
        now = time.monotonic()
        uptime_s, idle_s = now - self._started, now - self._heard
        return _json(rest_answers.server_info_json(__version__, uptime_s, idle_s))

    async def _show_docs(self) -> web.Response:
        return web.Response(
            body=rest_answers.docs_page(),
            content_type="text/html",
            charset="utf-8",
            headers=HEADERS,
        )

    def _permit(self, request: web.BaseRequest, answer: web.Response) -> web.Response:
        """Let the page that asked read the answer; its origin has been checked."""
        origin = request.headers.get(hdrs.ORIGIN, "")
        if not origin or not origin.isascii() or not origin.isprintable():
            return answer
        answer.headers[hdrs.ACCESS_CONTROL_ALLOW_ORIGIN] = origin
        answer.headers[hdrs.VARY] = hdrs.ORIGIN
        answer.headers[hdrs.ACCESS_CONTROL_EXPOSE_HEADERS] = hdrs.RETRY_AFTER
        if "*" not in self._settings.allowed_origins:
            # Not for any page: a proxy in front may know its users by their cookies.
            answer.headers[hdrs.ACCESS_CONTROL_ALLOW_CREDENTIALS] = "true"
        return answer


def _preflight() -> web.Response:
    return web.Response(
        status=204,
        headers={
            **HEADERS,
            hdrs.ALLOW: METHODS,
            hdrs.ACCESS_CONTROL_ALLOW_METHODS: METHODS,
            hdrs.ACCESS_CONTROL_ALLOW_HEADERS: (
                f"{hdrs.AUTHORIZATION}, {hdrs.CONTENT_TYPE}, {KEY_HEADER}"
            ),
            hdrs.ACCESS_CONTROL_MAX_AGE: str(PREFLIGHT_S),
        },
    )


def _refused_command(answer: Answer) -> web.Response:
    status = STATUSES.get(answer.code, 503)
    # As a refusal it knows when to come back.
    headers = Refusal("unavailable", status=status).headers
    return _error(status, answer.message, headers)


def _life(info: StreamInfo | None, record: Record | None) -> rest_answers.Life:
    """From its first sign of life to its last: a stream's entries may be gone."""
    began, heard = [], []
    if info is not None:
        began.append(info.first[0] or info.last[0])
        heard.append(info.last[0])
    if record is not None:
        began.append(record.started_ms)
        heard += [record.started_ms, record.active_ms]
    return rest_answers.Life(min(began), max(heard))


def _no_conversation(session: str) -> web.Response:
    return json_response(rest_answers.no_conversation_json(session), status=404)


def _json(body: bytes) -> web.Response:
    return json_response(body)


def _error(
    status: int, detail: str, headers: dict[str, str] | None = None
) -> web.Response:
    return json_response(
        rest_answers.error_json(detail), status=status, headers=headers
    )
