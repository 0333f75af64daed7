"""Whether a stream still is the one that was read: asked of a server that is new."""

from __future__ import annotations

from collections.abc import Iterable

import structlog

from broker.errors import StoreRefused
from broker.reader.chain import Chains
from broker.reader.watched import Watched
from broker.store.connection import Command
from broker.store.loss import belongs
from broker.store.replies import first_error, store_error
from broker.store.stream_info import read_stream_info

log = structlog.get_logger(__name__)


def questions(every: Iterable[Watched]) -> list[Command]:
    """The commands that ask about each of *every*: two for each."""
    commands: list[Command] = []
    for watched in every:
        at = b"%d-%d" % watched.anchor.cursor
        commands.append((b"XINFO", b"STREAM", watched.key))
        commands.append((b"XRANGE", watched.key, at, at))
    return commands


def judge(watched: Watched, info: object, there: object, chains: Chains) -> bool:
    """Read the answers; a stream that is another one is reset in its chain.

    Returns:
        Whether it was.

    Raises:
        StoreUnavailable: The server is not ready, or has not this key (now).
    """
    try:
        known = read_stream_info(info)
        error = first_error((there,))
        if error is not None:
            raise store_error(error)
    except StoreRefused:
        return False  # The pump finds out that it is no stream.
    if belongs(watched.position, known, present=bool(there)):
        return False
    log.warning("stream_reset", session=watched.session)
    chains.reset(watched)
    return True
