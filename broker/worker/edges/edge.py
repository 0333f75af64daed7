"""What the public server needs of one kind of client."""

from __future__ import annotations

import weakref
from typing import Protocol

import orjson
from aiohttp import hdrs, web

from broker.worker.handshake import Refusal

OUTBOX_BYTES_MAX = 64 * 1024 * 1024
HEADERS = {hdrs.SERVER: "broker", hdrs.CACHE_CONTROL: "no-store"}


class Edge(Protocol):
    """Answers the requests below some first segment of the path."""

    async def handle(
        self, request: web.BaseRequest, path: list[str]
    ) -> web.StreamResponse:
        """Answer a request; *path* is all its segments.

        Raises:
            Refusal: It cannot be done; `refuse` says so.
        """

    def refuse(self, request: web.BaseRequest, refusal: Refusal) -> web.StreamResponse:
        """Say why not in a way that the clients of this edge understand."""


class Outbox:
    """Bounds what answers of a worker wait for clients that do not read them.

    An answer counts until nobody holds it any more, so until it was handed to the
    kernel or its client has left.
    """

    def __init__(self, bytes_max: int = OUTBOX_BYTES_MAX) -> None:
        self._bytes_max = bytes_max
        self.waiting_bytes = 0

    def take(self, answer: web.Response) -> web.Response:
        """Let *answer* be sent.

        Raises:
            Refusal: As much waits as may.
        """
        size = len(answer.body) if isinstance(answer.body, bytes) else 0
        if self.waiting_bytes + size > self._bytes_max:
            raise Refusal("unavailable", "too many answers wait to be read")
        self.waiting_bytes += size
        weakref.finalize(answer, self._give_back, size).atexit = False
        return answer

    def _give_back(self, size: int) -> None:
        self.waiting_bytes -= size


class _Nowhere:
    """Where no path leads."""

    async def handle(
        self, request: web.BaseRequest, path: list[str]
    ) -> web.StreamResponse:
        raise Refusal("not_found")

    def refuse(self, request: web.BaseRequest, refusal: Refusal) -> web.StreamResponse:
        return error_response(refusal)


NOWHERE: Edge = _Nowhere()


def error_response(refusal: Refusal) -> web.Response:
    """A refusal as JSON: ``{"error": {"code", "message"}}``."""
    body = {"error": {"code": refusal.reason, "message": refusal.message}}
    return json_response(
        orjson.dumps(body), status=refusal.status, headers=refusal.headers
    )


def json_response(
    body: bytes, *, status: int = 200, headers: dict[str, str] | None = None
) -> web.Response:
    """JSON that nobody may keep."""
    return web.Response(
        status=status,
        body=body,
        content_type="application/json",
        headers=HEADERS | (headers or {}),
    )
