"""How far behind subscriptions are, in entries and bytes. Pure: no loop, no socket.

Between two reads of ``XINFO`` records may come without ordinals, above all of streams
with large entries. So the channel and each subscription behind it count entries: from
the last ordinal that was known, or from `UNCOUNTED` where none is. The difference is
the depth. It is exact where both ordinals are, else wrong by what was lost between.
"""

from __future__ import annotations

from collections.abc import Iterable

from broker.metrics import catalog
from broker.metrics.slots import Row
from broker.worker.channels import Socket, StartAt, State, Subscription
from broker.worker.recent import Page

_BY_DEPTH = catalog.QUEUE_DEPTH_SUBSCRIPTIONS
_STEPS = {int(over): _BY_DEPTH[over] for over in _BY_DEPTH.labels["entries_over"]}
"""The slot of each number of entries, the smallest first."""


def entries_behind(sub: Subscription) -> int:
    """Entries that *sub* has yet to be sent.

    Returns:
        0 at the tip, or where nothing is known of a position before its first page.
    """
    # Whoever still stands in the former history has all of this one before him.
    behind = sub.reached if sub.epoch == sub.channel.epoch else 0
    tip = sub.channel.reached
    if behind is None or (behind < 0) != (tip < 0):
        return 0
    return max(0, tip - behind)


def at_position(sub: Subscription) -> int | None:
    """What *sub* begins to count from at its position."""
    channel, start = sub.channel, sub.start
    if start.at is StartAt.LAST_N and not sub.checked:
        first = channel.reached - start.count
        return first if channel.reached < 0 else max(0, first)
    if sub.position.id >= channel.tip.id:
        return channel.reached
    return sub.position.seq


def after_page(sub: Subscription, page: Page) -> int | None:
    """How far *sub* is once it has been sent *page*; its position is still before it.

    What is left out counts as well, once: in the hole, or when the hole is told.
    """
    if page.end.seq is not None:
        return page.end.seq
    if sub.reached is None:
        return None
    left_out = sum(page.lost.values())
    left_out += page.hole.lost if page.hole is not None else 0
    left_out -= sub.hole.lost if sub.hole is not None else 0
    return sub.reached + page.events + left_out


def measure(values: Row, behind: Iterable[Subscription]) -> None:
    """Set the gauges of how far behind the subscriptions of a worker are.

    Args:
        values: The worker's row.
        behind: Everybody who is replaying or lagging.
    """
    entries = {State.REPLAYING: 0, State.LAGGING: 0}
    over = dict.fromkeys(_STEPS, 0)
    largest = size = 0
    sockets: set[Socket] = set()
    usual = _usual_bytes(values)
    for sub in behind:
        depth = entries_behind(sub)
        entries[sub.state] += depth
        largest = max(largest, depth)
        size += round(depth * (sub.channel.entry_bytes or usual))
        sockets.add(sub.socket)  # One connection may read many sessions.
        for step in over:
            if depth <= step:
                break
            over[step] += 1
    for state, total in entries.items():
        values[catalog.QUEUE_DEPTH[state.name.lower()]] = total
    for step, slot in _STEPS.items():
        values[slot] = over[step]
    values[catalog.QUEUE_DEPTH_MAX.slot] = largest
    values[catalog.QUEUE_DEPTH_BYTES.slot] = size
    buffered = sum([socket.buffered_bytes for socket in sockets])
    values[catalog.QUEUE_BYTES.slot] = buffered


def _usual_bytes(values: Row) -> float:
    """Mean size of what was delivered here so far, for channels that are not known."""
    events = values[catalog.DELIVERIES.slot]
    return values[catalog.DELIVERED_BYTES.slot] / events if events else 0.0
