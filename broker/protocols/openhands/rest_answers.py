"""What requests of OpenHands V1 are answered.

Events stand there byte for byte as they were published.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from html import escape
from typing import Final

import msgspec
import orjson

from broker.model import StreamId
from broker.protocols.openhands.rest import Invalid

TITLE: Final = "OpenHands Agent Server"
"""Clients look for it to know whom they have found."""
VERSION: Final = "1.58.0"
"""Of the agent-server whose routes these are: browsers refuse an older one."""
NOT_FOUND: Final = "Not Found"
SUCCESS: Final = b'{"success":true}'
STATUS_OK: Final = b'{"status":"ok"}'
STATUS_READY: Final = b'{"status":"ready"}'
STATUS_INITIALIZING: Final = (
    b'{"status":"initializing","message":"no connection to the event store yet"}'
)

ROUTES: Final = (
    ("GET", "/alive, /health, /ready, /server_info", "whether and what is served"),
    ("GET", "/api/conversations/{id}", "how a conversation is"),
    ("GET", "/api/conversations/{id}/events/search", "its events, page by page"),
    ("GET", "/api/conversations/{id}/events/count", "how many there are"),
    ("GET", "/api/conversations/{id}/events/{event_id}", "one of them"),
    ("GET", "/api/conversations/{id}/events?ids=", "several of them"),
    ("POST", "/api/conversations/{id}/events", "say something"),
    ("POST", "/api/conversations/{id}/run", "let the agent go on"),
    ("POST", "/api/conversations/{id}/pause, .../interrupt", "stop it"),
    (
        "POST",
        "/api/conversations/{id}/events/respond_to_confirmation",
        "accept what it is about to do, or not",
    ),
    ("GET", "/api/v1/events/search, /api/v1/events/count", "by conversation_id__eq"),
    ("GET", "/sockets/events/{id}, /sockets/session/{id}", "WebSocket: live events"),
)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_YEAR_9999_MS = 253_370_764_800_000
_DEFAULTS: Final[dict[str, object]] = {
    "agent": {
        "kind": "Agent",
        "llm": {"model": "unknown", "usage_id": "agent"},
        "tools": [],
    },
    "workspace": {"kind": "LocalWorkspace", "working_dir": "/"},
    "max_iterations": 500,
    "stuck_detection": True,
    "execution_status": "idle",
    "confirmation_policy": {"kind": "NeverConfirm"},
    "stats": {"usage_to_metrics": {}},
    "tags": {},
    "client_tools": [],
    "tool_module_qualnames": {},
    "title": None,
}
"""What a client needs to know where no service has published a ``full_state``."""


def error_json(detail: object) -> bytes:
    """What is answered with every status that is no success."""
    return orjson.dumps({"detail": detail})


def invalid_json(error: Invalid) -> bytes:
    """The answer to a request of which a part cannot be used, with status 422."""
    problem = {"type": "value_error", "loc": error.where, "msg": error.message}
    return error_json([problem])


def no_conversation_json(session: str) -> bytes:
    """The answer where there is no such conversation, with status 404."""
    return error_json(f"Conversation not found: {session}")


def page_json(items: Sequence[bytes], following: StreamId | None) -> bytes:
    """A page of ``search``; *following* is where the next one begins."""
    name = b"null" if following is None else b'"%d-%d"' % following
    return b'{"items":[%b],"next_page_id":%b}' % (b",".join(items), name)


def list_json(items: Sequence[bytes | None]) -> bytes:
    """The events of a batch; None was not found."""
    return b"[%b]" % b",".join(b"null" if one is None else one for one in items)


class Life(msgspec.Struct, frozen=True):
    """Between which times something is known of a conversation.

    Attributes:
        first_ms: When it was opened or its first entry was added, in ms since 1970.
        last_ms: When it was last heard of.
    """

    first_ms: int
    last_ms: int


def conversation_json(
    session: str, state: bytes | None, status: str | None, life: Life
) -> bytes:
    """A ``ConversationInfo``.

    Args:
        session: The session: its ``id``, whatever the state says.
        state: The newest ``full_state`` event, None if there is none.
        status: The newest ``execution_status``, None if it is that of the state.
        life: When the conversation began and was last heard of.
    """
    info: dict[str, object] = {
        "created_at": _iso(life.first_ms),
        "updated_at": _iso(life.last_ms),
        **_DEFAULTS,
        **_read_state(state),
        "id": session,
    }
    if status is not None:
        info["execution_status"] = status
    return msgspec.json.encode(info)


class _State(msgspec.Struct):
    value: dict[str, msgspec.Raw] = {}


_decode_state = msgspec.json.Decoder(_State).decode


def _read_state(event: bytes | None) -> dict[str, msgspec.Raw]:
    if event is None:
        return {}
    try:
        return _decode_state(event).value
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}


def _iso(ms: int) -> str:
    # Ids may be anything where a publisher gives them.
    moment = _EPOCH + timedelta(milliseconds=min(ms, _YEAR_9999_MS))
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


def server_info_json(broker_version: str, uptime_s: float, idle_s: float) -> bytes:
    """The answer to ``/server_info``."""
    return orjson.dumps(
        {
            "title": TITLE,
            "version": VERSION,
            "broker_version": broker_version,
            "uptime": int(uptime_s),
            "idle_time": int(idle_s),
            "docs": "/docs",
            "usable_tools": [],
            "capabilities": [],
        }
    )


def docs_page() -> bytes:
    """The page that names all routes."""
    rows = "".join(
        f"<tr><td>{method}</td><td><code>{escape(path)}</code></td><td>{what}</td></tr>"
        for method, path, what in ROUTES
    )
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        f"<title>{TITLE} routes</title><h1>{TITLE}</h1>"
        "<p>A broker serves these routes of the agent-server.</p>"
        f"<table>{rows}</table></html>\n"
    ).encode()
