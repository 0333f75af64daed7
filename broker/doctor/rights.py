"""The least rights that Redis must give the broker.

``ACL SETUSER`` with `acl_line` makes a user who may do what the broker does and nothing
else. Services that publish, or read commands, should be users of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from broker.config import Settings
from broker.store.address import parse_url
from broker.store.connection import Command, Connection
from broker.store.keys import PLACEHOLDER, SELF_TEST_PREFIX

_KEY: Final = SELF_TEST_PREFIX + b"rights"
_TO: Final = SELF_TEST_PREFIX + b"rights2"
_CHANNEL: Final = b"broker:notices"

NEEDED: Final[dict[str, tuple[Command, ...]]] = {
    "events": (
        ("XREAD", "COUNT", 1, "STREAMS", _KEY, "0"),
        ("XRANGE", _KEY, "-", "+", "COUNT", 1),
        ("XREVRANGE", _KEY, "+", "-", "COUNT", 1),
        ("XINFO", "STREAM", _KEY),
        ("XLEN", _KEY),
        ("XADD", _KEY, "*", "a", "b"),
        ("EXPIRE", _KEY, 1),
        ("CLIENT", "TRACKING", "OFF"),
        ("CLIENT", "NO-EVICT", "OFF"),
    ),
    "sessions": (
        ("ZADD", _KEY, 1, "a"),
        ("ZREM", _KEY, "a"),
        ("ZCARD", _KEY),
        ("ZCOUNT", _KEY, 0, 1),
        ("ZSCORE", _KEY, "a"),
        ("ZRANGE", _KEY, 0, 1),
        ("ZRANGEBYSCORE", _KEY, 0, 1),
        ("ZINTERSTORE", _TO, 1, _KEY),
        ("HGET", _KEY, "a"),
        ("HSET", _KEY, "a", "b"),
        ("HDEL", _KEY, "a"),
        ("HLEN", _KEY),
        ("HGETALL", _KEY),
        ("PEXPIRE", _KEY, 1),
        ("DEL", _KEY),
        ("TIME",),
        ("PUBLISH", _CHANNEL, "rights"),
        ("SUBSCRIBE", _CHANNEL),
        ("UNSUBSCRIBE", _CHANNEL),
        ("EVALSHA", "0" * 40, 1, _KEY),
        ("SCRIPT", "LOAD", "return 1"),
    ),
    "commands": (
        ("EXISTS", _KEY),
        ("GET", _KEY),
        ("SET", _KEY, "a"),
        ("HRANDFIELD", _KEY),
        ("XINFO", "GROUPS", _KEY),
        ("XPENDING", _KEY, "a"),
        ("XTRIM", _KEY, "MAXLEN", 1),
    ),
    "operation": (
        ("ROLE",),
        ("INFO", "server"),
        ("CONFIG", "GET", "maxmemory"),
        ("RPUSH", _KEY, "a"),
        ("BLPOP", _KEY, 1),
    ),
}
"""What is done for what, as harmless commands."""

IN_CLUSTER: Final[tuple[Command, ...]] = (
    ("ASKING",),
    ("CLUSTER", "INFO"),
    ("CLUSTER", "SLOTS"),
)
"""The same, for a cluster."""

EVERYWHERE: Final = ("+hello", "+multi", "+exec", "+discard")
"""Needed to ask anything at all."""


def acl_line(settings: Settings, user: str = "broker") -> str:
    """The rules for ``ACL SETUSER`` or a line of a users file, without the password."""
    prefix, _, suffix = settings.event_stream.partition(PLACEHOLDER)
    chosen = (f"{prefix}*{suffix}", settings.command_stream)
    keys = [f"~{one}" for one in chosen if not one.startswith("broker:")]
    address = parse_url(settings.redis_url.get_secret_value())
    rights = sorted({_right(one) for one in _needed(address.kind == "cluster")})
    if address.db:
        rights.append("+select")
    words = ["user", user, "on", ">PASSWORD", "~broker:*", *keys, "&broker:*", "-@all"]
    return " ".join([*words, *EVERYWHERE, *rights])


async def missing_rights(connection: Connection, *, in_cluster: bool) -> list[str]:
    """What of `NEEDED` may not be done on *connection*, such as ``+client|tracking``.

    Nothing is done: a transaction is refused its commands one by one when they are
    queued, and then it is discarded.

    Raises:
        StoreUnavailable: No connection, or the server is not ready.
    """
    frame = await connection.send(("MULTI",), ("DISCARD",))
    if refused := _refused(("+multi", "+discard"), frame):
        return refused  # Without these what follows would be done, or never end.
    commands = _needed(in_cluster)
    queued = await connection.send(("MULTI",), *commands, ("DISCARD",))
    return _refused(("+multi", *map(_right, commands), "+discard"), queued)


def _refused(rights: Sequence[str], replies: Sequence[object]) -> list[str]:
    asked = zip(rights, replies, strict=True)
    return [right for right, reply in asked if str(reply).startswith("NOPERM")]


def _needed(in_cluster: bool) -> list[Command]:
    commands = [one for needed in NEEDED.values() for one in needed]
    return [*commands, *IN_CLUSTER] if in_cluster else commands


def _right(command: Command) -> str:
    words = [str(word).lower() for word in command[:2]]
    has_parts = words[0] in {"client", "cluster", "config", "script", "xinfo"}
    return "+" + ("|".join(words) if has_parts else words[0])
