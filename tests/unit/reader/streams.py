"""Streams in a reader's set of watches, without Redis."""

from __future__ import annotations

from broker.reader.watched import EMPTY_READS_MAX, Watched
from broker.reader.watches import Batch, Watches


def opened(watches: Watches, session: str, mean_bytes: int = 0) -> Watched:
    """A stream whose channel is open; with *mean_bytes* it has been read, too."""
    watched = watches.add(session)
    watched.channel = len(watches)
    if mean_bytes:
        watched.note_entries(1, mean_bytes)
    return watched


def rung(watches: Watches, *sessions: Watched) -> list[Watched]:
    for watched in sessions:
        watches.ring(watched.key)
    return list(sessions)


def take(watches: Watches) -> Batch:
    batch = watches.take()
    assert batch is not None
    return batch


def read_empty(watches: Watches, watched: Watched) -> None:
    """Read a stream that has rung and bring nothing."""
    assert take(watches).watched == [watched]
    watches.note_empty(watched)


def suspect(watches: Watches, session: str) -> Watched:
    """A stream that rang several times without entries, just now."""
    watched = opened(watches, session)
    for _ in range(EMPTY_READS_MAX):
        rung(watches, watched)
        read_empty(watches, watched)
    return watched


def spend(watches: Watches) -> None:
    """Use up what suspects may cost at once."""
    spender = suspect(watches, "spender")
    while not watches.held:
        rung(watches, spender)
        if watches.work:
            read_empty(watches, spender)
    watches.remove(spender)
