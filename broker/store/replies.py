"""Error replies of Redis as the broker's exceptions."""

from __future__ import annotations

from collections.abc import Iterable

from hiredis import ReplyError

from broker.errors import StoreError, StoreRefused, StoreUnavailable

MOVED_KINDS = frozenset(("MOVED", "ASK", "TRYAGAIN"))
"""First words of a node's answers when nothing was done: the slot is moving."""
RETRY_KINDS = MOVED_KINDS | {"BUSY", "LOADING", "MASTERDOWN", "CLUSTERDOWN", "READONLY"}
"""First words of error replies that go away by themselves or after a reconnect."""


def error_kind(reply: ReplyError) -> str:
    """The first word of an error reply, such as ``WRONGTYPE``."""
    return str(reply).partition(" ")[0]


def store_error(reply: ReplyError) -> StoreError:
    """The exception that stands for an error reply."""
    if error_kind(reply) in RETRY_KINDS:
        return StoreUnavailable(str(reply))
    return StoreRefused(str(reply))


def first_error(replies: Iterable[object]) -> ReplyError | None:
    """The first error among *replies*.

    Of a transaction that is the reason, and not the ``EXECABORT`` that follows it.
    """
    return next((reply for reply in replies if isinstance(reply, ReplyError)), None)
