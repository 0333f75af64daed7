"""Adds events to streams for those who have no way to Redis."""

from __future__ import annotations

from broker.config import Settings
from broker.entry import Skipped, is_rfc3339, read_entry
from broker.store.client import DEFAULT_MAX_LEN
from broker.store.connection import Command
from broker.store.keys import event_key_pattern
from broker.store.once import OnceStream, digest, read_added
from broker.store.standing import StandingConnection
from broker.supervisor.api.gate import Call
from broker.supervisor.api.messages import Publish, Published
from broker.supervisor.api.routes import IDEMPOTENCY_KEY
from broker.supervisor.api.sessions import session_of
from broker.worker.handshake import Refusal

KEY_CHARS_MAX = 128
REMEMBERED_MS = 300_000
"""For how long an ``Idempotency-Key`` stands for its event."""


class Publishing:
    """Stores one event per request.

    An ``Idempotency-Key`` is what services give to `broker.client.Publisher` as ``id``:
    an event that came one way and is repeated the other is stored once, too.
    """

    def __init__(self, settings: Settings, standing: StandingConnection) -> None:
        self._keys = event_key_pattern(settings.event_stream)
        self._max_event_bytes = settings.max_event_bytes
        self._standing = standing

    async def publish(self, call: Call) -> Published:
        """Add an event to the stream of a session."""
        assert isinstance(call.body, Publish)  # noqa: S101 - narrows for mypy
        stream = OnceStream(self._keys.key(session_of(call)))
        fields = self._fields(call.body)
        command = _command(stream, _idempotency_key(call), fields)
        (reply,) = await self._standing.use().send(command)
        added = read_added(reply)
        if added is None:
            why = "this Idempotency-Key was used for another event"
            raise Refusal("id_reused", why, status=422)
        return Published(added)

    def _fields(self, body: Publish) -> list[bytes]:
        """Names and values of the entry, which every reader will accept.

        In the order of the publisher: what is the same is told by their digest.
        """
        given = {
            b"event": body.event.encode(),
            b"data": bytes(body.data),
            b"key": body.key.encode(),
            b"node_id": body.node_id.encode(),
            b"timestamp": body.timestamp.encode(),
            b"transient": b"1" if body.transient else b"",
        }
        fields = [part for item in given.items() if item[1] for part in item]
        entry = read_entry(fields, self._max_event_bytes)
        if isinstance(entry, Skipped):
            status = 413 if entry.reason == "too_large" else 400
            raise Refusal(entry.reason, entry.detail.decode(), status=status)
        if body.timestamp and not is_rfc3339(body.timestamp.encode()):
            raise Refusal("bad_request", "timestamp is not RFC 3339")
        return fields


def _command(stream: OnceStream, key: str, fields: list[bytes]) -> Command:
    entry: Command = (b"MAXLEN", b"~", DEFAULT_MAX_LEN, b"*", *fields)
    if not key:
        return (b"XADD", stream.key, *entry)
    content = digest(*fields)
    return stream.add(digest("event", key), content, REMEMBERED_MS, *entry)


def _idempotency_key(call: Call) -> str:
    key = call.request.headers.get(IDEMPOTENCY_KEY.name, "")
    if len(key) > KEY_CHARS_MAX or not (key.isascii() and key.isprintable()):
        raise Refusal(
            "bad_request",
            f"{IDEMPOTENCY_KEY.name} is at most {KEY_CHARS_MAX} plain characters",
        )
    return key
