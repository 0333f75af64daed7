"""Adding to a stream once, however often the sender repeats it.

The sender gives what it says an id. The id is remembered for a while in a key beside
the stream, in the same hash slot, so that looking, adding and remembering are one
script: a failover or a restart keeps all of it or nothing.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Any

from hiredis import ReplyError

from broker.errors import ConfigError
from broker.store.connection import Command
from broker.store.replies import store_error
from broker.store.scripts import script

SCRIPT = "add_once"
DIGEST_BYTES = 16


class OnceStream:
    """A stream and the names of the keys that remember what was added.

    Attributes:
        key: The stream.
    """

    __slots__ = ("_prefix", "key")

    def __init__(self, key: bytes) -> None:
        """Prepare the names.

        Raises:
            ConfigError: No other key can be in the slot of *key*: it has a brace that
                is not part of a hash tag.
        """
        self.key = key
        self._prefix = b"broker:dedup:{%b}:" % _tag(key)

    def add(
        self, sender_id: str, content: str, remember_ms: int, *entry: bytes | str | int
    ) -> Command:
        """The command that adds an entry unless *sender_id* was used before.

        Args:
            sender_id: Digest of the id and of whose id it is.
            content: Digest of what is said.
            remember_ms: For how long.
            entry: What ``XADD`` gets behind the key.
        """
        keys = (self._prefix + sender_id.encode(), self.key)
        return script(SCRIPT).call(keys, content, remember_ms, *entry)


def digest(*parts: bytes | str) -> str:
    """32 characters that stand for *parts* and nothing else."""
    state = blake2b(digest_size=DIGEST_BYTES)
    for part in parts:
        raw = part.encode() if isinstance(part, str) else part
        # With its length, since ("a", "bc") is not ("ab", "c").
        state.update(b"%d:" % len(raw))
        state.update(raw)
    return state.hexdigest()


def read_added(reply: Any) -> str | None:
    """The id of the entry; None if the sender's id stands for another one.

    Raises:
        StoreUnavailable: The server is not ready.
        StoreRefused: The reply is another error.
    """
    if isinstance(reply, ReplyError):
        raise store_error(reply)
    return None if reply is None else reply.decode()


def _tag(key: bytes) -> bytes:
    """What decides about the slot of *key*: its hash tag, else all of it."""
    _, brace, rest = key.partition(b"{")
    tag, end, _ = rest.partition(b"}")
    if brace and end and tag:
        return tag
    if b"}" in key:
        raise ConfigError(
            f"the stream {key.decode()!r} cannot be used: its braces are no hash tag"
        )
    return key
